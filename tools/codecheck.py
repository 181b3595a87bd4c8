"""Write codecheck.yml, the list of what a check of this repository has to make again: `python tools/codecheck.py`.

CODECHECK (codecheck.org.uk) asks the authors of a paper for the files that their code makes, each with a comment. Here
these are the tables of all committed profiles, the other tables under results/, and the figures of the kept chapters.
A test holds the file equal to what this would write. The parts on checker, report and certificate are the checker's.
"""

import html
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import yaml
from build_book import command_of

from companion.profile import find_root
from flowsep.files import write_text

VERSION = "https://codecheck.org.uk/spec/config/2.0/"
PAPER = {
    "title": "Music Source Separation with Generative Flow",
    "authors": [
        {"name": name} for name in ("Ge Zhu", "Jordan Darefsky", "Fei Jiang", "Anton Selitskiy", "Zhiyao Duan")
    ],
    "reference": "https://doi.org/10.1109/LSP.2022.3219355",
}
OTHERS = {  # below results/ -> what it is, and the command that makes it
    "bench/*.json": ("speed and memory on one machine", "make bench"),
    "research/*.csv": ("numbers of the chapter Beyond the paper", "make research"),
    "scale.csv": ("what the whole experiment would take", "make plan"),
    "faults.json": ("runs that were killed and resumed", "make test-faults"),
    "cluster.json": ("a run through Slurm", "make test-cluster"),
}
PICTURE = re.compile(r'<img src="media:([0-9a-f]{16}\.(?:webp|png))"[^>]*alt="([^"]*)"')


def manifest(root: Path) -> Iterator[dict[str, str]]:
    """{"file", "comment"} of every table and every figure."""
    for kept in sorted((root / "results").glob("*/book/kept.json")):
        folder = kept.parent.parent
        for path in sorted(folder.glob("table-*.csv")):
            rows = path.stem.removeprefix("table-")
            yield _item(root, path, f"table by the convention {rows}", f"make book PROFILE={folder.name}")
        yield from figures(root, folder)
    for pattern, (what, command) in OTHERS.items():
        for path in sorted((root / "results").glob(pattern)):
            yield _item(root, path, what, command)


def figures(root: Path, folder: Path) -> Iterator[dict[str, str]]:
    """The pictures of the kept chapters of one profile, in the order of the pages."""
    for path in sorted((folder / "book").glob("*.ipynb")):
        notebook = json.loads(path.read_text("utf-8"))
        about = notebook["metadata"]["papermill"]
        source = json.loads((root / about["input_path"]).read_text("utf-8"))  # whose title a page has
        title = "".join(source["cells"][0]["source"]).split("\n")[0].removeprefix("# ")
        given = about["parameters"]
        title += "".join(f": {given[key]}" for key in ("source", "system") if given.get(key))
        command = shlex.join(command_of(about["input_path"], given, folder.name))
        for number, (name, alt) in enumerate(PICTURE.findall(_outputs(notebook)), 1):
            shown = " ".join(html.unescape(alt).split())[:120].rstrip(".")
            what = f"figure {number} of the chapter “{title}”: {shown}"
            yield _item(root, folder / "book" / "media" / name, what, command)


def _outputs(notebook: dict) -> str:
    parts = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            parts.append("".join(output.get("data", {}).get("text/html", "")))
    return "\n".join(parts)


def _item(root: Path, path: Path, what: str, command: str) -> dict[str, str]:
    return {"file": path.relative_to(root).as_posix(), "comment": f"{what}. Made by: {command}"}


def text(root: Path) -> str:
    """The whole file."""
    content = {"version": VERSION, "paper": PAPER, "manifest": [*manifest(root)]}
    return yaml.safe_dump(content, explicit_start=True, sort_keys=False, allow_unicode=True, width=10_000)


if __name__ == "__main__":
    write_text(find_root() / "codecheck.yml", text(find_root()))
