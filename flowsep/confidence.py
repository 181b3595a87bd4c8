"""How far a second of a stem can be trusted, from the stems alone."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from .files import atomic_path
from .spectrogram import stft

WINDOW, HOP = 0.186, 0.0465  # seconds
SILENT = 1e-6  # root mean square below which a second has no numbers
# true ratio = SLOPE expected + OFFSET, and how far it lies below and above in nine of ten seconds (dB): fitted to
# results/research/confidence.csv, 24 real songs that the priors had not heard
SLOPE, OFFSET, BELOW, ABOVE = 1.05, 0.76, 4.5, 3.6
COLUMNS = ("second", "stem", "level_db", "expected_db", "low_db", "high_db")


def expected_ratio(stems: Tensor, sample_rate: int) -> Tensor:
    """10 log10(sum |S|^2 / sum |S| |X - S|), the expected ratio of a stem's energy to the energy of its error, in dB.

    S and X are the spectra of a stem and of the sum of all. A source with the share m of a bin, and a phase that nobody
    knows, leaves the error m (1 - m) |X|^2 behind a mask: the variance of a Wiener filter. It is 0 dB where a stem is a
    coin's toss, and grows with what all priors agree on. `SLOPE` and `OFFSET` are not applied.

    Shape:
        (sources, channels, samples) -> (sources,); NaN for a silent stem.
    """
    spectra = stft(stems, round(WINDOW * sample_rate), round(HOP * sample_rate)).abs()
    rest = (stems.sum(dim=0) - stems).contiguous()
    others = stft(rest, round(WINDOW * sample_rate), round(HOP * sample_rate)).abs()
    kept, lost = spectra.square().sum(dim=(1, 2, 3)), (spectra * others).sum(dim=(1, 2, 3))
    ratio = 10 * (kept / lost.clamp_min(1e-12)).clamp_min(1e-12).log10()
    return torch.where(stems.square().mean(dim=(1, 2)).sqrt() > SILENT, ratio, torch.nan)


class ConfidenceFile:
    """A CSV file with a row per second and stem, written whole at the end: see `COLUMNS`.

    `level_db` is the level of the stem in the mixture; `expected_db` the expected ratio of the stem's energy to its
    error's; in nine of ten seconds the true one lies between `low_db` and `high_db`. A stem that the song lacks has
    no true energy: everything in it is error, 0 dB. All are empty where a stem is silent.

    Args:
        path: of the file.
        sample_rate: of the stems, Hz.
    """

    def __init__(self, path: Path, sample_rate: int):
        self.path, self.sample_rate = path, sample_rate
        self.rows: list[tuple[int | str, ...]] = []
        self.waiting: dict[str, np.ndarray] = {}
        self.second = 0

    def add(self, stems: Mapping[str, np.ndarray]) -> None:
        """Take the next block of each stem, (channels, samples) each; at least half a second at the end counts."""
        joined = self.waiting if self.waiting else {name: stem[:, :0] for name, stem in stems.items()}
        self.waiting = {name: np.concatenate([joined[name], stem], axis=1) for name, stem in stems.items()}
        while next(iter(self.waiting.values())).shape[1] >= self.sample_rate:
            self._measure(self.sample_rate)

    def _measure(self, samples: int) -> None:
        stems = torch.from_numpy(np.stack([stem[:, :samples] for stem in self.waiting.values()]).astype(np.float32))
        self.waiting = {name: stem[:, samples:] for name, stem in self.waiting.items()}
        energy, whole = stems.square().sum(dim=(1, 2)), stems.sum(dim=0).square().sum().clamp_min(1e-12)
        levels = 10 * (energy / whole).clamp_min(1e-12).log10()
        for name, level, ratio in zip(self.waiting, levels, expected_ratio(stems, self.sample_rate), strict=True):
            expected = SLOPE * ratio.item() + OFFSET
            numbers = (level.item(), expected, expected - BELOW, expected + ABOVE)
            shown = ("" if math.isnan(expected) else f"{number:.2f}" for number in numbers)
            self.rows.append((self.second, name, *shown))
        self.second += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        left = next(iter(self.waiting.values())).shape[1] if self.waiting else 0
        if left and (2 * left >= self.sample_rate or not self.rows):
            self._measure(left)
        with atomic_path(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *self.rows])
