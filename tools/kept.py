"""Executed notebooks that are committed, so that the book can be built without data, models or training.

`<results>/book/` holds each notebook as papermill left it, its pictures and sounds under `media/` by the hash of their
bytes, and `kept.json` with the hashes of all of them, and of the scores, numbers and code behind them.

`python tools/kept.py` records in `results/kept.json` the numbers that all profiles share, after a tool made them anew.
"""

import ast
import contextlib
import hashlib
import html
import json
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import media
import nbformat
import papermill

from companion.codehash import code_hash
from companion.profile import find_root
from companion.show import player, slider
from companion.tables import written
from flowsep.files import FlowsepError, read_json, sha256, write_text

# made from committed files alone, and therefore run again with each build
FROM_TABLES = ("06_results", "12_your_own_system", "13_speed", "14_beyond_the_paper", "16_run_it_on_your_machines")
# of a profile, but for the chapters: its scores, tables, curves and manifests
NUMBERS = ("data.json", "tables.json", "[!.]*.csv", "table-*.md", "scores/[!.]*.csv", "training/*/loss.csv")
# data sets whose songs nobody may hand on: their chapters are kept without sounds
NOT_PUBLISHED = ("musdb18", "musdb18-7s", "musdb18hq")
# of no profile, below results/
SHARED = ("published.csv", "sisec18_test_medians.csv", "scale.csv", "faults.json", "cluster.json")
SHARED += ("bench/*.json", "research/*.csv")
SCRIPTS = {"flowsep-player": player.script, "flowsep-slider": slider.script}  # tag -> its script
SCRIPT = re.compile(rf"(</({'|'.join(SCRIPTS)})>\s*<script>).*?(</script>)", re.DOTALL)
SYSTEM = re.compile(r'<audio [^>]*data-system="([^"]*)"')
# numbers and chapters whose code no score row names -> that code
STUDIES = {
    "ablation.csv": ("companion.studies.ablation:run_ablation",),
    "likelihood.csv": ("companion.systems.priors:held_out_clips", "flowsep.prior:Prior"),
    "new_sources.csv": ("companion.studies.new_sources:score_new_sources",),
    "book/15_what_it_cannot_do.ipynb": ("companion.studies.leakage:leakage",),
}


def keep(results: Path, notebooks: Mapping[str, nbformat.NotebookNode], stored: Mapping[str, bytes]) -> None:
    """Write `<results>/book/` anew, all or nothing. notebooks: by chapter, as `media.take` left them.

    Raises FlowsepError if there are none, which would leave no chapter.
    """
    if not notebooks:
        raise FlowsepError(f"{results / 'notebooks'}: no executed chapters; make book PROFILE={results.name}")
    silent = read_json(results / "data.json")["name"] in NOT_PUBLISHED
    target, fresh, old = results / "book", results / ".book", results / ".book-before"
    for folder in (fresh, old):  # left by a killed run
        shutil.rmtree(folder, ignore_errors=True)
    (fresh / "media").mkdir(parents=True)
    for name, notebook in notebooks.items():
        if name in FROM_TABLES:
            continue
        if silent:
            note = "MUSDB18's licence lets nobody hand on its songs: the player is here once you have run this page"
            media.mute(notebook, f"{note} (make book PROFILE={results.name}).")
        nbformat.write(notebook, fresh / f"{name}.ipynb")
        for part in media.names(notebook):
            (fresh / "media" / part).write_bytes(stored[part])
    write_record(fresh / "kept.json", record(results, fresh))
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def unpack(results: Path, folder: Path, chapters: Collection[str] = ()) -> tuple[list[Path], dict[str, bytes]]:
    """The kept notebooks and, executed into `folder`, those made `FROM_TABLES`; and the media of the kept ones.

    `chapters` names those that are wanted; by default all.
    Raises FlowsepError if nothing was kept, or the scores have changed since.
    """
    place = results / "book"
    again = f"make the book and keep it: make book keep PROFILE={results.name}"
    if not (place / "kept.json").is_file():
        raise FlowsepError(f"{place}: no kept chapters; {again}")
    if read_json(place / "kept.json")["scores"] != hash_of_scores(results):
        raise FlowsepError(f"{place}: these chapters are of other scores than {results / 'scores'}; {again}")
    root, executed = find_root(), sorted(place.glob("*.ipynb"))
    parameters = nbformat.read(executed[0], as_version=4).metadata.papermill.parameters
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(root):
        for name in [name for name in FROM_TABLES if not chapters or name in chapters]:
            given = {"profile": parameters["profile"]}
            papermill.execute_notebook(f"notebooks/{name}.ipynb", folder / f"{name}.ipynb", given, progress_bar=False)
    stored = {path.name: path.read_bytes() for path in (place / "media").iterdir()}
    notebooks = sorted([*executed, *folder.glob("*.ipynb")], key=lambda path: path.name)
    return [path for path in notebooks if not chapters or path.stem in chapters], stored


