// Tables of numbers that a reader can sort by any column and filter by what a row says.
"use strict";
(() => {
  const COSTS = ["supervision", "parameters", "training (s)", "training memory (MiB)", "RTF", "n"];
  const MANY = 8; // rows from which on a table of scores can be filtered
  const SUFFIX = { k: 1e3, M: 1e6, G: 1e9 };

  const plain = (cell) => {
    const copy = cell.cloneNode(true);
    for (const extra of copy.querySelectorAll("small, sup")) extra.remove();
    return copy.textContent.trim();
  };

  // The number that a cell begins with, NaN where it does not: 1,234 · 4.72 M · −0.3 · <0.001 · 8 of 8 · 7–8 · 12 %
  const number = (text) => {
    const found = /^[<+]?([−-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)\s*([kMG]\b)?/.exec(text.replace(/^−/, "-"));
    return found ? Number(found[1].replaceAll(",", "")) * (SUFFIX[found[2]] ?? 1) : NaN;
  };

  const rowsOf = (body) => [...body.rows].filter((row) => !row.querySelector("th[colspan]"));

  function sort(table, column, direction) {
    for (const body of table.tBodies) {
      const rows = rowsOf(body);
      const key = new Map(rows.map((row) => [row, plain(row.cells[column])]));
      const order = (a, b) => {
        if (direction === 0) return a.flowsepPlace - b.flowsepPlace;
        const [x, y] = [number(key.get(a)), number(key.get(b))];
        if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1; // no number: at the end
        return direction * (Number.isNaN(x) ? key.get(a).localeCompare(key.get(b)) : x - y);
      };
      body.append(...rows.sort(order));
    }
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows].flatMap((row) => [...row.cells]).filter((head) => head.textContent.trim());
    for (const body of table.tBodies) rowsOf(body).forEach((row, place) => (row.flowsepPlace = place));
    for (const head of heads) {
      const column = head.cellIndex;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "flowsep-sort";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const numbers = [...table.tBodies].flatMap(rowsOf).some((row) => !Number.isNaN(number(plain(row.cells[column]))));
        const states = numbers ? ["descending", "ascending", null] : ["ascending", "descending", null];
        const next = states[(states.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
        for (const other of heads) other.removeAttribute("aria-sort");
        if (next) head.setAttribute("aria-sort", next);
        sort(table, column, { ascending: 1, descending: -1 }[next] ?? 0);
      });
    }
  }

  function makeFilter(table) {
    const rows = [...table.tBodies].flatMap(rowsOf);
    const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    const kind = names.indexOf("supervision");
    const bar = document.createElement("div");
    bar.className = "flowsep-filter";
    const count = document.createElement("span");
    count.setAttribute("role", "status");
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = "name";
    const label = document.createElement("label");
    label.append("Rows with ", input);
    bar.append(label);
    const chosen = new Map();
    const show = () => {
      const asked = input.value.trim().toLowerCase();
      let seen = 0;
      for (const row of rows) {
        const fits = plain(row.cells[0]).toLowerCase().includes(asked);
        const wanted = kind < 0 || (chosen.get(plain(row.cells[kind]))?.checked ?? true);
        row.hidden = !(fits && wanted);
        seen += !row.hidden;
      }
      for (const body of table.tBodies) body.hidden = rowsOf(body).every((row) => row.hidden);
      count.textContent = `${seen} of ${rows.length} rows`;
    };
    const kinds = kind < 0 ? [] : [...new Set(rows.map((row) => plain(row.cells[kind])))];
    for (const name of kinds.length > 1 ? kinds : []) {
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      chosen.set(name, box);
      const chip = document.createElement("label");
      chip.append(box, ` ${name}`);
      bar.append(chip);
    }
    if (names.some((name) => COSTS.includes(name)) && names.includes("mean")) {
      for (const row of [table.tHead.rows[0], ...rows])
        names.forEach((name, column) => COSTS.includes(name) && row.cells[column].classList.add("flowsep-cost"));
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = window.innerWidth > 600; // a phone has room for the scores alone
      const chip = document.createElement("label");
      chip.append(box, " costs");
      const costs = () => table.classList.toggle("flowsep-scores-only", !box.checked);
      box.addEventListener("change", costs);
      costs();
      bar.append(chip);
    }
    bar.addEventListener("input", show);
    bar.append(count);
    table.before(bar);
    show();
  }

  addEventListener("DOMContentLoaded", () => {
    for (const table of document.querySelectorAll(".cell_output table, .bd-article table.flowsep-scores")) {
      const rows = [...table.tBodies].flatMap(rowsOf);
      if (!table.tHead || rows.length < 3 || table.querySelector("[rowspan]:not([rowspan='1'])")) continue;
      const width = rows[0].cells.length;
      if ([...table.tHead.rows, ...rows].some((row) => row.cells.length !== width)) continue;
      if (table.classList.contains("flowsep-scores") && rows.length >= MANY) makeFilter(table);
      makeSortable(table);
    }
  });
})();
