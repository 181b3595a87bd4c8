"""Render the book of one profile: `python tools/build_book.py results/demo [--keep | --kept]`.

Executed notebooks go from `<results>/notebooks/` to `book/chapters/`, a status page is written from their records and
the score files, and Jupyter Book builds `book/_build/html` with warnings as errors. Nothing is run here.

--keep builds nothing, but leaves the executed notebooks in `<results>/book/`, their pictures and sounds made small
beside them, to be committed. --kept builds the book from these, without data, models or training: only the chapters
that are made from the committed tables (`FROM_TABLES`) are run again.
"""

import argparse
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any
from urllib.parse import quote

import crate
import kept
import media
import nbformat
import pandas as pd
import separate_page
import tabs
from finish import dead_links, finish
from readme_table import compact

from companion.profile import find_root
from companion.tables import costs, labels, load_scores, made_of, plain, speed, written
from flowsep.files import FlowsepError, brief, locked, read_json, write_text
from flowsep.search import search

MEDIA, DATA = "_media", "_data"  # folders of the site
# chapter -> the files with its numbers; "./" is the profile's folder, all else lies in results/
BEHIND = {
    "01_data": ["./data.json"],
    "04_train_prior": ["./training/{name}/loss.csv"],
    "05_separate": ["./scores/{name}.csv"],
    "06_results": ["./table-*.csv", "./scores/[!.]*.csv", "published.csv", "sisec18_test_medians.csv"],
    "real_songs": ["./table-*.csv", "./scores/[!.]*.csv", "published.csv", "sisec18_test_medians.csv"],
    "08_inside_the_priors": ["./likelihood.csv"],
    "10_a_new_source": ["./new_sources.csv"],
    "11_ablations": ["./ablation.csv"],
    "13_speed": ["bench/*.json"],
    "14_beyond_the_paper": ["research/*.csv", "musdb18-7s/transfer.csv", "musdb18-7s/material.csv"],
    "16_run_it_on_your_machines": ["scale.csv"],
}
OF_NO_PROFILE = ("03_glow", "13_speed", "14_beyond_the_paper", "16_run_it_on_your_machines")  # the same in every book
SMALL, KEPT = "quick", "demo"  # the profile whose pages say that they are small, and the one that they point to
# the profile of real songs, of whose kept chapters each other book has these, by other names where it has its own
REAL, FROM_REAL = "musdb18-7s", {"06_results": "real_songs", "17_a_real_song": "17_a_real_song"}
TITLES = {"real_songs": "Results on real songs"}
BAND = "Results on the synthetic band"  # of the profiles `SMALL` and `KEPT`
NAMED = {"04_train_prior": "source", "05_separate": "system"}  # notebooks executed several times, and by what


