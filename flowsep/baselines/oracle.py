"""The ceiling of masking: what the best soft mask of a kind would reach, computed from the true stems."""

import numpy as np
import torch

from ..files import FlowsepError
from ..separate import ratio_masks
from ..spectrogram import istft, stft
from . import System

N_FFT, HOP = 2048, 512  # at the mixture's own rate


class IdealRatioMask(System):
    """`M_i = |S_i| / sum_j |S_j|` for each channel, on the mixture's STFT and with its phase (SiSEC's IRM1)."""

    name = "ideal_ratio_mask"
    supervision = "oracle"
    needs_references = True

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError without a reference of the mixture's shape for every source."""
        for source in self.sources:
            if references is None or source not in references:
                raise FlowsepError(f"ideal_ratio_mask: no reference of '{source}'; an oracle needs every true stem")
            if references[source].shape != mixture.shape:
                raise FlowsepError(
                    f"ideal_ratio_mask: '{source}' has shape {references[source].shape}, the mixture {mixture.shape}"
                )
        spectrum = _spectrum(mixture)
        masks = ratio_masks({source: _spectrum(references[source]).abs() for source in self.sources})
        samples = mixture.shape[-1]
        return {source: istft(mask * spectrum, samples, N_FFT, HOP).numpy() for source, mask in masks.items()}


def _spectrum(audio: np.ndarray) -> torch.Tensor:
    return stft(torch.from_numpy(np.ascontiguousarray(audio, np.float32)), N_FFT, HOP)
