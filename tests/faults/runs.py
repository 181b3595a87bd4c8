"""Runs of the graph in miniature, watched, killed and compared, for the tests of this folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import nbformat
import pandas as pd
import yaml
from helpers import copy_project

from flowsep.weights import read_safetensors

# no two runs agree in these; the hash of a checkpoint covers its header, which says how long it took
SPENT = ["seconds", "peak_memory_mib", "training_seconds", "training_memory_mib", "time", "checkpoint"]
SPENT += ["rtf", "git_commit", "git_dirty"]  # the first of tables alone; and somebody may commit meanwhile
MARK = "FLOWSEP_FAULT"  # in the environment of a run, by which its processes are found, kernels and orphans too
PROFILE = {
    "name": "battery",
    "seed": 7,
    "data": {"kind": "toyband", "seconds": 4, "train_tracks": 3, "test_tracks": 2, "valid_tracks": 1},
    "sources": ["vocals", "accompaniment"],
    "model": {"steps": 2, "hidden": 8, "kernel": 3, "layers": 1, "dropout": 0.1},
    "training": {
        "steps": 60,
        "batch": 2,
        "crop_seconds": 0.6,
        "lr": 0.003,
        "schedule": "cosine",
        "validate_every": 4,
    },
    "systems": {
        "mixture": {},
        "instglow": {"iterations": 20, "lr": 0.03, "space": "z", "alpha": 0.0},
        "open_unmix": {
            "hidden": 8,
            "layers": 1,
            "n_fft": 1024,
            "hop": 256,
            "sample_rate": 11025,
            "steps": 40,
            "batch": 4,
            "crop_seconds": 1,
            "lr": 0.01,
        },
    },
    "listen_seconds": 2,
    "listen_tracks": 1,
}


# code cells of a notebook up to the last that writes a result; the pictures after them would only take time
CELLS = {"01_data": 5, "04_train_prior": 3, "05_separate": 3, "06_results": 4}


def make_tree(folder: Path) -> Path:
    """A copy of the project with the profile `battery`, its notebooks without what comes after their results."""
    tree = copy_project(folder)
    for name, count in CELLS.items():
        path = tree / "notebooks" / f"{name}.ipynb"
        whole = nbformat.read(path, as_version=4)
        whole.cells = [cell for cell in whole.cells if cell.cell_type == "code"][:count]
        nbformat.write(whole, path)
    (tree / "configs" / "battery.yaml").write_text(yaml.safe_dump({"profile": PROFILE}, sort_keys=False))
    return tree


class Run:
    """A command in a tree, in a session of its own, whose processes can be found wherever they are."""

    begun: ClassVar[list["Run"]] = []  # by this test: none outlives it (see conftest.py)

    def __init__(self, tree: Path, command: list[str], **environment: str):
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        place = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        self.log = tree / "said.txt"
        with self.log.open("w") as said:
            self.process = subprocess.Popen(
                command,
                cwd=tree,
                env=os.environ | place | {MARK: self.mark} | environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Ctrl-C, which a shell has what it starts in the background ignore
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        Run.begun.append(self)

    def wait(self, timeout: float = 1800) -> int:
        """Its exit status."""
        return self.process.wait(timeout)

    def said(self) -> str:
        """All that it wrote so far."""
        return self.log.read_text(errors="replace")

    def alive(self) -> list[int]:
        """Its processes that live, also those that have lost their parents."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for place in Path("/proc").iterdir():
            try:
                if place.name.isdigit() and wanted in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except OSError:  # it ended meanwhile, or is another user's
                continue
        return found

    def kill(self) -> None:
        """SIGKILL for all of them, as a machine that loses its power."""
        while living := self.alive():
            for process in living:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if self.process.poll() is None:
                self.process.wait()
            time.sleep(0.02)

    def until(self, seen: Callable[[], bool], timeout: float = 600) -> bool:
        """Wait until `seen`, or until none of its processes lives; did it come to be seen?"""
        deadline = time.monotonic() + timeout
        while not seen():
            if (self.process.poll() is not None and not self.alive()) or time.monotonic() > deadline:
                return seen()
            time.sleep(0.01)
        return True


# the very words of the Makefile
COMMAND = ["snakemake", "--configfile", "configs/battery.yaml", "--cores", "2", "--quiet", "rules", "--"]


def graph(tree: Path, target: str = "results", **environment: str) -> Run:
    """The graph up to a target."""
    return Run(tree, [*COMMAND, target], **environment)


def notebook(tree: Path, name: str, *given: str) -> Run:
    """One notebook by papermill alone."""
    return Run(tree, ["papermill", f"notebooks/{name}.ipynb", "out.ipynb", "-f", "configs/battery.yaml", *given])


def finish(run: Run) -> None:
    """Wait for an undisturbed end."""
    assert run.wait() == 0, run.said()[-6000:]


def state(results: Path) -> dict[str, object]:
    """All that counts in a profile's folder, without what no two runs agree in: weights, scores, tables, sounds."""
    found = {}
    for path in sorted([*results.glob("priors/*.safetensors"), *results.glob("systems/**/*.safetensors")]):
        tensors = read_safetensors(path)[1]
        found[path.relative_to(results).as_posix()] = {name: value.numpy().tobytes() for name, value in tensors.items()}
    rows = ("scores/*.csv", "shards/*/*/scores.csv", "table-*.csv")
    for path in sorted(path for pattern in rows for path in results.glob(pattern)):
        table = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=SPENT, errors="ignore")
        found[path.relative_to(results).as_posix()] = table.to_csv(index=False)
    for path in sorted(results.glob("audio/*/*/*.flac")):
        found[path.relative_to(results).as_posix()] = path.read_bytes()
    return found


def last_step(curve: Path) -> int:
    """Of a training's `loss.csv`; -1 where there is none yet."""
    return int(curve.read_text().splitlines()[-1].split(",")[0]) if curve.exists() else -1


def differing(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """The files in which two states differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


class Stage:
    """A tree that can be put back to how it was when it was `kept`, at the same place, by which the graph knows it."""

    def __init__(self, folder: Path):
        self.folder, self.tree = folder, make_tree(folder / "tree")
        self.results = self.tree / "results" / PROFILE["name"]

    def keep(self) -> None:
        """Remember what is there now."""
        shutil.copytree(self.tree, self.folder / "kept", symlinks=True)

    def restore(self) -> Path:
        """The tree as it was kept, its times of change included."""
        shutil.rmtree(self.tree)
        return Path(shutil.copytree(self.folder / "kept", self.tree, symlinks=True))
