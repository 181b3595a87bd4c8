"""The ceiling of masking: what the best soft mask of a kind would reach, computed from the true stems."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from flowsep.files import FlowsepError
from flowsep.search import ratio_masks
from flowsep.spectrogram import istft, stft

from . import System

N_FFT, HOP = 2048, 512  # at the mixture's own rate


class IdealRatioMask(System):
    """`M_i = |S_i| / sum_j |S_j|` for each channel, on the mixture's STFT and with its phase (SiSEC's IRM1)."""

    name = "ideal_ratio_mask"
    supervision = "oracle"
    needs_references = True

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError without a reference of the mixture's shape for every source."""
        check_references(self.name, self.sources, mixture, references)
        spectrum = spectrum_of(mixture)
        # (channels, sources, bins, frames): each channel has masks of its own
        masks = ratio_masks(torch.stack([spectrum_of(references[source]).abs() for source in self.sources], dim=1))
        stems = istft(masks * spectrum.unsqueeze(1), mixture.shape[-1], N_FFT, HOP).unbind(1)
        return {source: stem.numpy() for source, stem in zip(self.sources, stems, strict=True)}


def check_references(
    name: str, sources: Sequence[str], mixture: np.ndarray, references: Mapping[str, np.ndarray] | None
) -> None:
    """FlowsepError, naming the oracle, unless there is a reference of the mixture's shape for every source."""
    for source in sources:
        if references is None or source not in references:
            raise FlowsepError(f"{name}: no reference of '{source}'; an oracle needs every true stem")
        if references[source].shape != mixture.shape:
            raise FlowsepError(f"{name}: '{source}' has shape {references[source].shape}, the mixture {mixture.shape}")


def spectrum_of(audio: np.ndarray) -> torch.Tensor:
    """The oracles' STFT, single precision: (channels, samples) -> (channels, bins, frames)."""
    return stft(torch.from_numpy(np.ascontiguousarray(audio, np.float32)), N_FFT, HOP)
