"""Stems of audio by masks on its spectrogram: any rate, channels and length around `search.search`.

`Separator` holds the priors and the settings; it is called with a song, or fed with its blocks (`stream`).
Taught in `notebooks/05_separate.ipynb`; knows no data set.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import FeatureConfig, SeparationConfig
from .files import FlowsepError
from .machine import choose_device, held_memory, keep_freed_memory
from .prior import Prior
from .search import FLOOR, Callback, Flows, Magnitudes, config_for, masks, ratio_masks, search
from .stream import Cut, cut_of, oversampling, stream_masks

BLOCK = 2**17  # samples of an array that are taken at once
BATCH = 16  # chunks that a GPU gets at once, at most: they wait for one another in the memory of the processor
# bytes: factors of `bytes_of_separation`; audio, spectra and masks of a second of 44.1 kHz stereo; and what is held
# once. Measured on a CPU, see benchmarks/memory.py
KEPT, HELD, AUDIO, SPARE = 1.7, 17.0, 8e6, 40_000_000

Stems = dict[str, Any]


class Separator:
    """Stems of a mixture: s_i = iSTFT(M_i X), M_i from `search` on the mixture's magnitude.

    The mixture is analysed at a multiple of the priors' sample rate that covers its own (44.1 kHz for 22.05 kHz
    priors) with as many times longer windows, so that bins and frames fall on the prior's. Channels share one mask,
    computed from the root mean square of their magnitudes, which keeps the stereo image and costs one separation; for
    mono input all this is exactly the paper's method. Above the prior's band (11 kHz) each stem gets the share that it
    has in the top quarter of the band.

    Args:
        priors: name of the stem -> prior. Their weights are copied and prepared once, here.
        config: default `flowsep.search.config_for(priors)`.
        memory_limit: in bytes, see `within_memory`, which may shorten the chunks; whole stems come on top of it.
    Raises:
        FlowsepError: priors that do not fit together, a `memory_limit` that is too low, no such device.
    """

    def __init__(
        self, priors: Mapping[str, Prior], config: SeparationConfig | None = None, *, memory_limit: int | None = None
    ):
        config = config or config_for(priors)
        self.flows = Flows(priors, config)
        self.names, self.feature = tuple(priors), next(iter(priors.values())).feature
        self.config, self.batch = within_memory(memory_limit, priors, config)
        keep_freed_memory()

    def __call__(
        self, mixture: np.ndarray | Tensor, sample_rate: int = 44100, callback: Callback | None = None
    ) -> Stems:
        """Separate a song that fits into memory; long ones are cut into chunks, see `stream`.

        Args:
            mixture: (channels, samples) or (samples,), numpy or torch, full scale = 1.
            sample_rate: of the mixture, Hz.
            callback: as in `stream`.
        Returns:
            {name: stem} of the mixture's shape, sample rate and type; with `config.wiener` and `nonnegative` they sum
            to the mixture.
        Raises:
            FlowsepError: empty input, NaN or infinite samples, more than two axes.
        """
        channels = _channels(mixture)
        blocks = (block.numpy() for block in channels.split(BLOCK, dim=-1))
        return _collect(self.stream(blocks, sample_rate, callback, samples=channels.shape[-1]), self.names, mixture)

    def stream(
        self,
        blocks: Iterable[np.ndarray],
        sample_rate: int = 44100,
        callback: Callback | None = None,
        *,
        samples: int | None = None,
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Separate a song of any length, block by block, in the memory of a few chunks.

        Chunks of `config.chunk_seconds` share `config.overlap_seconds` with their neighbours: the outer quarters of
        what two of them share are thrown away, and in its middle half the one is faded into the other. Chunks begin on
        even frames of the whole song's spectrogram, and the last one ends with it, so that whole and chunks differ by
        the missing context alone. Without overlap, the paper's setting, they are pieces side by side, each for itself.

        Args:
            blocks: of the mixture, each (channels, samples), float32, full scale = 1.
            callback: as in `separate_magnitude`, with `chunk` (from 0, the first of several that are separated at
                once), `chunks` (None if `samples` is) and `batch` (how many these are) added.
            samples: how many there will be; for `chunks` alone, so about as many will do.
        Yields:
            (first sample, {name: (channels, samples), float32}), one after the other until the end of the song.
        Raises:
            FlowsepError: a sample rate that is not positive, at once; or a block that is wrong.
        """
        if not sample_rate > 0:
            raise FlowsepError(f"sample_rate: expected a positive number of Hz, found {sample_rate}")
        times = oversampling(sample_rate, self.feature)
        cut = cut_of(self.config, self.feature, self.flows.squeeze, times)
        samples_there = samples and math.ceil(samples * times * self.feature.sample_rate / sample_rate)
        chunks = None if samples is None else cut.count(samples_there)

        def masks_of(magnitudes: Tensor, which: tuple[int, ...]) -> Tensor:
            def report(state: dict[str, Any]) -> None:
                cut_off = state["estimates"][..., : magnitudes.shape[-2], : magnitudes.shape[-1]]
                shown = cut_off if len(which) > 1 else cut_off[0]
                shown = dict(zip(self.names, shown.unbind(-3), strict=True))
                callback(state | {"estimates": shown, "chunk": which[0], "chunks": chunks, "batch": len(which)})

            mixture = magnitudes.to(self.flows.device, self.flows.dtype)
            estimates = search(self.flows.pad(mixture), self.flows, self.config, report if callback else None)
            estimates = estimates[..., : mixture.shape[-2], : mixture.shape[-1]]
            return masks(estimates, mixture, self.config).to(magnitudes)

        exact = self.config.wiener and self.config.nonnegative
        return stream_masks(blocks, sample_rate, masks_of, self.feature, cut, self.batch, names=self.names, exact=exact)


