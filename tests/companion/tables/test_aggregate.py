"""Scores of all songs as one number a system and stem, by each convention, and what a system cost."""

import numpy as np
import pandas as pd
import pytest
from score_rows import scores, spending

from companion.scores.evaluate import write_scores
from companion.scores.museval_json import KIND
from companion.tables import aggregate, costs, load_scores, ranking, table
from flowsep.files import FlowsepError


def test_the_paper_rule_is_the_median_over_all_pieces():
    frame = scores(
        *({"track": "a", "piece": i, "value": v, "stem": "bass"} for i, v in enumerate([1.0, 2.0, 9.0])),
        {"track": "b", "value": 4.0, "stem": "bass"},
        {"track": "c", "value": np.nan, "stem": "bass", "status": "silent"},
        {"track": "d", "value": np.nan, "stem": "bass", "status": "failed"},
        {"track": "b", "value": 50.0, "stem": "bass", "metric": "SI-SDR"},
        {"track": "b", "value": 50.0, "stem": "bass", "convention": "sisec18"},
    )
    (actual,) = aggregate(frame, "paper").to_dict("records")
    assert actual["median"] == 3.0 and (actual["q25"], actual["q75"]) == (1.75, 5.25)
    assert (actual["n"], actual["tracks"], actual["silent"], actual["failed"]) == (4, 2, 1, 1)
    (actual,) = aggregate(frame, "sisec18").to_dict("records")
    assert (actual["median"], actual["n"], actual["tracks"]) == (50, 1, 1)
    assert aggregate(frame, "paper", "SI-SDR")["median"].tolist() == [50]


def test_systems_are_ranked_by_name_without_variants_and_those_that_lack_a_source():
    def rows(system, bass, drums, **more):
        return [{"system": system, "stem": s, "value": v, **more} for s, v in (("bass", bass), ("drums", drums))]

    frame = scores(
        *rows("instglow", 2.0, 4.0),
        *rows("open_unmix_random", 5.0, 4.0, supervision="random mixes"),
        *rows("instglow", 9.0, 9.0, variant="mine"),
        *rows("nmf", 7.0, np.nan),
    )
    actual = ranking(frame, "paper", ("bass", "drums")).set_index("system")
    assert actual["mean"].to_dict() == {"open_unmix_random": 4.5, "instglow": 3.0}
    assert list(actual.index) == ["open_unmix_random", "instglow"]
    assert actual.supervision["open_unmix_random"] == "random mixes"


def test_load_scores_reads_a_folder_and_refuses_what_counts_twice(frame, tmp_path):
    with pytest.raises(FlowsepError, match="no score files"):
        load_scores(tmp_path)
    for system, part in frame.groupby("system"):
        write_scores(part, tmp_path / "scores" / f"{system}.csv")
    back = load_scores(tmp_path)
    pd.testing.assert_frame_equal(
        table(back, convention="paper", sources=("bass", "drums")),
        table(frame, convention="paper", sources=("bass", "drums")),
    )
    write_scores(frame[:1], tmp_path / "scores" / "again.csv")
    with pytest.raises(FlowsepError, match=r"two rows score the same .*flow.*bass.*one"):
        load_scores(tmp_path)


def test_costs_are_those_of_the_songs_that_were_separated():
    theirs = scores({"system": "net", "kind": KIND, "data": "theirs", "track": "song 0", "stem": "bass", "value": 1.0})
    actual = costs(pd.concat([spending(), theirs])).set_index("system")
    assert list(actual.index) == ["mask", "flow", "net", "their own"]  # by the seconds of training, unknown ones last
    assert actual["RTF"].to_dict() == pytest.approx({"mask": 0.3 / 60, "flow": 2.5, "net": 6 / 30, "their own": 0.05})
    assert actual["parameters"]["net"] == 266e6 and actual["supervision"]["flow"] == "solo"
    assert actual.loc["flow", ["training (s)", "training memory (MiB)", "memory (MiB)"]].tolist() == [641.2, 1000, 800]
    assert np.isnan(actual.loc["their own", "training (s)"])
    columns = ["parameters", "training_seconds", "training_memory_mib", "rtf", "peak_memory_mib"]
    row = aggregate(spending(), "paper").set_index(["system", "stem"]).loc[("net", "drums"), columns]
    assert row.tolist() == pytest.approx([266e6, 12345, 2000, 0.2, 900])
