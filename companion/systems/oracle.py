"""The ceiling of masking: what the best soft mask of a kind would reach, computed from the true stems."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from flowsep.files import FlowsepError
from flowsep.search import ratio_masks
from flowsep.spectrogram import istft, stft

from . import System

N_FFT, HOP = 2048, 512  # at the mixture's own rate
BLOCK = 128 * HOP  # samples filtered together: a song's spectra at once would need gigabytes

# spectra of the mixture (channels, bins, frames) and the stems (sources, ...) -> of the estimates (sources, ...)
Filter = Callable[[Tensor, Tensor], Tensor]


class IdealRatioMask(System):
    """`M_i = |S_i| / sum_j |S_j|` for each channel, on the mixture's STFT and with its phase (SiSEC's IRM1)."""

    name = "ideal_ratio_mask"
    supervision = "oracle"
    needs_references = True

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError without a reference of the mixture's shape for every source."""
        check_references(self.name, self.sources, mixture, references)

        def masked(spectrum: Tensor, true: Tensor) -> Tensor:
            return ratio_masks(true.abs().transpose(0, 1)).transpose(0, 1) * spectrum  # each channel has its own masks

        return filtered(mixture, {source: references[source] for source in self.sources}, masked)


def filtered(mixture: np.ndarray, references: Mapping[str, np.ndarray], estimate: Filter) -> dict[str, np.ndarray]:
    """{source: stem} by a filter that knows the true stems and looks at every frame alone."""
    stems = np.empty((len(references), *mixture.shape), np.float32)
    for span, own, _ in _spans(mixture.shape[-1]):
        true = torch.stack([spectrum_of(audio[:, span]) for audio in references.values()])
        part = istft(estimate(spectrum_of(mixture[:, span]), true), mixture[:, span].shape[-1], N_FFT, HOP)
        stems[..., span.start + own.start : span.start + own.stop] = part[..., own].numpy()
    return dict(zip(references, stems, strict=True))


def spectra_of(audio: np.ndarray) -> Iterator[Tensor]:
    """The frames of `spectrum_of` a song, block by block."""
    for span, _, frames in _spans(audio.shape[-1]):
        yield spectrum_of(audio[:, span])[..., frames]


def _spans(samples: int) -> Iterator[tuple[slice, slice, slice]]:
    """The blocks of a song with a window of context on either side, and within them the block's samples and frames."""
    for start in range(0, samples, BLOCK):
        stop, left = min(start + BLOCK, samples), max(start - N_FFT, 0)
        last = None if stop == samples else (stop - left) // HOP
        yield slice(left, stop + N_FFT), slice(start - left, stop - left), slice((start - left) // HOP, last)


def check_references(
    name: str, sources: Sequence[str], mixture: np.ndarray, references: Mapping[str, np.ndarray] | None
) -> None:
    """FlowsepError, naming the oracle, unless there is a reference of the mixture's shape for every source."""
    for source in sources:
        if references is None or source not in references:
            raise FlowsepError(f"{name}: no reference of '{source}'; an oracle needs every true stem")
        if references[source].shape != mixture.shape:
            raise FlowsepError(f"{name}: '{source}' has shape {references[source].shape}, the mixture {mixture.shape}")


def spectrum_of(audio: np.ndarray) -> Tensor:
    """The oracles' STFT, single precision: (channels, samples) -> (channels, bins, frames)."""
    return stft(torch.from_numpy(np.ascontiguousarray(audio, np.float32)), N_FFT, HOP)
