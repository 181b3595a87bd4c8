"""Kernels that run out of memory, and Ctrl-C: the run fails, nothing is declared done, and no process is left."""

import os
import shutil
import signal
import time

import nbformat
import pytest
from runs import copy, differing, finish, graph, make_tree, notebook, state

from flowsep.files import locked

pytestmark = pytest.mark.faults

PRIOR = "results/battery/priors/vocals.safetensors"
# a cell before the training: the system's last resort, or a limit that the allocation meets first
KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)  # as the kernel of the system does to the largest"
LIMIT = """
import resource
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**24, held + 2**24))
import torch
torch.ones(2**28)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree with data and a prior of the vocals, and the weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSEP_DATA", str(tmp_path_factory.mktemp("data")))
        tree = make_tree(tmp_path_factory.mktemp("kernels") / "tree")
        finish(graph(tree, PRIOR))
        yield tree


def before_the_training(tree):
    """`tree` without the prior and its training."""
    results = tree / "results" / "battery"
    shutil.rmtree(results / "priors")
    shutil.rmtree(results / "training")
    for path in (results / "notebooks").glob("04*"):
        path.unlink()
    return tree


@pytest.mark.parametrize("cell", [KILLED, LIMIT], ids=["killed", "refused"])
def test_a_kernel_without_memory_leaves_nothing_that_looks_done(tree, tmp_path, inject, cell):
    expected = state(tree / "results" / "battery")
    mine = before_the_training(copy(tree, tmp_path / "tree"))
    path = mine / "notebooks" / "04_train_prior.ipynb"
    good = path.read_bytes()
    sick = nbformat.read(path, as_version=4)
    sick.cells.insert(-1, nbformat.v4.new_code_cell(cell))
    nbformat.write(sick, path)
    for run in (graph(mine, PRIOR), notebook(mine, "04_train_prior")):
        assert run.wait() != 0
        said = run.said()
        assert ("DeadKernelError" if cell is KILLED else "memory") in said, said[-3000:]
        assert run.alive() == []
        assert not (mine / PRIOR).exists()
        assert not list((mine / "results" / "battery" / "notebooks").glob("04*"))
    path.write_bytes(good)
    finish(graph(mine, PRIOR))
    assert differing(state(mine / "results" / "battery"), expected) == []
    inject("out of memory in a kernel", 2)


@pytest.mark.parametrize("step", [0, 30])
def test_after_an_interrupt_no_process_is_left(tree, tmp_path, inject, step):
    expected = state(tree / "results" / "battery")
    mine = before_the_training(copy(tree, tmp_path / "tree"))
    curve = mine / "results" / "battery" / "training" / "vocals" / "loss.csv"
    run = graph(mine, PRIOR)
    assert run.until(lambda: curve.exists() and int(curve.read_text().splitlines()[-1].split(",")[0]) >= step)
    assert len(run.alive()) >= 3  # Snakemake, papermill and the notebook's kernel
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does, to all in its foreground
    deadline = time.monotonic() + 120
    while run.alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.alive() == [] and run.wait() != 0
    finish(graph(mine, PRIOR))
    assert differing(state(mine / "results" / "battery"), expected) == []
    inject("Ctrl-C")


def test_a_second_graph_waits_for_the_first(tree, tmp_path, inject):
    mine = before_the_training(copy(tree, tmp_path / "tree"))
    with locked(mine / "results" / "battery"):
        run = graph(mine, PRIOR)
        assert run.until(lambda: "another process works there; waiting until it is done" in run.said())
        assert not (mine / "results" / "battery" / "priors").exists()
    finish(run)
    assert differing(state(mine / "results" / "battery"), state(tree / "results" / "battery")) == []
    inject("two runs at once")


def test_a_clock_that_was_set_back_makes_nothing_run_again(tree, tmp_path, inject):
    """Whatever was made before is of the future then, its sources, too, and keeps its order."""
    mine = copy(tree, tmp_path / "tree")
    for path in sorted(mine.rglob("*")):
        about = path.stat()
        os.utime(path, ns=(about.st_atime_ns + 3600 * 10**9, about.st_mtime_ns + 3600 * 10**9))
    run = graph(mine, PRIOR)
    finish(run)
    assert "Nothing to be done" in run.said(), run.said()[-3000:]
    # one input is of the future alone: what Snakemake remembers of its content says that it is the same
    data = mine / "results" / "battery" / "data.json"
    os.utime(data, ns=(data.stat().st_atime_ns, data.stat().st_mtime_ns + 3600 * 10**9))
    run = graph(mine, PRIOR)
    finish(run)
    assert differing(state(mine / "results" / "battery"), state(tree / "results" / "battery")) == []
    inject("clock set back", 2)
