"""Training: it learns, it resumes to the same weights after a kill, it stops with a reason."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from fake_cuda import fake_card
from helpers import write_hq_tree

from companion import Profile, load_dataset
from companion.data import segments as solo
from companion.data.crops import validation_crops
from companion.data.segments import solo_segments
from companion.systems import priors
from flowsep import FeatureConfig, FlowsepError, GlowConfig, TrainingConfig, fit_prior, load_prior, memory
from flowsep.fast.likelihood import Likelihood
from flowsep.prior import parameters
from flowsep.resume import Ahead, start_fabric
from flowsep.train import Task, crop_samples, learning_rate, magnitudes

FEATURE = FeatureConfig()
SIZES = {
    "model": GlowConfig(steps=2, hidden=8, layers=1, kernel=3, dropout=0.1),
    "feature": FEATURE,
    "training": TrainingConfig(
        steps=60,
        batch=2,
        crop_seconds=0.3,
        lr=0.01,
        schedule="cosine",
        validate_every=10,
        precision="32-true",
        device="cpu",
    ),
}


class Hum:
    """Crops of a hum with overtones and a little noise: easy to model, other at every step."""

    def __init__(self, seed=0, level=0.1):
        self.seed, self.level = seed, level

    def batch(self, step):
        rng = np.random.default_rng([self.seed, step])
        n = np.arange(crop_samples(SIZES["training"], FEATURE)) / FEATURE.sample_rate
        tone = sum(np.sin(2 * np.pi * f * n + rng.uniform(0, 6, (2, 1))) for f in (220, 440, 660))
        return (self.level * (tone + 0.1 * rng.standard_normal(tone.shape))).astype(np.float32)


def fit(folder, **changes):
    options = SIZES | {"source": "hum", "checkpoint": folder / "hum.safetensors", "work": folder / "work"}
    return fit_prior(Hum(), Hum(seed=99).batch(0), **(options | {"progress": False} | changes))


def test_epochs_count_passes_through_the_pieces(tmp_path, monkeypatch):
    """5 segments in batches of 2 make 3 steps an epoch; every segment is drawn before any comes again."""
    tones = [Hum(seed=k).batch(0)[0] * 2.0**-k for k in range(5)]
    monkeypatch.setattr(solo, "solo_segments", lambda dataset, subset, *_: tones[: 5 if subset == "train" else 2])
    drawn = []
    monkeypatch.setattr(priors, "fit_prior", lambda sampler, _, **options: drawn.append((sampler, options)))
    training = SIZES["training"].model_copy(update={"epochs": 4})
    profile = Profile(name="tiny", training=training, model=SIZES["model"])
    priors.train_source(SimpleNamespace(name="band", hash="abc"), "hum", profile, tmp_path)
    sampler, options = drawn[0]
    assert options["training"].steps == 4 * 3 and sampler.in_turn
    assert options["provenance"]["train_segments"] == 5 and options["provenance"]["valid_segments"] == 2
    levels = np.concatenate([sampler.batch(step) for step in range(5)]).std(axis=1)
    assert len(np.unique(np.round(np.log2(levels[:5])))) == 5


def test_noise_blurs_the_density(tmp_path):
    """Of silence and normal noise s the negative log-likelihood is that of the noise, log s + 0.5 log(2 pi e)."""
    quiet = SimpleNamespace(batch=lambda step: 1e-9 * Hum(seed=step).batch(step))
    sizes = {name: SIZES[name] for name in ("model", "feature")}
    values = {}
    for noise in (0.05, 0.2):
        training = SIZES["training"].model_copy(update={"noise": noise, "steps": 20, "validate_every": 5, "lr": 1e-3})
        place = {"checkpoint": tmp_path / f"{noise}.safetensors", "work": tmp_path / str(noise), "source": "hum"}
        fit_prior(quiet, quiet.batch(99), **sizes, **place, training=training, progress=False)
        curve = pd.read_csv(tmp_path / str(noise) / "loss.csv")
        values[noise] = curve[curve.split == "valid"].nll.iloc[0]
        assert values[noise] == pytest.approx(np.log(noise) + 0.5 * np.log(2 * np.pi * np.e), abs=0.05)
    assert values[0.2] - values[0.05] == pytest.approx(np.log(4), abs=0.02)


def test_it_learns_and_leaves_its_files(tmp_path):
    prior = fit(tmp_path, provenance={"data": "a hum"})
    curve = pd.read_csv(tmp_path / "work" / "loss.csv")
    valid = curve[curve.split == "valid"].set_index("step").nll
    assert list(valid.index) == list(range(0, 61, 10))
    assert valid.min() < valid[0] - 0.05
    assert set(curve.split) == {"train", "valid"} and curve.seconds.is_monotonic_increasing
    told = prior.provenance
    assert told["parameters"] == parameters(prior) and told["training_memory_mib"] > 50
    assert told["training_seconds"] == pytest.approx(curve.seconds.iloc[-1], abs=0.06)  # of all steps, not to the best
    assert prior.provenance["data"] == "a hum" and prior.provenance["step"] == valid.idxmin()
    crops = torch.from_numpy(Hum(seed=99).batch(0))
    assert prior.nll(magnitudes(crops, FEATURE)).item() == pytest.approx(valid.min(), abs=1e-4)
    assert load_prior(tmp_path / "work" / "last.safetensors").provenance["step"] == 60


SCRIPT = """
import importlib.util, pathlib, sys, torch
spec = importlib.util.spec_from_file_location("training_of_a_hum", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
torch.set_num_threads(1)
module.fit(pathlib.Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    whole = fit(tmp_path / "whole")
    command = [sys.executable, "-c", SCRIPT, __file__, str(tmp_path / "killed")]
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}  # of what this module imports
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | paths)
    state = tmp_path / "killed" / "work" / "state.safetensors"
    while not state.is_file() and process.poll() is None:  # however long a busy machine takes to start it
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.is_file()
    resumed = fit(tmp_path / "killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    curves = [pd.read_csv(tmp_path / run / "work" / "loss.csv").drop(columns="seconds") for run in ("whole", "killed")]
    pd.testing.assert_frame_equal(*curves)


def test_batches_drawn_ahead_are_the_same():
    hum, fabric = Hum(), start_fabric(SIZES["training"])
    drawn = []

    def draw(step):
        drawn.append(step)
        return hum.batch(step)

    with Ahead(draw, 10, fabric) as batches:
        for step in (3, 4, 5, 9):  # of a run that goes on
            np.testing.assert_array_equal(batches(step).numpy(), hum.batch(step))
    assert set(drawn) <= {3, 4, 5, 6, 7, 9} and len(drawn) == len(set(drawn))


@pytest.mark.gpu
def test_batches_on_a_gpu_are_the_same():
    """Also large ones, from memory of torch that is used again while copies are under way."""

    def draw(step):
        batch = torch.empty(2**22, pin_memory=True).numpy()
        batch[:] = step
        return batch

    fabric = start_fabric(SIZES["training"].model_copy(update={"device": "cuda"}))
    with Ahead(draw, 50, fabric) as batches:
        sums = [batches(step).double().mean() for step in range(50)]
    assert [float(mean) for mean in sums] == [float(step) for step in range(50)]


def test_drawing_ahead_ends_with_an_error_and_hands_it_on():
    def draw(step):
        if step == 1:
            raise FlowsepError("a torn file")
        return np.zeros((2, 4), np.float32)

    before = threading.active_count()
    with pytest.raises(FlowsepError, match="a torn file"), Ahead(draw, 10, start_fabric(SIZES["training"])) as batches:
        batches(0)
        batches(1)
    with pytest.raises(KeyboardInterrupt), Ahead(draw, 10, start_fabric(SIZES["training"])) as batches:
        batches(0)
        raise KeyboardInterrupt
    assert threading.active_count() == before


def test_recomputing_activations_changes_nothing_and_may_be_switched_half_way(tmp_path, monkeypatch):
    asked = []

    def watched(glow, *, recompute):
        asked.append(recompute)
        return Likelihood(glow, recompute=recompute)

    monkeypatch.setattr("flowsep.train.Likelihood", watched)
    whole = fit(tmp_path / "whole")
    recompute = SIZES["training"].model_copy(update={"recompute": True})
    fit(tmp_path / "other", training=recompute)
    assert asked == [False, True]
    curves = [pd.read_csv(tmp_path / run / "work" / "loss.csv").nll for run in ("whole", "other")]
    np.testing.assert_allclose(*curves, atol=2e-3)  # rounding grows along the steps
    np.testing.assert_allclose(curves[0][:3], curves[1][:3], atol=1e-5)
    again = fit(tmp_path / "whole", training=recompute)  # finished; its state belongs to this configuration too
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_parts_of_a_batch_learn_what_the_whole_does(tmp_path):
    """The mean of the parts' gradients; without dropout, which each part draws for itself."""
    model = SIZES["model"].model_copy(update={"dropout": 0.0})
    told, curves = [], []
    for micro in ("auto", 1):
        training = SIZES["training"].model_copy(update={"steps": 20, "noise": 0.1, "micro_batch": micro})
        told.append(fit(tmp_path / str(micro), model=model, training=training).provenance["micro_batch"])
        curves.append(pd.read_csv(tmp_path / str(micro) / "work" / "loss.csv").nll)
    assert told == [2, 1]
    np.testing.assert_allclose(*curves, atol=1e-4)


def test_a_gpu_that_runs_out_of_memory_later_names_the_setting(tmp_path, monkeypatch):
    whole, steps = Task.update, []

    def update(task, fabric, network, optimizer, step, clip):
        steps.append(step)
        if step == 25 and task.micro == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(task, fabric, network, optimizer, step, clip)

    monkeypatch.setattr(Task, "update", update)
    said = r"hum: the GPU ran out of memory with 2 crops at once; set `micro_batch` under `training` to 1, or leave"
    with pytest.raises(FlowsepError, match=said):
        fit(tmp_path)
    steps.clear()
    smaller = SIZES["training"].model_copy(update={"micro_batch": 1})
    assert fit(tmp_path, training=smaller).provenance["micro_batch"] == 1 and steps == [*range(20, 60)]
    with pytest.raises(FlowsepError, match="with 1 crops at once; lower `crop_seconds`"):
        memory.names_micro_batch(Mock(side_effect=torch.OutOfMemoryError))(SimpleNamespace(name="hum", micro=1))


A_JOB = (  # 12 crops at once if there is room
    SimpleNamespace(name="hum", network=torch.nn.BatchNorm1d(1), batch=lambda step: torch.zeros(12, 1)),
    TrainingConfig(batch=12),
    SimpleNamespace(device=torch.device("cuda:0"), world_size=1),
)


def test_as_many_crops_at_once_as_a_gpu_has_room_for(tmp_path, monkeypatch):
    """12 crops of 1 MB, or a half, or a quarter of them ..., in 80 % of what is free."""
    monkeypatch.setattr(memory, "_step_bytes", lambda task, crops, fabric: 1e6 * len(crops))
    for free, crops in ((16, 12), (14, 6), (5, 3), (3, 2), (1.5, 1)):
        fake_card(monkeypatch, tmp_path, lambda free=free: free * 10**6)
        assert memory.micro_batch(*A_JOB) == crops
    task, training, fabric = A_JOB
    assert memory.micro_batch(task, training.model_copy(update={"micro_batch": 5}), fabric) == 5
    fake_card(monkeypatch, tmp_path, lambda: 10**6)
    with pytest.raises(FlowsepError, match=r"hum: a single crop takes more than the 1 MB .*lower `crop_seconds`"):
        memory.micro_batch(*A_JOB)


def test_jobs_that_begin_together_share_a_card(tmp_path, monkeypatch):
    """Twice 12 crops of 1 MB on a card of 20 MB: all of one job at once, and half of the other in what that leaves."""
    free, own, asked = [20e6], threading.local(), threading.Barrier(2)

    def give_back():
        free[0] += getattr(own, "bytes", 0)
        own.bytes = 0

    def look():
        seen = free[0]
        with suppress(threading.BrokenBarrierError):  # if both may, both look before one of them takes anything
            asked.wait(0.5)
        return seen

    def step_bytes(task, crops, fabric):
        give_back()
        own.bytes = 1e6 * len(crops)
        free[0] -= own.bytes
        return own.bytes

    fake_card(monkeypatch, tmp_path, look, give_back)
    monkeypatch.setattr(memory, "_step_bytes", step_bytes)
    with ThreadPoolExecutor(2) as jobs:
        both = [jobs.submit(memory.micro_batch, *A_JOB) for _ in range(2)]
        assert sorted(job.result() for job in both) == [6, 12]
    assert free == [2e6]


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_twice_the_batch(tmp_path):
    """The same loss to 1e-5: two crops a step in each of two processes over gloo, four in one."""
    root = write_hq_tree(tmp_path / "songs", train=3, test=1, seconds=2.0)
    data = {"kind": "musdb18hq", "root": str(root), "valid_tracks": 1}
    training = SIZES["training"].model_copy(update={"steps": 8, "batch": 4, "validate_every": 4, "lr": 0.003})
    profile = Profile(name="x", data=data, training=training, model={**SIZES["model"].model_dump(), "dropout": 0.0})
    dataset = load_dataset(profile.data, profile.seed)
    alone = priors.train_source(dataset, "bass", profile, tmp_path / "one", progress=False)
    both = profile.model_copy(update={"training": training.model_copy(update={"devices": 2})})
    assert both.hash == profile.hash
    together = priors.train_source(dataset, "bass", both, tmp_path / "two", progress=False)
    curves = [pd.read_csv(tmp_path / run / "training" / "bass" / "loss.csv") for run in ("one", "two")]
    assert list(curves[0].step) == list(curves[1].step)
    np.testing.assert_allclose(curves[0].nll, curves[1].nll, rtol=0, atol=1e-5)
    assert alone.provenance["parameters"] == together.provenance["parameters"]
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], value, atol=1e-3, rtol=0, msg=name)


