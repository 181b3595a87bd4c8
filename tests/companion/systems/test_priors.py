"""One identity for a training: data, settings, seed and code; a prior of another one is not taken for the profile's."""

from pathlib import Path

import pytest
import soundfile as sf
import torch
from helpers import TINY, save_as_trained, write_hq_tree

from companion.data.tracks import load_dataset
from companion.graph.steps import score_system
from companion.profile import load_profile
from companion.systems import priors
from companion.systems.priors import load_trained, train_source
from flowsep import FlowsepError, load_prior

PAIR = ("vocals", "bass")


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("configs", "notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))

    def build(songs="songs", **changes):
        if not Path(songs).exists():
            write_hq_tree(tmp_path / songs, train=2 + (songs != "songs"), test=1, seconds=2.0)
        settings = {
            "name": "tiny",
            "data": {"kind": "musdb18hq", "root": str(tmp_path / songs), "valid_tracks": 1},
            "sources": list(PAIR),
            "model": TINY.model_dump(),
            "training": {"steps": 4, "batch": 2, "crop_seconds": 0.5, "lr": 0.003, "validate_every": 2},
            "systems": {"instglow": {"iterations": 2}},
        }
        profile = load_profile(settings | changes)
        return profile, load_dataset(profile.data, profile.seed)

    return build


def weights(prior):
    return torch.cat([value.flatten() for value in prior.glow.state_dict().values()])


def test_songs_of_another_content_train_another_prior(project, capsys):
    profile, dataset = project()
    first = train_source(dataset, "bass", profile, "results", progress=False)
    for path in Path("songs/train").glob("*/bass.wav"):
        audio, rate = sf.read(path)
        subtype = sf.info(path).subtype
        sf.write(path, audio[::-1], rate, subtype)  # as long as before
    profile, changed = project()
    assert changed.hash != dataset.hash
    again = train_source(changed, "bass", profile, "results", progress=False)
    fresh = train_source(changed, "bass", profile, "fresh", progress=False)
    assert "begins anew (data_hash was" in capsys.readouterr().out
    assert again.provenance["data_hash"] == changed.hash
    assert torch.equal(weights(again), weights(fresh)) and not torch.equal(weights(again), weights(first))


def test_other_code_trains_anew(project, monkeypatch, capsys):
    profile, dataset = project()
    train_source(dataset, "bass", profile, "results", progress=False)
    train_source(dataset, "bass", profile, "results", progress=False)
    assert "begins anew" not in capsys.readouterr().out
    monkeypatch.setattr(priors, "code_hash", lambda *_: "0123456789ab")
    assert train_source(dataset, "bass", profile, "results", progress=False).provenance["code"] == "0123456789ab"
    assert "begins anew (code was" in capsys.readouterr().out


def test_priors_of_other_settings_are_not_scored_as_the_profile_s(project):
    profile, dataset = project()
    for source in PAIR:
        train_source(dataset, source, profile, profile.folder, progress=False)
    assert set(load_trained(profile, dataset)) == set(PAIR)
    train = profile.training.model_dump(mode="json")
    for change, told in (
        ({"training": train | {"steps": 6}}, "training.steps was 4, now 6"),
        ({"training": train | {"gain_db": 1.0}}, "training.gain_db was"),
        ({"model": TINY.model_dump() | {"hidden": 12}}, "model.hidden was 8, now 12"),
        ({"feature": {"hop": 128}}, "feature.hop was 256, now 128"),
        ({"seed": 3}, "seed was 2022, now 3"),
        ({"songs": "others"}, "data_hash was"),
    ):
        with pytest.raises(FlowsepError, match=rf"vocals.safetensors: not a prior of profile tiny: .*{told}"):
            score_system(*project(**change), "instglow", progress=False)
        assert not (profile.folder / "scores").exists()
    frame = score_system(profile, dataset, "instglow", progress=False)
    assert (frame.status == "ok").any()
    # how it is trained does not matter, and neither does what is done with it
    same, _ = project(training=train | {"recompute": not train["recompute"]}, listen_tracks=1, systems={"mixture": {}})
    load_trained(same, dataset)


def test_epochs_set_the_steps_and_a_missing_prior_is_named(project, tiny_prior):
    profile, dataset = project(training={"epochs": 2, "batch": 2, "crop_seconds": 0.5, "lr": 0.003})
    path = save_as_trained(tiny_prior(), profile, dataset)
    prior = load_prior(path)
    prior.provenance["training"]["steps"] = 17  # as many as the segments made
    prior.save(path)
    assert set(load_trained(profile, dataset, ["vocals"])) == {"vocals"}
    with pytest.raises(FlowsepError, match=r"bass\.safetensors: no such prior; train it with notebooks/04"):
        load_trained(profile, dataset)
