// A click or Enter on a picture shows it in its own size, where a phone can pan it; another click or Escape closes it.
document.addEventListener("DOMContentLoaded", () => {
  const pictures = [...document.querySelectorAll(".bd-article img")].filter((img) => !img.closest("a, flowsep-slider"));
  const open = (picture) => {
    const dialog = document.createElement("dialog");
    const large = new Image();
    Object.assign(large, { src: picture.src, alt: picture.alt });
    dialog.className = "flowsep-large";
    dialog.setAttribute("aria-label", "Enlarged picture");
    dialog.append(large);
    dialog.addEventListener("click", () => dialog.close());
    // the theme takes Escape for its search, and the browser then leaves the dialog open
    dialog.addEventListener("keydown", (event) => event.key === "Escape" && dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  };
  for (const picture of pictures) {
    picture.tabIndex = 0;
    picture.title = "Enlarge";
    picture.classList.add("flowsep-picture");
    picture.addEventListener("click", () => open(picture));
    picture.addEventListener("keydown", (event) => event.key === "Enter" && open(picture));
  }
});
