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
    why = r"\(.*NVIDIA driver.*, torch \S+ for CUDA \S+; `--device cpu`, or `device: cpu` in a profile, does without\)"
    with pytest.raises(FlowsepError, match=f"device: 'cuda:99' cannot be used here {why}; this machine has auto, cpu"):
        machine.choose_device("cuda:99")


@pytest.mark.parametrize(("capability", "auto"), [((7, 5), "32-true"), ((8, 0), "bf16-mixed")])
def test_bfloat16_only_where_the_card_computes_it(monkeypatch, capability, auto):
    """A T4 (7.5) emulates it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "the card")
    gpu = torch.device("cuda:0")
    assert machine.choose_precision("auto", gpu) == auto
    assert machine.choose_precision("auto", torch.device("cpu")) == "32-true"
    if auto == "32-true":
        with pytest.raises(FlowsepError, match="'bf16-mixed': the card does not compute bfloat16; choose 32-true"):
            machine.choose_precision("bf16-mixed", gpu)


def test_32_bits_are_32_bits_but_for_tf32():
    for name, rounded in (("tf32", True), ("32-true", False)):
        assert machine.choose_precision(name, torch.device("cpu")) == "32-true"
        assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is rounded


def test_one_line_says_what_it_runs_on(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100 * 10**9, 150 * 10**9))
    monkeypatch.setattr(machine, "_driver", lambda: "NVIDIA driver 570.1")
    line = machine.runs_on(torch.device("cuda:0"), "tf32")
    assert line == "runs on cuda:0, H200, 100.0 of 150.0 GB free, tf32; NVIDIA driver 570.1"
    assert machine.runs_on(torch.device("cpu"), "32-true").startswith(f"runs on {machine.processor_name()}, 32-true")


def test_a_training_runs_on_the_gpu_that_was_chosen(monkeypatch):
    monkeypatch.setattr(resume, "choose_device", lambda name: torch.device("cuda:3"))
    monkeypatch.setattr(resume, "choose_precision", lambda *_: "bf16-mixed")
    monkeypatch.setattr(resume, "runs_on", lambda *_: "")
    asked = []
    monkeypatch.setattr("lightning_fabric.Fabric", lambda **given: asked.append(given))
    resume.start_fabric(TrainingConfig())
    assert asked[0]["devices"] == [3] and asked[0]["accelerator"] == "cuda"
