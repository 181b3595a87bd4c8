"""A system of one's own: every source sounds like its mean spectrum, all the time."""

import time

import torch

from companion.data.segments import solo_segments
from companion.systems import System
from flowsep import FeatureConfig
from flowsep.machine import peak_memory
from flowsep.separator import separate_with_masks
from flowsep.spectrogram import stft
from flowsep.weights import read_safetensors, save_safetensors


class MeanSpectra(System):
    """`M_i[k] = P_i[k] / sum_j P_j[k]`, P_i the mean power spectrum of source i."""

    supervision = "solo"

    def fit(self, dataset, profile, folder):
        self.folder, spectra, start = folder, {}, time.monotonic()
        for source in self.sources:
            solos = solo_segments(dataset, "train", source, FeatureConfig())
            powers = [stft(torch.tensor(x)).abs().square().mean(dim=1) for x in solos]
            spectra[source] = torch.stack(powers).mean(dim=0).unsqueeze(1)
        costs = {"parameters": sum(map(len, spectra.values()))}
        costs |= {"training_seconds": time.monotonic() - start, "training_memory_mib": peak_memory()}
        save_safetensors(*self.checkpoints(), spectra, {"provenance": costs})

    def separate(self, mixture, sample_rate, references=None):
        _, spectra = read_safetensors(*self.checkpoints())

        def explain(magnitude):  # (bins, frames) -> {source: the same}
            return {source: spectra[source].expand_as(magnitude) for source in self.sources}

        return separate_with_masks(mixture, sample_rate, explain, names=self.sources)

    def checkpoints(self):
        return [self.folder / f"{self.name}.safetensors"]
