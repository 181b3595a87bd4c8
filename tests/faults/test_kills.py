"""kill -9 at 20 seeded moments of the graph and of single notebooks: the next run ends as if nothing had been.

Where a phase begins is read from what it writes, and how far into it the kill comes is drawn; so the moments stay in
their phases on a slow machine, too.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
from runs import PROFILE, Run, differing, finish, graph, last_step, notebook, state

from companion.profile import load_profile
from flowsep.files import sha256

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from build_book import NAMED  # noqa: E402

pytestmark = pytest.mark.faults

RESULTS = Path("results/battery")
# phase -> what is made by whom, and what of it is taken away first, so that a run begins there
MADE = {
    "training": (f"{RESULTS}/priors/vocals.safetensors", ["priors/vocals*", "training/vocals", "notebooks/04*vocals*"]),
    "separation": (
        f"{RESULTS}/scores/instglow.csv",
        ["scores/inst*", "audio/inst*", "shards/inst*", "notebooks/05*inst*"],
    ),
    "tables": (f"{RESULTS}/notebooks/06_results.ipynb", ["table*", "notebooks/06*", "logs/06*"]),
}
MADE["evaluation"] = MADE["separation"]
# who is killed: all processes of a run, as when the power goes; Snakemake alone, whose jobs then live on; a notebook
# that papermill runs alone
MOMENTS = [
    *[("training", who, seed) for seed, who in enumerate(["all"] * 3 + ["snakemake"] * 2 + ["papermill"] * 2)],
    *[("separation", who, 10 + seed) for seed, who in enumerate(["all", "all", "snakemake", "papermill"])],
    *[("evaluation", who, 20 + seed) for seed, who in enumerate(["all", "all", "papermill"])],
    *[("tables", who, 30 + seed) for seed, who in enumerate(["all", "all", "papermill"])],
]
# seconds of a phase that come after what it is known by
LONGEST = {"training": 0.5, "separation": 2.0, "evaluation": 1.0, "tables": 0.5}
BUILDS = (40, 41, 42)  # seeds of the moments at which the book is being built
KINDS = {"training": "kill -9 in training", "separation": "kill -9 in separation"}
KINDS |= {"evaluation": "kill -9 in evaluation", "tables": "kill -9 while tables are made"}


def clear(tree: Path, phase: str) -> None:
    """Take away what the phase makes."""
    for path in [path for pattern in MADE[phase][1] for path in (tree / RESULTS).glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def make(tree: Path, phase: str, who: str) -> Run:
    """What a user types to have what the phase makes."""
    if who != "papermill":
        return graph(tree, MADE[phase][0])
    if phase == "tables":
        return notebook(tree, "06_results")
    return notebook(tree, *(["04_train_prior"] if phase == "training" else ["05_separate", "-p", "system", "instglow"]))


def reached(results: Path, phase: str, seed: int) -> Callable[[], bool]:
    """Is it there: a training at a drawn step, a separation begun, its first song scored, the first table written?"""
    step = np.random.default_rng(seed).integers(0, PROFILE["training"]["steps"])
    curve, shard = results / "training" / "vocals" / "loss.csv", results / "shards" / "instglow"
    return {
        "training": lambda: last_step(curve) >= step,
        "separation": (shard / ".0of1.lock").exists,
        "evaluation": (shard / "0of1" / "audio").exists,
        "tables": lambda: any(results.glob("table-*")),
    }[phase]


@pytest.mark.parametrize(("phase", "who", "seed"), MOMENTS)
def test_a_run_goes_on_after_a_kill(whole, inject, phase, who, seed):
    stage, made = whole
    delay = np.random.default_rng(seed).uniform(0, LONGEST[phase])
    caught = False
    while not caught:
        clear(stage.restore(), phase)
        run = make(stage.tree, phase, who)
        assert run.until(reached(stage.results, phase, seed)), run.said()
        time.sleep(delay)
        caught, delay = run.process.poll() is None, delay / 2  # it was faster: earlier, then
        if who == "snakemake":
            os.kill(run.process.pid, signal.SIGKILL)
            run.process.wait()
        else:
            run.kill()
    again = make(stage.tree, phase, who)  # the same once more, and nothing else
    finish(again)
    assert again.alive() == []
    assert run.until(lambda: not run.alive()), "whom it had left behind is still there"
    assert differing(state(stage.results), made) == []
    inject(KINDS[phase])


def stub(path: Path, name: str, target: Path) -> None:
    """A chapter as if it had been run: its texts, to which others link."""
    chapter = nbformat.read(path, as_version=4)
    chapter.cells = [cell for cell in chapter.cells if cell.cell_type == "markdown"]
    about = {"duration": 1.0, "end_time": "2026-01-01T00:00:00", "input_path": f"notebooks/{path.name}"}
    chosen = {key: name.removeprefix(f"{stem}_") for stem, key in NAMED.items() if name.startswith(f"{stem}_")}
    chapter.metadata["papermill"] = about | {"parameters": {"profile": "battery", **chosen}}
    nbformat.write(chapter, target / f"{name}.ipynb")


@pytest.fixture(scope="module")
def chapters(whole, tmp_path_factory):
    """A tree with all chapters of a book, and whole builds of it: before, and after a change of a page."""
    tree = Path(shutil.copytree(whole[0].restore(), tmp_path_factory.mktemp("book") / "tree"))
    demo = load_profile("demo")
    names = {"04_train_prior": demo.sources, "05_separate": demo.systems}
    shutil.rmtree(tree / RESULTS / "notebooks")
    (tree / RESULTS / "notebooks").mkdir()
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for name in [f"{path.stem}_{each}" for each in names.get(path.stem, ())] or [path.stem]:
            stub(path, name, tree / RESULTS / "notebooks")
    finish(build(tree))
    before = pages(tree)
    with (tree / "book" / "intro.md").open("a") as intro:
        intro.write("\nOnce more.\n")
    after = Path(shutil.copytree(tree, tree.with_name("after")))
    began = time.monotonic()
    finish(build(after))
    assert before != pages(after) and "index.html" in before
    return tree, before, pages(after), time.monotonic() - began


def build(tree: Path) -> Run:
    return Run(tree, ["python", "tools/build_book.py", str(RESULTS)])


def pages(tree: Path) -> dict[str, str]:
    """{file: SHA-256} of the built book."""
    html = tree / "book" / "_build" / "html"
    return {path.relative_to(html).as_posix(): sha256(path) for path in html.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seed", BUILDS)
def test_a_book_is_whole_after_a_kill(chapters, tmp_path, inject, seed):
    source, before, after, longest = chapters
    tree = Path(shutil.copytree(source, tmp_path / "tree"))
    run = build(tree)
    assert run.until((tree / "book" / "_build" / "next").exists), run.said()
    time.sleep(np.random.default_rng(seed).uniform(0, longest))
    run.kill()
    assert pages(tree) in (before, after), "neither the book before nor the new one"
    finish(build(tree))
    assert pages(tree) == after
    assert [path.name for path in (tree / "book" / "_build").iterdir()] == ["html"]
    inject("kill -9 while the book is built")
