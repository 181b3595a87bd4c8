"""A song as a stream: blocks in, chunks to separate, their stems joined, blocks out."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional

from .arrays import as_channels
from .config import FeatureConfig, SeparationConfig
from .files import FlowsepError
from .search import FLOOR
from .spectrogram import istft, stft
from .stereo import in_stereo

# magnitudes (batch, bins, frames) of some chunks, and which chunks these are -> masks (batch, sources, bins, frames)
MasksOf = Callable[[Tensor, tuple[int, ...]], Tensor]


class Chunk(NamedTuple):
    """A span of the song: its number, first sample and audio (..., channels, samples), and whether it is the last."""

    number: int
    start: int
    audio: Tensor
    last: bool


class Cut(NamedTuple):
    """Where a song is cut into chunks, in samples of the analysed audio."""

    length: float  # of a chunk
    step: float  # from the start of one to the next
    hop: int = 0
    multiple: int = 1  # the last chunk begins on a multiple of so many frames, as all others do

    @property
    def overlap(self) -> Any:
        return 0 if self.step == self.length else self.length - self.step

    def is_last(self, start: float, samples: int) -> bool:
        """Does a chunk at `start` reach the end of a song (so far) of so many `samples`?"""
        return samples < start + self.length + self.hop if self.overlap else samples <= start + self.length

    def last(self, start: int, samples: int) -> Any:
        """Where the last chunk begins instead of `start`, so that it has as many frames as the others."""
        if not self.overlap:
            return start
        frames = _up(1 + samples // self.hop, self.multiple)
        return max(0, frames * self.hop - self.length - self.hop)

    def count(self, samples: int) -> int:
        """How many chunks a song of so many `samples` has."""
        return next(k for k in itertools.count() if self.is_last(k * self.step, samples)) + 1


def cut_of(config: SeparationConfig, feature: FeatureConfig, squeeze: int, times: int) -> Cut:
    """The chunks that a config asks for, of whole frames that the flows can squeeze; pieces where nothing overlaps.

    `times` is how many times the analysed audio's rate is the prior's.
    """
    second, hop = feature.sample_rate / feature.hop, times * feature.hop
    frames = max(squeeze, _up(round(config.chunk_seconds * second), squeeze))
    shared = min(round(config.overlap_seconds * second), frames // 2) // squeeze * squeeze
    if not shared:
        samples = max(1, round(config.chunk_seconds * times * feature.sample_rate))
        return Cut(length=samples, step=samples)
    return Cut(length=(frames - 1) * hop, step=(frames - shared) * hop, hop=hop, multiple=squeeze)


def cut_for_masks(feature: FeatureConfig, times: int) -> Cut:
    """Chunks for masks that are known before: only their transform lacks context, a window at either end."""
    windows, hop = math.ceil(feature.n_fft / feature.hop), times * feature.hop
    return Cut(length=64 * windows * hop, step=60 * windows * hop, hop=hop)


def magnitude_of(blocks: Iterable[np.ndarray], sample_rate: int, feature: FeatureConfig, cut: Cut) -> Tensor:
    """(bins, frames) of a whole song: what `MasksOf` is handed for a chunk."""
    times, done, bands = oversampling(sample_rate, feature), 0, []  # type: int, int, list[Tensor]
    for chunk in _chunks(_resampled(blocks, sample_rate, times * feature.sample_rate), cut):
        band = _band(stft(chunk.audio, times * feature.n_fft, cut.hop), feature, times)
        lacking = 0 if chunk.last else cut.overlap // cut.hop // 2
        bands.append(band[:, done - chunk.start // cut.hop : band.shape[-1] - lacking].clone())
        done += bands[-1].shape[-1]
    return torch.cat(bands, dim=-1)


def stream_masks(
    blocks: Iterable[np.ndarray],
    sample_rate: int,
    masks_of: MasksOf,
    feature: FeatureConfig,
    cut: Cut,
    batch: int,
    *,
    names: tuple[str, ...],
    exact: bool,
    stereo: int = 0,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The stems of a song, block by block, by masks on the spectrogram of its chunks.

    Args:
        blocks: of the mixture, each (channels, samples).
        masks_of: see `MasksOf`; of all bins of the feature, for chunks that are not silent.
        batch: how many chunks are handed over at once, at most.
        exact: the masks sum to one: make the stems sum to the mixture.
        stereo: rounds of `stereo.in_stereo`, for mixtures of several channels.
    Yields:
        (first sample, {name: (channels, samples)}).
    Raises:
        FlowsepError: no samples, or NaN or infinite ones.
    """
    times = oversampling(sample_rate, feature)
    rate = times * feature.sample_rate
    waiting: list[np.ndarray] = []  # the mixture, from where the next stems begin

    def heard() -> Iterator[np.ndarray]:
        for block in blocks:
            if np.size(block) == 0:
                continue
            block = as_channels(block).numpy()
            if waiting and len(block) != len(waiting[0]):
                raise FlowsepError(f"mixture: a block has {len(block)} channels, those before it {len(waiting[0])}")
            waiting.append(block)
            yield block

    def pieces() -> Iterator[Chunk]:
        chunks = _chunks(_resampled(heard(), sample_rate, rate), cut)
        while group := list(itertools.islice(chunks, batch)):
            yield from _explain(group, masks_of, feature, times, cut.multiple, len(names), stereo)

    def rest() -> Iterator[np.ndarray]:  # zeros where resampling there and back ends a sample early
        missing = sum(block.shape[1] for block in waiting)
        yield np.zeros((len(names) * len(waiting[0]), missing), np.float32)

    start = 0
    back = _resampled(_joined(pieces(), cut.overlap // 4), rate, sample_rate)
    for stems in itertools.chain(back, rest()):
        mixture = np.concatenate(waiting, axis=1)
        samples = min(stems.shape[1], mixture.shape[1])
        waiting[:] = [mixture[:, samples:]]
        if samples:
            done = stems[:, :samples].reshape(len(names), -1, samples)
            if exact:  # all stems get an equal share of what resampling and the transform rounded away
                done = done + (mixture[:, :samples] - done.sum(axis=0)) / len(names)
            yield start, dict(zip(names, done, strict=True))
        start += samples


def _chunks(blocks: Iterable[np.ndarray], cut: Cut) -> Iterator[Chunk]:
    """The song as chunks; holds at most two of them."""
    held, first, start, number = None, 0, 0, 0  # type: Any, int, Any, int
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


def _explain(
    chunks: list[Chunk], masks_of: MasksOf, feature: FeatureConfig, times: int, multiple: int, sources: int, stereo: int
) -> Iterator[Chunk]:
    """The chunks with audio (sources, channels, samples); chunks of equally many frames are handed over at once."""
    spectra = {c.number: stft(c.audio, times * feature.n_fft, times * feature.hop) for c in chunks if c.audio.any()}
    bands = {number: _band(spectrum, feature, times) for number, spectrum in spectra.items()}
    masks: dict[int, Tensor] = {}
    for _, group in itertools.groupby(bands, key=lambda number: _up(bands[number].shape[-1], multiple)):
        which = tuple(group)
        padded = [functional.pad(bands[number], (0, -bands[number].shape[-1] % multiple)) for number in which]
        masks |= dict(zip(which, masks_of(torch.stack(padded), which), strict=True))
    for chunk in chunks:
        stems = chunk.audio.new_zeros(sources, *chunk.audio.shape)
        if chunk.number in masks:
            spectrum = spectra.pop(chunk.number)
            band, shares = bands.pop(chunk.number), masks.pop(chunk.number)
            mask = _whole_mask(shares, band, spectrum.shape[-2])
            placed = stereo and len(spectrum) > 1
            low = in_stereo(shares[..., : band.shape[-1]], spectrum[:, : len(band)], stereo) if placed else None
            for number, stem in enumerate(stems):
                explained = spectrum * mask[number]
                if low is not None:
                    explained[:, : len(band)] = low[number]
                stem[:] = istft(explained, stem.shape[-1], times * feature.n_fft, times * feature.hop)
        yield chunk._replace(audio=stems)


def _band(spectrum: Tensor, feature: FeatureConfig, times: int) -> Tensor:
    """The root mean square of the channels in the feature's bins; a window `times` as long sums to `times` as much."""
    return spectrum[:, : feature.n_fft // 2 + 1].abs().square().mean(dim=0).sqrt() / times


def _whole_mask(mask: Tensor, band: Tensor, bins: int) -> Tensor:
    """A mask with rows for the bins above the priors' band: each source's share of the top quarter of the band.

    Shape: (sources, bins of the band, frames or more), (bins of the band, frames) -> (sources, bins, frames).
    """
    mask = mask[..., : band.shape[-1]]
    top = (mask * band)[:, -band.shape[0] // 4 :].clamp_min(FLOOR).mean(dim=1, keepdim=True)
    return torch.cat([mask, (top / top.sum(dim=0)).expand(-1, bins - band.shape[0], -1)], dim=1)


def _joined(chunks: Iterable[Chunk], quarter: int) -> Iterator[np.ndarray]:
    """Chunks of stems one after the other, (sources * channels, samples): see `Separator.stream` for their borders."""
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


def oversampling(sample_rate: int, feature: FeatureConfig) -> int:
    """How many times the priors' sample rate covers this one."""
    return math.ceil(sample_rate / feature.sample_rate)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
