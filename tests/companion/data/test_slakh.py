"""Slakh2100's folders: the right stems are summed to the right sources, incomplete tracks are named and skipped."""

import numpy as np
import pytest
import soundfile as sf
import yaml
from helpers import write_slakh_track

from companion import Profile, load_dataset
from companion.data.slakh import stem_files
from companion.profile import SLAKH_CLASSES, DataConfig, PiecesConfig
from flowsep import FlowsepError


@pytest.fixture
def root(tmp_path):
    """Two good training tracks, two that lack a source, one each in validation/, test/ and omitted/."""
    write_slakh_track(tmp_path / "train" / "Track00001", 1)
    write_slakh_track(tmp_path / "train" / "Track00002", 2, suffix="wav")
    write_slakh_track(tmp_path / "train" / "Track00003", 3, unrendered=("Piano",))
    write_slakh_track(tmp_path / "train" / "Track00004", 4)
    (tmp_path / "train" / "Track00004" / "stems" / "S02.flac").unlink()
    for number, subset in enumerate(("validation", "test", "omitted"), 5):
        write_slakh_track(tmp_path / subset / f"Track0000{number}", number)
    return tmp_path


def load(root, **options):
    return load_dataset(DataConfig(kind="slakh", root=str(root), **options), 0)


def test_sources_are_sums_of_their_class_and_the_mixture_is_the_submix(tmp_path):
    sums = write_slakh_track(tmp_path / "test" / "Track01876", 1)
    (track,) = load(tmp_path).subset("test")
    assert track.parts == track.sources == ("bass", "drums", "guitar", "piano")
    for kind, source in SLAKH_CLASSES.items():
        np.testing.assert_allclose(track.stem(source), sums[kind][None], atol=1e-7)
    assert track.stem("guitar").dtype == np.float32 and len(track.files["guitar"]) == 2
    np.testing.assert_allclose(track.mixture(), sum(sums[kind] for kind in SLAKH_CLASSES)[None], atol=1e-6)
    mix, _ = sf.read(track.files["bass"][0].parents[1] / "mix.flac", dtype="float32")
    assert np.abs(track.mixture()[0] - mix).max() > 0.01  # the strings are not in the submix


def test_incomplete_tracks_are_skipped_and_named(root):
    dataset = load(root)
    assert {f"{track.subset}/{track.name}" for track in dataset.tracks} == {
        *("train/Track00001", "train/Track00002", "validation/Track00005", "test/Track00006")
    }
    assert dataset.skipped == {
        "train/Track00003": "no stem of piano was rendered",
        "train/Track00004": "stems/S02.flac (guitar) is missing",
    }
    assert len(load(root, train_tracks=1).subset("train")) == 1  # counted among those that can be used


def test_its_own_validation_folder_is_used_unless_pieces_are_held_out(root):
    whole, pieces = load(root), load(root, pieces=PiecesConfig())
    assert [t.name for t in whole.subset("valid")] == ["Track00005"]
    assert [t.name for t in whole.subset("train")] == ["Track00001", "Track00002"]
    assert pieces.subset("valid") == [] and len(pieces.subset("train")) == 2
    assert "validation" not in {track.subset for track in pieces.tracks}


def test_other_classes_make_other_sources(root):
    classes = {"Bass": "band", "Drums": "band", "Strings (continued)": "strings"}
    track = load(root, classes=classes).subset("test")[0]
    assert track.parts == ("band", "strings") and len(track.files["band"]) == 2
    with pytest.raises(FlowsepError, match=r"6 were skipped, train/Track00001 because no stem of harp was rendered"):
        load(root, classes={"Harp": "harp"})
    with pytest.raises(ValueError, match=r"must make the profile's sources \(bass, drums\), found band, strings"):
        Profile(name="x", sources=("bass", "drums"), data={"kind": "slakh", "classes": classes})


def test_a_stem_that_was_not_rendered_is_no_loss_where_its_class_has_another(root):
    folder = root / "train" / "Track00001"
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    metadata["stems"]["S00"]["audio_rendered"] = False
    metadata["stems"]["S05"]["inst_class"] = "Percussive"  # still flagged as drums
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    files = stem_files(folder, SLAKH_CLASSES)
    assert [path.name for path in files["guitar"]] == ["S02.flac"]
    assert [path.name for path in files["drums"]] == ["S05.flac"]


@pytest.mark.parametrize("text", ["", "stems:", "stems: [1]", "stems: {S00: 3}", "stems: {S00: ab}", "- 1"])
def test_metadata_that_lists_no_stems(tmp_path, text):
    (tmp_path / "metadata.yaml").write_text(text)
    with pytest.raises(FlowsepError, match=r"metadata\.yaml: does not list the track's stems"):
        stem_files(tmp_path, SLAKH_CLASSES)


def test_metadata_that_cannot_be_read(tmp_path):
    with pytest.raises(FlowsepError, match=r"metadata\.yaml: no such file"):
        stem_files(tmp_path, SLAKH_CLASSES)
    for text in ("{", "\x00"):
        (tmp_path / "metadata.yaml").write_text(text)
        with pytest.raises(FlowsepError, match=r"metadata\.yaml: not a readable YAML file"):
            stem_files(tmp_path, SLAKH_CLASSES)


def test_where_it_lies(root, tmp_path, monkeypatch):
    monkeypatch.delenv("SLAKH_PATH", raising=False)
    with pytest.raises(FlowsepError, match=r"SLAKH_PATH is not set; .*Slakh2100 \(zenodo.*train/ and test/"):
        load_dataset(DataConfig(kind="slakh"), 0)
    monkeypatch.setenv("SLAKH_PATH", str(root))
    assert len(load_dataset(DataConfig(kind="slakh"), 0).tracks) == 4
    (tmp_path / "empty").mkdir()
    with pytest.raises(FlowsepError, match=r"no tracks of kind slakh in there; expected train/Track<number>/metadata"):
        load(tmp_path / "empty")
