"""Tracks that fail in the middle of fifty: rows with a reason, all others as if nothing had been."""

import numpy as np
import pandas as pd
import tiny
from helpers import write_hq_tree

from companion import load_dataset
from companion.graph.steps import score_system
from companion.profile import load_profile
from companion.provenance import run_provenance
from companion.scores.evaluate import evaluate_system
from companion.systems import load_system
from companion.tables import table_markdown

MOODY = """
from companion.systems import System
import pytest

pytestmark = pytest.mark.slow

class Moody(System):
    name, supervision, seen = "moody", "none", 0

    def separate(self, mixture, sample_rate, references=None):
        self.seen += 1
        if self.seen == 17:
            raise RuntimeError("the seventeenth is too much")
        return {source: mixture / len(self.sources) for source in self.sources}
"""


def test_two_of_fifty_fail_and_the_others_keep_their_scores(tmp_path, inject, monkeypatch):
    songs = write_hq_tree(tmp_path / "songs", train=2, test=50, seconds=1.0)
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.begin(tmp_path / "project", songs, systems={"moody": {"class": "moody.py:Moody"}})
    (tmp_path / "project" / "moody.py").write_text(MOODY)
    profile = load_profile("tiny")
    dataset = load_dataset(profile.data, profile.seed)
    tracks = dataset.subset("test")
    whole = load_system("mixture", sources=profile.sources)
    origin = run_provenance(profile, whole, dataset)
    expected = evaluate_system(whole, tracks, sources=profile.sources, provenance=origin, progress=False)
    broken = tracks[25].files_of("vocals")[0]
    broken.write_bytes(broken.read_bytes()[:1000])  # after all files were looked at
    rows = score_system(profile, dataset, "moody", progress=False)
    assert list(dict.fromkeys(rows.track)) == [track.name for track in tracks] and len(tracks) == 50
    failed = rows[rows.status == "failed"]
    reasons = failed.groupby("track", sort=False).reason.unique()
    assert sorted(reasons.index) == sorted([tracks[16].name, tracks[25].name])
    assert list(reasons[tracks[16].name]) == ["RuntimeError: the seventeenth is too much"]
    assert len(reasons[tracks[25].name]) == 1 and broken.name in reasons[tracks[25].name][0]
    keys = ["track", "stem", "metric", "convention", "piece", "value"]
    fine = ~rows.track.isin(reasons.index)
    pd.testing.assert_frame_equal(
        rows.loc[fine, keys].reset_index(drop=True),
        expected.loc[~expected.track.isin(reasons.index), keys].reset_index(drop=True),
    )
    assert np.isfinite(rows.loc[fine, "value"]).all()
    table = table_markdown(rows, None, convention="sisec18", sources=profile.sources)
    assert "| 48 (2 failed) |" in table
    inject("failing tracks among 50", 2)