@pytest.mark.slow
def test_processes_that_fail_say_why(tmp_path):
    training = SIZES["training"].model_copy(update={"devices": 2})
    with pytest.raises(FlowsepError, match=r"training\.devices is 2: .*torchrun"):
        fit(tmp_path, training=training)
    root = write_hq_tree(tmp_path / "songs", train=2, test=1, seconds=2.0)
    data = {"kind": "musdb18hq", "root": str(root), "valid_tracks": 1}
    profile = Profile(name="x", data=data, training=training, model=SIZES["model"])
    moved = SimpleNamespace(name="moved", hash="not this one")
    with pytest.raises(FlowsepError, match=r"bass: training in 2 processes failed: .*it is another data set"):
        priors.train_source(moved, "bass", profile, tmp_path, progress=False)
    assert not (tmp_path / "priors").exists()
    with pytest.raises(ValueError, match="devices must divide batch = 32, found 3"):
        TrainingConfig(devices=3)


def test_a_finished_training_is_not_run_again(tmp_path):
    fit(tmp_path)
    files = [tmp_path / "hum.safetensors", *(tmp_path / "work").iterdir()]
    written = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    fit(tmp_path)
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == written


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"training": SIZES["training"].model_copy(update={"lr": 1e-3})}, "training.lr was "),
        ({"model": SIZES["model"].model_copy(update={"hidden": 6})}, "model.hidden was "),
        ({"provenance": {"data_hash": "b", "code": "1"}}, "data_hash was 'a', now 'b'"),
        ({"provenance": {"data_hash": "a", "code": "2"}}, "code was '1', now '2'"),
    ],
)
def test_another_training_begins_anew_and_the_earlier_one_is_kept(tmp_path, capsys, change, told):
    first = {"provenance": {"data_hash": "a", "code": "1"}}
    fit(tmp_path, **first)
    earlier = (tmp_path / "work" / "best.safetensors").read_bytes()
    capsys.readouterr()
    now = first | change
    again = fit(tmp_path, **now)
    assert told in capsys.readouterr().out
    assert (tmp_path / ".work.before" / "best.safetensors").read_bytes() == earlier
    fresh = fit(tmp_path / "fresh", **now)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in again.state_dict().items())
    fit(tmp_path, **now | {"provenance": now["provenance"] | {"note": "of no importance"}})
    assert "begins anew" not in capsys.readouterr().out


