// One button shows or hides the code of all cells of a page. Without scripts each cell has its own bar.
document.addEventListener("DOMContentLoaded", () => {
  const cells = document.querySelectorAll("details.hide.above-input");
  const bar = document.querySelector(".article-header-buttons");
  if (!cells.length || !bar) return;
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "btn btn-sm flowsep-code", textContent: "</>" });
  const show = (on) => {
    document.documentElement.classList.toggle("flowsep-no-code", !on);
    for (const cell of cells) cell.open = on;
    button.title = on ? "Hide the code of this page" : "Show the code of this page";
    button.setAttribute("aria-label", button.title);
    button.setAttribute("aria-pressed", on);
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-pressed") !== "true"));
  show(false);
  bar.prepend(button);
});
