"""What a built site still lacks: MathJax beside the pages, no script that asks other hosts, and no dead link."""

import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files as package_files
from pathlib import Path
from urllib.parse import unquote, urlsplit

THEBE = re.compile(r"<script>const THEBE_JS_URL[^<]*</script>|<script[^>]*sphinx-thebe\.js[^>]*></script>")
# the theme has its icons as fonts and once more as a script of 1.5 MB; without it the fonts are taken
ICONS = re.compile(r"<script[^>]*/fontawesome\.js[^>]*></script>")
MATHJAX = re.compile(r"<script[^>]*/mathjax/tex-chtml\.js[^>]*></script>")
# tables scroll sideways where they are wide, which the keyboard can do where it can go
WIDE = re.compile(r'<table(?= id="T_| border="1" class="dataframe")')
# names that hide what the button or fold shows, so that nobody can ask for it by what they see
HIDING = "Toggle hidden content|Search|Color mode"
NAMES = re.compile(rf'(<(?:summary|button)\b[^>]*?) aria-label="(?:{HIDING})"([^>]*>)')


def finish(html: Path) -> None:
    """What the builder leaves undone: MathJax beside the pages, which ask no other host; no live kernels; plain names.

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
        if 'class="math ' not in text:
            text = MATHJAX.sub("", text)
        text = WIDE.sub(r'<table tabindex="0"', text)
        # its children are no items of a list
        page.write_text(text.replace('<div role="list" class="citation-list">', '<div class="citation-list">'), "utf-8")
    (html / ".nojekyll").touch()


class _Anchors(HTMLParser):
    """The addresses that a page leads to, and the places on it that can be led to."""

    def __init__(self, page: str):
        super().__init__()
        self.links, self.places = set(), {""}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links |= {given[key] for key in ("href", "src") if given.get(key)}


def dead_links(html: Path) -> list[str]:
    """ "page: link" of every link of the site to a file or an anchor of its own that is not there."""
    html, dead = html.resolve(), []
    found = [
        page for page in sorted(html.rglob("*.html")) if "_static" not in page.relative_to(html).parts
    ]  # templates
    pages = {page: _Anchors(page.read_text(encoding="utf-8")) for page in found}
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
