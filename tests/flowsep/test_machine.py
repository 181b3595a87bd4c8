"""Which GPU a process takes, on a machine that is told to have four of them."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flowsep import FlowsepError, machine, resume
from flowsep.config import TrainingConfig

GPUS = 4
# a job: it says which GPU it has, and keeps it until it is ended
JOB = f"""
import sys, types, torch
from flowsep import machine
torch.cuda.device_count = lambda: {GPUS}
torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(uuid=f"card-{{index}}")
torch.cuda.set_device = lambda index: None
print(machine.free_gpu(), machine.free_gpu(), flush=True)
sys.stdin.read()
"""


def start(folder: Path) -> tuple[subprocess.Popen, int]:
    job = subprocess.Popen(
        [sys.executable, "-c", JOB], env=os.environ | {"TMPDIR": str(folder)}, cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    first, second = job.stdout.readline().split()
    assert first == second  # for as long as it lives
    return job, int(first)


def end(job: subprocess.Popen) -> None:
    with job:
        job.kill()


@pytest.fixture
def cards(monkeypatch, tmp_path):
    """Four GPUs in this process; returns those that became torch's current one, in order."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: GPUS)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"card-{index}"))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(machine, "_HELD", [])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    machine.free_gpu.cache_clear()
    yield current
    for lock in machine._HELD:
        lock.close()
    machine.free_gpu.cache_clear()


def test_jobs_side_by_side_take_one_gpu_each_and_then_share(tmp_path):
    jobs = [start(tmp_path) for _ in range(GPUS)]
    try:
        assert [gpu for _, gpu in jobs] == [0, 1, 2, 3]
        jobs.append(start(tmp_path))  # no GPU is free: two jobs share the first
        assert jobs[-1][1] == 0
        end(jobs[2][0])  # by SIGKILL, which lets nobody tidy up
        jobs.append(start(tmp_path))
        assert jobs[-1][1] == 2
    finally:
        for job, _ in jobs:
            end(job)


def test_this_process_leaves_what_another_one_has(cards, tmp_path):
    other, gpu = start(tmp_path)
    try:
        assert (gpu, machine.free_gpu(), machine.free_gpu()) == (0, 1, 1)
        assert cards == [1]
        with pytest.raises(FlowsepError, match="device: 'cuda:1' cannot be used here"):  # for there is none
            machine.choose_device("auto")
    finally:
        end(other)


@pytest.mark.parametrize("given", ["one GPU visible", "torchrun"])
def test_what_was_shared_out_already_is_taken_as_it_is(cards, monkeypatch, given):
    if given == "torchrun":
        monkeypatch.setenv("LOCAL_RANK", "1")
    else:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(FlowsepError, match="device: 'cuda' cannot be used here"):
        machine.choose_device("auto")
    assert cards == [] and machine._HELD == []


def test_a_folder_of_somebody_else_is_named(cards, tmp_path):
    (tmp_path / f"flowsep-{os.getuid()}").write_text("not a folder")
    with pytest.raises(FlowsepError, match=r"flowsep-\d+: cannot write there .*set TMPDIR to a folder of your own"):
        machine.free_gpu()


def test_a_training_runs_on_the_gpu_that_was_chosen(monkeypatch):
    monkeypatch.setattr(resume, "choose_device", lambda name: torch.device("cuda:3"))
    asked = []
    monkeypatch.setattr(resume, "Fabric", lambda **given: asked.append(given))
    resume.start_fabric(TrainingConfig())
    assert asked[0]["devices"] == [3] and asked[0]["accelerator"] == "cuda"
