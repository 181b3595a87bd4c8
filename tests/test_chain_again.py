"""What a run leaves is used again: other checkpoints, the kept book and its PDF, a step that fails."""

import shutil
import subprocess
import sys

import nbformat
import pytest
from chain import ENVIRONMENT, run
from pypdf import PdfReader

from companion import load_profile
from companion.tables import aggregate, load_scores

pytestmark = [pytest.mark.chain, pytest.mark.slow]


def test_a_failing_notebook_fails_the_run_and_is_kept_as_a_log(tree, results):
    """An unknown source: no half chapter appears, and the traceback can be read."""
    out = results / "logs" / "wrong.ipynb"
    command = [
        "papermill",
        "notebooks/04_train_prior.ipynb",
        str(out),
        "-f",
        "configs/smoke.yaml",
        "-p",
        "source",
        "harp",
    ]
    done = subprocess.run(command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "source 'harp' is not in profile smoke: vocals, accompaniment" in done.stderr
    chapter = results / "notebooks" / "wrong.ipynb"
    shutil.copy(out, chapter)
    built = subprocess.run(
        [sys.executable, "tools/build_book.py", "results/smoke"], cwd=tree, capture_output=True, text=True
    )
    chapter.unlink()
    assert built.returncode != 0 and "wrong.ipynb: not a finished chapter: FlowsepError" in built.stderr


def test_other_checkpoints_give_a_table_beside_the_old(tree, results, tmp_path):
    mine = tmp_path / "mine <b>"
    shutil.copytree(results / "priors", mine)
    before = {path: path.read_bytes() for path in [*results.glob("table-*"), results / "tables.json"]}
    for notebook in ("06_results", "07_listen"):
        command = ["papermill", f"notebooks/{notebook}.ipynb", str(tmp_path / f"{notebook}.ipynb")]
        command += ["-f", "configs/smoke.yaml", "-p", "checkpoints", str(mine)]
        done = subprocess.run(command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    try:
        cells = nbformat.read(tmp_path / "06_results.ipynb", as_version=4).cells
        shown = [output.data for cell in cells for output in cell.get("outputs", []) if "data" in output]
        page = "".join(data.get("text/html", "") + data.get("text/markdown", "") for data in shown)
        assert "InstGlow [mine &lt;b&gt;]" in page and "mine <b>" not in page
        assert "instglow@mine" in (tmp_path / "07_listen.ipynb").read_text()
        rows = aggregate(load_scores(results), "sisec18")
        assert rows[rows.variant == "mine <b>"]["median"].notna().sum() == len(load_profile("smoke").sources)
    finally:  # the tests below open the book of the profile itself
        for path in results.glob("*/instglow@*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        build = [sys.executable, "tools/build_book.py", "results/smoke", "--keep"]
        done = subprocess.run(build, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)
        for path, data in before.items():
            path.write_bytes(data)
    assert done.returncode == 1 and "the tables are not of the scores beside them" in done.stderr


def test_the_book_comes_again_from_what_was_kept(tree, results, html):
    """Without data, priors or training: the same pages, the tables' chapters run again, and as a PDF."""
    before = {path.relative_to(html).as_posix() for path in html.rglob("*") if path.is_file()}
    build = [sys.executable, "tools/build_book.py", "results/smoke"]
    run = {"cwd": tree, "env": ENVIRONMENT, "capture_output": True, "text": True}
    done = subprocess.run([*build, "--keep"], **run)
    assert done.returncode == 0, done.stderr[-3000:]
    away = [results / name for name in ("notebooks", "priors", "systems", "audio")]
    for path in away:
        path.rename(path.with_name(f"{path.name} away"))
    try:
        done = subprocess.run([*build, "--kept"], **run)
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        for path in away:
            path.with_name(f"{path.name} away").rename(path)
    after = {path.relative_to(html).as_posix() for path in html.rglob("*") if path.is_file()}
    pages = [name for name in before ^ after if not name.startswith(("_media/", "_sources/chapters/status"))]
    assert pages == []
    done = subprocess.run([sys.executable, "tools/make_pdf.py", "book/_build/html", "book.pdf"], **run)
    assert done.returncode == 0, done.stderr[-3000:]
    book = PdfReader(tree / "book.pdf")
    titles = [item.title for item in book.outline]
    assert (
        titles[0] == "Music separation with generative flow" and "Results" in titles and len(titles) == len(set(titles))
    )
    links = [note.get_object() for page in book.pages for note in page.get("/Annots", [])]
    assert sum("/Dest" in link for link in links) > 20
    assert not any(str(link.get("/A", {}).get("/URI", "")).endswith(".html") for link in links)


def test_a_book_of_another_profile_is_built_anew(tree, html):
    """Otherwise a run would say that the book is up to date, and open the pages of the profile before it."""
    ask = ["snakemake", "--configfile", "configs/smoke.yaml", "--cores", "1", "--dry-run", "book"]
    run = {"cwd": tree, "env": ENVIRONMENT, "capture_output": True, "text": True}
    missing = "Missing output files: book/_build/html/_data/smoke/"  # other reasons may have come from the tests before
    assert missing not in subprocess.run(ask, **run).stdout
    mine = html / "_data" / "smoke"
    mine.rename(mine.with_name("another"))
    try:
        assert missing in subprocess.run(ask, **run).stdout
    finally:
        mine.with_name("another").rename(mine)


def test_a_failing_step_shows_its_last_lines_and_its_log(tree):
    bench = tree / "results" / "bench" / "mine.json"
    bench.parent.mkdir(exist_ok=True)
    bench.write_text("{}")
    done = run(tree)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "FAILED: speed" in lines and any("mine.json: not a bench of this project" in line for line in lines)
    assert "  (log: results/smoke/logs/13_speed.ipynb)" in lines
    for words in ("Traceback", "Error in rule", "RuleException"):
        assert words not in done.stdout + done.stderr
