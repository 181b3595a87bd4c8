"""The ceiling of linear filters: the Wiener filter of all channels, its covariances taken from the true stems."""

import numpy as np
import torch

from flowsep.spectrogram import istft

from . import System, library
from .oracle import HOP, N_FFT, check_references, spectrum_of

BLOCK = 64  # frames filtered together: a song's filters at once would need gigabytes
FLOOR = 1e-10  # of the covariances, relative to the loudest bin: a rank-one mixture could not be inverted otherwise


class MultichannelWiener(System):
    """`S_i = v_i R_i (sum_j v_j R_j)^-1 X` in every bin and frame, from the true stems' STFT `S_i`; as SiSEC's MWF.

    `v_i[k, m]`, the power of a source, is the mean of `|S_i|^2` over the channels; `R_i[k]`, its place among them, is
    `sum_m S_i S_i^H / sum_m v_i`. So a mask of power ratios tells sources of one frequency apart by where they stand,
    and with one channel it is that mask. What the floor of the covariance takes goes to all stems alike: they sum to
    the mixture. The filters are norbert's.

    References: Duong, Vincent, Gribonval 2010; Stöter, Liutkus, Ito 2018 (SiSEC).
    """

    name = "multichannel_wiener"
    supervision = "oracle"
    needs_references = True

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError without norbert, or as the ratio mask's."""
        norbert = library("norbert")
        check_references(self.name, self.sources, mixture, references)
        x = _frames_first(mixture)
        loudest = float(np.abs(x).max()) or 1.0
        models = [norbert.get_local_gaussian_model(_frames_first(references[s]) / loudest, FLOOR) for s in self.sources]
        powers = np.stack([power for power, _ in models], axis=-1)
        places = np.concatenate([place for _, place in models]).transpose(1, 2, 3, 0)  # sources last, for norbert
        floor = FLOOR * np.eye(len(mixture))
        estimates = np.empty((len(self.sources), *x.shape), np.complex64)
        for start in range(0, len(x), BLOCK):
            part = slice(start, start + BLOCK)
            inverse = np.linalg.inv(norbert.get_mix_model(powers[part], places) + floor)
            for i in range(len(self.sources)):
                gain = norbert.wiener_gain(powers[part, :, i], places[..., i], inverse)
                estimates[i, part] = norbert.apply_filter(x[part], gain)
            estimates[:, part] += (x[part] - estimates[:, part].sum(axis=0)) / len(self.sources)
        spectra = torch.from_numpy(estimates).permute(0, 3, 2, 1)
        stems = istft(spectra, mixture.shape[-1], N_FFT, HOP).numpy()
        return dict(zip(self.sources, stems, strict=True))


def _frames_first(audio: np.ndarray) -> np.ndarray:
    """(channels, samples) -> STFT (frames, bins, channels) in double precision, as norbert wants it."""
    return spectrum_of(audio).permute(2, 1, 0).to(torch.complex128).numpy()
