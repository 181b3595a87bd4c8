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

from .arrays import as_channels, check_rate, like
from .config import FeatureConfig, SeparationConfig
from .files import FlowsepError
from .machine import keep_freed_memory
from .memory import within_memory
from .prior import Prior
from .search import FLOOR, Callback, Flows, Magnitudes, config_for, masks, ratio_masks, search
from .stream import cut_for_masks, cut_of, magnitude_of, oversampling, stream_masks

BLOCK = 2**17  # samples of an array that are taken at once
Stems = dict[str, Any]


class Separator:
    """Stems of a mixture: s_i = iSTFT(M_i X), M_i from `search` on the mixture's magnitude.

    The mixture is analysed at a multiple of the priors' sample rate that covers its own (44.1 kHz for 22.05 kHz
    priors), with windows longer by the same factor, so that bins and frames match the prior's. Channels share one mask,
    computed from the root mean square of their magnitudes, which costs one separation; with `config.stereo` it also
    counts where each source is between them. For mono input all this is exactly the paper's method. Above the prior's
    band (11 kHz) each stem gets the share that it has in the top quarter of the band.

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
            mixture: (channels, samples) or (samples,), numpy or torch, full scale = 1; integers have their own.
            sample_rate: of the mixture, Hz.
            callback: as in `stream`.
        Returns:
            {name: stem} of the mixture's shape, sample rate, type and device, detached, float32 for integers; with
            `config.wiener` and `nonnegative` they sum to the mixture.
        Raises:
            FlowsepError: see `flowsep.arrays.as_channels`.
        """
        channels = as_channels(mixture)
        blocks = (block.numpy() for block in channels.split(BLOCK, dim=-1))
        return _collect(self.stream(blocks, sample_rate, callback, samples=channels.shape[-1]), channels, mixture)

    def stream(
        self,
        blocks: Iterable[np.ndarray],
        sample_rate: int = 44100,
        callback: Callback | None = None,
        *,
        samples: int | None = None,
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Separate a song of any length, block by block, in the memory of a few chunks.

        Chunks of `config.chunk_seconds` share `config.overlap_seconds` with their neighbours: the outer quarters
        of the overlap are dropped, and its middle half is cross-faded. Chunks begin on
        even frames of the whole song's spectrogram, and the last one ends with it, so that whole and chunks differ by
        the missing context alone. Without overlap, the paper's setting, each piece stands alone.

        Args:
            blocks: of the mixture, each (channels, samples), float32, full scale = 1.
            callback: as in `separate_magnitude`, with `chunk` (from 0, the first of several that are separated at
                once), `chunks` (None if `samples` is) and `batch` (how many these are) added.
            samples: how many there will be; only for the number of chunks, so an estimate is enough.
        Yields:
            (first sample, {name: (channels, samples), float32}), one after the other until the end of the song.
        Raises:
            FlowsepError: an invalid sample rate, at once; a block that is wrong, or has other channels than the first;
                or one chunk that takes more memory than a GPU has. Of several at once it first tries half as many.
        """
        check_rate(sample_rate)
        times = oversampling(sample_rate, self.feature)
        cut = cut_of(self.config, self.feature, self.flows.squeeze, times)
        samples_there = samples and math.ceil(samples * times * self.feature.sample_rate / sample_rate)  # type: Any
        chunks = None if samples is None else cut.count(samples_there)

        def masks_of(magnitudes: Tensor, which: tuple[int, ...]) -> Tensor:
            done: list[Tensor] = []
            while len(done) < len(which):
                part = slice(len(done), len(done) + self.batch)
                try:
                    done += search_masks(magnitudes[part], which[part])
                except torch.OutOfMemoryError as error:
                    if len(which[part]) == 1:
                        cure = "lower `chunk_seconds`, or set `recompute: true`"
                        what = f"a chunk of {self.config.chunk_seconds:g} s takes more memory than the GPU has left"
                        raise FlowsepError(f"{what}; {cure}") from error
                    self.batch = len(which[part]) // 2  # from now on
            return torch.stack(done)

        def search_masks(magnitudes: Tensor, which: tuple[int, ...]) -> Tensor:
            def report(state: dict[str, Any]) -> None:  # where there is a callback
                cut_off = state["estimates"][..., : magnitudes.shape[-2], : magnitudes.shape[-1]]
                shown = cut_off if len(which) > 1 else cut_off[0]
                shown = dict(zip(self.names, shown.unbind(-3), strict=True))
                callback(state | {"estimates": shown, "chunk": which[0], "chunks": chunks, "batch": len(which)})  # type: ignore[misc]

            mixture = magnitudes.to(self.flows.device, self.flows.dtype)
            estimates = search(self.flows.pad(mixture), self.flows, self.config, report if callback else None)
            estimates = estimates[..., : mixture.shape[-2], : mixture.shape[-1]]
            return masks(estimates, mixture, self.config).to(magnitudes)

        exact = self.config.wiener and self.config.nonnegative
        settings = {"names": self.names, "exact": exact, "stereo": self.config.stereo if exact else 0}  # type: Any
        return stream_masks(blocks, sample_rate, masks_of, self.feature, cut, self.batch, **settings)


def separate(
    mixture: np.ndarray | Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig | None = None,
    sample_rate: int = 44100,
    callback: Callback | None = None,
    *,
    memory_limit: int | None = None,
) -> Stems:
    """`Separator(priors, config)(mixture, sample_rate, callback)` in one line, for one song; see `Separator`."""
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
    feature, channels = feature or FeatureConfig(), as_channels(mixture)
    cut = cut_for_masks(feature, oversampling(sample_rate, feature))
    blocks = [block.numpy() for block in channels.split(BLOCK, dim=-1)]
    whole = magnitude_of(blocks, sample_rate, feature, cut)
    by_name = magnitude_function(whole) if channels.any() else dict.fromkeys(names, whole)

    def masks_of(magnitudes: Tensor, which: tuple[int, ...]) -> Tensor:
        first = min(which[0] * cut.step // cut.hop, whole.shape[-1] - magnitudes.shape[-1])  # the last ends the song
        frames = slice(first, first + magnitudes.shape[-1])
        estimates = torch.stack([by_name[name][:, frames] for name in names]).unsqueeze(0)
        return ratio_masks(estimates) if wiener else estimates / magnitudes.unsqueeze(1).clamp_min(FLOOR)

    stream = stream_masks(blocks, sample_rate, masks_of, feature, cut, 1, names=names, exact=wiener)
    return _collect(stream, channels, mixture)


def _collect(stream: Iterable[tuple[int, Mapping[str, np.ndarray]]], channels: Tensor, mixture: Any) -> Stems:
    """The blocks of `stream` as whole stems, of the mixture's shape and type."""
    out: dict[str, np.ndarray] = {}
    for start, stems in stream:
        for name, stem in stems.items():
            out.setdefault(name, np.empty(channels.shape, np.float32))[:, start : start + stem.shape[1]] = stem
    return {name: like(stem, mixture) for name, stem in out.items()}
