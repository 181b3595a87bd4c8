"""What only a GPU can show (`make test-gpu`): numbers against double precision, memory under a limit, jobs at once."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.utils import parameters_to_vector

import flowsep
from flowsep import FeatureConfig, FlowsepError, GlowConfig, Prior, SeparationConfig, Separator, TrainingConfig
from flowsep.fast.likelihood import Likelihood
from flowsep.machine import choose_precision
from flowsep.train import crop_samples

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
FEATURE = FeatureConfig()
SMALL = GlowConfig(steps=4, hidden=32, layers=2, dropout=0.0)
TRAINING = TrainingConfig(
    steps=12, batch=4, crop_seconds=1.0, lr=1e-3, validate_every=4, precision="32-true", device=DEVICE
)
LIMIT = 10**9  # bytes, of the tests of memory


def prior(seed, model=SMALL):
    """Untrained, but with couplings that do something."""
    torch.manual_seed(seed)
    made = Prior(model, FEATURE, f"source {seed}")
    for name, weight in made.named_parameters():
        if "net.end" in name or "logs" in name:
            torch.nn.init.normal_(weight, std=0.02)
    return made.eval()


def noise(*shape, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


class Noise:
    def __init__(self, training, stop=None):
        self.shape, self.stop = (training.batch, crop_samples(training, FEATURE)), stop

    def batch(self, step):
        if step == self.stop:
            raise KeyboardInterrupt
        return noise(*self.shape, seed=step)


def fit(folder, training=TRAINING, model=SMALL, stop=None):
    """The provenance and the curve of a training."""
    made = flowsep.fit_prior(
        Noise(training, stop),
        Noise(training).batch(99),
        source="noise",
        model=model,
        feature=FEATURE,
        training=training,
        checkpoint=folder / "noise.safetensors",
        work=folder / "work",
        progress=False,
    )
    return made.provenance, pd.read_csv(folder / "work" / "loss.csv").nll.to_numpy()


@pytest.fixture
def limited():
    """Torch may take `LIMIT` bytes of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(LIMIT / torch.cuda.mem_get_info()[1])
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


# --- numbers: as near to double precision as a CPU of the same precision, but for the order of sums ------------------

# -> a CPU's that is no finer
PRECISIONS = {"32-true": "32-true", "tf32": "bf16-mixed", "bf16-mixed": "bf16-mixed"}


def distance(one, other):
    return ((one.cpu().double() - other).norm() / other.norm()).item()


@pytest.mark.parametrize("engine", ["stacked", "layers"])
@pytest.mark.parametrize("space", ["z", "x"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_search(precision, space, engine):
    magnitude, priors = torch.from_numpy(noise(2, 513, 40)).abs(), {"a": prior(0), "b": prior(1)}

    def estimates(device, precision):
        config = SeparationConfig(iterations=5, device=device, precision=precision, space=space, engine=engine)
        return torch.stack([*flowsep.separate_magnitude(magnitude.double(), priors, config).values()])

    true = estimates("cpu", "64-true")
    bound = 4 * distance(estimates("cpu", PRECISIONS[precision]), true) + 1e-5
    assert distance(estimates(DEVICE, precision), true) < bound


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradient_of_a_training_step(precision, recompute):
    glow, x = prior(0).glow, torch.from_numpy(noise(2, 514, 40)).abs()

    def gradient(device, precision):
        device = torch.device(device)
        inner = choose_precision(precision, device)
        dtype = torch.float64 if precision == "64-true" else torch.float32
        network = Likelihood(glow, recompute=recompute).to(device, dtype)
        with torch.autocast(device.type, torch.bfloat16, enabled=inner == "bf16-mixed"):
            (-network(x.to(device, dtype)).mean() / x[0].numel()).backward()
        return parameters_to_vector([weight.grad for weight in network.parameters()])

    true = gradient("cpu", "64-true")
    bound = 4 * distance(gradient("cpu", PRECISIONS[precision]), true) + 1e-5
    assert distance(gradient(DEVICE, precision), true) < bound


# --- memory ----------------------------------------------------------------------------------------------------------


def test_parts_of_a_batch_learn_what_the_whole_does(tmp_path):
    told, curves = zip(
        *(fit(tmp_path / str(k), TRAINING.model_copy(update={"micro_batch": k})) for k in ("auto", 1)), strict=True
    )
    assert [provenance["micro_batch"] for provenance in told] == [4, 1]
    np.testing.assert_allclose(*curves, atol=1e-4)


def test_a_training_keeps_to_the_memory_there_is(limited, tmp_path):
    training = TRAINING.model_copy(update={"batch": 32, "crop_seconds": 3.0, "steps": 4})
    told, curve = fit(tmp_path / "fits", training, GlowConfig())
    assert told["micro_batch"] < 32 and told["training_memory_mib"] * 2**20 < LIMIT and np.isfinite(curve).all()


def test_a_separation_keeps_to_the_memory_there_is(limited):
    """The plan sees the whole card; the limit shows only when it is met, and halves what is planned."""
    separator = Separator({"a": prior(0, GlowConfig()), "b": prior(1, GlowConfig())}, SeparationConfig(iterations=2))
    mixture = noise(100 * 22050)
    stems = separator(mixture, 22050)
    assert separator.config.chunk_seconds == 20 and separator.batch < 5
    np.testing.assert_allclose(sum(stems.values()), mixture, atol=1e-5)
    longer = SeparationConfig(iterations=2, chunk_seconds=300.0)
    with pytest.raises(FlowsepError, match="lower `chunk_seconds`, or set `recompute: true`"):
        Separator({"a": prior(0, GlowConfig())}, longer)(noise(300 * 22050), 22050)


def test_an_iteration_waits_for_nothing():
    modes = {1: "error", 4: "default"}  # iteration -> what torch does from then on where the host waits

    def watch(state):
        if state["iteration"] in modes:
            torch.cuda.set_sync_debug_mode(modes[state["iteration"]])

    try:
        flowsep.separate_magnitude(
            torch.rand(513, 40), {"a": prior(0)}, SeparationConfig(iterations=5, device=DEVICE), watch
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_a_stopped_training_goes_on(tmp_path):
    _, whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", stop=9)
    _, resumed = fit(tmp_path / "stopped")
    np.testing.assert_allclose(resumed, whole, atol=1e-4)


SCRIPT = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("a_training_on_a_gpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.fit(pathlib.Path(sys.argv[2]))
"""


def test_two_jobs_on_one_card(tmp_path):
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    jobs = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, __file__, str(tmp_path / name)], env=os.environ | paths)
        for name in ("one", "two")
    ]
    assert [job.wait() for job in jobs] == [0, 0]
    curves = [pd.read_csv(tmp_path / name / "work" / "loss.csv").nll for name in ("one", "two")]
    np.testing.assert_allclose(*curves, atol=1e-4)
