"""Stems of audio by masks on its spectrogram: any rate, channels and length around `latent.separate_magnitude`.

A song is a stream here: blocks of samples come in, are brought to the priors' rate and cut into chunks, and blocks of
stems go out, so that an hour takes no more memory than some minutes. Chunks begin on frames of the whole song's
spectrogram and overlap; near its borders a chunk lacks the context that the whole has, and there it is thrown away.
Taught in `notebooks/05_separate.ipynb`; knows no data set.
"""

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
from .latent import FLOOR, Callback, Magnitudes, check_priors, ratio_masks, separate_magnitude, usual_config
from .machine import choose_device, held_memory
from .prior import Prior
from .spectrogram import istft, stft

BLOCK = 2**17  # samples of an array that are taken at once

# bytes: factors of `bytes_of_separation`; audio, spectra and masks of a second of 44.1 kHz stereo; and what is held
# once. Measured on a CPU, see benchmarks/memory.py
KEPT, HELD, AUDIO, SPARE = 1.7, 17.0, 8e6, 40_000_000
BATCH = 16  # chunks that a GPU gets at once, at most: they wait for one another in the memory of the processor

Stems = dict[str, Any]
Estimate = Callable[[Tensor, tuple[int, ...]], Magnitudes]  # magnitudes of some chunks, and which chunks these are


def separate(
    mixture: np.ndarray | Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig | None = None,
    sample_rate: int = 44100,
    callback: Callback | None = None,
    *,
    memory_limit: int | None = None,
) -> Stems:
    """Stems of a mixture: s_i = iSTFT(M_i X), M_i from `separate_magnitude` of the mixture's magnitude.

    The mixture is analysed at a multiple of the priors' sample rate that covers its own (44.1 kHz for 22.05 kHz
    priors) with as many times longer windows, so that bins and frames fall on those of the prior. Channels share one
    mask, found on the root mean square of their magnitudes, which keeps the stereo image and costs one separation;
    for mono input all this is exactly the paper's method. Above the prior's band (11 kHz) each stem gets the share
    that it has in the top quarter of the band. Long tracks are cut into chunks, see `separate_stream`.

    Args:
        mixture: (channels, samples) or (samples,), numpy or torch, full scale = 1.
        priors: name of the stem -> prior.
        config: default `flowsep.latent.usual_config(priors)`.
        sample_rate: of the mixture, Hz.
        callback: as in `separate_stream`.
        memory_limit: in bytes, see `within_memory`, which may shorten the chunks; the whole stems come on top of it.
    Returns:
        {name: stem} of the mixture's shape, sample rate and type; with `config.wiener` and `nonnegative`
        they sum to the mixture.
    Raises:
        FlowsepError: empty input, NaN or infinite samples, more than two axes, priors that do not fit together, a
            `memory_limit` that is too low.
    """
    config, batch = within_memory(memory_limit, priors, config or usual_config(priors)) if priors else (config, 1)
    channels = _channels(mixture)
    blocks = (block.numpy() for block in channels.split(BLOCK, dim=-1))
    stream = separate_stream(blocks, priors, config, sample_rate, callback, samples=channels.shape[-1], batch=batch)
    return _collect(stream, tuple(priors), mixture)


