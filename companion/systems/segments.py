"""How a network that knows one sample rate, one number of channels and short pieces separates any song."""

import math
from collections.abc import Callable
from typing import Any  # noqa: F401  # Any: in type comments

import numpy as np
import soxr
import torch
from torch import Tensor


def separate_song(
    mixture: np.ndarray,
    sample_rate: int,
    estimate: Callable[[Tensor], Tensor],
    *,
    rate: int,
    channels: int,
    seconds: float,
    overlap_seconds: float,
    context: int = 0,
) -> np.ndarray:
    """The stems of a song by a network of `rate` and `channels` that estimates so many `seconds` at once.

    A network of two channels hears one twice and its estimates are averaged; one of one channel hears two apart.

    Args:
        estimate, context: see `in_segments`.
    Shape:
        (channels, samples) -> (sources, channels, samples), float32.
    """
    audio = soxr.resample(np.asarray(mixture, np.float32).T, sample_rate, rate, "HQ").T
    heard = torch.from_numpy(_fit(audio, max(1, audio.shape[-1])))  # a few samples may resample to none
    heard = heard.expand(1, 2, -1) if channels > len(heard) else heard.unflatten(0, (-1, channels))
    with torch.inference_mode():
        length, overlap = round(seconds * rate), round(overlap_seconds * rate)
        estimates = in_segments(heard, estimate, segment=length, overlap=overlap, context=context)
    estimates = estimates.transpose(0, 1).flatten(1, 2)  # (sources, channels, samples)
    estimates = estimates if estimates.shape[1] == len(mixture) else estimates.mean(dim=1, keepdim=True)
    stems = (soxr.resample(part.numpy().T, rate, sample_rate, "HQ").T for part in estimates)
    return np.stack([_fit(stem, mixture.shape[-1]) for stem in stems])


def in_segments(
    mixture: Tensor, estimate: Callable[[Tensor], Tensor], *, segment: int, overlap: int, context: int = 0
) -> Tensor:
    """`estimate` of equally long segments, linearly cross-faded where they overlap.

    Args:
        mixture: (batch, channels, samples).
        estimate: (batch, channels, samples) -> (batch, sources, channels, samples), of any length.
        segment: the longest, in samples.
        overlap: samples that two neighbours share, at most half a segment.
        context: samples of the mixture on both sides of a segment that `estimate` sees as well.
    """
    samples = mixture.shape[-1]
    overlap = min(overlap, segment // 2) if samples > segment else 0
    count = max(1, math.ceil((samples - overlap) / (segment - overlap)))
    length = math.ceil((samples + (count - 1) * overlap) / count)
    rise = (torch.arange(overlap) + 0.5) / max(overlap, 1)
    out = None  # type: Any
    for start in range(0, count * (length - overlap), length - overlap):
        stop = min(start + length, samples)
        left, right = max(start - context, 0), min(stop + context, samples)
        part = estimate(mixture[..., left:right])[..., start - left : stop - left].clone()
        if overlap and start > 0:
            part[..., :overlap] *= rise
        if overlap and stop < samples:
            part[..., -overlap:] *= 1 - rise
        out = part.new_zeros(*part.shape[:-1], samples) if out is None else out
        out[..., start:stop] += part
        if stop == samples:
            break
    return out


def centre(audio: Tensor, samples: int) -> Tensor:
    """The middle `samples` of (..., samples)."""
    start = (audio.shape[-1] - samples) // 2
    return audio[..., start : start + samples]


def _fit(audio: np.ndarray, samples: int) -> np.ndarray:
    """`audio` cut, or followed by silence, to `samples`."""
    return np.pad(audio[:, :samples], ((0, 0), (0, max(samples - audio.shape[1], 0))))
