"""Kernels that run out of memory, and Ctrl-C: the run fails, nothing is declared done, and no process is left."""

import os
import shutil
import signal

import nbformat
import pytest
from runs import differing, finish, graph, last_step, notebook, state

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


@pytest.fixture
def untrained(whole):
    """A whole tree without the prior of the vocals and its training, and what it must come to."""
    stage, expected = whole
    stage.restore()
    shutil.rmtree(stage.results / "training" / "vocals")
    for path in [stage.tree / PRIOR, *chapters(stage)]:
        path.unlink()
    return stage, expected


def chapters(stage):
    """Executed notebooks of that training."""
    return list((stage.results / "notebooks").glob("04*vocals*"))


@pytest.mark.parametrize("cell", [KILLED, LIMIT], ids=["killed", "refused"])
def test_a_kernel_without_memory_leaves_nothing_that_looks_done(untrained, inject, cell):
    stage, expected = untrained
    path = stage.tree / "notebooks" / "04_train_prior.ipynb"
    good = path.read_bytes()
    sick = nbformat.read(path, as_version=4)
    sick.cells.insert(-1, nbformat.v4.new_code_cell(cell))
    nbformat.write(sick, path)
    for begin in (lambda: graph(stage.tree, PRIOR), lambda: notebook(stage.tree, "04_train_prior")):
        run = begin()
        assert run.wait() != 0
        said = run.said()
        assert ("DeadKernelError" if cell is KILLED else "memory") in said, said[-3000:]
        assert run.alive() == []
        assert not (stage.tree / PRIOR).exists() and not chapters(stage)
    path.write_bytes(good)
    finish(graph(stage.tree, PRIOR))
    assert differing(state(stage.results), expected) == []
    inject("out of memory in a kernel", 2)


@pytest.mark.parametrize("step", [0, 30])
def test_after_an_interrupt_no_process_is_left(untrained, inject, step):
    stage, expected = untrained
    curve = stage.results / "training" / "vocals" / "loss.csv"
    run = graph(stage.tree, PRIOR)
    assert run.until(lambda: last_step(curve) >= step)
    assert len(run.alive()) >= 3  # Snakemake, papermill and the notebook's kernel
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does, to all in its foreground
    assert run.until(lambda: not run.alive()) and run.wait() != 0
    finish(graph(stage.tree, PRIOR))
    assert differing(state(stage.results), expected) == []
    inject("Ctrl-C")


def test_a_second_graph_waits_for_the_first(untrained, inject):
    stage, expected = untrained
    with locked(stage.results):
        run = graph(stage.tree, PRIOR)
        assert run.until(lambda: "another process works there; waiting until it is done" in run.said())
        assert not (stage.tree / PRIOR).exists()
    finish(run)
    assert differing(state(stage.results), expected) == []
    inject("two runs at once")


def test_a_clock_that_was_set_back_makes_nothing_run_again(whole, inject):
    """Whatever was made before is of the future then, its sources, too, and keeps its order."""
    stage, expected = whole
    for path in sorted(stage.restore().rglob("*")):
        about = path.stat()
        os.utime(path, ns=(about.st_atime_ns + 3600 * 10**9, about.st_mtime_ns + 3600 * 10**9))
    run = graph(stage.tree, PRIOR)
    finish(run)
    assert "Nothing to be done" in run.said(), run.said()[-3000:]
    # one input is of the future alone: what Snakemake remembers of its content says that it is the same
    data = stage.results / "data.json"
    os.utime(data, ns=(data.stat().st_atime_ns, data.stat().st_mtime_ns + 3600 * 10**9))
    run = graph(stage.tree, PRIOR)
    finish(run)
    assert differing(state(stage.results), expected) == []
    inject("clock set back", 2)
