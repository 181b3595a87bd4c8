"""Do the committed results come from the committed code, configs and seeds? `python tools/check_results.py [PROFILE]`.

For every profile with committed scores: are the rows of this code (`companion.codehash`), profile, seed and data? Are
all files that its pages show, down to the sounds, the ones that `make keep` recorded? Do the scores give these very
tables, and do the notebooks hold the code that ran? Then the numbers that all profiles share are compared with their
record, the README's table with its file, and texts are searched for results that somebody typed. The tool names all
that is stale or missing; the exit status is then 1.

--accept REASON records in `results/accepted.csv`, which the book shows, that this code gives the same numbers: for a
change that moved none, as runs of a smaller profile before and after it can show.
"""

import argparse
import ast
import hashlib
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kept
import nbformat
import pandas as pd
from build_book import find_error
from readme_table import MARKED, renewed

from companion.codehash import code_hash
from companion.profile import Profile, find_root, load_profile
from companion.provenance import git_state
from companion.scores.evaluate import read_scores
from companion.systems import code_of
from companion.systems.remarks import remarks
from companion.tables import load_published, load_scores, made_of, same_data, table_files
from flowsep.files import FlowsepError, atomic_path, read_json

ACCEPTED = ("system", "was", "now", "reason", "git_commit", "date")
DECIMAL = r"[-+−]?\d+\.\d+(?!\w|\.\d|\s?k?Hz)"  # no version, no sample rate
RESULT = re.compile(  # 9.93 dB or 37 times; an SDR of 9.93; 9.93 better; a cell of a table
    r"(?<![\w.])[-+−]?\d+(?:[.,]\d+)*(?:e[-−]?\d+)?"
    r"(?:[\s-]?(?:dB|decibels?|nats|per\scent|percent|times|fold)\b|(?:\s?%|[x×])(?!\w))"
    rf"|\b(?:SDR|SIR|SAR|ISR|RTF|dB|nats|score|median|mean|likelihood|gain)s?\b[^\d.;:|]{{0,40}}{DECIMAL}"
    rf"|(?<![\w.]){DECIMAL}\s(?:more|less|better|worse|higher|lower|faster|slower|above|below)\b"
    rf"|\|\s*\**{DECIMAL}\**\s*(?=\|)"
)


def main(names: list[str], accept: str = "") -> int:
    root = find_root()
    results, held = root / "results", tracked(root)
    scored = {name.split("/")[1] for name in held if re.fullmatch(r"results/[^/]+/scores/[^/]+\.csv", name)}
    names = names or sorted(scored or (path.parent.parent.name for path in results.glob("*/book/kept.json")))
    if accept and (pairs := [pair for name in names for pair in stale(results / name, load_profile(name))]):
        append(results / "accepted.csv", pairs, accept)
    faults = [] if names else ["results: no profile has scores that are committed"]
    for name in names:
        faults += told(f"results/{name}: ", problems(results / name, name))
    faults += [*told("results/", shared(results, held)), *told("", texts(root))]
    print("\n".join(faults) or f"the results of {', '.join(names)} are of this code, and whole")
    return 1 if faults else 0


