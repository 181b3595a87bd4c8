"""MUSDB18's public sample: where it is looked for, the download, and what is said where there is none."""

import os
import shutil
import sys
import types
import urllib.error
from pathlib import Path

import pytest
from helpers import write_packed_tree

from companion.data import sample
from companion.data.tracks import load_dataset
from companion.graph.steps import score_system
from companion.profile import DataConfig, load_profile
from companion.scores.metrics import sdr
from companion.systems.priors import train_source
from companion.tables import load_scores, table, write_tables, written
from flowsep import FlowsepError

CONFIG = DataConfig(kind="musdb18-7s", valid_tracks=1)
SHARED = Path(os.environ.get("FLOWSEP_SAMPLE", Path(__file__).parents[3].parent / "shared" / "musdb18-7s"))


@pytest.fixture
def excerpts(tmp_path):
    return write_packed_tree(tmp_path / "excerpts", train=2, test=1)


@pytest.fixture
def musdb(monkeypatch, tmp_path, excerpts):
    """A stand-in for musdb's download, which copies `excerpts`; what it was asked for."""
    asked = []

    def database(root, download):
        asked.append(root)
        shutil.copytree(excerpts, root)

    monkeypatch.setitem(sys.modules, "musdb", types.SimpleNamespace(DB=database))
    monkeypatch.setattr(sample, "COUNTS", {"train": 2, "test": 1})
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv("MUSDB_PATH", raising=False)
    return asked


def test_excerpts_under_the_variable_are_taken_and_whole_songs_passed_over(musdb, excerpts, tmp_path, monkeypatch):
    monkeypatch.setenv("MUSDB_PATH", str(excerpts))
    dataset = load_dataset(CONFIG, 0)
    assert dataset.root == excerpts and dataset.name == "musdb18-7s" and musdb == []
    assert dataset.subset("test")[0].stem("bass").shape[0] == 2
    monkeypatch.setattr(sample, "LONGEST", 0.1)  # what lies there is longer
    assert load_dataset(CONFIG, 0).root == tmp_path / "cache" / "musdb18-7s"
    monkeypatch.setenv("MUSDB_PATH", str(tmp_path / "empty"))
    assert load_dataset(CONFIG, 0).root == tmp_path / "cache" / "musdb18-7s" and len(musdb) == 1


def test_it_is_downloaded_once_and_whole_or_not_at_all(musdb, tmp_path, monkeypatch):
    place = tmp_path / "cache" / "musdb18-7s"
    monkeypatch.setattr(sample, "COUNTS", {"train": 3, "test": 1})
    with pytest.raises(FlowsepError, match=r"train: 2 songs, expected 3; get the sample again"):
        load_dataset(CONFIG, 0)
    assert not place.exists() and list(place.parent.glob(".musdb18-7s-*")) == []
    monkeypatch.setattr(sample, "COUNTS", {"train": 2, "test": 1})
    assert [track.name for track in load_dataset(CONFIG, 0).subset("test")] == ["song 0"]
    load_dataset(CONFIG, 0)
    assert len(musdb) == 2


def test_a_damaged_file_of_the_download_is_named(musdb, excerpts, tmp_path):
    song = next((excerpts / "train").glob("*.stem.mp4"))
    song.write_bytes(song.read_bytes()[:300])
    with pytest.raises(FlowsepError, match=r"\.stem\.mp4: truncated or damaged"):
        load_dataset(CONFIG, 0)
    assert not (tmp_path / "cache" / "musdb18-7s").exists()


def test_without_a_network_one_line_says_what_to_do(musdb, monkeypatch):
    def refuse(**_):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setitem(sys.modules, "musdb", types.SimpleNamespace(DB=refuse))
    with pytest.raises(FlowsepError) as told:
        load_dataset(CONFIG, 0)
    assert "cannot be downloaded (<urlopen error Name or service not known>); set MUSDB_PATH to a folder" in str(
        told.value
    )
    assert "\n" not in str(told.value)


def test_real_songs_from_the_loader_to_a_table(tmp_path, monkeypatch):
    """Three songs of the sample itself: decoded, a tiny training, separated, scored, a table."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED}: no such folder; it holds MUSDB18's sample, which may not lie in this repository")
    for name in ("configs", "notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MUSDB_PATH", str(SHARED))
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    systems = {"mixture": {}, "nmf": {"components": 8, "frames": 400, "iterations": 20, "activations": 10}}
    systems |= {"instglow": {"iterations": 3}, "ideal_ratio_mask": {}}
    profile = load_profile(
        {
            "name": "three",
            "data": {"kind": "musdb18-7s", "train_tracks": 3, "test_tracks": 3, "valid_tracks": 1},
            "model": {"steps": 2, "hidden": 8, "layers": 1, "kernel": 3, "dropout": 0.0},
            "training": {"steps": 10, "batch": 4, "crop_seconds": 1, "lr": 0.003, "validate_every": 5},
            "systems": systems,
            "evaluation": {"conventions": ["sisec18"]},
        }
    )
    dataset = load_dataset(profile.data, profile.seed)
    assert [len(dataset.subset(name)) for name in ("train", "valid", "test")] == [2, 1, 3]
    for track in dataset.subset("test"):
        assert track.sample_rate == 44100 and 6.5 < track.duration < 7.5
        mixture, total = track.mixture(), sum(track.stems().values())
        assert mixture.shape[0] == 2 and sdr(mixture, total) > 15  # each stream is coded by itself
    for source in profile.sources:
        train_source(dataset, source, profile, profile.folder, progress=False)
    for name in systems:
        score_system(profile, dataset, name, progress=False)
    write_tables(profile.folder, None, conventions=("sisec18",), sources=profile.sources)
    shown = table(load_scores(profile.folder), convention="sisec18", sources=profile.sources).droplevel("block")
    assert set(shown.index) == set(map(written, systems))
    assert "musdb18-7s" in (profile.folder / "table-sisec18.md").read_text()
    for source in profile.sources:
        assert shown.loc["ideal ratio mask", source] > shown.loc["mixture", source] + 1
