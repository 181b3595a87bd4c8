"""Which device a process takes."""

import pytest
import torch

from flowsep import FlowsepError, machine, resume
from flowsep.config import TrainingConfig


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_the_current_gpu_or_else_the_cpu(monkeypatch, gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    taken = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: taken.append(device) or torch.zeros(0))
    machine.choose_device("auto")
    assert taken == [device]


def test_a_device_that_cannot_be_used_is_named():
    with pytest.raises(FlowsepError, match="device: 'cuda:99' cannot be used here"):
        machine.choose_device("cuda:99")


def test_a_training_runs_on_the_gpu_that_was_chosen(monkeypatch):
    monkeypatch.setattr(resume, "choose_device", lambda name: torch.device("cuda:3"))
    asked = []
    monkeypatch.setattr("lightning_fabric.Fabric", lambda **given: asked.append(given))
    resume.start_fabric(TrainingConfig())
    assert asked[0]["devices"] == [3] and asked[0]["accelerator"] == "cuda"
