"""Finish a built site: MathJax beside the pages, no script that asks other hosts, a card for links, no dead link."""

import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files as package_files
from pathlib import Path
from urllib.parse import unquote, urlsplit

THEBE = re.compile(r"<script>const THEBE_JS_URL[^<]*</script>|<script[^>]*sphinx-thebe\.js[^>]*></script>")
# the theme has icons as fonts and again as a script of 1.5 MB; without the script it uses the fonts
ICONS = re.compile(r"<script[^>]*/fontawesome\.js[^>]*></script>")
# the theme puts the index for searching while one types on each page, and does not use it
SEARCH = re.compile(r'<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>')
MATHJAX = re.compile(r"<script[^>]*/mathjax/tex-chtml\.js[^>]*></script>")
# wide tables scroll sideways; with a tabindex the keyboard can scroll them, too. The theme's stripes and lines, which
# only tables without a style of pandas' have, go
WIDE = re.compile(r'<table(?: border="1" class="dataframe"|(?= id="T_))')
# the logo is outside of any landmark, where a reader who jumps from one to the next misses it
LOGO = re.compile(r'<div class="sidebar-primary-item">(?=\s*<a class="navbar-brand logo")')
# the empty corner of a table of pandas heads nothing
CORNER = re.compile(r'<th (class="blank level0"[^>]*)>&nbsp;</th>')
CARD = re.compile(r'<meta content="([^"]*)" (?:property="og:|name="twitter:)[^>]*>')
BASE = re.compile(r'<link rel="canonical" href="([^"]*)intro\.html"')
# names that differ from the visible text of a button or fold, so that voice control cannot reach it by that text
HIDING = "Toggle hidden content|Search|Color mode"
NAMES = re.compile(rf'(<(?:summary|button)\b[^>]*?) aria-label="(?:{HIDING})"([^>]*>)')


def finish(html: Path) -> None:
    """Put MathJax beside the pages, so that they ask no other host; remove live kernels and hidden names.

    Jupyter Book loads sphinx-thebe whether it is wanted or not, twice on each page, which the browser reports as error.
    """
    source = Path(str(package_files("sphinx-mathjax-offline"))) / "static" / "mathjax"
    target = html / "_static" / "mathjax"
    (target / "output" / "chtml").mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tex-chtml.js", target)
    shutil.copytree(source / "output" / "chtml" / "fonts", target / "output" / "chtml" / "fonts", dirs_exist_ok=True)
    for page in html.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = ICONS.sub("", NAMES.sub(r"\1\2", THEBE.sub("", text)))
        if page.name != "search.html":
            text = SEARCH.sub("", text)
        if 'class="math ' not in text:
            text = MATHJAX.sub("", text)
        text = WIDE.sub(r'<table tabindex="0"', text)
        text = CORNER.sub(r"<td \1>&nbsp;</td>", text)
        text = LOGO.sub('<div class="sidebar-primary-item" role="banner">', text)
        # the children of that list are no items, and the role of its entries is deprecated
        text = text.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
        page.write_text(text.replace(' role="doc-biblioentry"', ""), "utf-8")
    make_card(html)
    (html / ".nojekyll").touch()


def make_card(html: Path) -> None:
    """Give the address of the whole book, which only leads on to its first page, the card of that page.

    The picture's address is a full one, as the sites that show cards want it, where the config has a `baseurl`.
    """
    first, index = html / "intro.html", html / "index.html"
    text = first.read_text("utf-8")
    if base := BASE.search(text):
        text = text.replace('content="_static/card.png"', f'content="{base[1]}_static/card.png"')
        first.write_text(text, "utf-8")
    index.write_text("\n".join([*(tag[0] for tag in CARD.finditer(text)), index.read_text("utf-8")]), "utf-8")


class _Anchors(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.links, self.places = set(), {""}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links |= {given[key] for key in ("href", "src") if given.get(key)}


def dead_links(html: Path) -> list[str]:
    """ "page: link" of every link within the site without a target."""
    html, dead = html.resolve(), []
    paths = (path for path in sorted(html.rglob("*.html")) if "_static" not in path.relative_to(html).parts)
    pages = {path: _Anchors(path.read_text(encoding="utf-8")) for path in paths}
    for page, anchors in pages.items():
        for link in sorted(anchors.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            known = pages.get(target)
            if not target.is_file() or (known and unquote(parts.fragment) not in known.places):
                dead.append(f"{page.relative_to(html)}: {link}")
    return dead
