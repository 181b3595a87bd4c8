"""What the tests of this folder share: two runs in fresh processes, and the count of faults.

When all tests of the folder were run and none failed, the count goes to `results/faults.json` (`make test-faults`).
"""

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers import write_hq_tree
from runs import PROFILE, Run, Stage, finish, graph, state

from companion.provenance import git_state
from flowsep.files import write_text
from flowsep.machine import processor_name

COUNTED = pytest.StashKey[Counter]()
# all that is to be injected; the file is written when each was
KINDS = (
    "kill -9 in training",
    "kill -9 in separation",
    "kill -9 in evaluation",
    "kill -9 while tables are made",
    "kill -9 while the book is built",
    "kill -9 between a file and its name",
    "full disk",
    "read-only results",
    "out of memory in a kernel",
    "flipped bit of a checkpoint",
    "clock set back",
    "two runs at once",
    "failing tracks among 50",
    "Ctrl-C",
)


def pytest_configure(config):
    config.stash[COUNTED] = Counter()


def pytest_sessionfinish(session, exitstatus):
    counted = session.config.stash[COUNTED]
    if exitstatus != 0 or set(counted) != set(KINDS):
        return
    # a lost result or an orphan fails its test, and then there is no file
    faults = [{"fault": kind, "injected": counted[kind], "lost results": 0, "orphan processes": 0} for kind in KINDS]
    told = {"injected": sum(counted.values()), "lost results": 0, **git_state()}
    told |= {"date": datetime.now(UTC).date().isoformat(), "machine": f"{os.cpu_count()} x {processor_name()}"}
    root = Path(__file__).parents[2]
    write_text(root / "results" / "faults.json", json.dumps(told | {"faults": faults}, indent=1) + "\n")


@pytest.fixture(autouse=True)
def end_runs():
    """No run outlives its test."""
    yield
    while Run.begun:
        Run.begun.pop().kill()


@pytest.fixture
def inject(request):
    """`inject(kind, n)` counts n faults of a kind, where they are over and nothing was lost."""

    def count(kind: str, number: int = 1) -> None:
        assert kind in KINDS
        request.config.stash[COUNTED][kind] += number

    return count


@pytest.fixture(scope="session")
def twins(tmp_path_factory):
    """The folders of two runs of `tiny.py` on the same songs, side by side, with other seeds of Python's hashes."""
    place = tmp_path_factory.mktemp("twins")
    songs = write_hq_tree(place / "songs", train=3, test=1, seconds=1.5)
    runs = []
    for seed in ("1", "2"):
        command = [sys.executable, str(Path(__file__).with_name("tiny.py")), str(place / seed), str(songs)]
        own = {"FLOWSEP_DATA": str(place / f"cache {seed}"), "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        runs.append(subprocess.Popen(command, env=os.environ | own, **pipes))
    said = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said[0][-3000:] + said[1][-3000:]
    return [place / seed / "results" / "tiny" for seed in ("1", "2")]


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A tree in which nothing disturbed the graph, and what it made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSEP_DATA", str(tmp_path_factory.mktemp("data")))
        stage = Stage(tmp_path_factory.mktemp("whole"))
        finish(graph(stage.tree))
        stage.keep()
        made = state(stage.results)
        systems = {f"scores/{name}.csv" for name in PROFILE["systems"]}
        assert systems | {"priors/vocals.safetensors", "table-sisec18.csv"} <= set(made)
        yield stage, made
