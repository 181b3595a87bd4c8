"""The trials on real songs: priors and estimators of the system flowsep in the profile musdb18-7s.

24 of the sample's 94 training songs are held out here, so that the ten on which a profile validates are not alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import companion
from companion.data.tracks import Dataset
from companion.profile import Profile
from flowsep.confidence import expected_ratio
from flowsep.config import SeparationConfig
from flowsep.prior import Prior
from flowsep.search import separate_magnitude
from flowsep.separator import Separator

from .limits import magnitudes_of
from .priors import PriorSet, fitted
from .songs import Excerpt, excerpts
from .trials import Trial

PROFILE, HELD_OUT, SECONDS = "musdb18-7s", 24, 7.0
CHOSEN = "square roots, noise 0.5"
MEMBER: dict[str, dict[str, Any]] = {
    "feature": {"sample_rate": 11025, "n_fft": 2048, "hop": 512, "exponent": 0.5},
    "model": {"bins": 1026},
    "training": {"noise": 0.5, "steps": 900, "crop_seconds": 3},
}
STEPS = {"search alone": 0, "refined": 40}
COMPRESSED = SeparationConfig.for_compressed_priors


def _like_chosen(seed: int = 0, *, oracle: bool = False, **changes: dict[str, Any]) -> PriorSet:
    return PriorSet({part: MEMBER[part] | changes.get(part, {}) for part in MEMBER}, seed, oracle)


SETS = {
    CHOSEN: _like_chosen(),
    f"{CHOSEN}, seed 1": _like_chosen(1),
    f"{CHOSEN}, seed 2": _like_chosen(2),
    f"{CHOSEN}, 2250 steps": _like_chosen(training={"steps": 2250}),
    "linear, noise 0.6": _like_chosen(feature={"exponent": 1.0}, training={"noise": 0.6}),
    "windows of 93 ms": _like_chosen(feature={"n_fft": 1024, "hop": 256}, model={"bins": 514}),
    "trained on these very songs": _like_chosen(oracle=True),
}


def studies() -> Iterator[Trial]:
    """One change at a time, of the estimator or of the priors."""
    plain = {"refine": 0, "stereo": 0}
    yield Trial("estimators", "search alone, linear magnitudes", ("linear, noise 0.6",), COMPRESSED(**plain))
    for label, changes in {
        "search alone": plain,
        "refined": {"stereo": 0},
        "search alone, in stereo": {"refine": 0},
        "refined, in stereo": {},
    }.items():
        yield Trial("estimators", label, (CHOSEN,), COMPRESSED(**changes))
    yield Trial("estimators", "refined without noise", (CHOSEN,), None, "refined_without_noise", mask_power=1.0)
    for name in SETS:
        yield Trial("priors", name, (name,), COMPRESSED())


@dataclass(frozen=True)
class Real:
    """What `__main__.Research` is for the other topics."""

    profile: Profile
    dataset: Dataset
    songs: list[Excerpt]
    folder: Path

    def priors(self, name: str) -> dict[str, Prior]:
        return fitted(name, self.profile, self.dataset, self.folder / "priors" / "real", sets=SETS)

    @classmethod
    def of(cls, folder: Path) -> "Real":
        profile = companion.load_profile(PROFILE)
        dataset = replace(companion.load_dataset(profile.data, profile.seed), valid_tracks=HELD_OUT)
        return cls(profile, dataset, excerpts(profile, dataset, SECONDS, HELD_OUT), folder)


def likelihood(research: Any) -> list[dict[str, Any]]:
    """Nats per element of the true stems and of the estimates, each with the noise of the priors' training."""
    real = Real.of(research.folder)
    rows, priors, exponent = [], real.priors(CHOSEN), MEMBER["feature"]["exponent"]
    for song in real.songs:
        truth, mixture = magnitudes_of(song, priors)
        estimates = {"truth": truth} | {
            what: separate_magnitude(mixture, priors, COMPRESSED(refine=steps)) for what, steps in STEPS.items()
        }
        for what, stems in estimates.items():
            for source, prior in priors.items():
                x = stems[source] ** exponent
                noisy = x + prior.noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
                with torch.no_grad():
                    nll = prior.nll(noisy.unsqueeze(0)).item()
                rows.append({"track": song.name, "stem": source, "of": what, "nll": round(nll, 4)})
    return rows


def confidence(research: Any) -> list[dict[str, Any]]:
    """`flowsep.confidence.expected_ratio` and the true ratio, for each second of each stem that is not silent."""
    real, rows = Real.of(research.folder), []
    separator = Separator(real.priors(CHOSEN), COMPRESSED())
    for song in real.songs:
        estimates = separator(song.mixture, song.sample_rate)
        stems, truth = (np.stack([of[s] for s in song.references]) for of in (estimates, song.references))
        for second in range(stems.shape[-1] // song.sample_rate):
            span = slice(second * song.sample_rate, (second + 1) * song.sample_rate)
            expected = expected_ratio(torch.from_numpy(stems[..., span].copy()), song.sample_rate)
            errors = np.square(stems[..., span] - truth[..., span]).sum(axis=(1, 2))
            true = 10 * np.log10(np.square(stems[..., span]).sum(axis=(1, 2)) / errors.clip(1e-12) + 1e-12)
            for source, told, actual in zip(song.references, expected.tolist(), true.tolist(), strict=True):
                row = {"track": song.name, "stem": source, "second": second}
                rows.append(row | {"expected": round(told, 3), "true": round(actual, 3)})
    return [row for row in rows if not math.isnan(row["expected"])]
