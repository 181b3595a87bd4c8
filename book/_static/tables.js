// Tables of numbers that a reader can sort by any column and filter by what a row says.
"use strict";
(() => {
  const COSTS = ["supervision", "parameters", "training (s)", "training memory (MiB)", "RTF", "n"];
  const MANY = 8; // rows from which on a table of scores can be filtered
  const FEW = 7; // sources from which on their list folds
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

  // pandas writes the names of the index on a row of their own, below a row that names the columns: one row holds both.
  function joinHeads(table) {
    if (table.tHead?.rows.length !== 2) return;
    const [upper, lower] = [...table.tHead.rows].map((row) => [...row.cells]);
    const names = lower.filter((cell) => cell.textContent.trim());
    const width = (cells) => cells.reduce((sum, cell) => sum + cell.colSpan, 0);
    if (width(upper) !== upper.length || upper.length !== lower.length || !names.length) return;
    if (names.some((cell, place) => cell !== lower[place])) return; // not at the left: the row names columns
    const index = table.tBodies[0]?.rows[0]?.querySelectorAll("th").length;
    if (names.length !== index) return;
    names.forEach((cell, place) => upper[place].replaceChildren(...cell.childNodes));
    table.tHead.rows[1].remove();
  }

  // Columns that hold numbers, with a unit perhaps, stand at the right under their head; long names of rows may fold.
  function align(table) {
    const LIKE = /^([+−-]\d.*|[<≥≤]?\s*[+−-]?[\d,]*\.?\d+(e[+-]?\d+)?(\s?(%|[kMG]|x|s|dB|MiB)| of \d+|–\d+)?|–)$/;
    const rows = [...table.tBodies].flatMap(rowsOf);
    const body = rows.flatMap((row) => [...row.cells]);
    if (body.some((cell) => cell.colSpan > 1)) return;
    const long = rows.flatMap((row) => [...row.querySelectorAll("th")]).filter((head) => plain(head).length > 24);
    for (const head of long) head.classList.add("flowsep-long");
    const width = Math.max(0, ...rows.map((row) => row.cells.length));
    for (let back = 1; back <= width; back++) { // from the right, where cells that span rows shift nothing
      const cells = rows.map((row) => row.cells[row.cells.length - back]).filter((cell) => cell?.tagName === "TD");
      const texts = cells.map(plain).filter(Boolean);
      if (!texts.some((text) => text !== "–") || !texts.every((text) => LIKE.test(text))) continue;
      const heads = [...(table.tHead?.rows ?? [])].map((row) => row.cells[row.cells.length - back]);
      for (const cell of [...heads, ...cells]) cell?.classList.add("flowsep-number");
    }
  }

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
      box.checked = table.scrollWidth <= table.clientWidth; // where all columns have room; else the scores come first
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

  // A long list of sources folds; a mark in the table that leads to one of them opens it.
  function foldSources(list) {
    if (list.children.length < FEW) return;
    const fold = document.createElement("details");
    const head = document.createElement("summary");
    head.textContent = `Where these numbers come from: ${list.children.length} sources`;
    list.before(fold);
    fold.className = "flowsep-fold";
    fold.append(head, list);
    const open = () => fold.contains(document.getElementById(location.hash.slice(1))) && (fold.open = true);
    addEventListener("hashchange", open);
    open();
  }

  addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("ol.flowsep-sources").forEach(foldSources);
    for (const table of document.querySelectorAll(".cell_output table, .bd-article table.flowsep-scores")) {
      joinHeads(table);
      align(table);
      const rows = [...table.tBodies].flatMap(rowsOf);
      if (!table.tHead || rows.length < 3 || table.querySelector("[rowspan]:not([rowspan='1'])")) continue;
      const width = rows[0].cells.length;
      if ([...table.tHead.rows, ...rows].some((row) => row.cells.length !== width)) continue;
      if (table.classList.contains("flowsep-scores") && rows.length >= MANY) makeFilter(table);
      makeSortable(table);
    }
    for (const head of document.querySelectorAll(".bd-article thead th"))
      if (!head.textContent.trim()) head.replaceWith(document.createElement("td")); // a corner heads nothing
  });
})();
