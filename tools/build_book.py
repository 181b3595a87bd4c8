"""Render the book of one profile: `python tools/build_book.py results/demo`.

Executed notebooks go from `<results>/notebooks/` to `book/chapters/`, a status page is written from what they and the
score files say, and Jupyter Book builds `book/_build/html` with warnings as errors. Nothing is run here.
"""

import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files as package_files
from math import isnan
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat

from flowsep.config import find_root
from flowsep.files import FlowsepError, write_text
from flowsep.results import costs, labels, load_scores

THEBE = re.compile(r"<script>const THEBE_JS_URL[^<]*</script>|<script[^>]*sphinx-thebe\.js[^>]*></script>")
# the theme has its icons as fonts and once more as a script of 1.5 MB; without it the fonts are taken
ICONS = re.compile(r"<script[^>]*/fontawesome\.js[^>]*></script>")
MATHJAX = re.compile(r"<script[^>]*/mathjax/tex-chtml\.js[^>]*></script>")
# tables scroll sideways where they are wide, which the keyboard can do where it can go
WIDE = re.compile(r'<table(?= id="T_| border="1" class="dataframe")')
# names that hide what the button or fold shows, so that nobody can ask for it by what they see
HIDING = "Toggle hidden content|Search|Color mode"
NAMES = re.compile(rf'(<(?:summary|button)\b[^>]*?) aria-label="(?:{HIDING})"([^>]*>)')
NAMED = {"04_train_prior": "source", "05_separate": "system"}  # notebooks executed several times, and by what


def main(results: Path) -> None:
    root = find_root()
    chapters = root / "book" / "chapters"
    shutil.rmtree(chapters, ignore_errors=True)
    chapters.mkdir(parents=True)
    runs = []
    for path in sorted((results / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if problem := find_error(notebook):
            raise FlowsepError(f"{path}: not a finished chapter: {problem}; run it again")
        about = notebook.metadata.papermill
        for stem, parameter in NAMED.items():
            if path.stem.startswith(stem):
                name_title(notebook, about.parameters[parameter])
        for cell in notebook.cells:  # what papermill injected is the profile's file, word for word
            if {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
                cell.metadata.tags.append("hide-input")
        notebook.cells.append(nbformat.v4.new_markdown_cell(how_to_run(about, results)))
        runs.append({"chapter": path.stem, "seconds": about.duration, "finished": about.end_time})
        nbformat.write(notebook, chapters / path.name)
    write_text(chapters / "status.md", status_page(results, runs))
    build = root / "book" / "_build"
    shutil.rmtree(build, ignore_errors=True)
    command = ["jupyter-book", "build", "book", "--path-output", "book", "--config", "_config.yml"]
    subprocess.run([*command, "--warningiserror", "--nitpick", "--quiet"], cwd=root, check=True)
    finish(build / "html")
    if dead := dead_links(build / "html"):
        raise FlowsepError(f"{len(dead)} links lead nowhere: {'; '.join(dead[:5])}")


def find_error(notebook: nbformat.NotebookNode) -> str:
    """Why an executed notebook may not be published, or ''. Jupyter Book itself renders a traceback without a word."""
    for cell in notebook.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None:
            return "a cell was not executed"
        for output in cell.outputs:
            if output.output_type == "error":
                return f"{output.ename}: {output.evalue}"
            if output.get("name") == "stderr":
                return f"a cell wrote to standard error: {output.text.strip().splitlines()[-1]}"
    if not notebook.metadata.get("papermill", {}).get("end_time"):
        return "papermill did not see its end"
    return ""


def name_title(notebook: nbformat.NotebookNode, name: str) -> None:
    """`# Training a prior` -> `# Training a prior: vocals`, since a cell's text knows no parameters."""
    title = notebook.cells[0]
    first, *rest = title.source.split("\n")
    title.source = "\n".join([f"{first}: {name.replace('_', ' ')}", *rest])


def how_to_run(about: nbformat.NotebookNode, results: Path) -> str:
    """The fold at a chapter's end: the command that runs its notebook, and how long that took."""
    given = {name: str(value) for name, value in about.parameters.items() if name != "profile" and value}
    options = [part for name, value in given.items() for part in ("-p", name, value)]
    lines = [
        ":::{admonition} Run this page",
        ":class: dropdown tip",
        f"In a clone of the project, after `make results PROFILE={results.name}`, which makes what a page reads:",
        "",
        "```bash",
        shlex.join(["papermill", about.input_path, "out.ipynb", "-f", f"configs/{results.name}.yaml", *options]),
        "```",
        "",
        f"It took {about.duration:.0f} s. The button with the arrow at the top has the notebook with its outputs.",
        ":::",
    ]
    return "\n".join(lines)


def status_page(results: Path, runs: list[dict]) -> str:
    """Which commit, machine and duration produced these pages: from the score rows and papermill's own record."""
    scores = load_scores(results)
    lines = ["# Status", "", "What produced these pages. Each score row carries the same facts in its file.", ""]
    lines += ["| chapter | run time (s) | finished (UTC) |", "|---|---:|---|"]
    lines += [f"| {run['chapter']} | {run['seconds']:.0f} | {run['finished'][:19]} |" for run in runs]
    lines += [f"| **sum** | **{sum(run['seconds'] for run in runs):.0f}** | |", ""]
    facts = ["profile", "data", "data_hash", "seed", "git_commit", "git_dirty", "device", "versions"]
    lines += ["| fact | value |", "|---|---|"]
    for fact in facts:
        values = ", ".join(f"`{value}`" if value != "" else "*unknown*" for value in sorted(set(scores[fact])))
        lines.append(f"| {fact.replace('_', ' ')} | {values} |")
    heads = ["training (s)", "training memory (MiB)", "separation (s)", "memory (MiB)", "configuration", "checkpoints"]
    lines += ["", f"| system | {' | '.join(heads)} |", "|---|---:|---:|---:|---:|---|---|"]
    spent = costs(scores).set_index("system")
    for system, rows in scores.groupby(labels(scores)):
        cost = spent.loc[system]
        numbers = [cost["training (s)"], cost["training memory (MiB)"], rows.groupby("track").seconds.first().sum()]
        shown = ["–" if isnan(number) else f"{number:,.0f}" for number in [*numbers, cost["memory (MiB)"]]]
        hashes = ", ".join(f"`{item}`" for item in rows.checkpoint.iloc[0].split()) or "none"
        lines.append(f"| {' | '.join([system, *shown, f'`{rows.config_hash.iloc[0]}`', hashes])} |")
    return "\n".join(lines) + "\n"


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


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except (FlowsepError, subprocess.CalledProcessError) as error:
        sys.exit(f"build_book: {error}")
    except IndexError:
        sys.exit("usage: python tools/build_book.py results/<profile>")
