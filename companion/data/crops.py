"""Training crops, drawn at random from solo recordings by the seed and the step."""

from collections.abc import Sequence

import numpy as np

from flowsep.files import FlowsepError

from .recordings import Recording

GRID = 1024  # samples between the starts at which the level is known in advance


class CropSampler:
    """Batches of g x + u / 32768, where x are audible crops drawn at random, g random gains and u uniform noise.

    A batch depends on the seed and the step alone, so that a resumed training sees the same crops.

    Args:
        segments: arrays or `Recording`s (samples,); one shorter than a crop is padded with zeros.
        length: of a crop, in samples.
        batch: crops per batch.
        in_turn: draw every segment once before any segment again, in a new order for each pass, and a crop anywhere in
            it. Otherwise all moments of the material are equally likely.
        gain_db: g is uniform in dB, within +-gain_db.
        silence_db: crops of a lower RMS are left out (dB of full scale).
        seed: of all draws.
        dequantise: add u in [0, 1), one 16-bit step (paper, section "Prior").
        source: name of the material in the FlowsepError that is raised when no crop is audible.
    """

    def __init__(
        self,
        segments: Sequence[np.ndarray | Recording],
        length: int,
        *,
        batch: int,
        in_turn: bool = False,
        gain_db: float = 0.0,
        silence_db: float = -50.0,
        seed: int = 0,
        dequantise: bool = True,
        source: str = "material",
    ):
        self.segments, self.length, self.size, self.seed = segments, length, batch, seed
        self.gain_db, self.floor, self.dequantise = gain_db, 10 ** (silence_db / 20), dequantise
        self.grid, self.in_turn = min(GRID, length), in_turn
        starts = [self._audible_starts(segment) for segment in segments]
        which = np.repeat(np.arange(len(starts)), [len(grid) for grid in starts])
        if not len(which):
            raise FlowsepError(f"{source}: no crop of {length} samples reaches {silence_db} dB; is it silent?")
        self.candidates = np.stack([which, np.concatenate(starts)], axis=1)
        _, self.first, self.count = np.unique(which, return_index=True, return_counts=True)  # of each segment

    def batch(self, step: int, rows: slice = slice(None)) -> np.ndarray:
        """The crops of one training step, float32 (batch, samples), or some rows of them, side by side."""
        rng = np.random.default_rng([self.seed, step])
        own = range(self.size)[rows]
        chosen = self._in_turn(rng, step) if self.in_turn else rng.choice(self.candidates, self.size)
        moves = rng.integers(self.grid, size=self.size)
        crops = np.empty((len(own), self.length), np.float32)
        for crop, (which, start), move in zip(crops, chosen[rows], moves[rows], strict=True):
            segment = self.segments[which]
            crop[:] = _crop(segment, min(start + move, max(len(segment) - self.length, 0)), self.length)
            if _rms(crop) < self.floor:  # audible at the grid point, but not beside it
                crop[:] = _crop(segment, start, self.length)
        gains = 10 ** (rng.uniform(-self.gain_db, self.gain_db, (self.size, 1)) / 20)
        crops *= gains[rows].astype(np.float32)
        if self.dequantise:
            _skip(rng, own.start * self.length)
            noise = rng.random(crops.shape, np.float32)
            noise /= 32768
            crops += noise
        return crops

    def _in_turn(self, rng: np.random.Generator, step: int) -> np.ndarray:
        audible = len(self.first)
        turn, place = np.divmod(np.arange(step * self.size, (step + 1) * self.size), audible)
        orders = {t: np.random.default_rng([self.seed, t, 1]).permutation(audible) for t in set(turn.tolist())}
        drawn = np.array([orders[t][p] for t, p in zip(turn.tolist(), place, strict=True)])
        return self.candidates[self.first[drawn] + rng.integers(self.count[drawn])]

    def _audible_starts(self, segment: np.ndarray | Recording) -> np.ndarray:
        """Grid points with an audible crop, by a running sum of the energy of its whole blocks."""
        energy = np.add.reduceat(np.square(segment, dtype=np.float64), np.arange(0, len(segment), self.grid))
        running = np.concatenate([[0.0], np.cumsum(energy)])
        starts = np.arange(max(len(segment) - self.length, 0) // self.grid + 1)
        ends = np.minimum(starts + self.length // self.grid, len(energy))
        return starts[running[ends] - running[starts] >= self.floor**2 * self.length] * self.grid


def validation_crops(segments: Sequence[np.ndarray | Recording], length: int, silence_db: float = -50.0) -> np.ndarray:
    """All audible crops side by side from the start of each segment, without gain and noise: (crops, samples)."""
    crops = (_crop(x, start, length) for x in segments for start in range(0, max(len(x) - length, 0) + 1, length))
    audible = [crop for crop in crops if _rms(crop) >= 10 ** (silence_db / 20)]
    if not audible:
        raise FlowsepError(f"validation: no crop of {length} samples reaches {silence_db} dB; choose other tracks")
    return np.stack(audible)


def _crop(segment: np.ndarray | Recording, start: int, length: int) -> np.ndarray:
    crop = np.asarray(segment[start : start + length], np.float32)
    return crop if len(crop) == length else np.pad(crop, (0, length - len(crop)))


def _skip(rng: np.random.Generator, count: int) -> None:
    """Let `rng` go on as if it had drawn so many numbers of 32 bits; it draws them two by two."""
    if count:
        count -= rng.random(rng.bit_generator.state["has_uint32"], np.float32).size  # the second of a pair
        rng.bit_generator.advance(count // 2)  # type: ignore[attr-defined]  # of numpy's default
        rng.random(count % 2, np.float32)


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.dot(audio, audio) / len(audio)))
