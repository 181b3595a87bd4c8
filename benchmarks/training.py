"""A step of training: the plain port of the paper's against the package's own loop, on the same crops.

The clock is the wall's, on a GPU too: every loop ends by waiting for the device.
"""

import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference import paper
from reference import training as port

from flowsep.config import FeatureConfig, GlowConfig, TrainingConfig
from flowsep.train import EDGE, crop_samples, fit_prior

from .harness import Context, Figure, figure, interleave_loops, ratios, threads, wall_clock
from .separation import checkpoints

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


class Crops:
    """Crops of notes that swell and fade, drawn beforehand, so that the steps alone are timed."""

    def __init__(self, batch: int, samples: int, different: int = 4):
        rng = np.random.default_rng(0)
        time = np.arange(samples) / FeatureConfig().sample_rate
        pitches = rng.uniform(80, 800, (different, batch, 1))
        tones = sum(np.sin(2 * np.pi * overtone * pitches * time) / overtone for overtone in range(1, 6))
        swell = 0.1 * (1 + np.sin(2 * np.pi * rng.uniform(1, 4, pitches.shape) * time))
        self.batches = (swell * tones + 0.001 * rng.standard_normal(tones.shape)).astype(np.float32)

    def batch(self, step: int) -> np.ndarray:
        return self.batches[step % len(self.batches)]


def size(context: Context) -> tuple[GlowConfig, TrainingConfig]:
    """The demo's on a CPU, the paper's on a GPU."""
    if context.quick:
        model = GlowConfig(steps=1, hidden=4, layers=1, kernel=1, dropout=0.0)
        training = TrainingConfig(batch=2, crop_seconds=0.2, lr=0.01)
    elif context.device == "cuda":
        model, training = GlowConfig(), TrainingConfig()
    else:
        model = GlowConfig(steps=6, hidden=64, kernel=3, layers=3, dropout=0.0)
        training = TrainingConfig(batch=8, crop_seconds=1.5, lr=0.003, schedule="cosine")
    return model, training.model_copy(update={"device": context.device})


def plain_loop(model: GlowConfig, training: TrainingConfig, crops: Crops) -> Callable[[int], Any]:
    """steps -> that many of the plain port's, in 32 bits, on from where the last call ended."""
    with tempfile.TemporaryDirectory() as folder:
        weights, settings = paper.load(checkpoints(Path(folder), model, 1)[0])
    weights = {name: value.to(training.device).requires_grad_() for name, value in weights.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=1e-4)
    audio = itertools.cycle(crops.batches)

    def loop(steps: int) -> None:
        for _ in range(steps):
            batch = torch.from_numpy(next(audio)).to(training.device)
            port.step(weights, settings | {"p_dropout_dec": model.dropout}, optimizer, batch, edge=EDGE)

    return loop


@contextmanager
def in_a_process(*given: Any, count: int) -> Iterator[Callable[[int], Any]]:
    """`plain_loop` of a process of its own: the package tells the allocator of its process to keep what is freed,
    which the port, run by itself, would go without."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(there, count, *given), daemon=True)
    process.start()

    def loop(steps: int) -> None:
        here.send(steps)
        here.recv()

    try:
        yield loop
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection, count: int, *given: Any) -> None:
    torch.set_num_threads(count)
    loop = plain_loop(*given)
    while True:
        loop(pipe.recv())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        pipe.send(None)


def package_loop(model: GlowConfig, training: TrainingConfig, crops: Crops) -> Callable[[int], Any]:
    """steps -> a whole short training; what it does once cancels in the difference of two of them."""

    def loop(steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            fit_prior(
                crops, crops.batch(0), source="bench", model=model, feature=FeatureConfig(),
                training=training.model_copy(update={"steps": steps, "validate_every": 10 * steps}),
                checkpoint=Path(folder) / "bench.safetensors", work=Path(folder) / "work", progress=False,
            )  # fmt: skip

    return loop


def run(context: Context) -> list[Figure]:
    """For each number of threads: seconds a step of both, and their ratio."""
    model, training = size(context)
    crops = Crops(training.batch, crop_samples(training, FeatureConfig()))
    few, many = (10, 14) if context.quick else (20, 120) if context.device == "cuda" else (10, 40)
    rows = []
    for count in context.thread_counts:
        with threads(count), in_a_process(model, training, crops, count=count) as plain:
            loops = {"plain": plain}
            for name, precision in PRECISIONS.items():
                loops[name] = package_loop(model, training.model_copy(update={"precision": precision}), crops)
            times = {name: each for name, (each, _) in
                     interleave_loops(loops, few, many, context.repeats, wall_clock).items()}  # fmt: skip
        what = f"one step of {training.batch} crops of {training.crop_seconds:g} s"
        for name, each in times.items():
            system, told = ("plain", "fp32") if name == "plain" else ("flowsep", name)
            rows.append(figure("training.step", what, each, "s", system=system, arithmetic=told, threads=count))
        for name in PRECISIONS:
            faster = ratios(times["plain"], times[name])
            what = "time of a step of the plain port over the package's"
            rows.append(
                figure("training.speedup", what, faster, "x", reference="plain port, fp32", arithmetic=name,
                       threads=count)
            )  # fmt: skip
    return rows