def tracked(root: Path) -> set[str]:
    """The files of results/ that git knows, as paths below `root`; none outside a repository."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--", "results"]
    return set(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\0")) - {""}


def told(where: str, faults: Iterator[str]) -> Iterator[str]:
    """The faults, each with its place; what stops the search for more is one of them."""
    try:
        yield from (where + fault for fault in faults)
    except (ValueError, OSError, SyntaxError) as error:  # FlowsepError, which names the file, among them
        yield str(error)


def problems(folder: Path, name: str) -> Iterator[str]:
    """Everything of one profile that differs from the records, or from the code of now."""
    profile, recorded, again = load_profile(name), record_of(folder), f"make book keep PROFILE={name}"
    if recorded:
        now = kept.files(folder, folder / "book")
        yield from differences(recorded.get("files", {}), now, "book/kept.json", again)
        if recorded.get("scores") != kept.hash_of_scores(folder):
            yield f"book/kept.json: `scores` is not the hash of scores/*.csv; restore it, or {again}"
    else:
        yield f"book/kept.json: is missing, and nothing says what belongs to these scores; restore it, or {again}"
    for what, was, code in stale(folder, profile):
        verb = "was scored by" if what in profile.systems else "was kept with"
        yield f"{what} {verb} other code ({was}, now {code}); {again}, or see --accept"
    yield from settings(folder, profile)
    yield from tables(folder, profile)
    for path in sorted((folder / "book").glob("*.ipynb")):
        if problem := find_error(nbformat.read(path, as_version=4)):
            yield f"book/{path.name}: {problem}; {again}"


def record_of(folder: Path) -> dict[str, Any]:
    """The profile's `kept.json`; nothing if it is missing."""
    path = folder / "book" / "kept.json"
    return read_json(path) if path.is_file() else {}


def differences(recorded: Mapping[str, str], now: Mapping[str, str], record: str, cure: str) -> Iterator[str]:
    """The files that differ from a record, in words."""
    for name in sorted(recorded.keys() | now.keys()):
        if recorded.get(name) != now.get(name):
            what = f"is not what {record} says" if name in now else f"is missing, but is in {record}"
            yield f"{name}: {what}; restore it, or {cure}"


def stale(folder: Path, profile: Profile) -> list[tuple[str, str, str]]:
    """(system, file or notebook, code of then, code of now) of all that comes from other code that nobody accepted."""
    scores = load_scores(folder)
    pairs = [*scores[scores.variant == ""].groupby(["system", "code"]).groups]
    if (path := folder / "new_sources.csv").is_file():
        pairs += read_scores(path).groupby(["system", "code"]).groups
    made = [(system, code, code_of(system, profile.systems.get(system))) for system, code in dict.fromkeys(pairs)]
    studies = record_of(folder).get("code", {})
    made += [(name, code, code_hash(*kept.STUDIES.get(name, ()))) for name, code in studies.items()]
    for path in sorted((folder / "book").glob("*.ipynb")):
        chapter = nbformat.read(path, as_version=4)
        about = chapter.metadata.papermill
        notebook = nbformat.read(find_root() / about.input_path, as_version=4)
        made.append((about.input_path, program(chapter, about.parameters), program(notebook, about.parameters)))
    path = folder.parent / "accepted.csv"
    accepted = pd.read_csv(path, dtype=str).to_dict("records") if path.is_file() else []
    others = []
    for what, code, now in dict.fromkeys(made):  # one notebook makes many chapters
        reached = {code}
        for row in accepted:  # in the order in which they were accepted
            if row["system"] == what and row["was"] in reached:
                reached.add(row["now"])
        if now not in reached:
            others.append((what, code, now))
    return others


def append(path: Path, pairs: list[tuple[str, str, str]], reason: str) -> None:
    """Add one row to `accepted.csv` for each of what is `stale`."""
    before = pd.read_csv(path, dtype=str) if path.is_file() else None
    facts = {"reason": reason, "git_commit": git_state()["git_commit"], "date": datetime.now(UTC).date().isoformat()}
    new = pd.DataFrame([dict(zip(ACCEPTED, pair, strict=False)) | facts for pair in pairs], columns=list(ACCEPTED))
    with atomic_path(path) as temporary:
        pd.concat([before, new]).to_csv(temporary, index=False, lineterminator="\n")


