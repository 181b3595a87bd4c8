// Sphinx puts this into its search page (html_search_scorer). Equal matches stand in the order of the book, and the pages
// to look up below the pages to read.
Scorer.score = ([page, title, anchor, description, score, file]) => {
  if (description) return score; // a name of the Python interface or a word of the glossary
  const path = file.replace(/\.[^.]*$/, ".html");
  const links = [...document.querySelectorAll(".bd-links a")];
  const place = links.findIndex((link) => link.getAttribute("href") === path);
  const part = links[place]?.closest("ul").previousElementSibling?.textContent ?? "";
  return score - place / 1000 - (/^(Appendix|Look it up)/.test(part.trim()) ? 1000 : 0);
};
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false; // which the browser lets only a server read
  addEventListener("DOMContentLoaded", () => {
    const note = document.createElement("p");
    note.className = "flowsep-note";
    note.textContent =
      "Opened from disk, the search lists pages only; served by python -m http.server, it also quotes them.";
    document.getElementById("search-results")?.before(note); // the source of flowsep.search has its name, but is no search
  });
}
