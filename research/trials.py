"""The compared separations, study by study: priors and search of each."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from flowsep.config import SeparationConfig
from flowsep.prior import Prior
from flowsep.separator import separate, separate_with_masks
from flowsep.spectrogram import istft, stft

from . import searches
from .songs import Excerpt

PAPER, PLAIN = SeparationConfig.paper, SeparationConfig
NOISY = partial(SeparationConfig.for_noisy_priors, **{"iterations": 48, "lr": 0.03})  # until 72 of 0.02 proved better
MASKS = {"wiener": True, "nonnegative": True}
STEPS = {"iterations": 36, "lr": 0.03, "lr_decay": 0.98, "lr_every": 1, "momentum": 0}
SHORT, LONG, OTHER = "short, noise 0.1", "long, noise 0.3", "long, noise 0.3, other seed"
BEFORE = {"modulus_floor": 0.05}  # the modulus of `SeparationConfig` until 0.2 proved better

Sets = Mapping[str, Mapping[str, Prior]]
Search = Callable[..., searches.Magnitudes]


@dataclass(frozen=True)
class Trial:
    """Priors and a search with them: by `flowsep.separate` with `config`, or by a function of `searches`."""

    study: str
    label: str
    sets: tuple[str, ...]
    config: SeparationConfig | None = None
    search: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    mask_power: float = NOISY().mask_power  # of the estimates of such a function

    @property
    def settings(self) -> str:
        """Everything that determines the result, as JSON."""
        config = self.config.model_dump(mode="json", exclude={"device"}) if self.config else {}
        settings = {"sets": self.sets, "search": self.search, "options": self.options, "config": config}
        return json.dumps(settings, sort_keys=True)

    def estimates(self, song: Excerpt, sets: Sets) -> dict[str, np.ndarray]:
        """Stems of the song's mixture: the mean over the sets of priors."""
        estimates = [self._by_one(song, sets[name]) for name in self.sets]
        return {source: np.mean([stems[source] for stems in estimates], axis=0) for source in song.references}

    def _by_one(self, song: Excerpt, priors: Mapping[str, Prior]) -> dict[str, np.ndarray]:
        if self.config:
            return separate(song.mixture, priors, self.config, song.sample_rate)
        options = {key: getattr(searches, value) if key == "loss" else value for key, value in self.options.items()}
        search = partial(getattr(searches, self.search), priors=priors, **options)

        def magnitudes(mixture):
            return {name: x.clamp_min(0) ** self.mask_power for name, x in search(mixture).items()}

        feature = next(iter(priors.values())).feature
        return separate_with_masks(song.mixture, song.sample_rate, magnitudes, names=tuple(priors), feature=feature)


def studies() -> Iterator[Trial]:
    """All trials, first the ladder from the paper's separator to ours."""
    yield from _ladder()
    for noise, name in ((0, "short, noise 0"), (0.1, SHORT), (0.3, "short, noise 0.3")):
        yield Trial("noise", f"46 ms, noise {noise:g}", (name,), NOISY(**BEFORE))
    for noise in (0.08, 0.15, 0.3, 0.6):
        yield Trial("noise", f"186 ms, noise {noise:g}", (f"long, noise {noise:g}",), NOISY(**BEFORE))
    for steps, name in ((450, "short, noise 0.1, 450 steps"), (900, SHORT)):
        yield Trial("training", f"{steps} steps", (name,), NOISY(**BEFORE))
    for label, sets in {
        "186 ms": (LONG,),
        "186 ms, another seed": (OTHER,),
        "two of 186 ms": (LONG, OTHER),
        "46 ms": (SHORT,),
        "two of 46 ms": (SHORT, "short, noise 0.1, other seed"),
        "46 ms and 186 ms": (SHORT, LONG),
        "46 ms and two of 186 ms": (SHORT, LONG, OTHER),
    }.items():
        yield Trial("sets", label, sets, NOISY())
    yield from _settings()
    yield from _other_searches()
    yield Trial("limits", "priors trained on these very songs, default search", ("oracle",), PLAIN())
    yield Trial("limits", "priors trained on these very songs, smoothed search", ("oracle",), NOISY(**BEFORE))


def band() -> Iterator[Trial]:
    """From the band's separator of linear magnitudes to square roots, refinement and stereo, one set of priors each."""
    roots, sharp = "roots, noise 0.5", {"mask_power": 1.5}
    linear, compressed = SeparationConfig.for_noisy_priors, SeparationConfig.for_compressed_priors
    yield Trial("band", "linear magnitudes, search alone", (LONG,), linear())
    yield Trial("band", "in stereo", (LONG,), linear(stereo=3))
    yield Trial("band", "refined, in stereo", (LONG,), linear(stereo=3, refine=40))
    yield Trial("band", "square roots of magnitudes", (roots,), compressed(**sharp))
    yield Trial("band", "without refinement", (roots,), compressed(refine=0))
    yield Trial("band", "masks to the power of 1", (roots,), compressed())
    yield Trial("band", "masks to the power of 2", (roots,), compressed(mask_power=2.0))
    yield Trial("band", "80 steps of refinement", (roots,), compressed(**sharp, refine=80))
    yield Trial("band", "twice the rounds in stereo", (roots,), compressed(**sharp, stereo=6))
    yield Trial("band", "noise 0.3", ("roots, noise 0.3",), compressed(**sharp))
    yield Trial("band", "noise 0.3, masks to the power of 1", ("roots, noise 0.3",), compressed())
    yield Trial("band", "twice the training, masks to the power of 1", ("roots, noise 0.5, 1800 steps",), compressed())


