"""Paired differences between systems, and which of them are significant."""

import math
from typing import Any

import numpy as np
import pandas as pd

from flowsep.files import FlowsepError

from .aggregate import ORACLE, labels, select

ALL = "all"  # the sources of a song together


def differences(frame: pd.DataFrame, system: str, *, convention: str) -> pd.DataFrame:
    """SDR of `system` - SDR of each rival in dB, song by song.

    Columns: rival, stem, track, value (NaN without an SDR of both).

    The rivals that lie furthest below come first. A song's value is the median over its pieces. The stem 'all' is the
    mean over the sources of a song. Their values depend on each other, so a test may count songs, not stems. Oracles,
    which see the true stems, are no rivals.

    Raises:
        FlowsepError: as `aggregate`, or no row of `system`.
    """
    rows = select(frame, convention, "SDR")
    rows = rows.assign(system=labels(rows))
    if system not in set(rows["system"]):
        raise FlowsepError(f"no scores of '{system}'; the files hold {', '.join(rows['system'].unique())}")
    rows = rows[(rows["supervision"] != ORACLE) | (rows["system"] == system)]
    wide = rows.groupby(["stem", "track", "system"], sort=False)["value"].median().unstack(sort=False)
    gaps = -wide.drop(columns=system).sub(wide[system], axis=0)
    whole = gaps.groupby("track").mean()
    order = whole.median().sort_values(ascending=False, kind="stable").index
    tidy = pd.concat([pd.concat({ALL: whole}, names=["stem"]), gaps])[order].melt(var_name="rival", ignore_index=False)
    return tidy.reset_index()[["rival", "stem", "track", "value"]]


def paired(frame: pd.DataFrame, system: str, *, convention: str) -> pd.DataFrame:
    """`differences` summed up: a row per rival and stem.

    Columns: rival, stem ('all' or a source), median, q25, q75 (dB), better (songs on which `system` is above), n
    (songs), p (Wilcoxon's signed-rank test, two-sided), p_holm (p after `holm` for the number of rivals on that stem).
    """
    groups = differences(frame, system, convention=convention).groupby(["rival", "stem"], sort=False)
    values = groups["value"]
    summary = values.agg(median="median", n="count", p=_signed_rank)
    summary["q25"], summary["q75"] = values.quantile(0.25), values.quantile(0.75)
    summary["better"] = values.agg(lambda gaps: int((gaps > 0).sum()))
    summary["p_holm"] = summary.groupby("stem")["p"].transform(holm)
    return summary.reset_index()[["rival", "stem", "median", "q25", "q75", "better", "n", "p", "p_holm"]]


def holm(p: Any) -> np.ndarray:
    """max over j <= k of (m - j + 1) p_(j), at most 1: the p values of m tests, corrected by Holm's step-down method.

    The chance of one false finding or more among the tests stays below the level (Holm, Scandinavian Journal of
    Statistics 6, 1979). NaN stays NaN and does not count as a test.
    """
    p = np.asarray(p, dtype=float)
    order = p.argsort()  # NaN last
    factors = np.count_nonzero(~np.isnan(p)) - np.arange(len(p))
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * factors).clip(max=1)
    return corrected


def _signed_rank(values: pd.Series) -> float:
    """p of Wilcoxon's signed-rank test: 1 if all differences are 0, NaN without any difference."""
    from scipy.stats import wilcoxon

    values = values.dropna()
    return float(wilcoxon(values).pvalue) if values.any() else (1.0 if len(values) else math.nan)