def separate_stream(
    blocks: Iterable[np.ndarray],
    priors: Mapping[str, Prior],
    config: SeparationConfig | None = None,
    sample_rate: int = 44100,
    callback: Callback | None = None,
    *,
    samples: int | None = None,
    batch: int | None = None,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """`separate` of a song of any length, block by block, in the memory of a few chunks.

    Chunks of `config.chunk_seconds` share `config.overlap_seconds` with their neighbours: the outer quarters of what
    two of them share are thrown away, and in its middle half the one is faded into the other. Chunks begin on even
    frames of the whole song's spectrogram, and the last one ends with it, so that whole and chunks differ by the
    missing context alone. Without overlap, the paper's setting, they are pieces side by side, each for itself.

    Args:
        blocks: of the mixture, each (channels, samples), float32, full scale = 1.
        priors, config, sample_rate: as in `separate`.
        callback: as in `separate_magnitude`, with `chunk` (from 0, the first of several that are separated at once),
            `chunks` (None if `samples` is) and `batch` (how many these are) added.
        samples: how many there will be; for `chunks` alone, so about as many will do.
        batch: how many chunks are separated at once at most; by default one, on a GPU what `within_memory` says.
    Yields:
        (first sample, {name: (channels, samples), float32}), one after the other until the end of the song.
    Raises:
        FlowsepError: as `separate`; at once, or where a block is wrong.
    """
    check_priors(priors)
    config = config or usual_config(priors)
    if sample_rate <= 0:
        raise FlowsepError(f"sample_rate: expected a positive number of Hz, found {sample_rate}")
    feature = next(iter(priors.values())).feature
    batch = within_memory(None, priors, config)[1] if batch is None else batch
    squeeze = math.lcm(*(prior.model.squeeze for prior in priors.values()))
    cut = _cut_of(config, feature, squeeze, _times(sample_rate, feature))
    rate = _times(sample_rate, feature) * feature.sample_rate
    chunks = None if samples is None else cut.count(math.ceil(samples * rate / sample_rate))

    def estimate(magnitudes: Tensor, which: tuple[int, ...]) -> Magnitudes:
        def report(state: dict[str, Any]) -> None:
            callback(state | {"chunk": which[0], "chunks": chunks, "batch": len(which)})

        return _separate_batch(magnitudes, priors, config, report if callback is not None else None)

    wiener = config.wiener and config.nonnegative
    return _stream(blocks, sample_rate, estimate, feature, cut, batch, names=tuple(priors), wiener=wiener)


def separate_with_masks(
    mixture: np.ndarray | Tensor,
    sample_rate: int,
    magnitude_function: Callable[[Tensor], Magnitudes],
    *,
    names: tuple[str, ...],
    feature: FeatureConfig | None = None,
    wiener: bool = True,
) -> Stems:
    """What `separate` does around its core, for any system that maps a magnitude to one magnitude per source.

    Args:
        mixture, sample_rate: as in `separate`.
        magnitude_function: (bins, frames) at the feature's resolution, of the whole song -> {name: (bins, frames)};
            silence skips it.
        names: of the stems that it returns.
        feature: default the paper's, 22,050 Hz, 513 bins, hop 256.
        wiener: ratio masks that sum to one; else each estimate's own magnitude with the mixture's phase.
    """
    if sample_rate <= 0:
        raise FlowsepError(f"sample_rate: expected a positive number of Hz, found {sample_rate}")

    def estimate(magnitudes: Tensor, _: tuple[int, ...]) -> Magnitudes:
        return {name: x.unsqueeze(0) for name, x in magnitude_function(magnitudes[0]).items()}

    whole = Cut(length=math.inf, step=math.inf)
    blocks = [_channels(mixture).numpy()]
    stream = _stream(blocks, sample_rate, estimate, feature or FeatureConfig(), whole, 1, names=names, wiener=wiener)
    return _collect(stream, names, mixture)


def within_memory(
    limit: int | None, priors: Mapping[str, Prior], config: SeparationConfig
) -> tuple[SeparationConfig, int]:
    """`config` with chunks short enough for a limit, and how many of them fit into it at once: `separate_stream`'s.

    Chunks that overlap become shorter than `config.chunk_seconds`, but no shorter than 2 s or twice their overlap; the
    paper's pieces, which do not, keep their length. A CPU separates one at a time, as more would not be faster.

    Args:
        limit: bytes that this process, or on a GPU torch there, may hold at most. None: no limit; on a GPU what is
            free there.
    Raises:
        FlowsepError: too little for the shortest chunk; says the least that would do.
    """
    device = choose_device(config.device)
    on_gpu = device.type == "cuda"
    if limit is None and not on_gpu:
        return config, 1
    per_second = bytes_of_separation(priors, 1.0, recompute=config.recompute)
    held = bytes_of_weights(priors)
    if on_gpu:
        limit = torch.cuda.mem_get_info(device)[0] if limit is None else limit
    else:
        held += held_memory() + SPARE
        per_second += AUDIO
    seconds = (limit - held) / per_second
    shortest = min(config.chunk_seconds, max(2 * config.overlap_seconds, 2.0) if config.overlap_seconds else math.inf)
    if seconds < shortest:
        least = math.ceil((held + shortest * per_second) / 1e6)
        raise FlowsepError(
            f"memory limit: {limit / 1e6:.0f} MB are too few for chunks of {shortest:g} s; the least is {least} MB"
        )
    chosen = min(config.chunk_seconds, seconds)
    batch = min(BATCH, max(1, int(seconds / chosen))) if on_gpu else 1
    return config.model_copy(update={"chunk_seconds": chosen}), batch


def bytes_of_separation(priors: Mapping[str, Prior], seconds: float, batch: int = 1, *, recompute: bool = False) -> int:
    """Bytes that `separate_magnitude` holds at its peak, beside the weights, for `batch` chunks of so many `seconds`.

    4 bytes x batch x seconds x frames a second x sum_i (1.7 K_i (B + 2 L_i H_i / q_i) + 17 B): for its gradient the
    flow of source i keeps, of each of its K_i couplings, half of its B bins twice, and of each of their L_i layers two
    gates of H_i channels at frames squeezed by q_i; with `recompute`, of one coupling alone. Each latent has a gradient
    and Adam's moments; the rest is what a step has in hand. The two factors fit peaks measured on a CPU, most of them
    within 12 % and all within 25 %. A second of music and one source take:

    | flow | MB | with `recompute` |
    |---|---:|---:|
    | small: 2 steps, 8 hidden, 1 layer | 3.6 | 3.3 |
    | demo: 6 steps, 64 hidden, 3 layers | 5.5 | 3.4 |
    | paper: 12 steps, 128 hidden, 4 layers | 10.2 | 3.6 |
    """
    feature = next(iter(priors.values())).feature
    kept = sum(
        (1 if recompute else prior.model.steps)
        * (prior.model.bins + 2 * prior.model.layers * prior.model.hidden / prior.model.squeeze)
        for prior in priors.values()
    )
    held = sum(prior.model.bins for prior in priors.values())
    frames = batch * seconds * feature.sample_rate / feature.hop
    return round(4 * frames * (KEPT * kept + HELD * held))


def bytes_of_weights(priors: Mapping[str, Prior]) -> int:
    """Bytes of the two copies that `separate_magnitude` makes: the frozen priors, and those of one size stacked."""
    return 2 * 4 * sum(weight.numel() for prior in priors.values() for weight in prior.parameters())


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


def _channels(mixture: np.ndarray | Tensor) -> Tensor:
    """(channels, samples) of what is none, several or one of them; FlowsepError for what is no audio."""
    audio = torch.as_tensor(np.asarray(mixture), dtype=torch.float32)
    if audio.ndim not in (1, 2) or audio.numel() == 0:
        raise FlowsepError(
            f"mixture: expected (channels, samples) or (samples,), not empty, found shape {tuple(audio.shape)}"
        )
    if not torch.isfinite(audio).all():
        raise FlowsepError("mixture: holds NaN or infinite samples; repair the file first")
    return audio.unsqueeze(0) if audio.ndim == 1 else audio


def _collect(
    stream: Iterable[tuple[int, Mapping[str, np.ndarray]]], names: tuple[str, ...], mixture: np.ndarray | Tensor
) -> Stems:
    """The blocks of `stream` as whole stems, of the mixture's shape and type."""
    floating = isinstance(mixture, np.ndarray) and np.issubdtype(mixture.dtype, np.floating)
    out = {name: np.empty(np.shape(mixture), mixture.dtype if floating else np.float32) for name in names}
    for start, stems in stream:
        for name, stem in stems.items():
            np.atleast_2d(out[name])[:, start : start + stem.shape[1]] = stem
    return {name: torch.from_numpy(x).to(mixture) for name, x in out.items()} if isinstance(mixture, Tensor) else out


def _times(sample_rate: int, feature: FeatureConfig) -> int:
    """How many times the priors' sample rate covers this one."""
    return math.ceil(sample_rate / feature.sample_rate)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
