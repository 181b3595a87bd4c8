"""(system, track) -> tidy score rows with their provenance; a failed track has rows, too."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowsep.files import MAX_TABLE, FlowsepError, atomic_path, brief, check_size
from flowsep.machine import peak_memory

from ..systems import COSTS
from .score import CONVENTIONS, METRICS, failed_rows, score_track

STATUS = ("ok", "silent", "failed")
FAILURES = (ValueError, OSError, RuntimeError)  # of a bad track, soundfile's errors included; a bug stops the run
_ROW = "profile system variant supervision kind track stem metric convention piece sample_rate value n_frames nan_count"
_ORIGIN = "checkpoint config_hash data data_hash seed git_commit git_dirty code versions device"
SPENT = ("seconds", "audio_seconds", "peak_memory_mib")  # on the separation of a track
COLUMNS = (*_ROW.split(), "status", "reason", *_ORIGIN.split(), *COSTS, *SPENT, "time")  # of a score file, in order
NUMBERS = dict.fromkeys(("piece", "sample_rate", "n_frames", "nan_count", "seed"), int)  # type: dict[str, type]
NUMBERS |= dict.fromkeys(("value", *COSTS, *SPENT), float)  # all other columns hold text
log = logging.getLogger(__name__)


def evaluate_system(
    system: Any,
    tracks: Iterable[Any],
    *,
    sources: Sequence[str],
    provenance: Mapping[str, Any],
    conventions: Sequence[str] = tuple(CONVENTIONS),
    metrics: Sequence[str] = METRICS[:2],
    on_estimates: Callable[[Any, dict[str, np.ndarray]], None] | None = None,
    on_scores: Callable[[Any, list[dict[str, Any]]], None] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Separate and score every track; a track that fails in reading, separation or scoring gives rows 'failed'.

    Args:
        system: of `load_system`; only a system with `needs_references` gets the references.
        tracks: objects with `name`, `sample_rate`, `mixture()` and `stem(source)`, both (channels, samples).
        provenance: of `run_provenance`.
        on_estimates: called with (track, estimates) after each track, to keep excerpts.
        on_scores: called with (track, rows of `score_track`) after each track, to keep the single frames.
    Returns:
        a frame with the columns `COLUMNS`. ValueError, OSError and RuntimeError fail a track; any other exception is a
        bug and is raised. The log names the failed tracks at the end.
    """
    from tqdm.auto import tqdm

    rows, failed = [], []
    for track in tqdm(list(tracks), desc=provenance["system"], unit="track", disable=not progress):
        seconds, length, estimates = math.nan, math.nan, None
        try:
            mixture = track.mixture()
            length = mixture.shape[-1] / track.sample_rate
            references = {source: track.stem(source) for source in sources}
            start = time.perf_counter()
            truth = references if system.needs_references else None
            estimates = system.separate(mixture, track.sample_rate, references=truth)
            seconds = time.perf_counter() - start
            scores = score_track(references, estimates, track.sample_rate, conventions, metrics)
        except FAILURES as error:
            reason = f"{type(error).__name__}: {error}"
            scores, estimates = failed_rows(dict.fromkeys(sources, reason), conventions, metrics), None
        failed += sorted({f"{track.name}: {row['reason']}" for row in scores if row["status"] == "failed"})
        measured = {"track": track.name, "seconds": round(seconds, 3), "audio_seconds": round(length, 3)}
        measured["peak_memory_mib"] = peak_memory()
        measured["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        rows += [{**provenance, **score, **measured} for score in scores]
        if on_estimates is not None and estimates is not None:
            on_estimates(track, estimates)
        if on_scores is not None:
            on_scores(track, scores)
    if failed:
        log.warning("%s: %d failed:\n  %s", provenance["system"], len(failed), "\n  ".join(failed))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def unavailable_rows(
    reason: str,
    tracks: Iterable[Any],
    *,
    sources: Sequence[str],
    provenance: Mapping[str, Any],
    conventions: Sequence[str] = tuple(CONVENTIONS),
    metrics: Sequence[str] = METRICS[:2],
) -> pd.DataFrame:
    """The rows of a system that cannot run here: every track failed for this reason. See `evaluate_system`."""
    when = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "peak_memory_mib": peak_memory()}
    empty = failed_rows(dict.fromkeys(sources, reason), conventions, metrics)
    rows = [
        {**provenance, **row, **when, "track": track.name, "seconds": math.nan} for track in tracks for row in empty
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_scores(frame: pd.DataFrame, path: str | Path) -> None:
    """Write score rows as CSV, columns in the order of `COLUMNS`, whole or not at all.

    Control characters in text, such as the error messages of programs, become spaces: a lone carriage return would end
    a row.
    """
    frame = frame.replace({name: r"[\x00-\x1f\x7f-\x9f]+" for name in COLUMNS if name not in NUMBERS}, " ", regex=True)
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, columns=list(COLUMNS), index=False, float_format="%.6g", lineterminator="\n")


def read_scores(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """The rows of one or several files of `write_scores`. FlowsepError names the file and the wrong column."""
    paths = [paths] if isinstance(paths, str | Path) else paths
    valid = {"status": STATUS, "convention": tuple(CONVENTIONS), "metric": METRICS}
    return pd.concat([read_table(path, COLUMNS, NUMBERS, valid) for path in paths], ignore_index=True)


def read_table(
    path: str | Path, columns: Sequence[str], numbers: Mapping[str, type], valid: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """A CSV file of text with exactly these `columns`, the last of which is never empty.

    numbers: column -> int or float; valid: column -> the allowed values. FlowsepError names the file and the wrong
    column.
    """
    path = Path(path)
    check_size(path, MAX_TABLE)
    try:  # a track may be called "NA"; no suffix makes pandas unpack an archive
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, compression=None)
    except (OSError, ValueError) as error:
        raise FlowsepError(f"{path}: not a readable CSV file ({brief(error)})") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first cells as names of the rows
        raise FlowsepError(f"{path}: its rows have more cells than its header; complete the header or make it anew")
    for what, names in (("lacks", set(columns) - set(frame)), ("has the unknown", set(frame) - set(columns))):
        if names:
            raise FlowsepError(f"{path}: {what} column {brief(min(names))}; expected {', '.join(columns)}")
    if cut := int((frame[columns[-1]] == "").sum()):
        last = f"{cut} row(s) end before column '{columns[-1]}', or column '{columns[-1]}' is empty"
        raise FlowsepError(f"{path}: {last}; no row counts without it, so complete the file or make it anew")
    for column, kind in numbers.items():
        try:
            frame[column] = pd.to_numeric(frame[column]).astype(kind)
        except (ValueError, TypeError, OverflowError) as error:
            reason = brief(error)
            raise FlowsepError(f"{path}: column '{column}' holds something that is no number ({reason})") from error
    for column, allowed in valid.items():
        if unknown := set(frame[column]) - set(allowed):
            raise FlowsepError(f"{path}: column '{column}' holds {brief(min(unknown))}; valid: {', '.join(allowed)}")
    return frame[list(columns)]
