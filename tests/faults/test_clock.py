"""A clock that goes backwards while something runs: durations are of another clock, and no number is."""

import itertools
import time

import at_once
import pandas as pd
import pytest
import tiny
import torch
from helpers import write_hq_tree

from companion import load_dataset
from companion.graph.steps import score_system
from companion.profile import load_profile
from flowsep import load_prior

pytestmark = pytest.mark.slow


def test_durations_stay_positive_and_numbers_the_same(tmp_path, inject, monkeypatch):
    songs = write_hq_tree(tmp_path / "songs", train=2, test=1, seconds=1.0)
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny.begin(tmp_path / "project", songs, systems={"mixture": {}})
    profile = load_profile("tiny")
    dataset = load_dataset(profile.data, profile.seed)
    rows = []
    for place in ("before", "after"):
        at_once.train(tmp_path / place)
        rows.append(score_system(profile, dataset, "mixture", progress=False))
        now = time.time()
        back = itertools.count()
        monkeypatch.setattr(time, "time", lambda now=now, back=back: now - 3600 * next(back))
        monkeypatch.setattr(time, "time_ns", lambda now=now, back=back: round(now * 1e9) - 3600 * 10**9 * next(back))
    curves = [pd.read_csv(tmp_path / place / "training" / "hum" / "loss.csv") for place in ("before", "after")]
    assert all(curve.seconds.is_monotonic_increasing and (curve.seconds >= 0).all() for curve in curves)
    pd.testing.assert_frame_equal(*(curve.drop(columns="seconds") for curve in curves))
    weights = [load_prior(tmp_path / place / "hum.safetensors").state_dict() for place in ("before", "after")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert (rows[1].seconds >= 0).all() and rows[0].value.equals(rows[1].value)
    inject("clock set back", 1)
