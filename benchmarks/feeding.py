"""Batches of the paper's sizes, drawn and brought to the device while nothing computes: what a step waits for at least.

A CPU is fed by one thread, a GPU by several, as in training.
"""

from collections.abc import Callable

import numpy as np
import torch

from companion.data.crops import CropSampler
from companion.data.recordings import Recording
from companion.systems.mixtures import MixtureSampler
from flowsep.config import FeatureConfig, TrainingConfig
from flowsep.machine import keep_freed_memory
from flowsep.resume import Ahead, start_fabric
from flowsep.train import crop_samples

from .harness import Context, Figure, figure, interleave_loops, processors, wall_clock


def samplers(context: Context) -> dict[str, CropSampler | MixtureSampler]:
    """Of a prior and of a network, in `configs/musdb18.yaml`, from noise of 16 bits in memory."""
    rng, short = np.random.default_rng(0), context.quick
    training = TrainingConfig(batch=2 if short else 32, crop_seconds=0.5 if short else 7.0)
    length, rate = crop_samples(training, FeatureConfig()), 44100
    pieces = [Recording(rng.integers(-3000, 3000, length + 9999, np.int16)) for _ in range(training.batch)]
    songs = (4, 1 if short else 3, 2, (1 if short else 30) * rate)
    stems = [[Recording(song) for song in source] for source in rng.integers(-3000, 3000, songs, np.int16)]
    batch, crop = (2, rate // 2) if short else (16, 6 * rate)
    return {
        "prior": CropSampler(pieces, length, batch=training.batch, in_turn=True),
        "network": MixtureSampler(stems, crop, batch=batch, song_share=0.25, gains=(0.25, 1.25)),
    }


def run(context: Context) -> list[Figure]:
    """Seconds a batch, of each sampler."""
    fabric = start_fabric(TrainingConfig(device=context.device))
    keep_freed_memory()

    def loop_of(sampler: CropSampler | MixtureSampler) -> Callable[[int], None]:
        def loop(steps: int) -> None:
            with Ahead(sampler.batch, steps, fabric) as batches:
                for step in range(steps):
                    batches(step)
                if fabric.device.type == "cuda":
                    torch.cuda.synchronize()

        return loop

    loops = {name: loop_of(sampler) for name, sampler in samplers(context).items()}
    few, many = (2, 4) if context.quick else (8, 40)
    times = interleave_loops(loops, few, many, context.repeats, wall_clock)
    what = "one batch of configs/musdb18.yaml, drawn and on the device"
    return [
        figure("feeding.batch", what, each, "s", system=name, cores=processors()) for name, (each, _) in times.items()
    ]
