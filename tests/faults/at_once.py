"""One of two runs in one folder: `at_once.py PROJECT [PAUSE]`. It trains and scores.

With PAUSE its training waits at that step until a file `train` is there; every separation waits for a file `score`.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from companion import load_dataset
from companion.graph.steps import score_system
from companion.profile import load_profile
from flowsep import FeatureConfig, GlowConfig, TrainingConfig, fit_prior
from flowsep.train import crop_samples

OWN = """
import time
from pathlib import Path

from companion.systems import System

class Slow(System):
    name, supervision = "slow", "none"

    def separate(self, mixture, sample_rate, references=None):
        Path("scoring").touch()
        while not Path("score").exists():
            time.sleep(0.02)
        return {source: mixture / len(self.sources) for source in self.sources}
"""
MODEL = GlowConfig(steps=2, hidden=8, layers=1, kernel=3, dropout=0.1)
TRAINING = TrainingConfig(
    steps=30, batch=2, crop_seconds=0.2, lr=0.001, validate_every=5, precision="32-true", device="cpu"
)


class Crops:
    """Noise, another one at every step; from step `pause` on it comes when the file `train` is there."""

    def __init__(self, pause: int | None = None):
        self.pause = pause

    def batch(self, step: int) -> np.ndarray:
        if self.pause is not None and step >= self.pause and Path("training/hum/state.safetensors").exists():
            Path("training/begun").touch()
            while not Path("train").exists():
                time.sleep(0.02)
        noise = np.random.default_rng(step).standard_normal((2, crop_samples(TRAINING, FeatureConfig())))
        return (0.1 * noise).astype(np.float32)


def train(place: Path, pause: int | None = None) -> None:
    sizes = {"model": MODEL, "feature": FeatureConfig(), "training": TRAINING, "source": "hum", "progress": False}
    where = {"checkpoint": place / "hum.safetensors", "work": place / "training" / "hum"}
    fit_prior(Crops(pause), Crops().batch(999), **sizes, **where)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.chdir(sys.argv[1])
    train(Path(), *map(int, sys.argv[2:]))
    profile = load_profile("tiny")
    score_system(profile, load_dataset(profile.data, profile.seed), "slow", progress=False)