def renew_texts(notebook: nbformat.NotebookNode, source: nbformat.NotebookNode) -> None:
    """Give an executed notebook the Markdown, captions and tags of its source now, so that a better page needs no run.

    Text at its end may be new. Nothing changes where the order of the other cells has changed. The code is another
    matter: `make check-results` holds it against the source's.
    """
    shown = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    new = source.cells[len(shown) :]
    kinds, kinds_now = ([cell.cell_type for cell in cells] for cells in (shown, source.cells[: len(shown)]))
    if kinds == kinds_now and all(cell.cell_type == "markdown" for cell in new):
        for cell, now in zip(shown, source.cells, strict=False):
            cell.metadata["tags"] = now.metadata.get("tags", [])
            if cell.cell_type == "markdown":
                cell.source = now.source
            elif "caption" in now.metadata:
                cell.metadata["caption"] = now.metadata["caption"]
        notebook.cells += new


def renew_scripts(notebook: nbformat.NotebookNode) -> None:
    """Give the players and sliders of an executed notebook the scripts of now; their sounds and pictures stay."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "text/html" in output.get("data", {}):
            output.data["text/html"] = with_scripts(output.data["text/html"])


def with_scripts(page: str) -> str:
    """The HTML of players and sliders, with the scripts of now."""
    return SCRIPT.sub(lambda m: m[1] + SCRIPTS[m[2]]() + m[3], page)


def without_scripts(page: str) -> str:
    """The same with empty scripts, which `with_scripts` fills."""
    return SCRIPT.sub(r"\1\3", page)


def renew_names(notebook: nbformat.NotebookNode) -> None:
    """Call the systems in the players of an executed notebook as the tables do: `wave_u_net` becomes Wave-U-Net."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        page = output.get("data", {}).get("text/html", "")
        for name in dict.fromkeys(SYSTEM.findall(page)):
            system, _, variant = html.unescape(name).partition("@")
            told = html.escape(written(system) + (f" [{variant}]" if variant else ""))
            for here in ('data-system="{}"', ', {}"', "<p>{}</p>"):
                page = page.replace(here.format(name), here.format(told))
            output.data["text/html"] = page


def renew_words(notebook: nbformat.NotebookNode) -> None:
    """Show a sentence that a cell of an executed notebook returns like one that it prints, without Python's quotes."""
    for cell in notebook.cells:
        for number, output in enumerate(cell.get("outputs", [])):
            data = output.get("data", {})
            if set(data) == {"text/plain"} and re.fullmatch(r"(['\"]).*\1", data["text/plain"]):
                text = ast.literal_eval(data["text/plain"])
                cell.outputs[number] = nbformat.v4.new_output("stream", text=f"{text}\n")


def record(results: Path, book: Path) -> dict[str, Any]:
    """What `kept.json` says of a profile: the hashes of the scores, of all files, and of the code of `STUDIES`."""
    shown = files(results, book)
    code = {name: code_hash(*places) for name, places in STUDIES.items() if name in shown}
    return {"scores": hash_of_scores(results), "files": shown, "code": code}


def files(results: Path, book: Path) -> dict[str, str]:
    """{file: SHA-256} of all that the pages of a profile show: its numbers, its chapters, their pictures and sounds."""
    chapters = hashes(book, "*.ipynb", "media/*")
    return numbers(results) | {f"book/{name}": digest for name, digest in chapters.items()}


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a `kept.json`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def numbers(results: Path) -> dict[str, str]:
    """{file: SHA-256} of the `NUMBERS` of a profile."""
    return hashes(results, *NUMBERS)


def hashes(folder: Path, *patterns: str) -> dict[str, str]:
    """{path below `folder`: SHA-256} of the files that fit one of the patterns."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def hash_of_scores(results: Path) -> str:
    """SHA-256 of all score files, their names included."""
    state = hashlib.sha256()
    for path in sorted((results / "scores").glob("[!.]*.csv")):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


if __name__ == "__main__":
    write_record(find_root() / "results" / "kept.json", hashes(find_root() / "results", *SHARED))
