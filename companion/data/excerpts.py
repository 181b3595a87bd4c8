"""Excerpts of songs, kept for the book: the seconds in which all sources sound."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowsep.audio import read_audio, write_audio
from flowsep.files import FlowsepError, safe_name

from ..profile import Profile
from .tracks import Track

REFERENCES = "references"  # the folder of the true stems among those of the systems


def keep_excerpt(profile: Profile, track: Track, stems: Mapping[str, np.ndarray], folder: str | Path) -> None:
    """Write the `listen_seconds` of `track` in which all references sound most to `<folder>/<track>/<stem>.flac`."""
    start, stop = excerpt(track, profile.sources, profile.listen_seconds)
    for name, audio in stems.items():
        path = Path(folder) / safe_name(track.name) / f"{safe_name(name)}.flac"
        write_audio(path, audio[:, start:stop], track.sample_rate)


def excerpt(track: Any, sources: tuple[str, ...], seconds: float) -> tuple[int, int]:
    """(start, stop) in samples, whole seconds: where the geometric mean of the references' energies is largest.

    References that are silent from end to end do not count.
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
    """What `keep_excerpt` left of one track by one system, {stem: audio}: empty where it failed or was not available.

    The folders of other systems are not touched: jobs at the side of this one may be writing there.
    """
    return {path.stem: read_audio(path)[0] for path in _excerpt(Path(folder) / "audio" / system / safe_name(track))}


def _excerpt(place: Path) -> list[Path]:
    # a leading dot marks what is half-written, or was when its writer was killed
    return sorted(path for path in place.glob("*.flac") if not path.name.startswith("."))


def load_excerpts(folder: str | Path) -> tuple[dict[str, dict[str, dict[str, np.ndarray]]], int]:
    """All that `keep_excerpt` left below a profile's folder: ({track: {system: {stem: audio}}}, sample rate).

    Raises FlowsepError where there is nothing, or files disagree in rate.
    """
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    rates = set()
    for place in sorted(path for path in (Path(folder) / "audio").glob("*/*") if path.is_dir()):
        read = {path.stem: read_audio(path) for path in _excerpt(place)}
        rates |= {rate for _, rate in read.values()}
        if read:
            found.setdefault(place.name, {})[place.parent.name] = {stem: audio for stem, (audio, _) in read.items()}
    if not rates:
        raise FlowsepError(
            f"{Path(folder) / 'audio'}: no excerpts yet; run notebooks/01_data.ipynb and 05_separate.ipynb"
        )
    if len(rates) > 1:
        raise FlowsepError(
            f"{Path(folder) / 'audio'}: excerpts of several sample rates ({sorted(rates)}); remove one set"
        )
    return found, rates.pop()
