"""Published scores: of the paper, of the systems' own publications, of the SiSEC 2018 campaign."""

from pathlib import Path

import pandas as pd

from ..scores.evaluate import CONVENTIONS, METRICS, read_table

PUBLISHED = ("system", "supervision", "backbone", "dataset", "convention", "stem", "metric", "value", "kind", "source")
KINDS = ("reported by the paper", "reported by its authors", "recomputed")
# data.kind -> published dataset
SAME = {"musdb18": "MUSDB18", "musdb18-7s": "MUSDB18", "musdb18hq": "MUSDB18", "slakh": "Slakh2100-submix"}
WHOLE = "MUSDB18, whole songs; measured here: 7 s of each"  # what stands beside the table of the sample
CAMPAIGN = ("system", "track", "target", "SDR", "SIR", "SAR", "ISR")
# SiSEC 2018: kinds by the submissions' own descriptions (is_blind, additional_training_data)
_SUBMISSIONS = {
    "oracle": "IBM1 IBM2 IRM1 IRM2 MWF",
    "supervised": "HEL1 JY1 JY2 JY3 MDL1 MDLT RGT1 RGT2 STL2 TAK1 UHL1 UHL2 WK",
    "supervised, more songs": "STL1 TAK2 TAK3 TAU1 UHL3",
    "blind": "2DFT HPLP HPSS MELO REP1 REP2 RPCA",
    "unprocessed": "MIX",
}
SUBMISSIONS = {system: kind for kind, names in _SUBMISSIONS.items() for system in names.split()}


def load_published(path: str | Path) -> pd.DataFrame:
    """The published numbers, one per row, with their source. FlowsepError names the file and the wrong column."""
    valid = {"convention": tuple(CONVENTIONS), "metric": METRICS, "kind": KINDS}
    return read_table(path, PUBLISHED, {"value": float}, valid)


def same_data(published: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of `published` for the songs of a profile's `data.kind`, which may stand beside the measured rows.

    MUSDB18 and MUSDB18-HQ hold the same songs, their sample 7 seconds of each. Nothing was published on the embedded
    band or on folders of stems.
    """
    rows = published[published["dataset"] == SAME.get(kind, "")]
    return rows.assign(dataset=WHOLE) if kind == "musdb18-7s" else rows


def same_songs(frame: pd.DataFrame, others: pd.DataFrame) -> pd.Series:
    """Mask of `others`: the rows of systems whose songs are all among the songs of `frame`."""
    known = others["track"].isin(set(frame["track"]))
    return known.groupby(others["system"]).transform("all")


def load_campaign(path: str | Path) -> pd.DataFrame:
    """SiSEC 2018, a row per system, track and stem: kind of system, and the median over frames of SDR, SIR, SAR, ISR.

    FlowsepError names a missing column, a column without numbers, or a system that did not take part.
    """
    numbers = dict.fromkeys(CAMPAIGN[3:], float)
    frame = read_table(path, CAMPAIGN, numbers, {"system": tuple(SUBMISSIONS)}).rename(columns={"target": "stem"})
    frame.insert(1, "kind", frame["system"].map(SUBMISSIONS))
    return frame