def separate(
    mixture: np.ndarray | Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig | None = None,
    sample_rate: int = 44100,
    callback: Callback | None = None,
    *,
    memory_limit: int | None = None,
) -> Stems:
    """`Separator(priors, config)(mixture, sample_rate, callback)`: for one song; see there."""
    return Separator(priors, config, memory_limit=memory_limit)(mixture, sample_rate, callback)


def separate_with_masks(
    mixture: np.ndarray | Tensor,
    sample_rate: int,
    magnitude_function: Callable[[Tensor], Magnitudes],
    *,
    names: tuple[str, ...],
    feature: FeatureConfig | None = None,
    wiener: bool = True,
) -> Stems:
    """What `Separator` does around its core, for any system that maps a magnitude to one magnitude per source.

    Args:
        mixture, sample_rate: as in `separate`.
        magnitude_function: (bins, frames) at the feature's resolution, of the whole song -> {name: (bins, frames)};
            silence skips it.
        names: of the stems that it returns.
        feature: default the paper's, 22,050 Hz, 513 bins, hop 256.
        wiener: ratio masks that sum to one; else each estimate's own magnitude with the mixture's phase.
    """
    feature = feature or FeatureConfig()

    def masks_of(magnitudes: Tensor, _: tuple[int, ...]) -> Tensor:
        by_name = magnitude_function(magnitudes[0])
        estimates = torch.stack([by_name[name] for name in names]).unsqueeze(0)
        return ratio_masks(estimates) if wiener else estimates / magnitudes.unsqueeze(1).clamp_min(FLOOR)

    whole = Cut(length=math.inf, step=math.inf)
    blocks = [_channels(mixture).numpy()]
    stream = stream_masks(blocks, sample_rate, masks_of, feature, whole, 1, names=names, exact=wiener)
    return _collect(stream, names, mixture)


def within_memory(
    limit: int | None, priors: Mapping[str, Prior], config: SeparationConfig
) -> tuple[SeparationConfig, int]:
    """`config` with chunks short enough for a limit, and how many of them fit into it at once: a `Separator`'s.

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