def main(results: Path, mode: str = "") -> None:
    root = find_root()
    with tempfile.TemporaryDirectory() as folder:
        if mode == "kept":
            executed, stored = kept.unpack(results, Path(folder))
        else:
            executed, stored = sorted((results / "notebooks").glob("[!.]*.ipynb")), {}
        notebooks = {path.stem: read_finished(path) for path in executed}
        real = {}
        if mode != "keep" and results.name != REAL:
            executed, more = kept.unpack(root / "results" / REAL, Path(folder) / REAL, FROM_REAL)
            real, stored = {FROM_REAL[path.stem]: read_finished(path) for path in executed}, stored | more
    if read_json(results / "tables.json").get("made_of") != made_of(results):
        raise FlowsepError(f"{results}: the tables are not of the scores beside them; make them again: make results")
    for notebook in [*notebooks.values(), *real.values()]:
        stored |= media.take(notebook)
    if mode == "keep":
        kept.keep(results, notebooks, stored)
        return
    chapters = root / "book" / "chapters"
    shutil.rmtree(chapters, ignore_errors=True)
    chapters.mkdir(parents=True)
    beside = {}  # pictures and sounds, which are files beside the pages
    origin = dict.fromkeys(notebooks, results) | dict.fromkeys(real, root / "results" / REAL)
    scores, runs = load_scores(results), {}
    for name, notebook in notebooks.items():
        runs.setdefault(tabs.page_of(name, scores), {})[name] = notebook
    for name, parts in (runs | {name: {name: notebook} for name, notebook in real.items()}).items():
        page = to_page(parts, name, results if name in runs else root / "results" / REAL)
        for cell in page.cells if name in real else ():
            for chapter, other in FROM_REAL.items():
                cell.source = cell.source.replace(f"]({chapter})", f"]({other})")
        tabs.renew_links(page)
        media.caption(page)
        beside |= media.place(page, stored, f"../{MEDIA}")
        nbformat.write(page, chapters / f"{name}.ipynb")
    write_text(chapters / "status.md", status_page(results, notebooks))
    write_text(chapters / "search.py", inspect.getsource(search))  # for the chapter on the method
    hero = (root / "book" / "hero.html").read_text("utf-8")
    write_text(chapters / "hero.html", kept.with_scripts(hero))  # for the first page
    write_text(chapters / "page_speed.txt", separate_page.measured(speed.find_benches(root / "results" / "bench")))
    if results.name == SMALL:
        write_text(chapters / "kept_table.md", kept_table(root / "results" / KEPT))
    build, old = root / "book" / "_build", root / "book" / "_build" / "before"
    for folder in (build / "next", old):  # left by a killed build
        shutil.rmtree(folder, ignore_errors=True)
    site = build / "next" / "_build" / "html"
    command = ["jupyter-book", "build", "book", "--path-output", "book/_build/next", "--config", "_config.yml"]
    done = subprocess.run(  # quiet, since it names the place where the book lies only now
        [*command, "--warningiserror", "--nitpick", "--quiet"], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        told = [line for line in (done.stdout + done.stderr).splitlines() if re.search("warning:|error:", line, re.I)]
        raise FlowsepError("jupyter-book failed: " + "\n".join(told[-5:] or [done.stderr[-2000:]]))
    (site / MEDIA).mkdir()
    for path in (root / "book" / "hero").iterdir():  # of the first page
        beside |= media.with_script(path.name, path.read_bytes())
    for name, data in beside.items():
        (site / MEDIA / name).write_bytes(data)
    for name, notebook in (notebooks | real).items():  # for download: as it ran, with all pictures inside
        whole = nbformat.from_dict(notebook)
        media.mute(whole, "The player is on the page in the book, and here once you have run this notebook.")
        media.whole(whole, stored)
        nbformat.write(whole, site / "_sources" / "chapters" / f"{name}.ipynb")
        for file in data_of(name, origin[name]):
            (site / DATA / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "results" / file, site / DATA / file)
    publish_crate(site / DATA / results.name, results, root)
    separate_page.place(site, root)
    finish(site)
    if dead := dead_links(site):
        raise FlowsepError(f"{len(dead)} links lead nowhere: {'; '.join(dead[:5])}")
    if (build / "html").exists():
        (build / "html").rename(old)
    site.rename(build / "html")  # until here the previous book was in place
    (build / "book.pdf").unlink(missing_ok=True)  # of the previous book
    for folder in (build / "next", old):
        shutil.rmtree(folder, ignore_errors=True)
    print(f"The book of {results} is here:\n  {(build / 'html' / 'index.html').as_uri()}")


def read_finished(path: Path) -> nbformat.NotebookNode:
    """An executed notebook. Raises FlowsepError for one that may not be published."""
    notebook = nbformat.read(path, as_version=4)
    if problem := find_error(notebook):
        raise FlowsepError(f"{path}: not a finished chapter: {problem}; run it again")
    source = find_root() / notebook.metadata.papermill.input_path
    if source.is_file():
        kept.renew_texts(notebook, nbformat.read(source, as_version=4))
    kept.renew_scripts(notebook)
    kept.renew_names(notebook)
    kept.renew_words(notebook)
    return notebook


def to_page(runs: Mapping[str, nbformat.NotebookNode], name: str, results: Path) -> nbformat.NotebookNode:
    """The page of one executed chapter, or of several, {name: notebook}, as `tabs.together`.

    It has a title of its own, no parameter cells, and `how_to_run` at the end.
    """
    given = {"parameters", "injected-parameters"}  # papermill injects the whole file of the profile
    copies = {chapter: nbformat.from_dict(notebook) for chapter, notebook in runs.items()}
    for copy in copies.values():
        copy.cells = [cell for cell in copy.cells if not given & set(cell.metadata.get("tags", []))]
    page = tabs.together(
        {run_name(copies[chapter], chapter): copies[chapter] for chapter in sorted(copies, key=tabs.rank)}
    )
    title, text = tabs.FAMILIES.get(name, (TITLES.get(name) or title_of(page), ""))
    if text:  # what the notebook says of the flows alone stands on the flows' page
        page.cells = [cell for cell in page.cells if "flows" not in cell.metadata.get("tags", [])]
    if name in FROM_REAL and results.name != REAL:  # what does not depend on the songs stands on the page of real ones
        page.cells = [cell for cell in page.cells if "once" not in cell.metadata.get("tags", [])]
        title = BAND if results.name in (SMALL, KEPT) else title
    alone = run_name(*next(iter((notebook, chapter) for chapter, notebook in runs.items()))) if len(runs) == 1 else ""
    title += f": {plain(alone)}" if alone else ""
    body = ["", text] if text else page.cells[0].source.split("\n")[1:]
    page.cells[0].source = "\n".join([f"# {title}", *note(name, results.name), *body])
    page.cells.append(nbformat.v4.new_markdown_cell(how_to_run(runs, results)))
    return page


def narrow(lines: list[str]) -> list[str]:
    """A table in Markdown without its costs, so that a page is wide enough for its scores."""
    cells = [line.strip("|").split("|") if line.startswith("|") else None for line in lines]
    for row in filter(None, cells):  # names of systems in words, which a narrow column can break
        row[0] = row[0].replace("_", " ")
    heads = next((row for row in cells if row), [])
    kept_columns = [k for k, head in enumerate(heads) if head.strip() not in ("parameters", "training (s)", "RTF", "n")]
    rows = zip(lines, cells, strict=True)
    return [f"|{'|'.join(row[k] for k in kept_columns)}|" if row else line for line, row in rows]


def publish_crate(folder: Path, results: Path, root: Path) -> None:
    """Add the profile's settings, its tables in Markdown and the RO-Crate to the numbers that the site offers."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "configs" / f"{results.name}.yaml", folder)
    for path in sorted(results.glob("table-*.md")):
        shutil.copy(path, folder)
    crate.write_crate(folder, results.name, load_scores(results))


def note(name: str, profile: str) -> list[str]:
    """The box on top of a page that names its profile and points to larger ones; [] where none is due."""
    real = "[Results on real songs](real_songs) has the fifty test songs of MUSDB18's sample."
    if profile == SMALL and name not in OF_NO_PROFILE:
        text = f"A page of the profile `{SMALL}`: short songs and minutes of training, so that a laptop makes the book"
        text += f" in ten minutes. [The table of the {KEPT}](kept_table) has the numbers of full training. {real}"
    elif name == "06_results" and profile != REAL:
        text = f"These are the songs of the profile `{profile}`. {real}"
    else:
        return []
    return ["", ":::{note}", text, ":::"]


def kept_table(kept: Path) -> str:
    """The page with the committed tables of another profile, which `make book-from-results` shows in full."""
    lines = [f"# The table of the {KEPT}", "", f"From `results/{KEPT}`, where the scores behind it lie. `make"]
    lines[-1] += " book-from-results` builds the book of these numbers in a few minutes, and trains nothing."
    for path in sorted(kept.glob("table-*.md")):
        lines += ["", *narrow(compact(path.read_text("utf-8")).splitlines())]
    return "\n".join(lines) + "\n"


def data_of(chapter: str, results: Path) -> list[str]:
    """The files with the numbers of a chapter, as paths below the site's data folder."""
    files = []
    for start, patterns in BEHIND.items():
        if chapter.startswith(start):
            name = chapter.removeprefix(start).removeprefix("_")
            for pattern in patterns:
                place = results if pattern.startswith("./") else results.parent
                here = sorted(place.glob(pattern.removeprefix("./").format(name=name)))
                files += [path.relative_to(results.parent).as_posix() for path in here]
    return files


def find_error(notebook: nbformat.NotebookNode) -> str:
    """The reason not to publish an executed notebook, or ''. Jupyter Book renders a traceback without a warning."""
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


def title_of(notebook: nbformat.NotebookNode) -> str:
    """A chapter's title in Markdown."""
    return notebook.cells[0].source.split("\n")[0].removeprefix("# ")


def run_name(notebook: nbformat.NotebookNode, name: str) -> str:
    """The source or system of a chapter that is executed several times; '' for any other."""
    given = notebook.metadata.papermill.parameters
    run = next((given[parameter] for stem, parameter in NAMED.items() if name.startswith(stem)), "")
    return written(run).replace("_", " ")


def how_to_run(runs: Mapping[str, nbformat.NotebookNode], results: Path) -> str:
    """The fold at a page's end: the commands that run its notebooks, how long that took, its numbers as files."""
    commands, links, seconds = [], [], 0.0
    for chapter, notebook in runs.items():
        about = notebook.metadata.papermill
        commands.append(command_of(about.input_path, about.parameters, results.name))
        for value in commands[-1]:
            if not value.isprintable() or "`" in value:  # which would end the block of code below
                raise FlowsepError(f"{results}: a chapter was run with {brief(value)}; use another name")
        links.append(f'<a href="../_sources/chapters/{quote(chapter)}.ipynb" download>{plain(chapter)}.ipynb</a>')
        seconds += about.duration
    files = [file for chapter in runs for file in data_of(chapter, results)]
    lines = [
        ":::{admonition} Run this page",
        ":class: dropdown tip",
        f"In a clone of the project, after `make results PROFILE={results.name}`, which makes what a page reads:",
        "",
        "```bash",
        *map(shlex.join, commands),
        "```",
        "",
        f"It took {seconds:.0f} s. As it ran, with its pictures: {', '.join(links)}.",
    ]
    if files:
        links = [f'<a href="../{DATA}/{quote(name)}" download>{plain(name)}</a>' for name in files]
        lines += ["", f"The numbers of this page as files: {', '.join(links)}."]
    lines.append(":::")
    return "\n".join(lines)


def command_of(notebook: str, parameters: Mapping[str, Any], profile: str) -> list[str]:
    """The command that executes a chapter, from papermill's record of its run."""
    given = {name: str(value) for name, value in parameters.items() if name != "profile" and value}
    options = [part for name, value in given.items() for part in ("-p", name, value)]
    return ["papermill", notebook, "out.ipynb", "-f", f"configs/{profile}.yaml", *options]


def status_page(results: Path, notebooks: Mapping[str, nbformat.NotebookNode]) -> str:
    """Commit, machine and duration of these pages, from the score rows and papermill's records."""
    scores = load_scores(results)
    lines = ["# Status", "", "What produced these pages. Each score row carries the same facts in its file.", ""]
    facts = ["profile", "data", "data_hash", "seed", "git_commit", "git_dirty", "code", "device", "versions"]
    lines += ["| fact | value |", "|---|---|"]
    for fact in facts:
        values = ", ".join(code(str(value)) if value != "" else "*unknown*" for value in sorted(set(scores[fact])))
        lines.append(f"| {fact.replace('_', ' ')} | {values} |")
    times = ["| chapter | run time (s) | finished (UTC) |", "|---|---:|---|"]
    runs = {name: notebook.metadata.papermill for name, notebook in notebooks.items()}
    for name, run in runs.items():
        when = plain(run.end_time[: len("2026-01-01T00:00")].replace("T", " "))
        title, run_of = title_of(notebooks[name]), run_name(notebooks[name], name)
        title += f": {plain(run_of)}" if run_of else ""
        times.append(f"| [{title}](<{quote(tabs.page_of(name, scores))}.ipynb>) | {run.duration:,.0f} | {when} |")
    whole = sum(run.duration for run in runs.values())
    heads = ["training (s)", "training memory (MiB)", "separation (s)", "memory (MiB)", "configuration"]
    systems = [f"| system | {' | '.join(heads)} |", "|---|---:|---:|---:|---:|---|"]
    checkpoints = ["| system | checkpoints |", "|---|---|"]
    spent = costs(scores).set_index("system")
    for system, rows in scores.groupby(labels(scores)):
        cost = spent.loc[system]
        numbers = [cost["training (s)"], cost["training memory (MiB)"], rows.groupby("track").seconds.first().sum()]
        shown = ["–" if isnan(number) else f"{number:,.0f}" for number in [*numbers, cost["memory (MiB)"]]]
        systems.append(f"| {' | '.join([plain(system), *shown, code(rows.config_hash.iloc[0])])} |")
        hashes = ", ".join(map(code, rows.checkpoint.iloc[0].split())) or "none"
        checkpoints.append(f"| {plain(system)} | {hashes} |")
    crate_link = f'<a href="../{DATA}/{quote(results.name)}/{crate.NAME}" download>{crate.NAME}</a>'
    lines += ["", f"All of this for machines, as an RO-Crate beside scores and tables: {crate_link}."]
    lines += fold(f"When each chapter ran: {whole:,.0f} s together", times)
    lines += fold("What each system took", systems) + fold("The checkpoints, each with its hash", checkpoints)
    return "\n".join([*lines, *sources_of(results), *trials(results.parent)]) + "\n"


def fold(title: str, lines: list[str]) -> list[str]:
    """Lines in Markdown that a reader unfolds."""
    return ["", f":::{{admonition}} {title}", ":class: dropdown", *lines, ":::"]


def sources_of(results: Path) -> list[str]:
    """The hashes of the files behind the tables, and the accepted changes of code, one row per reason."""
    made = read_json(results / "tables.json")["made_of"]
    lines = ["| SHA-256 | file |", "|---|---|"]
    lines += [f"| {code(digest[:16])} | {plain(name)} |" for name, digest in made.items()]
    lines = fold("What the tables are made of", lines)
    path = results.parent / "accepted.csv"
    if path.is_file():
        rows = ["| date | code of | reason why no number has changed |", "|---|---|---|"]
        for (date, reason), changes in pd.read_csv(path, dtype=str).groupby(["date", "reason"], sort=False):
            rows.append(f"| {plain(date)} | {', '.join(map(plain, changes.system))} | {plain(reason)} |")
        lines += fold(f"Code that has changed since, by `results/{path.name}`", rows)
    return lines


def trials(results: Path) -> list[str]:
    """The results of `make test-faults` and `make test-cluster`, if any."""
    lines = []
    for name, title in (("faults", "Faults injected"), ("cluster", "On a cluster")):
        path = results / f"{name}.json"
        if path.is_file():
            facts = read_json(path)
            tables = {key: facts.pop(key) for key, value in list(facts.items()) if isinstance(value, list)}
            told = [f"`make test-{name}` wrote this to `results/{name}.json`.", "", "| fact | value |", "|---|---|"]
            told += [f"| {plain(key.replace('_', ' '))} | {code(str(value))} |" for key, value in facts.items()]
            for rows in tables.values():
                heads = list(rows[0])
                told += ["", f"| {' | '.join(map(plain, heads))} |", "|---" * len(heads) + "|"]
                told += [f"| {' | '.join(plain(str(row[key])) for key in heads)} |" for row in rows]
            lines += fold(title, told)
    return lines


def code(text: str) -> str:
    """Text as code, or as plain text if a character could end the code or the cell of a table."""
    return f"`{text}`" if re.fullmatch(r"[\w .,:;@/+()=#%-]+", text) else plain(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="build_book", description=__doc__.split(":")[0])
    parser.add_argument("results", type=Path, help="results/<profile>")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--keep", dest="mode", action="store_const", const="keep", help="keep what was executed")
    which.add_argument("--kept", dest="mode", action="store_const", const="kept", help="build from what was kept")
    given = parser.parse_args()
    try:
        with locked(find_root() / "book" / "_build"):  # one build at a time, of any profile
            main(given.results, given.mode or "")
    except (FlowsepError, OSError) as error:  # OSError: a full disk, say
        sys.exit(f"build_book: {error}")
