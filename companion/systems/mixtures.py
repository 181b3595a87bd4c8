"""What discriminative networks learn from: mixtures with their stems, as they are or put together at random."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

Stems = Sequence[Sequence[np.ndarray]]  # source -> song -> (channels, samples); without samples where it has none


class MixtureSampler:
    """Batch k: (batch, sources, channels, samples) of stems g_i s_i, whose sum over sources is the mixture.

    With the probability `song_share` an item is a crop of one song as it is. Otherwise each of its stems is drawn by
    itself, a song and a moment of it, scaled by a uniform gain, and its two channels are swapped every other time
    (Uhlich et al. 2017). A batch depends on (seed, step) alone, so that a resumed training sees what an uninterrupted
    one does.

    Args:
        stems: source -> song -> (channels, samples); a song shorter than a crop is followed by silence.
        length: samples of a crop.
    """

    def __init__(
        self,
        stems: Stems,
        length: int,
        *,
        batch: int,
        song_share: float = 0.0,
        gains: tuple[float, float] = (1.0, 1.0),
        seed: int = 0,
    ):
        self.stems, self.length, self.size, self.seed = stems, length, batch, seed
        self.song_share, self.gains = song_share, gains
        self.channels = len(stems[0][0])
        samples = np.array([[song.shape[1] for song in songs] for songs in stems])
        self.starts = np.where(samples > 0, np.maximum(samples - length, 0) + 1, 0)  # (sources, songs): all moments
        self.song_starts = self.starts.max(axis=0)

    def batch(self, step: int) -> np.ndarray:
        """The stems of one step, float32."""
        rng = np.random.default_rng([self.seed, step])
        shape = (self.size, len(self.stems), self.channels, self.length)
        pinned = torch.cuda.is_available()  # memory that a GPU reads by itself, and that torch keeps for later batches
        batch = torch.empty(shape, pin_memory=True).numpy() if pinned else np.empty(shape, np.float32)
        for item in batch:
            if rng.random() < self.song_share:
                song, start = _draw(rng, self.song_starts)
                place(item, self.stems, song, start)
                continue
            for stem, songs, starts in zip(item, self.stems, self.starts, strict=True):
                song, start = _draw(rng, starts)
                piece = songs[song][:, start : start + self.length]
                gain, swapped = np.float32(rng.uniform(*self.gains)), rng.random() < 0.5
                np.multiply(piece[::-1] if swapped else piece, gain, out=stem[:, : piece.shape[1]])
                stem[:, piece.shape[1] :] = 0
        return batch


def validation_batches(stems: Stems, length: int, batch: int, mixes: str, seed: int) -> Iterator[np.ndarray]:
    """The held-out songs cut side by side, or as many random sums of their stems, the same ones at every call."""
    samples = [max(song.shape[1] for song in songs) for songs in zip(*stems, strict=True)]
    places = [(k, start) for k, n in enumerate(samples) for start in range(0, max(n - length, 0) + 1, length)]
    random = MixtureSampler(stems, length, batch=batch, seed=seed)
    for step, first in enumerate(range(0, len(places), batch)):
        if mixes == "random":
            yield random.batch(step)
            continue
        chosen = places[first : first + batch]
        crops = np.zeros((len(chosen), len(stems), random.channels, length), np.float32)
        for item, (song, start) in zip(crops, chosen, strict=True):
            place(item, stems, song, start)
        yield crops


def place(item: np.ndarray, stems: Stems, song: int, start: int) -> None:
    """Copy what all stems of a song hold from `start` on into (sources, channels, samples)."""
    for target, songs in zip(item, stems, strict=True):
        piece = songs[song][:, start : start + target.shape[-1]]
        target[:, : piece.shape[-1]] = piece
        target[:, piece.shape[-1] :] = 0


def _draw(rng: np.random.Generator, starts: np.ndarray) -> tuple[int, int]:
    """(song, start), every moment of every song as likely."""
    moment = rng.integers(starts.sum())
    song = int(np.searchsorted(np.cumsum(starts), moment, side="right"))
    return song, int(moment - starts[:song].sum())
