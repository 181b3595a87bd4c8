"""Excerpts of songs for the book: the seconds in which all sources sound."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowsep.audio import read_audio, write_audio
from flowsep.files import FlowsepError, safe_name

from ..profile import Profile
from .tracks import Track

REFERENCES = "references"  # the folder of the true stems, beside the folders of the systems


def keep_excerpt(profile: Profile, track: Track, stems: Mapping[str, np.ndarray], folder: str | Path) -> None:
    """Write an excerpt of `listen_seconds` of each stem to `<folder>/<track>/<stem>.flac`; see `excerpt`."""
    start, stop = excerpt(track, profile.sources, profile.listen_seconds)
    for name, audio in stems.items():
        path = Path(folder) / safe_name(track.name) / f"{safe_name(name)}.flac"
        write_audio(path, audio[:, start:stop], track.sample_rate)


def excerpt(track: Any, sources: tuple[str, ...], seconds: float) -> tuple[int, int]:
    """(start, stop) in samples, at a whole second, where the geometric mean of the sources' energies is largest.

    Sources that are silent throughout do not count.
    """
    rate = track.sample_rate
    energies = [np.square(track.stem(source)).sum(axis=0, dtype=np.float64) for source in sources]
    samples = len(energies[0])
    length = min(samples, round(seconds * rate))
    sums = [np.concatenate([[0.0], np.cumsum(energy)]) for energy in energies if energy.any()]
    starts = np.arange(0, samples - length + 1, rate)
    score = sum((np.log(total[starts + length] - total[starts] + 1e-9) for total in sums), np.zeros(len(starts)))
    start = int(starts[score.argmax()])
    return start, start + length


def load_excerpt(folder: str | Path, system: str, track: str) -> dict[str, np.ndarray]:
    """The excerpts of one track by one system, {stem: audio}; empty if the system failed.

    Reads no other system's folder, since other jobs may be writing there.
    """
    return {path.stem: read_audio(path)[0] for path in _excerpt(Path(folder) / "audio" / system / safe_name(track))}


def _excerpt(place: Path) -> list[Path]:
    # half-written files have a leading dot
    return sorted(path for path in place.glob("*.flac") if not path.name.startswith("."))


def load_excerpts(folder: str | Path) -> tuple[dict[str, dict[str, dict[str, np.ndarray]]], int]:
    """All excerpts below a profile's folder: ({track: {system: {stem: audio}}}, sample rate).

    Raises FlowsepError if there are none, or their sample rates differ.
    """
    root, rates = Path(folder) / "audio", set()
    excerpts: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for place in sorted(path for path in root.glob("*/*") if path.is_dir()):
        stems = {path.stem: read_audio(path) for path in _excerpt(place)}
        rates |= {rate for _, rate in stems.values()}
        if stems:
            excerpts.setdefault(place.name, {})[place.parent.name] = {name: audio for name, (audio, _) in stems.items()}
    if not rates:
        raise FlowsepError(f"{root}: no excerpts yet; run notebooks/01_data.ipynb and 05_separate.ipynb")
    if len(rates) > 1:
        raise FlowsepError(f"{root}: excerpts of several sample rates ({sorted(rates)}); remove one set")
    return excerpts, rates.pop()
