"""The ceiling of linear filters: the Wiener filter of all channels, its covariances taken from the true stems."""

from typing import Any  # noqa: F401  # Any: in type comments

import numpy as np
import torch

from . import System, library
from .oracle import check_references, filtered, spectra_of

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
        true = {source: references[source] for source in self.sources}
        loudest = max(float(x.abs().max()) for x in spectra_of(mixture)) or 1.0
        places = np.stack([_place(audio, loudest) for audio in true.values()], axis=-1)  # sources last, for norbert
        floor = FLOOR * np.eye(len(mixture))

        def wiener(spectrum: torch.Tensor, spectra: torch.Tensor) -> torch.Tensor:
            x = _frames_first(spectrum)
            powers = np.stack([_powers(_frames_first(own) / loudest) for own in spectra], axis=-1)
            inverse = np.linalg.inv(norbert.get_mix_model(powers, places) + floor)
            gains = (norbert.wiener_gain(powers[..., i], places[..., i], inverse) for i in range(len(true)))
            estimates = np.stack([norbert.apply_filter(x, gain) for gain in gains])
            estimates += (x - estimates.sum(axis=0)) / len(true)
            return torch.from_numpy(estimates.astype(np.complex64)).permute(0, 3, 2, 1)

        return filtered(mixture, true, wiener)


def _place(audio: np.ndarray, loudest: float) -> np.ndarray:
    """`R_i` of a true stem, (bins, channels, channels)."""
    covariance, power = 0.0, FLOOR  # type: Any, Any
    for spectrum in spectra_of(audio):
        x = _frames_first(spectrum) / loudest
        covariance += np.einsum("tkc,tkd->kcd", x, x.conj())
        power += _powers(x).sum(axis=0)
    return covariance / power[:, None, None]


def _powers(x: np.ndarray) -> np.ndarray:
    """`v_i`, (frames, bins, channels) -> (frames, bins)."""
    return np.mean(np.abs(x) ** 2, axis=-1)


def _frames_first(spectrum: torch.Tensor) -> np.ndarray:
    """(channels, bins, frames) -> (frames, bins, channels) in double precision, as norbert wants it."""
    return spectrum.permute(2, 1, 0).to(torch.complex128).numpy()
