"""The whole book as one PDF: `python tools/make_pdf.py [book/_build/html] [book.pdf]`.

Each page of the built site is printed by headless Chromium in the order of its table of contents, and the prints are
joined: chapters become bookmarks, and links between pages lead to pages of the PDF.
"""

import io
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject

from flowsep.files import FlowsepError, atomic_path

# only the article, on white, without the folded code; how to run a page stands open; a player shows its lanes
PRINT = """
.bd-sidebar-primary, .bd-sidebar-secondary, .bd-header, .bd-header-article, .bd-footer, .prev-next-footer,
.flowsep-filter, #pst-back-to-top, .headerlink, .copybtn, details.hide, .toggle-button,
#jb-print-toc { display: none !important; }
.bd-container__inner, .bd-article-container, .bd-content { display: block !important; max-width: none !important; }
.bd-article { padding: 0 !important; }
pre { white-space: pre-wrap !important; }
img, flowsep-player, flowsep-slider, table { break-inside: avoid; }
h1, h2, h3 { break-after: avoid; }
"""
PAPER = {"format": "A4", "scale": 0.8, "margin": {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}}
FOOT = '<div style="font-size:8px;width:100%;text-align:center">{title} · <span class="pageNumber"></span></div>'


def main(html: Path, target: Path) -> None:
    if not (html / "index.html").is_file():
        raise FlowsepError(f"{html}: no built book; run make book or make book-from-results first")
    if not (chromium := shutil.which("chromium")):
        raise FlowsepError("Chromium is not in the PATH; make env installs it, or names its package")
    html = html.resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(color_scheme="light")
        page.route("**/*.webp", lambda route: route.fulfill(body=jpeg(route.request.url), content_type="image/jpeg"))
        prints = {path: print_page(page, path) for path in order(page, html)}
        browser.close()
    with atomic_path(target) as temporary:
        join(prints).write(temporary)
    print(f"{target}: {sum(len(reader.pages) for _, reader in prints.values())} pages")


def jpeg(url: str) -> bytes:
    """A picture of the site in the one format that Chromium takes into a PDF as it is; others it unpacks."""
    buffer = io.BytesIO()
    with Image.open(unquote(urlsplit(url).path)) as picture:
        paper = Image.new("RGBA", picture.size, "white")  # which shows through a picture without a ground
        paper.alpha_composite(picture.convert("RGBA"))
        paper.convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def order(page, html: Path) -> list[Path]:
    """The pages as the table of contents lists them, the first page before all."""
    page.goto((html / "intro.html").as_uri())
    links = page.eval_on_selector_all("nav.bd-links a.reference.internal", "links => links.map(link => link.href)")
    paths = [Path(unquote(urlsplit(link).path)) for link in links]
    return list(dict.fromkeys([html / "intro.html", *paths]))


def print_page(page, path: Path) -> tuple[str, PdfReader]:
    """(title, the print) of one page."""
    page.goto(path.as_uri(), wait_until="load")
    if page.locator(".math").count() and page.locator("script[src*=mathjax]").count():
        page.wait_for_selector("mjx-container", state="attached")  # it may stand in a fold
    page.add_style_tag(content=PRINT)
    page.evaluate(
        "document.querySelectorAll('img[loading=lazy]').forEach(image => image.loading = 'eager');"
        "document.querySelectorAll('.toggle-hidden').forEach(fold => fold.classList.remove('toggle-hidden'));"
    )
    page.wait_for_function("[...document.images].every(image => image.complete)")
    title = page.locator("h1").first.inner_text().rstrip("#").strip()
    foot = FOOT.format(title=title.replace("&", "&amp;").replace("<", "&lt;"))
    settings = {"display_header_footer": True, "header_template": "<div></div>", "footer_template": foot}
    return title, PdfReader(io.BytesIO(page.pdf(**PAPER, **settings, print_background=True)))


def join(prints: dict[Path, tuple[str, PdfReader]]) -> PdfWriter:
    writer, first, count = PdfWriter(), {}, 0
    for path, (title, reader) in prints.items():
        first[path] = count
        writer.append(reader, outline_item=title, import_outline=False)
        count += len(reader.pages)
    for page in writer.pages:
        for reference in page.get("/Annots", []):
            annotation = reference.get_object()
            address = urlsplit(str(annotation.get("/A", {}).get("/URI", "")))
            number = first.get(Path(unquote(address.path))) if address.scheme == "file" else None
            if number is not None:  # all others lead to the web or to a download
                destination = [writer.pages[number].indirect_reference, NameObject("/Fit")]
                annotation[NameObject("/Dest")] = ArrayObject(destination)
                del annotation["/A"]
    writer.compress_identical_objects()
    return writer


if __name__ == "__main__":
    try:
        given = [Path(argument) for argument in sys.argv[1:]]
        main(*(given or [Path("book/_build/html"), Path("book/_build/book.pdf")]))
    except FlowsepError as error:
        sys.exit(f"make_pdf: {error}")