def _ladder() -> Iterator[Trial]:
    steps = [
        ("the paper's search, the paper's priors", "paper", PAPER()),
        ("ratio masks", "paper", PAPER(**MASKS)),
        ("36 larger steps without momentum", "paper", PAPER(**MASKS, **STEPS)),
        ("the prior's density counts (MAP in x)", "paper", PLAIN()),
        ("noise of 0.1 and half the training", SHORT, NOISY(**BEFORE, mask_power=1)),
        ("windows of 186 ms and noise of 0.3", LONG, NOISY(**BEFORE, mask_power=1)),
        ("masks to the power of 1.5", LONG, NOISY(**BEFORE)),
        ("a smoother modulus", LONG, NOISY()),
    ]
    for number, (label, name, config) in enumerate(steps):
        yield Trial("ladder", f"{number}. {label}", (name,), config)
    yield Trial("ladder", f"{len(steps)}. a second set of priors", (LONG, OTHER), NOISY())
    last = SeparationConfig.for_noisy_priors()
    yield Trial("ladder", f"{len(steps) + 1}. half as many more, smaller steps", (LONG, OTHER), last)


def _settings() -> Iterator[Trial]:
    for label, changes in {
        "as it is": {},
        "24 steps of 0.04": {"iterations": 24, "lr": 0.04, "lr_decay": 0.97},
        "72 steps of 0.02": {"iterations": 72, "lr": 0.02},
        "96 steps of 0.03": {"iterations": 96},
        "momentum 0.9": {"momentum": 0.9},
        "without the prior's density (MLE)": {"alpha": 0.0},
        "MAP in z, weight 0.3": {"space": "z", "alpha": 0.3},
        "MAP in x, weight 0.1": {"alpha": 0.1},
        "start at noise of 0.3": {"sigma": 0.3},
        "smooth 0.05": {"modulus_floor": 0.05},
        "smooth 0.4": {"modulus_floor": 0.4},
        "smooth 0.8": {"modulus_floor": 0.8},
        "mask power 1": {"mask_power": 1},
        "mask power 2": {"mask_power": 2},
    }.items():
        yield Trial("settings", label, (LONG,), NOISY(**changes))


def _other_searches() -> Iterator[Trial]:
    for label, search, options in (
        ("KL of sums (as here, without the prior's term)", "descend", {"loss": "kl"}),
        ("squares, deviation grows with the level", "descend", {"loss": "squares"}),
        ("Itakura-Saito, powers add", "descend", {"loss": "powers"}),
        ("moments for phases at random", "descend", {"loss": "phases"}),
        ("mean of the second half of the path", "descend", {"averaged": True}),
        ("Langevin noise of 0.1 on the path", "descend", {"noise": 0.1}),
        ("mean of three starts at noise of 0.3", "restarts", {}),
        ("again from the latents of the first result", "from_shares", {}),
    ):
        yield Trial("searches", label, (LONG,), None, search, options)


def ideal_masks(song: Excerpt, n_fft: int, hop: int, power: float) -> dict[str, np.ndarray]:
    """Stems by the references' own ratio masks |s_i|^p / sum_j |s_j|^p, the ceiling of all masks."""
    stems = torch.from_numpy(np.stack(list(song.references.values())))
    spectra = stft(stems, n_fft, hop)
    sizes = spectra.abs().square().mean(dim=1, keepdim=True).clamp_min(1e-16) ** (power / 2)
    audio = istft(sizes / sizes.sum(0) * spectra.sum(0), stems.shape[-1], n_fft, hop)
    return dict(zip(song.references, audio.numpy(), strict=True))


def run(trial: Trial, song: Excerpt, sets: Sets) -> list[dict[str, Any]]:
    """Rows: the song's SDR by stem, and the seconds of separation."""
    began = time.perf_counter()
    estimates = trial.estimates(song, sets)
    seconds = time.perf_counter() - began
    row = {"study": trial.study, "trial": trial.label, "track": song.name, "seconds": round(seconds, 2)}
    return [row | {"stem": stem, "sdr": round(value, 4)} for stem, value in song.score(estimates).items()]


def key(trial: Trial, songs: str) -> str:
    """The identity of a finished trial: its settings and songs."""
    return hashlib.sha256(f"{trial.study}|{trial.label}|{trial.settings}|{songs}".encode()).hexdigest()[:12]
