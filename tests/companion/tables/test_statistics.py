"""Paired differences, their significance, and the correction for many comparisons."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon
from score_rows import scores

from companion.tables import ALL, differences, paired
from companion.tables.statistics import holm
from flowsep.files import FlowsepError


def duel(seed=0, songs=9):
    """The flow against three rivals of which the last is an oracle; song 0 has no bass, `odd` failed on song 1."""
    rng = np.random.default_rng(seed)
    rows = [
        {"system": system, "track": f"song {k}", "stem": stem, "value": level + rng.normal(), "supervision": kind}
        for system, level, kind in (
            ("flow", 2, "solo"),
            ("good", 3, "mixtures"),
            ("odd", 1, "none"),
            ("o", 9, "oracle"),
        )
        for k in range(songs)
        for stem in ("drums", "bass")
        if not (k == 0 and stem == "bass")
    ]
    frame = scores(*rows)
    frame.loc[(frame["system"] == "odd") & (frame["track"] == "song 1"), "value"] = np.nan
    return frame


def test_differences_are_those_of_the_same_song():
    frame = duel()
    actual = differences(frame, "flow", convention="paper")
    wide = frame.pivot(index=["stem", "track"], columns="system", values="value")
    for row in actual[actual["stem"] != ALL].itertuples():
        expected = wide.loc[(row.stem, row.track), "flow"] - wide.loc[(row.stem, row.track), row.rival]
        assert row.value == pytest.approx(expected, nan_ok=True)
    assert actual["rival"].unique().tolist() == ["odd", "good"]  # the flow is furthest above the first; no oracle
    whole = actual[(actual["stem"] == ALL) & (actual["rival"] == "good")].set_index("track")["value"]
    gaps = wide["flow"] - wide["good"]
    assert whole["song 3"] == pytest.approx((gaps["drums", "song 3"] + gaps["bass", "song 3"]) / 2)
    assert whole["song 0"] == pytest.approx(gaps["drums", "song 0"])


def test_a_song_of_several_pieces_counts_once():
    pieces = [("flow", v, k) for k, v in enumerate((1.0, 5.0, 6.0))] + [
        ("x", v, k) for k, v in enumerate((1.0, 2.0, 9.0))
    ]
    frame = scores(*({"system": s, "track": "one", "stem": "bass", "value": v, "piece": k} for s, v, k in pieces))
    assert differences(frame, "flow", convention="paper")["value"].tolist() == [3, 3]


def test_paired_rows_hold_wilcoxons_p_and_holms():
    frame = duel()
    gaps = differences(frame, "flow", convention="paper")
    actual = paired(frame, "flow", convention="paper")
    assert actual[["rival", "stem"]].to_numpy().tolist() == [
        [r, s] for r in ("odd", "good") for s in (ALL, "drums", "bass")
    ]
    for row in actual.itertuples():
        values = gaps[(gaps["rival"] == row.rival) & (gaps["stem"] == row.stem)]["value"].dropna()
        assert row.p == wilcoxon(values).pvalue and row.n == len(values) and row.better == (values > 0).sum()
        assert (row.median, row.q25, row.q75) == pytest.approx(tuple(values.quantile([0.5, 0.25, 0.75])))
    assert actual.set_index(["rival", "stem"])["n"].to_dict() == {
        **{("odd", ALL): 8, ("odd", "drums"): 8, ("odd", "bass"): 7},
        **{("good", ALL): 9, ("good", "drums"): 9, ("good", "bass"): 8},
    }
    for _, part in actual.groupby("stem"):
        low, high = part["p"].min(), part["p"].max()
        assert part["p_holm"].max() == pytest.approx(min(1, max(2 * low, high)))
        assert part["p_holm"].min() == pytest.approx(min(1, 2 * low))


def test_nothing_between_two_systems_is_no_significance():
    frame = duel()
    same = frame[frame["system"] == "flow"].assign(variant="copy")
    lost = frame[frame["system"] == "odd"].assign(system="lost", value=np.nan)
    actual = paired(pd.concat([frame, same, lost]), "flow", convention="paper").set_index(["rival", "stem"])
    assert actual.loc[("flow [copy]", ALL), ["median", "better", "n", "p", "p_holm"]].tolist() == [0, 0, 9, 1, 1]
    assert actual.loc[("lost", ALL), "n"] == 0 and np.isnan(actual.loc[("lost", ALL), "p"])
    assert np.isnan(actual.loc[("lost", "bass"), "p_holm"])


def test_paired_names_a_system_that_is_not_there():
    with pytest.raises(FlowsepError, match="no scores of 'glow'; the files hold flow, good, odd, o"):
        paired(duel(), "glow", convention="paper")
    with pytest.raises(FlowsepError, match="no scores of SDR by convention 'sisec18'"):
        differences(duel(), "flow", convention="sisec18")
    alone = duel()[lambda rows: rows["system"] == "flow"]
    assert paired(alone, "flow", convention="paper").empty


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.04 -> times 4 3 2 1 -> 0.04 0.06 0.06 0.04 -> never smaller than the one before
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert holm([0.05]) == pytest.approx([0.05])
    assert holm([np.nan, 0.02, 0.04]) == pytest.approx([np.nan, 0.04, 0.04], nan_ok=True)
    assert holm([]).shape == (0,)


def test_holm_keeps_the_family_wise_error():
    """Reject all p <= a in the corrected list: the same as Holm's own step-down rule."""
    for p in np.random.default_rng(1).beta(0.3, 3, (50, 6)):
        ranked = np.sort(p)
        passed = ranked <= 0.05 / np.arange(6, 0, -1)
        rejected = 6 if passed.all() else int(passed.argmin())
        assert (holm(p) <= 0.05).sum() == rejected
