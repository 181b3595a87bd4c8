"""The paper's training pieces: solo recordings without long silences, cut into lengths of 7 to 10 seconds."""

import math

import numpy as np

from ..profile import PiecesConfig

BLOCK_SECONDS = 0.02  # of a block, in which the level is measured


def remove_silences(audio: np.ndarray, sample_rate: int, config: PiecesConfig) -> np.ndarray:
    """Cut long silences out of a recording; a block is silent if sqrt(mean x^2) < 10^(silence_db / 20).

    Blocks of 20 ms lie side by side from the first sample; the last may be shorter. A run of silent blocks goes if it
    is longer than `max_silence_seconds`. All other samples stay.

    Args:
        audio: (samples,), full scale 1.
        sample_rate: in Hz.
        config: `silence_db` and `max_silence_seconds`.
    """
    starts = np.arange(0, len(audio), round(BLOCK_SECONDS * sample_rate))
    if not len(starts):
        return audio
    bounds = np.append(starts, len(audio))
    energy = np.add.reduceat(np.square(audio, dtype=np.float64), starts)
    silent = energy < 10 ** (config.silence_db / 10) * np.diff(bounds)
    turns = bounds[np.flatnonzero(np.diff(silent, prepend=False, append=False))]  # where a silence begins or ends
    keep = np.ones(len(audio), bool)
    for start, stop in turns.reshape(-1, 2):
        keep[start:stop] = stop - start <= config.max_silence_seconds * sample_rate
    return audio[keep]


def cut(samples: int, sample_rate: int, config: PiecesConfig, seed: int | list[int]) -> list[tuple[int, int]]:
    """(start, stop) of pieces side by side, of lengths uniform in `seconds`; a rest shorter than `shortest` goes."""
    low, high = (round(seconds * sample_rate) for seconds in config.seconds)
    lengths = np.random.default_rng(seed).integers(low, high, math.ceil(samples / low), endpoint=True)
    ends = np.cumsum(lengths)
    bounds = np.concatenate([[0], ends[ends < samples], [samples]])
    pieces = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    return [(start, stop) for start, stop in pieces if stop - start >= config.shortest * sample_rate]


def held_out(pieces: int, share: float, seed: int) -> np.ndarray:
    """Boolean (pieces,), true for max(1, round(share * pieces)) of them, drawn by `seed`."""
    chosen = np.random.default_rng(seed).permutation(pieces)[: max(1, round(share * pieces))]
    return np.isin(np.arange(pieces), chosen)