def test_nan_stops_the_training_and_leaves_nothing_that_looks_like_a_prior(tmp_path):
    training = SIZES["training"].model_copy(update={"lr": 1e6, "clip": 1e9})
    with pytest.raises(FlowsepError, match=r"hum: training (loss became|diverged).*lower `training\.lr`"):
        fit(tmp_path, training=training)
    assert not (tmp_path / "hum.safetensors").exists()


def test_nothing_to_validate_on(tmp_path):
    with pytest.raises(FlowsepError, match="no audible validation crop"):
        fit_prior(
            Hum(), np.zeros((0, 100), np.float32), source="hum", checkpoint=tmp_path / "x", work=tmp_path, **SIZES
        )


def test_learning_rates():
    paper = TrainingConfig()
    assert learning_rate(paper, 0) == learning_rate(paper, 79_999) == 1e-4
    assert learning_rate(paper, 160_000) == pytest.approx(9e-6)
    cosine = TrainingConfig(steps=1000, lr=1.0, schedule="cosine")
    rates = [learning_rate(cosine, step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 20) and max(rates) == rates[20] == 1.0
    assert rates[-1] < 1e-4 and rates[20:] == sorted(rates[20:], reverse=True)


def test_crops_give_even_frames_without_edges():
    for seconds in (0.1, 0.5, 1.5, 3.0):
        training = TrainingConfig(crop_seconds=seconds)
        frames = magnitudes(torch.zeros(1, crop_samples(training, FEATURE)), FEATURE).shape[-1]
        assert frames % 2 == 0 and math.isclose(frames * 256 / 22050, seconds, abs_tol=0.025)


def test_held_out_clips_are_of_the_test_songs_and_bounded(tmp_path):
    root = write_hq_tree(tmp_path / "songs", train=3, test=3, seconds=2.0)
    data = {"kind": "musdb18hq", "root": str(root), "valid_tracks": 1}
    profile = Profile(name="x", data=data, training={"crop_seconds": 0.2})
    dataset = load_dataset(profile.data, profile.seed)
    every = priors.held_out_clips(dataset, "bass", profile)
    length = crop_samples(profile.training, profile.feature)
    own = np.concatenate(
        [validation_crops([x], length) for x in solo_segments(dataset, "test", "bass", profile.feature)]
    )
    np.testing.assert_array_equal(every, own)
    few = priors.held_out_clips(dataset, "bass", profile, most=5)
    assert few.shape == (5, length)
    np.testing.assert_array_equal(few[[0, -1]], every[[0, -1]])  # spread over all of them
    assert len(priors.held_out_clips(dataset, "bass", profile, songs=1)) == len(every) // 3
