"""New sources in a finished model: what a profile may say of them, and the same songs before and after they join."""

import numpy as np
import pytest
from helpers import RATE, TINY, make_stems, save_as_trained, write_track

from companion import Profile, load_dataset
from companion.profile import DataConfig, load_profile
from companion.scores.evaluate import read_scores
from companion.studies.new_sources import REST, score_new_sources
from flowsep import FlowsepError
from flowsep.config import TrainingConfig
from flowsep.files import sha256

NEW = {"sources": ["guitar", "piano"], "within": "other", "steps": 7, "seconds": 2}
VARIANTS = ("before", "after", "instead")
SOURCES = ("vocals", "bass", "drums", "other")


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_prior):
    """(profile, data set): three test songs, of which two have a guitar and a piano within `other`."""
    for folder in ("configs", "notebooks"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        stems = make_stems(k, seconds=2.5)
        del stems["other"]
        rng = np.random.default_rng(100 + k)
        inside = {name: 0.02 * rng.standard_normal((2, 5 * RATE // 2)).astype(np.float32) for name in "abc"}
        stems["other"] = sum(inside.values())
        folder = write_track(tmp_path / "data" / "test" / f"song {k}", stems)
        if k:  # beside the mixture's four parts
            write_track(tmp_path / "extra" / str(k), {"guitar": inside["a"], "piano": inside["b"]}, mixture=False)
            for path in (tmp_path / "extra" / str(k)).iterdir():
                path.rename(folder / path.name)
    data = DataConfig(kind="musdb18hq", root=str(tmp_path / "data"))
    flow = {"iterations": 3, "lr": 0.03, "space": "z", "alpha": 0.0, "wiener": True, "nonnegative": True}
    profile = Profile(
        name="mini",
        data=data,
        new_sources=NEW,
        systems={"instglow": flow},
        model=TINY,
        evaluation={"conventions": ["sisec18"]},
    )
    dataset = load_dataset(profile.data, profile.seed)
    for seed, source in enumerate(profile.trained):
        save_as_trained(tiny_prior(seed, source), profile, dataset)
    return profile, dataset


def test_before_shares_are_equal_and_after_the_parts_make_the_whole(place):
    profile, dataset = place
    old = {source: sha256(profile.folder / "priors" / f"{source}.safetensors") for source in SOURCES}
    kept = {}

    def keep(variant, track, estimates):
        kept[variant, track.name] = estimates
        inside = track.stem(REST) + track.stem("guitar") + track.stem("piano")
        np.testing.assert_allclose(inside, track.stem("other"), atol=1e-6)
        assert track.sources == ("vocals", "bass", "drums", "guitar", "piano", REST)
        assert track.mixture().shape == (2, 2 * RATE)
        for of in (track.stem, estimates.get):
            np.testing.assert_allclose(sum(of(name) for name in track.sources), track.mixture(), atol=1e-5)

    frame = score_new_sources(profile, dataset, on_estimates=keep, progress=False)
    assert set(kept) == {(variant, f"song {k}") for variant in VARIANTS for k in (1, 2)}
    for (variant, _), stems in kept.items():
        np.testing.assert_allclose(stems["guitar"] + stems["piano"] + stems[REST], stems["other"], atol=1e-6)
        same = [np.allclose(stems["other"], 3 * stems[name], atol=1e-6) for name in ("guitar", "piano", REST)]
        assert same == [variant == "before"] * 3
        assert stems[REST].any() == (variant != "instead")
    assert {source: sha256(profile.folder / "priors" / f"{source}.safetensors") for source in SOURCES} == old

    assert (frame.status == "ok").all() and set(frame.stem) == {*profile.trained, REST}
    assert frame.groupby("variant").size().to_dict() == dict.fromkeys(VARIANTS, 28)  # 2 songs, 7 stems, 2 metrics
    files = frame.groupby("variant").checkpoint.first().str.split().str.len()
    assert files.to_dict() == {"before": 4, "after": 6, "instead": 5}
    assert (frame.config_hash == profile.hash_of("instglow")).all()
    assert len(read_scores(profile.folder / "new_sources.csv")) == len(frame)


def test_nothing_to_do_is_said(place):
    profile, dataset = place
    with pytest.raises(FlowsepError, match="mini: names no `new_sources`"):
        score_new_sources(profile.model_copy(update={"new_sources": None}), dataset)
    harp = profile.new_sources.model_copy(update={"sources": ("guitar", "harp")})
    with pytest.raises(FlowsepError, match=r"no test song has stems of all new sources \(guitar, harp\)"):
        score_new_sources(profile.model_copy(update={"new_sources": harp}), dataset)
    (profile.folder / "priors" / "piano.safetensors").unlink()
    with pytest.raises(FlowsepError, match=r"piano\.safetensors: no such prior; train it"):
        score_new_sources(profile, dataset, progress=False)


def test_new_sources_are_trained_like_the_others_but_for_their_steps():
    profile = Profile(name="x", training=TrainingConfig(steps=20, batch=3), new_sources=NEW)
    assert profile.trained == (*SOURCES, "guitar", "piano")
    assert profile.training_of("guitar") == TrainingConfig(steps=7, batch=3)
    assert profile.training_of("other") == profile.training
    same = Profile(name="x", new_sources={"sources": ["guitar"], "within": "other"})
    assert same.training_of("guitar") == same.training
    assert Profile(name="x").trained == SOURCES


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ({"sources": ["guitar"], "within": "othr"}, "within: 'othr' is none of the sources vocals, bass"),
        ({"sources": ["bass"], "within": "other"}, "'bass' is there twice"),
        ({"sources": ["a", "a"], "within": "other"}, "'a' is there twice"),
        ({"sources": ["rest"], "within": "other"}, "none may be called 'rest'"),
        ({"sources": [], "within": "other"}, r"new_sources\.sources: .*at least 1 item"),
        ({"sources": ["guitar"], "in": "other"}, "unknown key 'in' in NewSourcesConfig; did you mean 'within'"),
    ],
)
def test_wrong_new_sources_are_named(new, message):
    with pytest.raises(FlowsepError, match=message):
        load_profile({"name": "x", "new_sources": new})
