"""Do the committed results come from the committed code, configs and seeds? `python tools/check_results.py [PROFILE]`.

For every profile with kept chapters: are the score rows of this code (`companion.codehash`), profile, seed and data, do
tables and chapters have their hashes, and do the scores give these very tables? The tool names all that is stale; the
exit status is then 1.

--accept REASON records in `results/accepted.csv`, which the book shows, that this code gives the same numbers: for a
change that moved none, as runs of a smaller profile before and after it can show.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import kept
import nbformat
import pandas as pd
from build_book import find_error

from companion.profile import Profile, find_root, load_profile
from companion.provenance import git_state
from companion.scores.evaluate import read_scores
from companion.systems import code_of
from companion.tables import load_published, load_scores, made_of, same_data, table_files
from flowsep.files import FlowsepError, atomic_path, read_json

ACCEPTED = ("system", "was", "now", "reason", "git_commit", "date")
MEASURED = re.compile(r"(?<![\w.])[-+−]?\d+(?:[.,]\d+)?(?:e[-−]\d+)?\s(?:dB|nats)\b")
MARKED = re.compile(r"<!-- table: .*?<!-- end of table -->", re.DOTALL)  # a test holds these against their files
# numbers in texts that are no results: file -> number -> its meaning
QUOTED = {
    "README.md": {"1e-9 dB": "the tolerance of a test of companion.scores"},
    "book/differences.md": dict.fromkeys(
        ("0.07 dB", "0.26 dB", "0.001 dB", "0.20 dB", "0.51 dB"),
        "results/demo/scores at 13baa46 (data_hash 4be2669db140) against those with data_hash e685f80095bd",
    ),
    "notebooks/10_a_new_source.ipynb": {"0 dB": "the score of silence, by its definition"},
    "notebooks/13_speed.ipynb": {"60 dB": "the bound of a test of flowsep.Separator"},
    "notebooks/14_beyond_the_paper.ipynb": {"20 dB": "an aim"},
}


def main(names: list[str], accept: str = "") -> int:
    results = find_root() / "results"
    names = names or sorted(path.parent.parent.name for path in results.glob("*/book/kept.json"))
    stale = {name: stale_systems(results / name, load_profile(name)) for name in names}
    if accept:
        append(results / "accepted.csv", [pair for pairs in stale.values() for pair in pairs], accept)
        stale = {}
    faults = [
        f"results/{name}: {system} was scored by other code ({was}, now {now}); run it again, or see --accept"
        for name, systems in stale.items()
        for system, was, now in systems
    ]
    for name in names:
        faults += [f"results/{name}: {problem}" for problem in problems(results / name, load_profile(name))]
    faults += [f"{file}: '{number}' is a number that no file gives" for file, number in typed_numbers(find_root())]
    print("\n".join(faults) or f"the results of {', '.join(names) or 'no profile'} are of this code, and whole")
    return 1 if faults else 0


def stale_systems(folder: Path, profile: Profile) -> list[tuple[str, str, str]]:
    """(system, code of its rows, code of now) of all systems with rows of other code that nobody accepted."""
    scores = load_scores(folder)
    path, stale = folder.parent / "accepted.csv", []
    accepted = pd.read_csv(path, dtype=str).to_dict("records") if path.is_file() else []
    for (system, code), _ in scores[scores.variant == ""].groupby(["system", "code"]):
        now, reached = code_of(system, profile.systems.get(system)), {code}
        for row in accepted:  # in the order in which they were accepted
            if row["system"] == system and row["was"] in reached:
                reached.add(row["now"])
        if now not in reached:
            stale.append((system, code, now))
    return stale


def append(path: Path, pairs: list[tuple[str, str, str]], reason: str) -> None:
    """Add one row per stale system to `accepted.csv`."""
    before = pd.read_csv(path, dtype=str) if path.is_file() else None
    facts = {"reason": reason, "git_commit": git_state()["git_commit"], "date": datetime.now(UTC).date().isoformat()}
    new = pd.DataFrame([dict(zip(ACCEPTED, pair, strict=False)) | facts for pair in pairs], columns=list(ACCEPTED))
    with atomic_path(path) as temporary:
        pd.concat([before, new]).to_csv(temporary, index=False, lineterminator="\n")


def problems(folder: Path, profile: Profile) -> Iterator[str]:
    """Everything besides the code that differs from the records."""
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
    published = same_data(load_published(folder.parent / "published.csv"), profile.data.kind)
    settings = {"conventions": profile.evaluation.conventions, "sources": profile.sources}
    for name, text in table_files(scores, published, **settings).items():
        if not (folder / name).is_file() or (folder / name).read_text("utf-8") != text:
            yield f"{name}: is not the table of these scores; run notebooks/06_results.ipynb"
    if read_json(folder / "tables.json").get("made_of") != made_of(folder):
        yield "tables.json: the tables are of other scores; run notebooks/06_results.ipynb"
    records = read_json(folder / "book" / "kept.json")
    for where, then, now in (
        ("book", records["chapters"], kept.hashes(folder / "book", "*.ipynb")),
        (".", records["numbers"], kept.numbers(folder)),
    ):
        for name in sorted(set(then) | set(now)):
            if then.get(name) != now.get(name):
                yield f"{where}/{name}: has changed since the chapters were kept; make the book and `make keep`"
    for path in sorted((folder / "book").glob("*.ipynb")):
        if problem := find_error(nbformat.read(path, as_version=4)):
            yield f"book/{path.name}: {problem}"


def typed_numbers(root: Path) -> Iterator[tuple[str, str]]:
    """(file, number) of each number with dB or nats in a text that no run wrote, unless it is `QUOTED`."""
    texts = {path: path.read_text("utf-8") for path in [root / "README.md", *sorted((root / "book").glob("*.md"))]}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        texts[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for path, text in texts.items():
        name = path.relative_to(root).as_posix()
        for number in MEASURED.findall(MARKED.sub("", text)):
            if number not in QUOTED.get(name, {}):
                yield name, number


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="check_results", description=__doc__.split("`")[0])
    parser.add_argument("profile", nargs="*", help="default: all with kept chapters")
    parser.add_argument("--accept", default="", metavar="REASON", help="this code gives the same numbers")
    given = parser.parse_args()
    try:
        sys.exit(main(given.profile, given.accept))
    except (FlowsepError, OSError, KeyError) as error:
        sys.exit(f"check_results: {error}")
