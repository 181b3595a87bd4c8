"""The grid of ablations: what it runs, what a run writes, and that a killed grid goes on."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers import write_hq_tree

from companion import load_dataset, load_profile
from companion.profile import find_root
from companion.studies import ablation
from companion.studies.ablation import COLUMNS, run_ablation, select, settings
from flowsep import FlowsepError

CHAPTER = find_root() / "notebooks" / "11_ablations.ipynb"
GRID = {"tracks": 1, "seconds": 0.4, "iterations": [1, 3]}
STUDIES = {"weight": {"alpha": [0, 0.1], "space": ["z", "x"]}, "sources": {"priors": [2, 3]}}


def make_profile(studies=STUDIES, **changes):
    flow = {"iterations": 9, "lr": 0.02, "device": "cpu"}
    grid = {"ablation": GRID | {"studies": studies}, "sources": ["vocals", "bass", "drums"]}
    return load_profile({"name": "x", "seed": 3, "systems": {"instglow": flow}} | grid | changes)


@pytest.fixture
def dataset(tmp_path):
    root = write_hq_tree(tmp_path / "songs", train=2, test=1)
    return load_dataset(make_profile(data={"kind": "musdb18hq", "root": str(root), "valid_tracks": 1}).data, 3)


@pytest.fixture
def priors(tiny_prior):
    return {source: tiny_prior(seed, source) for seed, source in enumerate(("vocals", "bass", "drums"))}


def test_settings_are_the_grid_around_the_profiles_own():
    runs = settings(make_profile())
    assert [(run["alpha"], run["space"]) for run in runs["weight"]] == [(0, "z"), (0, "x"), (0.1, "z"), (0.1, "x")]
    assert [run["priors"] for run in runs["sources"]] == [2, 3]
    for run in (*runs["weight"], *runs["sources"]):
        assert (run["lr"], run["iterations"]) == (0.02, 3)  # the profile's; as far as the grid looks


@pytest.mark.parametrize(
    ("studies", "message"),
    [
        ({"a": {"colour": [1]}}, r"studies\.a: cannot vary 'colour'"),
        ({"a": {"priors": [1]}}, "expected 2 to 3, found 1"),
        ({"a": {"alpha": [-1]}}, "alpha"),
    ],
)
def test_what_cannot_be_varied_is_named(studies, message):
    with pytest.raises((FlowsepError, ValueError), match=message):
        settings(make_profile(studies))
    with pytest.raises(FlowsepError, match="no key 'ablation'"):
        settings(load_profile({"name": "x"}))


def test_each_run_gives_its_rows_and_a_killed_grid_goes_on(tmp_path, dataset, priors, monkeypatch):
    profile, path = make_profile(), tmp_path / "ablation.csv"
    done, separate = [], ablation.separate_magnitude

    def killed(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(separate(*arguments))

    monkeypatch.setattr(ablation, "separate_magnitude", killed)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(profile, dataset, priors, path)
    assert pd.read_csv(path)["hash"].nunique() == 3
    monkeypatch.setattr(ablation, "separate_magnitude", lambda *arguments: done.append(separate(*arguments)))
    frame = run_ablation(profile, dataset, priors, path)
    # the two runs of alpha 0 differ in space, and three sources with alpha 0 in z space are in both studies
    assert len(done) == frame["hash"].nunique() == 5
    assert list(pd.read_csv(path).columns) == list(COLUMNS)
    counts = frame.groupby(["priors", "hash"]).size().groupby("priors").unique()
    assert list(counts[2]) == [2 * 2 * 2] and list(counts[3]) == [2 * 2 * 3]  # iterations, masked or not, stems
    assert np.isfinite(frame.sdr).all() and set(frame.track) == {dataset.subset("valid")[0].name}
    assert set(select(frame, settings(profile)["sources"]).priors) == {2, 3}
    run_ablation(profile, dataset, priors, path)
    assert len(done) == 5
    run_ablation(profile, dataset, priors | {"drums": priors["bass"]}, path)
    assert len(done) == 5 + 4  # only the run without drums still holds


def test_the_same_run_gives_the_same_scores(tmp_path, dataset, priors):
    profile = make_profile({"weight": {"alpha": [0.1]}})
    frames = [run_ablation(profile, dataset, priors, tmp_path / f"{k}.csv").drop(columns="seconds") for k in (1, 2)]
    pd.testing.assert_frame_equal(*frames)
    weighed = select(frames[0], settings(profile)["weight"])
    assert weighed.sdr.nunique() == len(weighed)  # iterations, masks and stems all matter


def test_a_study_that_the_chapter_draws_and_the_profile_leaves_out_has_one_run():
    code = [cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells if cell.cell_type == "code"]
    drawn = set(re.findall(r'studies\["([^"]+)"\]', "\n".join(code)))
    runs = settings(make_profile({"momentum": {"momentum": [0, 0.5]}}))
    assert len(drawn) == 6 and drawn <= set(runs)
    assert {study: len(runs[study]) for study in drawn} == dict.fromkeys(drawn, 1) | {"momentum": 2}
    assert [runs[f"weight of the prior, {space} space"][0]["space"] for space in "zx"] == ["z", "x"]
