"""Stems of audio by masks on its spectrogram: any rate, channels and length around `latent.separate_magnitude`.

Taught in `notebooks/05_separate.ipynb`; knows no data set.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from .config import FeatureConfig, SeparationConfig
from .files import FlowsepError
from .latent import FLOOR, Callback, Magnitudes, check_priors, ratio_masks, separate_magnitude
from .prior import Prior
from .spectrogram import istft, stft


def separate(
    mixture: np.ndarray | Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig | None = None,
    sample_rate: int = 44100,
    callback: Callback | None = None,
) -> dict[str, Any]:
    """Stems of a mixture: s_i = iSTFT(M_i X), M_i from `separate_magnitude` of the mixture's magnitude.

    The mixture is analysed at a multiple of the priors' sample rate that covers its own (44.1 kHz for 22.05 kHz
    priors) with as many times longer windows, so that bins and frames fall on those of the prior. Channels share one
    mask, found on the root mean square of their magnitudes, which keeps the stereo image and costs one separation;
    for mono input all this is exactly the paper's method. Above the prior's band (11 kHz) each stem gets the share
    that it has in the top quarter of the band. Long tracks are cut into overlapping chunks of `chunk_seconds`, whose
    masks are cross-faded.

    Args:
        mixture: (channels, samples) or (samples,), numpy or torch, full scale = 1.
        priors: name of the stem -> prior.
        config: default `SeparationConfig()`.
        sample_rate: of the mixture, Hz.
        callback: as in `separate_magnitude`, with `chunk` (from 0) and `chunks` added.
    Returns:
        {name: stem} of the mixture's shape, sample rate and type; with `config.wiener` and `nonnegative`
        they sum to the mixture.
    Raises:
        FlowsepError: empty input, NaN or infinite samples, more than two axes, priors that do not fit together.
    """
    config = config or SeparationConfig()
    check_priors(priors)
    feature = next(iter(priors.values())).feature

    def magnitudes_of(magnitude: Tensor) -> Magnitudes:
        return _in_chunks(magnitude, priors, config, feature, callback)

    return separate_with_masks(
        mixture,
        sample_rate,
        magnitudes_of,
        feature=feature,
        wiener=config.wiener and config.nonnegative,
        names=tuple(priors),
    )


def separate_with_masks(
    mixture: np.ndarray | Tensor,
    sample_rate: int,
    magnitude_function: Callable[[Tensor], Magnitudes],
    *,
    names: tuple[str, ...],
    feature: FeatureConfig | None = None,
    wiener: bool = True,
) -> dict[str, Any]:
    """What `separate` does around its core, for any system that maps a magnitude to one magnitude per source.

    Args:
        mixture, sample_rate: as in `separate`.
        magnitude_function: (bins, frames) at the feature's resolution -> {name: (bins, frames)}; silence skips it.
        names: of the stems that it returns.
        feature: default the paper's, 22,050 Hz, 513 bins, hop 256.
        wiener: ratio masks that sum to one; else each estimate's own magnitude with the mixture's phase.
    """
    feature = feature or FeatureConfig()
    audio = torch.as_tensor(np.asarray(mixture), dtype=torch.float32)
    if sample_rate <= 0:
        raise FlowsepError(f"sample_rate: expected a positive number of Hz, found {sample_rate}")
    if audio.ndim not in (1, 2) or audio.numel() == 0:
        raise FlowsepError(
            f"mixture: expected (channels, samples) or (samples,), not empty, found shape {tuple(audio.shape)}"
        )
    if not torch.isfinite(audio).all():
        raise FlowsepError("mixture: holds NaN or infinite samples; repair the file first")
    channels = audio.unsqueeze(0) if audio.ndim == 1 else audio
    if not channels.any():
        stems = {name: torch.zeros_like(channels) for name in names}
    else:
        stems = _mask_channels(channels, sample_rate, magnitude_function, feature, wiener)
        if wiener:  # what resampling and the transform rounded away goes to all stems alike: the sum is exact
            missing = (channels - torch.stack(list(stems.values())).sum(dim=0)) / len(stems)
            stems = {name: stem + missing for name, stem in stems.items()}
    return {name: _like(stem.reshape(audio.shape), mixture) for name, stem in stems.items()}


def _mask_channels(
    channels: Tensor,
    sample_rate: int,
    magnitude_function: Callable[[Tensor], Magnitudes],
    feature: FeatureConfig,
    wiener: bool,
) -> Magnitudes:
    times = math.ceil(sample_rate / feature.sample_rate)
    rate, n_fft, hop = times * feature.sample_rate, times * feature.n_fft, times * feature.hop
    analysed = _resample(channels, sample_rate, rate)
    spectrum = stft(analysed, n_fft, hop)
    magnitude = spectrum.abs().square().mean(dim=0).sqrt() / times  # a window `times` as long sums to `times` as much
    band = magnitude[: feature.n_fft // 2 + 1]
    estimates = magnitude_function(band)
    if wiener:
        gains = ratio_masks(estimates)
    else:
        gains = {name: estimate / band.clamp_min(FLOOR) for name, estimate in estimates.items()}
    top = {name: x[-band.shape[0] // 4 :].clamp_min(FLOOR).mean(dim=0, keepdim=True) for name, x in estimates.items()}
    shares = ratio_masks(top)
    above = spectrum.shape[-2] - band.shape[0]
    stems = {}
    for name, gain in gains.items():
        mask = torch.cat([gain, shares[name].expand(above, -1)])
        stem = istft(spectrum * mask, analysed.shape[-1], n_fft, hop)
        stems[name] = _fit(_resample(stem, rate, sample_rate), channels.shape[-1])
    return stems


def _in_chunks(
    magnitude: Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig,
    feature: FeatureConfig,
    callback: Callback | None,
) -> Magnitudes:
    """`separate_magnitude` on chunks of equal length, overlapping by a linear cross-fade of the estimates.

    Without overlap the chunks are pieces of exactly `chunk_seconds`, the last one shorter, as in the paper.
    """
    frames = magnitude.shape[-1]
    second = feature.sample_rate / feature.hop
    longest = max(2, round(config.chunk_seconds * second))
    overlap = min(round(config.overlap_seconds * second), longest // 2) if frames > longest else 0
    chunks = max(1, math.ceil((frames - overlap) / (longest - overlap)))
    length = math.ceil((frames + (chunks - 1) * overlap) / chunks) if overlap else longest
    missing = chunks * (length - overlap) + overlap - frames if overlap else 0
    padded = torch.nn.functional.pad(magnitude, (0, missing))
    rise = (torch.arange(overlap, dtype=magnitude.dtype) + 0.5) / max(overlap, 1)
    out = {name: torch.zeros_like(padded) for name in priors}
    for chunk in range(chunks):
        start = chunk * (length - overlap)
        piece = padded[:, start : start + length]
        fade = torch.ones(piece.shape[-1], dtype=magnitude.dtype)
        if chunk > 0:
            fade[:overlap] = rise
        if overlap and chunk < chunks - 1:
            fade[-overlap:] = 1 - rise

        def report(state: dict[str, Any], chunk: int = chunk) -> None:
            callback(state | {"chunk": chunk, "chunks": chunks})

        found = separate_magnitude(piece, priors, config, report if callback is not None else None)
        for name, estimate in found.items():
            out[name][:, start : start + length] += fade * estimate
    return {name: estimate[:, :frames] for name, estimate in out.items()}


def _resample(audio: Tensor, rate_in: int, rate_out: int) -> Tensor:
    if rate_in == rate_out:
        return audio
    return torch.from_numpy(np.ascontiguousarray(soxr.resample(audio.numpy().T, rate_in, rate_out, "VHQ").T))


def _fit(audio: Tensor, samples: int) -> Tensor:
    """Cut or zero-pad to `samples`: resampling there and back may round the length by one."""
    return torch.nn.functional.pad(audio[..., :samples], (0, max(0, samples - audio.shape[-1])))


def _like(stem: Tensor, mixture: np.ndarray | Tensor) -> Any:
    if isinstance(mixture, Tensor):
        return stem.to(mixture)
    dtype = mixture.dtype if np.issubdtype(mixture.dtype, np.floating) else np.float32
    return stem.numpy().astype(dtype, copy=False)
