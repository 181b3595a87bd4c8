"""Score files -> medians, quartiles and costs per system; no number of its own."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from flowsep.files import FlowsepError, sha256

from ..scores.evaluate import CONVENTIONS, COSTS, read_scores
from ..scores.museval_json import KIND
from .text import written

ORACLE = "oracle"  # the supervision of a system that is given the true stems; it competes with nobody
SYSTEM = ["kind", "profile", "data", "system", "variant"]
KEYS = [*SYSTEM, "stem"]
SCORED = [*KEYS, "track", "metric", "convention", "piece"]
COST_HEADS = {  # of `aggregate` -> in tables
    "parameters": "parameters",
    "training_seconds": "training (s)",
    "training_memory_mib": "training memory (MiB)",
    "rtf": "RTF",
    "peak_memory_mib": "memory (MiB)",
}


def load_scores(folder: str | Path) -> pd.DataFrame:
    """All rows of `folder/scores/*.csv`; `folder` is a profile's, such as `results/demo`.

    Raises FlowsepError for a folder without score files, a wrong file, or two rows that score the same thing.
    """
    paths = sorted((Path(folder) / "scores").glob("[!.]*.csv"))  # a dot marks an unfinished file of a killed run
    if not paths:
        raise FlowsepError(f"{Path(folder) / 'scores'}: no score files (*.csv); run the evaluation of a system first")
    frame = read_scores(paths)
    if twice := frame[frame.duplicated(SCORED)].to_dict("records"):
        what = ", ".join(str(twice[0][key]) for key in SCORED if twice[0][key] != "")
        raise FlowsepError(f"{Path(folder) / 'scores'}: two rows score the same ({what}); remove one of the files")
    return frame


def made_of(folder: str | Path) -> dict[str, str]:
    """{file: SHA-256} of the files from which the tables of a profile's folder are made."""
    folder = Path(folder)
    files = [*sorted((folder / "scores").glob("[!.]*.csv")), *folder.parent.glob("published.csv")]
    return {path.relative_to(folder.parent).as_posix(): sha256(path) for path in files}


def aggregate(frame: pd.DataFrame, convention: str, metric: str = "SDR") -> pd.DataFrame:
    """Median and quartiles per system and stem, by the rule of one convention.

    *paper*: over all pieces of all tracks; *sisec18*: over tracks, each with the median over its frames as value.

    Returns:
        a row per kind, profile, data, system, variant and stem with supervision, median, q25, q75 (dB), n (values that
        count), tracks (with a value), failed and silent (tracks with such a row), and the costs of the system:
        parameters, training_seconds, training_memory_mib, rtf and peak_memory_mib, see `costs`.
    Raises:
        FlowsepError: an unknown convention, several at once, or one that no row has.
    """
    rows = select(frame, convention, metric)
    groups = rows.groupby(KEYS, sort=False)
    result = groups.agg(supervision=("supervision", "first"), median=("value", "median"), n=("value", "count"))
    for name, q in (("q25", 0.25), ("q75", 0.75)):
        result[name] = groups["value"].quantile(q)
    for name, status in (("tracks", "ok"), ("failed", "failed"), ("silent", "silent")):
        counts = rows[rows["status"] == status].groupby(KEYS)["track"].nunique()
        result[name] = counts.reindex(result.index, fill_value=0)
    return result.reset_index().merge(_costs(rows).drop(columns="supervision"), "left", SYSTEM)


def ranking(frame: pd.DataFrame, convention: str, sources: Sequence[str]) -> pd.DataFrame:
    """Systems with their own checkpoints, best first: columns system, supervision, mean (dB, of the median SDR).

    The mean is over the sources; a system without a score for one of them is left out. Raises as `aggregate`.
    """
    rows = aggregate(frame[frame["variant"] == ""], convention)
    medians = rows.pivot_table(index=["system", "supervision"], columns="stem", values="median", aggfunc="first")
    means = medians.reindex(columns=list(sources)).mean(axis=1, skipna=False).dropna()
    return means.sort_values(ascending=False).rename("mean").reset_index()


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """The costs of each measured system, the quickest to train first; NaN where unknown.

    Columns: system, supervision, parameters (learnt), training (s), training memory (MiB), RTF (real-time factor:
    seconds of separation over seconds of music, of all separated tracks), memory (MiB: the peak of the process until
    the end of the last separation).
    """
    spent = _costs(frame[frame["kind"] != KIND]).reset_index().rename(columns=COST_HEADS)
    spent["system"] = labels(spent)
    order = ["training (s)", "RTF", "system"]
    return spent.sort_values(order, ignore_index=True)[["system", "supervision", *COST_HEADS.values()]]


def labels(frame: pd.DataFrame) -> pd.Series:
    """The name of each row's system for readers: `written(system)`, or with its variant as in "InstGlow [mine]"."""
    return frame["system"].map(written) + frame["variant"].map(lambda name: f" [{name}]" if name else "")


def select(frame: pd.DataFrame, convention: str, metric: str) -> pd.DataFrame:
    """The rows of one convention and metric. Raises FlowsepError as `aggregate` does."""
    check_convention(convention)
    rows = frame[(frame["convention"] == convention) & (frame["metric"] == metric)]
    if rows.empty:
        known = sorted(set(zip(frame["convention"], frame["metric"], strict=True))) or "none at all"
        raise FlowsepError(f"no scores of {metric} by convention '{convention}'; the files hold {known}")
    return rows


def _costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Supervision and the columns `COST_HEADS`, indexed by `SYSTEM`."""
    groups = frame.groupby(SYSTEM, sort=False)
    spent = groups.agg({"supervision": "first", **dict.fromkeys(COSTS, "first"), "peak_memory_mib": "max"})
    separated = frame.drop_duplicates([*SYSTEM, "track"]).dropna(subset=["seconds", "audio_seconds"])
    sums = separated.groupby(SYSTEM)[["seconds", "audio_seconds"]].sum()
    spent["rtf"] = sums["seconds"] / sums["audio_seconds"]
    return spent[["supervision", *COST_HEADS]]


def check_convention(convention: str) -> None:
    """Raise FlowsepError unless `convention` is one of those that scores are made by."""
    if convention not in tuple(CONVENTIONS):  # a tuple also compares with lists, which have no hash
        one = f"a table holds one convention of {', '.join(CONVENTIONS)}"
        raise FlowsepError(f"{one}, found {convention!r}; they are not comparable")
