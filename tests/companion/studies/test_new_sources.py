"""New sources in a finished model: what a profile may say of them, and the same songs before and after they join."""

import numpy as np
import pytest
from helpers import RATE, make_stems, write_track

from companion import Profile, load_dataset
from companion.profile import DataConfig, load_profile
from companion.scores.evaluate import read_scores
from companion.studies.new_sources import REST, fit_new_sources, load, score_new_sources, with_rest
from companion.systems import load_system
from flowsep import FlowsepError
from flowsep.files import sha256

NEW = {"sources": ["guitar", "piano"], "within": "other", "seconds": 2}
MODEL = {"steps": 1, "hidden": 4, "kernel": 3, "layers": 1, "dropout": 0.0}
VARIANTS = ("before", "after", "instead")
SOURCES = ("vocals", "bass", "drums", "other")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """(profile, data set): two sets of priors, three songs each, of which two have a guitar and a piano in `other`."""
    for folder in ("configs", "notebooks"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    for subset in ("train", "test"):
        for k in range(3):
            stems = make_stems(k, seconds=2.5)
            rng = np.random.default_rng(100 + k)
            inside = {name: 0.02 * rng.standard_normal((2, 5 * RATE // 2)).astype(np.float32) for name in "abc"}
            stems["other"] = sum(inside.values())
            folder = write_track(tmp_path / "data" / subset / f"song {k}", stems)
            if k:  # beside the mixture's four parts
                write_track(
                    tmp_path / "extra" / subset / str(k), {"guitar": inside["a"], "piano": inside["b"]}, mixture=False
                )
                for path in (tmp_path / "extra" / subset / str(k)).iterdir():
                    path.rename(folder / path.name)
    member = {"feature": {"sample_rate": 11025}, "training": {"noise": 0.3}}
    profile = Profile(
        name="mini",
        data=DataConfig(kind="musdb18hq", root=str(tmp_path / "data"), valid_tracks=1),
        new_sources=NEW,
        systems={"flowsep": {"iterations": 2, "members": [member, member]}},
        model=MODEL,
        training={"steps": 2, "batch": 2, "crop_seconds": 0.5, "validate_every": 2},
        evaluation={"conventions": ["sisec18"]},
    )
    dataset = load_dataset(profile.data, profile.seed)
    flow = load_system("flowsep", profile.systems["flowsep"], sources=SOURCES)
    flow.fit(dataset, profile, profile.folder / "systems" / "flowsep")
    return profile, dataset


def test_the_new_priors_join_the_old_ones_which_stay_as_they_are(place):
    profile, dataset = place
    old = load(profile, SOURCES, profile.folder / "systems" / "flowsep").checkpoints()
    before = [sha256(path) for path in old]
    fitted = fit_new_sources(profile, dataset, progress=False)
    assert fitted.sources == ("guitar", "piano", REST) and all(path.is_file() for path in fitted.checkpoints())
    copies = load(profile, SOURCES, profile.folder / "new_sources").checkpoints()
    assert [sha256(path) for path in old] == [sha256(path) for path in copies] == before
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

    assert (frame.status == "ok").all() and set(frame.stem) == {*SOURCES, "guitar", "piano", REST}
    assert frame.groupby("variant").size().to_dict() == dict.fromkeys(VARIANTS, 28)  # 2 songs, 7 stems, 2 metrics
    files = frame.groupby("variant").checkpoint.first().str.split().str.len()
    assert files.to_dict() == {"before": 8, "after": 12, "instead": 12}  # of two sets of priors
    assert (frame.config_hash == profile.hash_of("flowsep")).all()
    assert len(read_scores(profile.folder / "new_sources.csv")) == len(frame)


def test_the_rest_is_learnt_from_the_songs_whose_new_sources_are_known(place):
    profile, dataset = place
    parted = with_rest(dataset, profile)
    assert parted.hash == dataset.hash
    for subset in ("train", "valid", "test"):
        assert [t.name for t in parted.subset(subset)] == [t.name for t in dataset.subset(subset)]
        for track in parted.subset(subset):
            assert (REST in track.files) == (track.name != "song 0")
            if REST in track.files:
                without = track.stem("other") - track.stem("guitar") - track.stem("piano")
                np.testing.assert_allclose(track.stem(REST), without, atol=1e-6)
                assert {path.stem for path in track.files_of(REST)} == {"other", "guitar", "piano"}


def test_what_is_missing_is_said(place):
    profile, dataset = place
    for study in (fit_new_sources, score_new_sources):
        with pytest.raises(FlowsepError, match="mini: names no `new_sources`"):
            study(profile.model_copy(update={"new_sources": None}), dataset)
    alone = profile.model_copy(update={"systems": {"instglow": {}}})
    with pytest.raises(FlowsepError, match="mini: `new_sources` join the priors of flowsep; add it to `systems`"):
        fit_new_sources(alone, dataset)
    harp = profile.new_sources.model_copy(update={"sources": ("guitar", "harp")})
    with pytest.raises(FlowsepError, match=r"no test song has stems of all new sources \(guitar, harp\)"):
        score_new_sources(profile.model_copy(update={"new_sources": harp}), dataset)
    with pytest.raises(FlowsepError, match=r"no train track has the source 'harp'"):
        fit_new_sources(profile.model_copy(update={"new_sources": harp}), dataset)
    with pytest.raises(FlowsepError, match=r"0/priors/\w+\.safetensors: no such prior, which `fit_new_sources` trains"):
        score_new_sources(profile, dataset, progress=False)
    (profile.folder / "systems" / "flowsep" / "1" / "priors" / "bass.safetensors").unlink()
    with pytest.raises(FlowsepError, match=r"bass\.safetensors: no such prior, which the new sources could join"):
        fit_new_sources(profile, dataset)


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
