"""Scores in museval's own files, `<system>/test/<track>.json`: written for our estimates, read for other systems.

They hold BSS Eval 4 in frames of 1 s, the convention of SiSEC 2018 and no other, and no sample rate.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowsep.files import FlowsepError, brief, is_text, read_json, sha256, write_text

from .evaluate import COLUMNS, CONVENTIONS, COSTS, SPENT

KIND = "museval JSON"  # of the rows that `read_museval` gives
FRAMES = ("SDR", "SIR", "ISR", "SAR")  # metrics that museval needs in every frame


def write_museval(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the frames of one song, as museval's `TrackStore` does, to `path`, usually `<system>/test/<track>.json`.

    rows: of `score_track`. Infinite values become NaN. A stem without SDR, SIR, ISR and SAR by convention sisec18 is
    left out; if no stem has them, no file is written.
    """
    from museval import TrackStore

    path = Path(path)
    store = TrackStore(path.stem)
    for stem in dict.fromkeys(row["stem"] for row in rows):
        mine = (row for row in rows if row["stem"] == stem and row["convention"] == "sisec18")
        frames = {row["metric"]: row["frames"] for row in mine if row["status"] != "failed"}
        if set(FRAMES) <= set(frames) and not np.isnan(frames["SDR"]).all():
            store.add_target(stem, {metric: frames[metric] for metric in FRAMES})
    if store.scores["targets"]:
        store.validate()
        write_text(path, store.json)


def read_museval(folder: str | Path) -> pd.DataFrame:
    """Score rows (`evaluate.COLUMNS`) of all `<folder>/<system>/test/<track>.json`, to stand beside measured rows.

    A value is the median over the frames that are numbers. Rows have kind 'museval JSON', the folder's name as `data`,
    and `<file>:<first 12 digits of the SHA-256>` as `checkpoint`; the files name no supervision.

    Raises:
        FlowsepError: no such file, a file of another kind, or frames other than 1 s long and 1 s apart: such numbers do
            not compare with convention sisec18.
    """
    paths = sorted(Path(folder).glob("*/test/*.json"))
    if not paths:
        raise FlowsepError(f"{folder}: no museval scores; expected <system>/test/<track>.json below it")
    rows = [row for path in paths for row in _rows(path)]
    fixed = {"kind": KIND, "data": Path(folder).resolve().name, "convention": "sisec18", "piece": 0}
    fixed |= {"sample_rate": CONVENTIONS["sisec18"], "seed": 0} | dict.fromkeys((*COSTS, *SPENT), math.nan)
    return pd.DataFrame(rows).assign(**fixed).reindex(columns=list(COLUMNS), fill_value="")


def digest(checkpoints: Sequence[str]) -> str:
    """First 12 digits of the SHA-256 over the sorted `checkpoint` entries: one name for many files."""
    return hashlib.sha256("\n".join(sorted(set(checkpoints))).encode()).hexdigest()[:12]


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    content = read_json(path)
    try:
        targets = {target["name"]: target["frames"] for target in content["targets"]}
        grids = {
            name: np.array([(frame["time"], frame["duration"]) for frame in frames], dtype=float)
            for name, frames in targets.items()
        }
        scores = {
            (name, metric): np.array([frame["metrics"][metric] for frame in frames], dtype=float)
            for name, frames in targets.items()
            for metric in FRAMES
        }
        flat = all(grid.shape in ((0,), (len(grid), 2)) for grid in grids.values())
        if not flat or any(x.ndim != 1 for x in scores.values()) or not all(isinstance(name, str) for name in targets):
            raise ValueError("targets are not named by text, or their frames hold more than single numbers")
        if not all(map(is_text, (*path.parts[-3:], *targets))):
            raise ValueError("the name of the file or of a target is not UTF-8 or holds control characters")
    except (OverflowError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {brief(error)}"
        raise FlowsepError(f"{path}: not a score file of museval 4 ({reason}); write it with museval anew") from error
    if len(targets) < len(content["targets"]):
        raise FlowsepError(f"{path}: two targets of one name; remove one of them")
    for name, grid in grids.items():
        if len(grid) and not np.allclose(grid, [(time, 1) for time in range(len(grid))]):
            frames = f"frames of {brief(name)} start at {grid[:3, 0].tolist()} s, and the first lasts {grid[0, 1]} s"
            raise FlowsepError(f"{path}: {frames}; convention sisec18 has frames of 1 s every second: score with those")
    origin = {"system": path.parts[-3], "track": path.stem, "checkpoint": f"{path.name}:{sha256(path)[:12]}"}
    version = content.get("museval_version", "")
    origin["versions"] = f"museval {version if isinstance(version, str) else ''}".strip()
    for (name, metric), values in scores.items():
        counted = values[~np.isnan(values)]
        row = {"stem": name, "metric": metric, "value": float(np.median(counted)) if len(counted) else math.nan}
        row |= {"n_frames": len(values), "nan_count": len(values) - len(counted)}
        yield origin | row | {"status": "ok" if len(counted) else "silent"}
