"""What would run on a GPU, run on fake CUDA tensors: all of it on one device, and nobody waits for it in a loop."""

import julius
import lightning_fabric
import numpy as np
import pytest
import torch
from fake_cuda import CUDA, Waits, fake_cuda
from helpers import TINY
from torch.nn import functional

from companion.systems import gan_prior, load_system
from companion.systems.specgan import Generator, SpecGANOptions, _GanTask
from companion.systems.supervised import _NetworkTask
from flowsep import FeatureConfig, Prior, SeparationConfig, TrainingConfig, resume
from flowsep.resume import start_fabric
from flowsep.search import Flows, search
from flowsep.train import _PriorTask, crop_samples

FEATURE = FeatureConfig()
SIZES = {"sample_rate": 8000, "crop_seconds": 0.03, "batch": 2}
SMALL = {
    "demucs_v2": {"width": 8, "depth": 2},
    "conv_tasnet": {"filters": 8, "bottleneck": 4, "hidden": 8, "blocks": 2, "repeats": 1},
    "open_unmix": {"hidden": 8, "layers": 1, "n_fft": 256, "hop": 64},
    "wave_u_net": {"levels": 2, "filters": 2},
}
GAN = SpecGANOptions(depth=2, channels=2, latent=4, critic_steps=2, batch=2)


def prior(source="vocals", **changes):
    torch.manual_seed(0)
    return Prior(TINY.model_copy(update=changes), FEATURE, source)


@pytest.fixture
def fabric(monkeypatch):
    """What `start_fabric` makes for a GPU, except that Fabric itself is asked for a CPU, since it looks for a GPU."""

    def start(training):
        monkeypatch.setattr(resume, "choose_device", lambda _: CUDA)
        make = lightning_fabric.Fabric
        there = {"accelerator": "cpu", "devices": 1}
        monkeypatch.setattr(lightning_fabric, "Fabric", lambda **how: make(**(how | there)))
        return start_fabric(training)

    return start


def waits(fabric, task, training):
    """What a step of a task waits for, after one that sets up the optimiser."""
    fused = training.precision != "16-mixed"
    optimizer = torch.optim.Adam(task.network.parameters(), lr=training.lr, betas=task.betas, fused=fused)
    network, optimizer = fabric.setup(task.network, optimizer, move_to_device=False)
    with Waits():
        task.update(fabric, network, optimizer, 0, training.clip)
    with Waits() as seen:
        value = task.update(fabric, network, optimizer, 1, training.clip)
    assert value.device == CUDA and all(weight.device == CUDA for weight in task.network.parameters())
    return seen


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_step_of_a_prior(fabric, precision, recompute):
    training = TrainingConfig(batch=2, crop_seconds=0.1, precision=precision, recompute=recompute, noise=0.1)
    with fake_cuda():
        shape = training.batch, crop_samples(training, FEATURE)
        batches, held_out = (lambda _: torch.rand(shape, device=CUDA)), torch.rand(2, 514, 8, device=CUDA)
        task = _PriorTask(prior(dropout=0.1).to(CUDA), training, batches, held_out, None, 0)
        seen = waits(fabric(training), task, training)
    types = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    assert types[precision] in seen.products
    # with 16 bits the scaler looks whether the gradients have overflown
    assert seen.seen == (["_local_scalar_dense"] if precision == "16-mixed" else [])


@pytest.mark.parametrize("name", SMALL)
def test_a_step_of_a_network(fabric, name, monkeypatch):
    # julius keeps lengths in tensors, whose numbers are not known here
    monkeypatch.setattr(julius, "resample_frac", lambda x, old, new: functional.interpolate(x, scale_factor=new / old))
    training = TrainingConfig(precision="32-true")
    with fake_cuda():
        system = load_system(name, SIZES | SMALL[name], sources=("a", "b"))
        batch = torch.zeros(2, 2, 2, system.crop, device=CUDA)
        task = _NetworkTask(system, system.build().to(CUDA), lambda step: batch, None, None, 0)
        # asteroid makes a tensor of one number in each pass
        assert waits(fabric(training), task, training).seen == ["_to_copy"] * (name == "conv_tasnet")


def test_a_step_of_the_gan(fabric):
    training = TrainingConfig(precision="32-true")
    crops = np.zeros((2, (GAN.side + 3) * GAN.side), np.float32)

    class Sampler:
        def batch(self, step):
            return crops

    with fake_cuda():
        batch = torch.from_numpy(crops).to(CUDA)
        task = _GanTask("a", GAN, Sampler(), lambda turn: batch, crops, CUDA)
        assert waits(fabric(training), task, training).seen == []


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("space", ["z", "x"])
@pytest.mark.parametrize(("engine", "recompute"), [("stacked", False), ("stacked", True), ("layers", False)])
def test_a_search_of_two_chunks(engine, recompute, space, precision):
    how = {"device": "cuda", "engine": engine, "recompute": recompute, "space": space, "precision": precision}
    with fake_cuda():
        priors = {name: prior(name) for name in ("a", "b")}
        seen = []
        for iterations in (2, 3):
            config = SeparationConfig(**how, iterations=iterations, sigma=0.1)
            flows = Flows(priors, config)
            target = flows.pad(torch.rand(2, 513, 11, device=CUDA, dtype=flows.dtype))
            with Waits() as one:
                estimates = search(target, flows, config)
            assert estimates.device == CUDA and estimates.shape == (2, 2, 514, 12)
            seen.append(one.seen)
    # the latents go there before the first iteration, the loss comes back after the last one
    assert seen[0] == seen[1] and seen[0].count("_local_scalar_dense") == 1


def test_a_search_in_the_latents_of_a_gan():
    seen = []
    with fake_cuda():
        generators = [Generator(GAN).to(CUDA).requires_grad_(False) for _ in range(2)]
        mixture = torch.rand(2, GAN.side, GAN.side, device=CUDA)
        for iterations in (1, 2):
            options = gan_prior.GanOptions(prior=GAN, iterations=iterations, levels=2)
            with Waits() as one:
                estimates = gan_prior.search(mixture, generators, options)
            assert estimates.device == CUDA
            seen.append(one.seen)
    assert seen == [["_local_scalar_dense"]] * 2


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool(x.isfinite().all()), "_local_scalar_dense"),
        (lambda x: x.cpu(), "_to_copy"),
        (lambda x: torch.ones(3).to(CUDA), "_to_copy"),
        (lambda x: x[torch.tensor([0, 1])], "index"),
        (lambda x: torch.linalg.inv(x.outer(x)), "_local_scalar_dense"),
    ],
)
def test_what_waits_is_seen(fault, what):
    with fake_cuda():
        x = torch.ones(3, device=CUDA)
        with Waits() as waits:
            x * 2 + torch.tensor(1.0)
            torch.ones(3).to(CUDA, non_blocking=True)
            assert waits.seen == []
            fault(x)
        assert what in waits.seen
        with pytest.raises(Exception, match="cuda:0 and cpu"):
            x + torch.ones(3)
