"""Estimates on disk, of any systems -> score rows, hardly slower than reading the files.

One system: `<folder>/<track>/<stem>.wav`; several: `<folder>/<system>/<track>/<stem>.wav`. As in musdb and museval, a
folder `test` may hold the tracks. Other suffixes than .wav, `flowsep.audio.SUFFIXES`, do as well.
"""

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowsep.audio import read_audio
from flowsep.files import FlowsepError, is_text, safe_name, sha256
from flowsep.machine import processor_name

from ..codehash import code_hash
from ..data.tracks import Dataset, Track, audio_files
from ..profile import EvaluationConfig
from ..provenance import git_state, package_versions
from ..systems import COSTS
from .evaluate import COLUMNS, FAILURES, SPENT
from .museval_json import digest
from .score import failed_rows, track_scorer

KIND = "measured, estimates on disk"  # of the rows


def find_systems(folder: str | Path, dataset: Dataset) -> dict[str, Path]:
    """{system: folder}: `folder` itself, or the folders right below it, that hold a folder of any test song.

    Raises FlowsepError if no folder does.
    """
    folder, tracks = Path(folder), dataset.subset("test")
    candidates = [folder, *sorted(path for path in folder.glob("[!.]*") if is_text(path.name))]
    holders = {path.resolve().name: path for path in candidates if any(_track_folder(path, track) for track in tracks)}
    if folder in holders.values():
        return {folder.resolve().name: folder}
    systems = {name: path for name, path in holders.items() if path.resolve() != dataset.root.resolve()}
    if not systems:
        expected = f"<system>/<track>/<stem>.wav, where a track is one of {len(tracks)}, such as '{tracks[0].name}'"
        raise FlowsepError(f"{folder}: no estimates there; expected {expected}")
    return systems


def score_estimates(
    systems: Mapping[str, Path],
    dataset: Dataset,
    *,
    sources: Sequence[str] | None = None,
    evaluation: EvaluationConfig | None = None,
    profile: str = "references",
    jobs: int | None = None,
    progress: bool = True,
) -> dict[str, pd.DataFrame]:
    """Score the estimates of all systems for the test songs: {system: a frame with the columns `evaluate.COLUMNS`}.

    The references of a song are read, mixed down and resampled once for all systems. An estimate that is missing,
    unreadable, or of another shape or rate than the reference gives rows with status 'failed'; an unreadable reference
    fails the whole song. `checkpoint` is a digest of all files of the system. Costs are unknown: NaN.

    Args:
        systems: of `find_systems`.
        sources: stems to score; default: all stems of each song.
        evaluation: conventions and metrics; default: `EvaluationConfig()`.
        profile: name of the profile in the rows.
        jobs: songs at once, one thread each (numpy, soxr and libsndfile release the lock), which holds the references
            and the estimates of one system: 1 GB for four sources of 5 minutes. Default: one per processor, at most 4.
    """
    from tqdm.auto import tqdm

    evaluation = evaluation or EvaluationConfig()
    tracks = dataset.subset("test")
    with ThreadPoolExecutor(jobs or min(os.cpu_count() or 1, 4)) as pool:
        done = pool.map(lambda track: _score(track, systems, sources or track.sources, evaluation), tracks)
        songs = list(tqdm(done, total=len(tracks), unit="track", disable=not progress))
    origin = {"profile": profile, "variant": "", "supervision": "", "kind": KIND, "config_hash": "", "seed": 0}
    origin |= {"data": dataset.name, "data_hash": dataset.hash, "device": processor_name(), **git_state()}
    origin |= {
        "code": code_hash("companion.scores.score:track_scorer"),
        "versions": package_versions(),
        **dict.fromkeys((*COSTS, *SPENT), math.nan),
    }
    frames = {}
    for name in systems:
        rows = [row for song in songs for row in song[name][0]]
        files = [file for song in songs for file in song[name][1]]
        own = origin | {"system": name, "checkpoint": f"{len(files)} files:{digest(files)}"}
        frames[name] = pd.DataFrame([own | row for row in rows], columns=list(COLUMNS))
    return frames


def _score(
    track: Track, systems: Mapping[str, Path], sources: Sequence[str], evaluation: EvaluationConfig
) -> dict[str, tuple[list[dict[str, Any]], list[str]]]:
    """{system: (the rows of one song, an entry per file for `digest`)}."""
    rules = (evaluation.conventions, evaluation.metrics)
    scored, score, length = {}, None, math.nan
    try:
        references = {source: track.stem(source) for source in sources}
        length = round(track.duration, 3)
        score = track_scorer(references, track.sample_rate, *rules)
    except FAILURES as error:
        lost = failed_rows(dict.fromkeys(sources, f"{type(error).__name__}: {error}"), *rules)
    for name, folder in systems.items():
        estimates, reasons, files = {}, {}, []
        for source in sources if score else ():
            try:
                path = _find(folder, track, source)
                estimates[source] = _read(path, track.sample_rate)
                files.append(f"{track.name}/{source}:{sha256(path)}")
            except FAILURES as error:
                reasons[source] = str(error)
        rows = score(estimates, reasons) if score else lost
        when = {"track": track.name, "audio_seconds": length, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        scored[name] = ([row | when for row in rows], files)
    return scored


def _track_folder(folder: Path, track: Track) -> Path | None:
    """The folder of a system's estimates of a song, or None."""
    places = (folder / subset / name for subset in ("", "test") for name in (track.name, safe_name(track.name)))
    return next((place for place in places if place.is_dir()), None)


def _find(folder: Path, track: Track, source: str) -> Path:
    place = _track_folder(folder, track)
    if place is None:
        raise FlowsepError(f"{folder / track.name}: no such folder")
    there = audio_files(place)
    if files := there.get(source) or there.get(safe_name(source)):
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise FlowsepError(f"{place}: holds {source} twice ({names}); remove all but one")
        return files[0]
    raise FlowsepError(f"{place / source}.wav: no such file")


def _read(path: Path, sample_rate: int) -> np.ndarray:
    audio, rate = read_audio(path)
    if rate != sample_rate:
        raise FlowsepError(f"{path}: at {rate} Hz, its reference at {sample_rate} Hz; make them the same")
    return audio
