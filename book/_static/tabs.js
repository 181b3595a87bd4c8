// Outputs of one chapter that was executed several times (tools/tabs.py): one tab per run, the same on the whole page.
// Without scripts, and on paper, all of them stand below each other, each under its label.
document.addEventListener("DOMContentLoaded", () => {
  const labels = new Map(); // cell -> the label of its run, which stands above the first cell of the run
  const groups = [];
  for (const cell of document.querySelectorAll("div.cell")) {
    const before = cell.previousElementSibling;
    const name = cell.querySelector(".flowsep-run")?.textContent ?? labels.get(before);
    if (!name) continue;
    if (labels.has(before)) groups.at(-1).push(cell);
    else groups.push([cell]);
    labels.set(cell, name);
  }
  if (!groups.length) return;
  const bars = [];
  const choose = (name) => {
    for (const [cell, run] of labels)
      if (cell.classList.toggle("flowsep-other-run", run !== name))
        for (const player of cell.querySelectorAll("flowsep-player")) player.pause();
    for (const button of bars.flatMap((bar) => [...bar.children])) {
      const chosen = button.textContent === name;
      button.setAttribute("aria-selected", chosen);
      button.tabIndex = chosen ? 0 : -1;
    }
  };
  for (const [place, group] of groups.entries()) {
    const bar = document.createElement("div");
    bar.className = "flowsep-runs";
    bar.setAttribute("role", "tablist");
    bar.setAttribute("aria-label", "Which run is shown on this page");
    for (const [number, cell] of group.entries()) {
      cell.id ||= `flowsep-run-${place}-${number}`;
      cell.setAttribute("role", "tabpanel");
      cell.setAttribute("aria-label", labels.get(cell));
    }
    for (const name of new Set(group.map((cell) => labels.get(cell)))) {
      const panels = group.filter((cell) => labels.get(cell) === name).map((cell) => cell.id);
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: name });
      button.setAttribute("role", "tab");
      button.setAttribute("aria-controls", panels.join(" "));
      button.addEventListener("click", () => {
        const before = bar.getBoundingClientRect().top;
        choose(button.textContent);
        scrollBy(0, bar.getBoundingClientRect().top - before); // the bar stays where it was clicked
        history.replaceState(null, "", "#" + (anchors[button.textContent] ?? ""));
      });
      bar.append(button);
    }
    bar.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const buttons = [...bar.children];
      const next = buttons[(buttons.indexOf(event.target) + step + buttons.length) % buttons.length];
      next.click();
      next.focus();
    });
    group[0].before(bar);
    bars.push(bar);
  }
  const anchors = {};
  for (const run of document.querySelectorAll(".flowsep-run[id]")) anchors[run.textContent] = run.id;
  const asked = () => {
    const name = Object.keys(anchors).find((name) => anchors[name] === decodeURIComponent(location.hash.slice(1)));
    choose(name ?? labels.get(groups[0][0]));
  };
  addEventListener("hashchange", asked);
  asked();
});
