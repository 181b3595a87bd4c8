"""The parts of a separation error: the other stems that leak into an estimate.

Taught in `notebooks/15_what_it_cannot_do.ipynb`.
"""

import itertools
from collections.abc import Mapping

import numpy as np

REST = "none of them"  # the part of an error that no other stem explains
SECONDS = 0.25  # of a block
OCTAVES = (0, 150, 300, 600, 1200, 2400, 4800, 9600)  # Hz, where bands begin


def leakage(
    references: Mapping[str, np.ndarray], estimate: np.ndarray, source: str, sample_rate: int
) -> dict[str, float]:
    """Shares of `||E||^2`, E = estimate - reference, that the other stems explain: `E ~ sum_j g_j S_j`.

    The gains g are real, by least squares in each block of a quarter of a second and an octave, since masks change as
    fast. The share of stem j is `g_j <E, S_j>`; the sum of the shares is the energy that all stems explain together,
    and a share may be slightly negative if stems are alike. The remainder, with the key `REST`, is distortion of the
    source and artefacts.

    Args:
        references: the true stems, each (channels, samples); estimate: like the stem of `source`; sample_rate: in Hz.
    Returns:
        {name of each other stem that sounds, and REST: share}, with sum one; {} for an estimate without error.
    """
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    hop = 256 * max(1, round(sample_rate / 22050))
    transform = ShortTimeFFT(hann(4 * hop, sym=False), hop, sample_rate)
    others = [name for name, audio in references.items() if name != source and audio.any()]
    error = transform.stft(np.asarray(estimate, float) - references[source])  # (channels, bins, frames)
    stems = [transform.stft(np.asarray(references[name], float)) for name in others]
    whole, frames = np.square(np.abs(error)).sum(), max(1, round(SECONDS * sample_rate / hop))
    if not whole:
        return {}
    energies = np.zeros(len(others))
    edges = [int(np.searchsorted(transform.f, start)) for start in OCTAVES] + [len(transform.f)]
    for start in range(0, error.shape[-1], frames):
        for low, high in itertools.pairwise(edges):
            block = np.s_[..., low:high, start : start + frames]
            target, parts = _real(error[block]), [_real(stem[block]) for stem in stems]
            matrix = np.stack(parts, axis=1) if parts else np.zeros((len(target), 0))
            products = matrix.T @ target
            energies += products * np.linalg.lstsq(matrix.T @ matrix, products, rcond=1e-9)[0]
    shares = {name: float(energy / whole) for name, energy in zip(others, energies, strict=True)}
    return shares | {REST: 1 - sum(shares.values())}


def _real(spectrum: np.ndarray) -> np.ndarray:
    """Real and imaginary parts in one vector, so that least squares gives real gains."""
    return np.concatenate([spectrum.real.ravel(), spectrum.imag.ravel()])
