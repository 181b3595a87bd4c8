"""Executed notebooks that are committed, so that the book can be built without data, models or training.

`<results>/book/` holds each notebook as papermill left it, its pictures and sounds under `media/` by the hash of their
bytes, and `kept.json` with the hashes of the scores and numbers behind them.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import media
import nbformat
import papermill

from companion.profile import find_root
from flowsep.files import FlowsepError, read_json, sha256

# made from committed files alone, and therefore run again with each build
FROM_TABLES = ("06_results", "12_your_own_system", "13_speed", "14_beyond_the_paper", "16_run_it_on_your_machines")


def keep(results: Path, notebooks: Mapping[str, nbformat.NotebookNode], stored: Mapping[str, bytes]) -> None:
    """Write `<results>/book/` anew, all or nothing. notebooks: by chapter, as `media.take` left them."""
    target, fresh, old = results / "book", results / ".book", results / ".book-before"
    for folder in (fresh, old):  # left by a killed run
        shutil.rmtree(folder, ignore_errors=True)
    (fresh / "media").mkdir(parents=True)
    for name, notebook in notebooks.items():
        if name in FROM_TABLES:
            continue
        nbformat.write(notebook, fresh / f"{name}.ipynb")
        for part in media.names(notebook):
            (fresh / "media" / part).write_bytes(stored[part])
    records = {"scores": hash_of_scores(results), "chapters": hashes(fresh, "*.ipynb"), "numbers": numbers(results)}
    (fresh / "kept.json").write_text(json.dumps(records, indent=1) + "\n", "utf-8")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def unpack(results: Path, folder: Path) -> tuple[list[Path], dict[str, bytes]]:
    """The kept notebooks and, executed into `folder`, those made `FROM_TABLES`; and the media of the kept ones.

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
    with contextlib.chdir(root):
        for name in FROM_TABLES:
            given = {"profile": parameters["profile"]}
            papermill.execute_notebook(f"notebooks/{name}.ipynb", folder / f"{name}.ipynb", given, progress_bar=False)
    stored = {path.name: path.read_bytes() for path in (place / "media").iterdir()}
    return sorted([*executed, *folder.glob("*.ipynb")], key=lambda path: path.name), stored


def numbers(results: Path) -> dict[str, str]:
    """{file: SHA-256} of all committed numbers of a profile: its scores, tables, curves and manifests."""
    digests = {}
    for pattern in ("data.json", "tables.json", "[!.]*.csv", "table-*.md", "scores/[!.]*.csv", "training/*/loss.csv"):
        digests |= hashes(results, pattern)
    return digests


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    """{path below `folder`: SHA-256} of the files that fit a pattern."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.glob(pattern))}


def hash_of_scores(results: Path) -> str:
    """SHA-256 of all score files, their names included."""
    state = hashlib.sha256()
    for path in sorted((results / "scores").glob("[!.]*.csv")):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    return state.hexdigest()
