"""A song as a stream: blocks in, chunks to separate, their stems joined, blocks out."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional

from .config import FeatureConfig, SeparationConfig
from .files import FlowsepError
from .prior import Prior
from .search import FLOOR, Callback, Magnitudes, ratio_masks, separate_magnitude
from .spectrogram import istft, stft

BLOCK = 2**17  # samples of an array that are taken at once
BATCH = 16  # chunks that a GPU gets at once, at most: they wait for one another in the memory of the processor
Stems = dict[str, Any]
Estimate = Callable[[Tensor, tuple[int, ...]], Magnitudes]  # magnitudes of some chunks, and which chunks these are


class Chunk(NamedTuple):
    """A span of the song: its number, its first sample, its audio (..., channels, samples), and whether it ends it."""

    number: int
    start: int
    audio: Tensor
    last: bool


class Cut(NamedTuple):
    """Where a song is cut into chunks, in samples of the analysed audio."""

    length: float  # of a chunk
    step: float  # from the start of one to the next
    hop: int = 0
    multiple: int = 1  # of frames, that the last chunk begins on; all others do so anyway

    @property
    def overlap(self) -> int:
        return 0 if self.step == self.length else self.length - self.step

    def is_last(self, start: int, samples: int) -> bool:
        """Does a chunk at `start` reach the end of a song (so far) of so many `samples`?"""
        return samples < start + self.length + self.hop if self.overlap else samples <= start + self.length

    def last(self, start: int, samples: int) -> int:
        """Where the last chunk begins instead of `start`, so that it has as many frames as the others."""
        if not self.overlap:
            return start
        frames = _up(1 + samples // self.hop, self.multiple)
        return max(0, frames * self.hop - self.length - self.hop)

    def count(self, samples: int) -> int:
        """How many chunks a song of so many `samples` has."""
        return next(k for k in itertools.count() if self.is_last(k * self.step, samples)) + 1


def _cut_of(config: SeparationConfig, feature: FeatureConfig, squeeze: int, times: int) -> Cut:
    second, hop = feature.sample_rate / feature.hop, times * feature.hop
    frames = max(squeeze, _up(round(config.chunk_seconds * second), squeeze))
    shared = min(round(config.overlap_seconds * second), frames // 2) // squeeze * squeeze
    if not shared:
        samples = max(1, round(config.chunk_seconds * times * feature.sample_rate))
        return Cut(length=samples, step=samples)
    return Cut(length=(frames - 1) * hop, step=(frames - shared) * hop, hop=hop, multiple=squeeze)


def _separate_batch(
    magnitudes: Tensor, priors: Mapping[str, Prior], config: SeparationConfig, callback: Callback | None
) -> Magnitudes:
    """`separate_magnitude` of (batch, bins, frames), of which a batch of one has no axis."""
    if len(magnitudes) > 1:
        return separate_magnitude(magnitudes, priors, config, callback)
    return {name: x.unsqueeze(0) for name, x in separate_magnitude(magnitudes[0], priors, config, callback).items()}


def _stream(
    blocks: Iterable[np.ndarray],
    sample_rate: int,
    estimate: Estimate,
    feature: FeatureConfig,
    cut: Cut,
    batch: int,
    *,
    names: tuple[str, ...],
    wiener: bool,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    times = _times(sample_rate, feature)
    rate = times * feature.sample_rate
    waiting: list[np.ndarray] = []  # the mixture, from where the next stems begin

    def heard() -> Iterator[np.ndarray]:
        for block in blocks:
            block = np.asarray(block, np.float32)
            if not np.isfinite(block).all():
                raise FlowsepError("mixture: holds NaN or infinite samples; repair the file first")
            waiting.append(block)
            yield block

    def pieces() -> Iterator[Chunk]:
        for chunks in _batches(_chunks(_resampled(heard(), sample_rate, rate), cut), batch):
            yield from _explain(chunks, estimate, feature, times, cut.multiple, names, wiener=wiener)

    def rest() -> Iterator[np.ndarray]:  # resampling there and back may end a sample early
        missing = sum(block.shape[1] for block in waiting)
        yield np.zeros((len(names) * len(waiting[0]), missing), np.float32)

    start = 0
    back = _resampled(_joined(pieces(), cut.overlap // 4), rate, sample_rate)
    for stems in itertools.chain(back, rest()):
        mixture = np.concatenate(waiting, axis=1)
        samples = min(stems.shape[1], mixture.shape[1])
        waiting[:] = [mixture[:, samples:]]
        if samples:
            found = stems[:, :samples].reshape(len(names), -1, samples)
            if wiener:  # what resampling and the transform rounded away goes to all stems alike: the sum is exact
                found = found + (mixture[:, :samples] - found.sum(axis=0)) / len(names)
            yield start, dict(zip(names, found, strict=True))
        start += samples


def _chunks(blocks: Iterable[np.ndarray], cut: Cut) -> Iterator[Chunk]:
    """The song as chunks; held is no more than two of them."""
    held, first, start, number = None, 0, 0, 0
    for block in blocks:
        held = np.array(block) if held is None else np.concatenate([held, block], axis=1)
        while not cut.is_last(start, first + held.shape[-1]):
            held, first = held[:, start - first :], start  # the last chunk begins later than the one before it
            yield Chunk(number, start, torch.from_numpy(held[:, : cut.length]), last=False)
            number, start = number + 1, start + cut.step
    if held is None:
        raise FlowsepError("mixture: holds no samples")
    begin = cut.last(start, first + held.shape[-1])
    yield Chunk(number, begin, torch.from_numpy(held[:, begin - first :]), last=True)


def _batches(chunks: Iterable[Chunk], batch: int) -> Iterator[list[Chunk]]:
    while group := list(itertools.islice(chunks, batch)):
        yield group


def _explain(
    chunks: list[Chunk],
    estimate: Estimate,
    feature: FeatureConfig,
    times: int,
    multiple: int,
    names: tuple[str, ...],
    *,
    wiener: bool,
) -> Iterator[Chunk]:
    """The same chunks with audio (sources, channels, samples); those of equally many frames are estimated at once."""
    spectra = {c.number: stft(c.audio, times * feature.n_fft, times * feature.hop) for c in chunks if c.audio.any()}
    bands = {number: _band(spectrum, feature, times) for number, spectrum in spectra.items()}
    found: dict[int, Magnitudes] = {}
    for _, group in itertools.groupby(bands, key=lambda number: _up(bands[number].shape[-1], multiple)):
        which = tuple(group)
        padded = [functional.pad(bands[number], (0, -bands[number].shape[-1] % multiple)) for number in which]
        estimates = estimate(torch.stack(padded), which)
        for entry, number in enumerate(which):
            found[number] = {name: x[entry, :, : bands[number].shape[-1]] for name, x in estimates.items()}
    for chunk in chunks:
        stems = chunk.audio.new_zeros(len(names), *chunk.audio.shape)
        if chunk.number in found:
            masks = _masks(found.pop(chunk.number), bands.pop(chunk.number), wiener=wiener)
            spectrum = spectra.pop(chunk.number)
            for stem, name in zip(stems, names, strict=True):
                above = spectrum.shape[-2] - masks[name][0].shape[0]
                mask = torch.cat([masks[name][0], masks[name][1].expand(above, -1)])
                stem[:] = istft(spectrum * mask, stem.shape[-1], times * feature.n_fft, times * feature.hop)
        yield chunk._replace(audio=stems)


def _band(spectrum: Tensor, feature: FeatureConfig, times: int) -> Tensor:
    """The magnitude that the priors know; a window `times` as long sums to `times` as much."""
    return spectrum[:, : feature.n_fft // 2 + 1].abs().square().mean(dim=0).sqrt() / times


def _masks(estimates: Magnitudes, band: Tensor, *, wiener: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """For each source its mask within the priors' band and its share above, (bins, frames) and (1, frames)."""
    if wiener:
        gains = ratio_masks(estimates)
    else:
        gains = {name: estimate / band.clamp_min(FLOOR) for name, estimate in estimates.items()}
    top = {name: x[-band.shape[0] // 4 :].clamp_min(FLOOR).mean(dim=0, keepdim=True) for name, x in estimates.items()}
    shares = ratio_masks(top)
    return {name: (gains[name], shares[name]) for name in estimates}


def _joined(chunks: Iterable[Chunk], quarter: int) -> Iterator[np.ndarray]:
    """Chunks of stems one after the other, (sources * channels, samples): see `separate_stream` for their borders."""
    rise = (torch.arange(2 * quarter) + 0.5) / max(2 * quarter, 1)
    done, tail = 0, None
    for chunk in chunks:
        stems = chunk.audio.flatten(0, 1)[:, done - chunk.start :]
        if tail is not None:
            stems[:, : 2 * quarter] = rise * stems[:, : 2 * quarter] + tail
        if not chunk.last and quarter:
            end = stems.shape[-1] - 3 * quarter
            tail = (1 - rise) * stems[:, end : end + 2 * quarter]
            stems = stems[:, :end]
        done += stems.shape[-1]
        yield stems.numpy()


def _resampled(blocks: Iterable[np.ndarray], rate_in: int, rate_out: int) -> Iterator[np.ndarray]:
    """(channels, samples) blocks at another rate, to the last bit as if the whole were resampled at once."""
    if rate_in == rate_out:
        yield from blocks
        return
    stream = None
    for block in blocks:
        stream = stream or soxr.ResampleStream(rate_in, rate_out, len(block), dtype="float32", quality="VHQ")
        yield stream.resample_chunk(np.ascontiguousarray(block.T)).T
    if stream is not None:
        yield stream.resample_chunk(np.zeros((0, len(block)), np.float32), last=True).T


def _times(sample_rate: int, feature: FeatureConfig) -> int:
    """How many times the priors' sample rate covers this one."""
    return math.ceil(sample_rate / feature.sample_rate)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
