"""Guitar and piano for the page Separate: the kept files agree with their card, and the tool writes both."""

import types

import new_priors
import numpy as np
import pandas as pd
import pytest
from helpers import make_stems, write_track

from companion.profile import load_profile
from flowsep import GlowConfig, load_priors
from flowsep.config import FeatureConfig


def test_the_kept_priors_fit_the_pages_four_and_their_card():
    kept, frame = load_priors(new_priors.FOLDER), pd.read_csv(new_priors.FOLDER / "scores.csv")
    assert sorted(kept) == sorted(new_priors.SOURCES)
    shipped = next(iter(load_priors().values()))
    for prior in kept.values():
        assert all(getattr(prior, part) == getattr(shipped, part) for part in ("feature", "model", "noise"))
        assert {"seed", "data_hash", "code", "training_seconds", "train_segments"} <= {*prior.provenance}
    assert (new_priors.FOLDER / "README.md").read_text("utf-8") == new_priors.card(kept, frame)


def test_the_tool_writes_priors_scores_and_card(tmp_path, monkeypatch, tiny_prior):
    for name in ("configs", "notebooks"):
        (tmp_path / name).mkdir()
    for place, seed in (("train/a", 1), ("train/b", 2), ("test/c", 3), ("test/d", 4)):
        stems = make_stems(seed, seconds=2.0)
        if seed < 4:  # one test song plays neither
            stems |= {"guitar": stems["other"] / 2, "piano": stems["other"] / 4}
        write_track(tmp_path / "songs" / place, stems)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    small = {"steps": 2, "batch": 2, "crop_seconds": 0.5, "validate_every": 1}
    sizes = GlowConfig(steps=2, hidden=8, layers=2, kernel=3, dropout=0.0)
    member = {"training": {"noise": 0.3, **small}, "model": sizes.model_dump()}
    data = {"kind": "stems", "root": str(tmp_path / "songs"), "valid_tracks": 1}
    made = load_profile({"name": "x", "data": data, "systems": {"flowsep": {"iterations": 2, "members": [member]}}})
    monkeypatch.setattr(new_priors, "load_profile", lambda name: made)
    monkeypatch.setattr(new_priors, "FOLDER", tmp_path / "new")
    four = {source: tiny_prior(seed, source) for seed, source in enumerate(made.sources)}
    for prior in four.values():
        prior.provenance |= {"training": {"noise": 0.3}}
    kept = load_priors
    monkeypatch.setattr(new_priors, "load_priors", lambda folder=None: four)
    new_priors.main()
    written, rows = kept(tmp_path / "new"), pd.read_csv(tmp_path / "new" / "scores.csv")
    assert sorted(written) == ["guitar", "piano"] and written["piano"].feature == FeatureConfig()
    assert rows["songs"].tolist() == [1] * 4 and rows["guitar nll"].isna().tolist() == [True, False, False, False]
    assert np.isfinite(rows[["guitar SDR", "piano SDR"]]).all(axis=None)
    assert rows["piano nll"][1] == pytest.approx(rows["piano nll"][3], abs=0.1)
    card = (tmp_path / "new" / "README.md").read_text()
    assert "guitar and piano in 1 songs of `songs`" in card and "| training.noise | 0.3 |" in card
    assert card == new_priors.card(written, rows)
    shared = new_priors.Shared(types.SimpleNamespace(separate=lambda *_: {"other": np.full((1, 3), 3.0)}))
    np.testing.assert_allclose(shared.separate(None, 0)["piano"], 1.0)