def settings(folder: Path, profile: Profile) -> Iterator[str]:
    """Score rows of another configuration, seed, data or state of the code, and systems without any."""
    scores, manifest = load_scores(folder), read_json(folder / "data.json")
    own = scores[scores.variant == ""]
    if other := sorted(set(profile.systems) ^ set(own.system)):
        yield f"scores of {', '.join(sorted(set(own.system)))}, but the profile's systems differ by {', '.join(other)}"
    sets = {"scores": own}
    if (folder / "new_sources.csv").is_file():
        sets["new_sources.csv"] = read_scores(folder / "new_sources.csv")
    for where, rows in sets.items():
        for system, part in rows.groupby("system"):
            expected = {"config_hash": profile.hash_of(system), "seed": profile.seed, "data_hash": manifest["hash"]}
            for column, value in (expected | {"git_dirty": "no", "profile": profile.name}).items():
                if wrong := set(part[column]) - {value}:
                    yield f"{where}: {system}: {column} is {', '.join(map(str, sorted(wrong)))}, expected {value}"
    if (path := folder / "book" / "11_ablations.ipynb").is_file():  # whose rows say nothing of the profile
        ran = nbformat.read(path, as_version=4).metadata.papermill.parameters
        if load_profile(ran["profile"]).ablation != profile.ablation:
            yield f"book/{path.name}: ran with another `ablation` than configs/{profile.name}.yaml has; run it again"


def tables(folder: Path, profile: Profile) -> Iterator[str]:
    """Tables that the scores do not give."""
    published = same_data(load_published(folder.parent / "published.csv"), profile.data.kind)
    given = {"conventions": profile.evaluation.conventions, "sources": profile.sources, "notes": remarks(profile)}
    for name, text in table_files(load_scores(folder), published, **given).items():
        if not (folder / name).is_file() or (folder / name).read_text("utf-8") != text:
            yield f"{name}: is not the table of these scores; run notebooks/06_results.ipynb"
    if read_json(folder / "tables.json").get("made_of") != made_of(folder):
        yield "tables.json: the tables are of other scores; run notebooks/06_results.ipynb"


def program(notebook: nbformat.NotebookNode, given: Collection[str]) -> str:
    """First 12 digits of the SHA-256 of a notebook's code: without comments and the parameters that papermill is given.

    Text in Markdown does not count: a page may show an earlier wording.
    """
    lines = []
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "injected-parameters" not in tags:
            replaced = given if "parameters" in tags else ()
            lines += [line for line in cell.source.splitlines() if line.partition(" = ")[0] not in replaced]
    return hashlib.sha256(ast.unparse(ast.parse("\n".join(lines))).encode()).hexdigest()[:12]


def shared(results: Path, held: Collection[str]) -> Iterator[str]:
    """Numbers of no profile that are not as recorded; files that nobody has committed do not count."""
    recorded = read_json(results / "kept.json")
    now = kept.hashes(results, *kept.SHARED)
    now = {name: digest for name, digest in now.items() if name in recorded or f"results/{name}" in held}
    yield from differences(recorded, now, "results/kept.json", "run `python tools/kept.py` if it was made anew")


def texts(root: Path) -> Iterator[str]:
    """What reads as a result in a text that no run wrote, and a table in the README that is not the file's."""
    pages = {path: path.read_text("utf-8") for path in [root / "README.md", *sorted((root / "book").glob("*.md"))]}
    if renewed(pages[root / "README.md"]) != pages[root / "README.md"]:
        yield "README.md: its table is not the committed one; run python tools/readme_table.py"
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        pages[path] = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path, text in pages.items():
        told = text.partition("\n## Exercises\n")[0]  # whose numbers are no results; a test runs their solutions
        for match in RESULT.finditer(MARKED.sub("", told)):
            yield (
                f"{path.relative_to(root).as_posix()}: '{' '.join(match[0].split())}' reads as a typed result; let a "
                "notebook write the number, or point to its table"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="check_results", description=__doc__.split("`")[0])
    parser.add_argument("profile", nargs="*", help="default: all with committed scores")
    parser.add_argument("--accept", default="", metavar="REASON", help="this code gives the same numbers")
    given = parser.parse_args()
    try:
        sys.exit(main(given.profile, given.accept))
    except (FlowsepError, OSError, KeyError) as error:
        sys.exit(f"check_results: {error}")
