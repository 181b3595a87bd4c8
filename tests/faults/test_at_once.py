"""Two runs at once in one folder: the second waits for the first, says so, and ends with the same results."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import at_once
import pandas as pd
import pytest
import tiny
import torch
from helpers import write_hq_tree

from flowsep import load_prior
from flowsep.files import locked

pytestmark = pytest.mark.slow

WAITING = "another process works there; waiting until it is done"


def test_a_second_training_and_a_second_separation_wait(tmp_path, inject, monkeypatch):
    songs = write_hq_tree(tmp_path / "songs", train=2, test=2, seconds=1.0)
    project = tmp_path / "project"
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.begin(project, songs, systems={"slow": {"class": "slow.py:Slow"}}, sources=["vocals", "bass"])
    Path("slow.py").write_text(at_once.OWN)
    runs = []

    def begin(*pause: str) -> None:
        said = (tmp_path / f"said {len(runs)}").open("w")
        command = [sys.executable, at_once.__file__, str(project), *pause]
        runs.append(subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=os.environ))

    def said(number: int) -> str:
        return (tmp_path / f"said {number}").read_text()

    def until(seen: Callable[[], bool]) -> None:
        while not seen():
            assert all(run.poll() in (None, 0) for run in runs), said(0) + said(1)
            time.sleep(0.05)

    try:
        begin("20")
        until(Path("training/begun").exists)
        begin()
        until(lambda: f"training/hum: {WAITING}" in said(1))
        Path("train").touch()
        until(lambda: "shards/slow: " + WAITING in said(0) + said(1))
        assert Path("scoring").exists() and not list(Path("results").glob("tiny/scores/*.csv"))
        Path("score").touch()
        assert [run.wait() for run in runs] == [0, 0], said(0) + said(1)
    finally:
        for run in runs:
            run.kill()
    at_once.train(Path("alone"))
    for name, value in load_prior("alone/hum.safetensors").state_dict().items():
        assert torch.equal(value, load_prior("hum.safetensors").state_dict()[name]), name
    rows = pd.read_csv("results/tiny/scores/slow.csv")
    assert rows.track.nunique() == 2 and not rows.duplicated(["track", "stem", "metric", "convention", "piece"]).any()
    assert len(list(Path("results/tiny/audio/slow").glob("*/*.flac"))) == 2 * 2
    inject("two runs at once", 2)


def test_a_lock_ends_with_its_process(tmp_path, inject):
    """Killed outright, it leaves the file of its lock, and nobody waits for it."""
    script = "import sys, time; from flowsep.files import locked\n"
    script += "with locked(sys.argv[1]): print(1, flush=True); time.sleep(99)"
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "work")], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"1\n"
    holder.kill()
    holder.wait()
    assert (tmp_path / ".work.lock").exists()
    with locked(tmp_path / "work"):
        inject("two runs at once")
