"""The paper's training pieces: solo recordings without their long silences, cut into some seconds each."""

import math

import numpy as np

from ..profile import PiecesConfig

BLOCK_SECONDS = 0.02  # the level is measured in blocks as long


def remove_silences(audio: np.ndarray, sample_rate: int, config: PiecesConfig) -> np.ndarray:
    """The samples of `audio` outside of long silences, joined: sqrt(mean x^2) < 10^(silence_db / 20) in each block.

    Blocks of 20 ms lie side by side from the first sample (the last one may be shorter); full scale is 1. Silent blocks
    in a row that last longer than `max_silence_seconds` together go, all of them; every other sample stays.

    Args:
        audio: (samples,).
        sample_rate: Hz.
        config: `silence_db`, `max_silence_seconds`.
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
    """(start, stop) of pieces side by side, each uniformly from `seconds` long; the rest is one if not too short."""
    low, high = (round(seconds * sample_rate) for seconds in config.seconds)
    lengths = np.random.default_rng(seed).integers(low, high, math.ceil(samples / low), endpoint=True)
    ends = np.cumsum(lengths)
    bounds = np.concatenate([[0], ends[ends < samples], [samples]])
    pieces = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    return [(start, stop) for start, stop in pieces if stop - start >= config.shortest * sample_rate]


def held_out(pieces: int, share: float, seed: int) -> np.ndarray:
    """(pieces,) of booleans: true for round(share * pieces) of them, one at least, drawn by `seed`."""
    chosen = np.random.default_rng(seed).permutation(pieces)[: max(1, round(share * pieces))]
    return np.isin(np.arange(pieces), chosen)
