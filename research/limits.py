"""The limits of the separation: likelihoods, masks, silent sources; and its doubt as a predictor of its errors."""

import itertools
from typing import Any

import numpy as np
import soxr
import torch

from flowsep.config import SeparationConfig
from flowsep.prior import Prior
from flowsep.search import separate_magnitude
from flowsep.separator import separate
from flowsep.spectrogram import stft

from .songs import Excerpt
from .trials import LONG, OTHER, SHORT, ideal_masks

WINDOWS = ((1024, 256), (2048, 512), (4096, 1024), (8192, 2048))  # samples at 44.1 kHz, and hops


def likelihood(research: Any) -> list[dict[str, Any]]:
    """Nats per element of the true stems, with the noise of the priors' training, and of the estimates.

    Estimates much likelier than the truth point to a fault of the model, less likely estimates to one of the search.
    """
    rows = []
    for name in ("paper", SHORT, LONG):
        priors = research.priors(name)
        config = (
            SeparationConfig.for_noisy_priors(wiener=False) if priors["bass"].noise else SeparationConfig(wiener=False)
        )
        for song in research.songs:
            truth, mixture = magnitudes_of(song, priors)
            estimates = separate_magnitude(mixture, priors, config)
            for source, prior in priors.items():
                noise = prior.noise * torch.randn(truth[source].shape, generator=torch.Generator().manual_seed(0))
                for what, x in (("truth", truth[source] + noise), ("estimate", estimates[source])):
                    with torch.no_grad():
                        nll = prior.nll(x.unsqueeze(0)).item()
                    rows.append({"set": name, "track": song.name, "stem": source, "of": what, "nll": round(nll, 4)})
    return rows


def magnitudes_of(song: Excerpt, priors: dict[str, Prior]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Magnitudes of the references and of the mixture, mono at the priors' rate, with an even number of frames."""
    feature = next(iter(priors.values())).feature
    audio = {
        name: torch.from_numpy(soxr.resample(stem.mean(axis=0), song.sample_rate, feature.sample_rate))
        for name, stem in (song.references | {"": song.mixture}).items()
    }
    sizes = {name: stft(x, feature.n_fft, feature.hop).abs() for name, x in audio.items()}
    even = sizes[""].shape[1] // 2 * 2
    sizes = {name: x[:, :even] for name, x in sizes.items()}
    return {name: sizes[name] for name in song.references}, sizes[""]


def ceiling(research: Any) -> list[dict[str, Any]]:
    """SDR of the references' own masks, for windows of several lengths."""
    rows = []
    for song, (n_fft, hop), power in itertools.product(research.songs, WINDOWS, (1, 2)):
        setting = {"window_ms": round(1000 * n_fft / song.sample_rate), "power": power, "track": song.name}
        scores = song.score(ideal_masks(song, n_fft, hop, power))
        rows += [setting | {"stem": stem, "sdr": round(value, 4)} for stem, value in scores.items()]
    return rows


def silence(research: Any) -> list[dict[str, Any]]:
    """Level of the estimate of an absent source in dB of the mixture's level, for each source left out in turn."""
    systems = {
        "the paper's": (("paper",), SeparationConfig.paper()),
        "the paper's with masks": (("paper",), SeparationConfig.paper(wiener=True, nonnegative=True)),
        "flowsep": ((LONG, OTHER), SeparationConfig.for_noisy_priors()),
    }
    sets = {name: research.priors(name) for names, _ in systems.values() for name in names}
    rows = []
    for song in research.songs[:2]:
        for missing in song.references:
            mixture = song.mixture - song.references[missing]
            for system, (names, config) in systems.items():
                estimate = np.mean(
                    [separate(mixture, sets[name], config, song.sample_rate)[missing] for name in names], axis=0
                )
                level = 10 * np.log10(np.square(estimate).sum() / np.square(mixture).sum() + 1e-12)
                rows.append({"system": system, "track": song.name, "silent": missing, "level": round(float(level), 3)})
    return rows


def uncertainty(research: Any) -> list[dict[str, Any]]:
    """Second by second: the distance of the estimates of two sets of priors, and of their mean from the truth.

    `spread`: the energy of half the difference of the two estimates, which any listener can compute. `error`: the
    energy of the error of their mean, which takes the true stems. Both are in dB of the energy of the mean.
    """
    sets, config, rows = [research.priors(name) for name in (LONG, OTHER)], SeparationConfig.for_noisy_priors(), []
    for song in research.songs:
        one, two = (separate(song.mixture, priors, config, song.sample_rate) for priors in sets)
        for source, truth in song.references.items():
            mean, half = (one[source] + two[source]) / 2, (one[source] - two[source]) / 2
            for second in range(truth.shape[1] // song.sample_rate):
                part = slice(second * song.sample_rate, (second + 1) * song.sample_rate)
                energies = [np.square(x[:, part]).sum() for x in (mean, half, truth - mean)]
                spread, error = (10 * np.log10(x / (energies[0] + 1e-9) + 1e-6) for x in energies[1:])
                row = {"track": song.name, "stem": source, "second": second}
                rows.append(row | {"spread": round(float(spread), 3), "error": round(float(error), 3)})
    return rows
