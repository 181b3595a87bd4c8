"""The songs of all trials: loud excerpts of the validation songs, stereo, scored by SiSEC 2018's convention."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from companion.data.excerpts import excerpt
from companion.data.tracks import Dataset, Track
from companion.profile import Profile
from companion.scores.metrics import frame_sdr


@dataclass(frozen=True)
class Excerpt:
    """Some seconds of a song: references by source, (channels, samples) each, and their sum."""

    name: str
    references: dict[str, np.ndarray]
    sample_rate: int

    @property
    def mixture(self) -> np.ndarray:
        return sum(self.references.values())

    def score(self, estimates: Mapping[str, np.ndarray]) -> dict[str, float]:
        """SDR of each source in dB: the median over frames of a second in which all sources sound."""
        names = list(self.references)
        frames = frame_sdr([self.references[n] for n in names], [estimates[n] for n in names], self.sample_rate)
        return dict(zip(names, np.nanmedian(frames, axis=1).tolist(), strict=True))


def excerpts(profile: Profile, dataset: Dataset, seconds: float, songs: int) -> list[Excerpt]:
    """The loudest `seconds` of the first `songs` validation songs. No test song is touched."""
    return [_cut(profile, track, seconds) for track in dataset.subset("valid")[:songs]]


def _cut(profile: Profile, track: Track, seconds: float) -> Excerpt:
    start, stop = excerpt(track, profile.sources, seconds)
    references = {source: track.stem(source)[:, start:stop] for source in profile.sources}
    return Excerpt(track.name, references, track.sample_rate)
