"""Estimates on disk score as they do fresh from the system; what cannot be scored is a failed row."""

import subprocess

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from helpers import BROKEN, ODD_NAME, RATE, SOURCES, damage, make_stems, write_hq_tree, write_track

from companion.data import tracks
from companion.data.tracks import load_dataset, load_references
from companion.graph.cli import main
from companion.profile import DataConfig, EvaluationConfig
from companion.scores import estimates
from companion.scores.estimates import KIND, find_systems, score_estimates
from companion.scores.evaluate import COLUMNS, write_scores
from companion.scores.score import score_track
from companion.tables import load_scores, table
from flowsep.files import FlowsepError, safe_name

SONGS = ("song 0", ODD_NAME)


def estimates_of(seed, error, seconds=1.0):
    stems = make_stems(seed, seconds)
    return {name: audio + error * make_stems(seed + 9, seconds)["other"] for name, audio in stems.items()}


@pytest.fixture
def folders(tmp_path):
    """References of two songs, and what two systems made of them, one in the layout of musdb."""
    for seed, song in enumerate(SONGS):
        write_track(tmp_path / "true" / song, make_stems(seed, 1.0))
        write_track(tmp_path / "made" / "good" / "test" / song, estimates_of(seed, 0.1), mixture=False)
        write_track(tmp_path / "made" / "bad" / safe_name(song), estimates_of(seed, 0.5), mixture=False)
    return tmp_path / "true", tmp_path / "made"


def score(folders, **settings):
    references = load_references(folders[0])
    return score_estimates(find_systems(folders[1], references), references, progress=False, **settings)


def test_scores_are_those_of_the_same_audio_in_memory(folders):
    frames = score(folders)
    assert list(frames) == ["bad", "good"]
    for name, error in (("good", 0.1), ("bad", 0.5)):
        for seed, song in enumerate(SONGS):
            expected = score_track(make_stems(seed, 1.0), estimates_of(seed, error), RATE)
            keys = ["convention", "stem", "metric"]
            wanted = pd.DataFrame(expected).set_index(keys)["value"].sort_index()
            actual = frames[name][frames[name].track == song].set_index(keys)["value"].sort_index()
            pd.testing.assert_series_equal(actual, wanted, rtol=0, atol=1e-9)
    assert frames["good"].value.min() > frames["bad"].value.max()


def test_rows_say_where_they_come_from(folders, tmp_path):
    frames = score(folders, profile="mine", sources=("bass", "drums"), jobs=1)
    frame = frames["good"]
    assert list(frame.columns) == list(COLUMNS) and set(frame.stem) == {"bass", "drums"}
    told = frame[["profile", "system", "variant", "supervision", "kind", "data", "status"]].drop_duplicates()
    assert told.to_numpy().tolist() == [["mine", "good", "", "", KIND, "true", "ok"]]
    assert (frame.audio_seconds == 1).all() and frame[["seconds", "parameters"]].isna().all(axis=None)
    assert frame.checkpoint.unique()[0].startswith("4 files:") and frame.git_commit[0] and frame.device[0]
    sf.write(folders[1] / "good" / "test" / "song 0" / "bass.wav", make_stems(5, 1.0)["bass"].T, RATE)
    again = score(folders, profile="mine", sources=("bass", "drums"), jobs=2)
    assert again["good"].checkpoint[0] != frame.checkpoint[0]
    assert again["bad"].checkpoint[0] == frames["bad"].checkpoint[0]
    for name, frame in frames.items():
        write_scores(frame, tmp_path / "scores" / f"{name}.csv")
    shown = table(load_scores(tmp_path), convention="sisec18", sources=("bass", "drums"))
    block = "measured here with estimates on disk, mine (true)"
    assert shown.index.tolist() == [(block, "good"), (block, "bad")]


def test_a_reference_is_read_once_for_all_systems(folders, monkeypatch):
    read, reading = [], tracks.read_audio
    monkeypatch.setattr(tracks, "read_audio", lambda path: read.append(path) or reading(path))
    score(folders, evaluation=EvaluationConfig(conventions=("paper",)))
    assert len(read) == len(set(read)) == len(SONGS) * len(SOURCES)


@pytest.mark.parametrize("how", [how for how in BROKEN if how != "no samples"])
def test_what_is_wrong_with_an_estimate_stands_in_its_rows(folders, how):
    damage(folders[1] / "good" / "test" / "song 0" / "bass.wav", how)
    frames = score(folders)
    assert (frames["bad"].status == "ok").all()
    failed = frames["good"].query("status == 'failed'")
    assert set(failed.track) == {"song 0"} and set(failed.stem) == {"bass"} and len(failed) == 4
    told = {"shorter": "shape (2, 44099), reference (2, 44100)", "other rate": "48000 Hz, its reference at 44100"}
    told |= dict.fromkeys(("cut header", "empty", "text"), "truncated or damaged or not audio")  # ffmpeg looked, too
    (reason,) = failed.reason.unique()
    assert told.get(how, BROKEN[how]) in reason and "bass" in reason
    assert len(frames["good"]) == len(frames["bad"])


def test_missing_estimates_are_rows_too(folders):
    (folders[1] / "good" / "test" / "song 0" / "bass.wav").unlink()
    (folders[1] / "bad" / "song 0").rename(folders[1] / "bad" / "song x")
    frames = score(folders)
    assert frames["good"].query("status == 'failed'")[["track", "stem"]].drop_duplicates().to_numpy().tolist() == [
        ["song 0", "bass"]
    ]
    lost = frames["bad"].query("track == 'song 0'")
    assert (lost.status == "failed").all() and len(lost) == 16
    assert lost.reason.unique().tolist() == [f"{folders[1] / 'bad' / 'song 0'}: no such folder"]


def test_a_broken_reference_fails_its_song_for_everyone(folders):
    damage(folders[0] / "song 0" / "bass.wav", "truncated")
    for frame in score(folders).values():
        assert frame.groupby("track").status.unique().map(list).to_dict() == {"song 0": ["failed"], ODD_NAME: ["ok"]}
        assert "bass.wav: truncated" in frame.reason[frame.track == "song 0"].iloc[0]


def test_one_system_alone_and_references_among_the_systems(folders, tmp_path):
    references = load_references(folders[0])
    assert find_systems(folders[1] / "good", references) == {"good": folders[1] / "good"}
    (folders[0]).rename(folders[1] / "true")
    moved = load_references(folders[1] / "true")
    assert list(find_systems(folders[1], moved)) == ["bad", "good"]
    with pytest.raises(FlowsepError, match=r"no estimates there; expected <system>/<track>/<stem>\.wav.* one of 2"):
        find_systems(folders[1] / "good" / "test" / "song 0", moved)
    with pytest.raises(FlowsepError, match="nowhere: no such folder; expected references"):
        load_references(tmp_path / "nowhere")


def test_other_formats_are_found(folders):
    path = folders[1] / "good" / "test" / "song 0" / "bass.wav"
    audio, rate = sf.read(path, dtype="float32")
    path.unlink()
    sf.write(path.with_suffix(".flac"), audio, rate, "PCM_24")
    actual = score(folders)["good"].query(
        "track == 'song 0' and stem == 'bass' and convention == 'sisec18' and metric == 'SDR'"
    )
    expected = score_track(make_stems(0, 1.0), estimates_of(0, 0.1), RATE, ["sisec18"], ["SDR"])[1]
    assert actual.value.iloc[0] == pytest.approx(expected["value"], abs=1e-3)


def test_the_command(folders, tmp_path, capsys):
    command = ["score", str(folders[1]), "--references", str(folders[0]), "--out", str(tmp_path / "out")]
    assert main([*command, "--sources", "vocals,bass", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "| system | supervision | n | vocals | bass | mean |" in printed and printed.count("| good |") == 2
    scores = load_scores(tmp_path / "out")
    assert scores.groupby("system").size().to_dict() == {"bad": 16, "good": 16} and (scores.status == "ok").all()
    assert main(command) == 2
    assert "scores/bad.csv: exists already; --force overwrites it" in capsys.readouterr().err
    damage(folders[1] / "good" / "test" / "song 0" / "bass.wav", "text")
    assert main([*command, "--force", "--metrics", "SDR"]) == 1
    printed = capsys.readouterr().err
    assert "failed: good: " in printed and "1 of 2 systems have estimates that could not be scored: good" in printed
    assert set(load_scores(tmp_path / "out").metric) == {"SDR"}
    for options, message in (
        (["--metrics", "SDR,PESQ"], "evaluation.metrics.1: Input should be"),
        (["--jobs", "0"], "--jobs 0: expected 1 or more"),
        (["--sources", "vocals,flute"], "--sources: no test song has 'flute'; the first one has "),
    ):
        assert main([*command, "--force", *options]) == 2
        assert message in capsys.readouterr().err


def test_a_name_given_twice_counts_once(folders, tmp_path):
    command = ["score", str(folders[1]), "--references", str(folders[0]), "--out", str(tmp_path / "out")]
    assert main([*command, "--sources", "vocals, vocals,", "--metrics", "SDR,SDR"]) == 0
    assert load_scores(tmp_path / "out").groupby("system").size().to_dict() == {"bad": 4, "good": 4}


def test_songs_that_fail_are_named_and_a_full_disk_is_known_before(folders, tmp_path, monkeypatch, capsys):
    command = ["score", str(folders[1]), "--references", str(folders[0]), "--out", str(tmp_path / "out")]
    path = folders[1] / "good" / "test" / "song 0" / "bass.wav"
    sf.write(path, sf.read(path)[0][:-1], RATE)
    assert main(command) == 1
    assert "failed: good: song 0: estimate of 'bass' has shape" in capsys.readouterr().err
    (tmp_path / "file").touch()
    monkeypatch.setattr(estimates, "track_scorer", None)  # nothing is scored
    assert main([*command[:-1], str(tmp_path / "file")]) == 2
    assert "file: cannot write there" in capsys.readouterr().err


def test_against_the_test_songs_of_a_profile(tmp_path, capsys):
    root = write_hq_tree(tmp_path / "hq", train=2, test=1, seconds=1.0)
    for song in load_dataset(DataConfig(kind="musdb18hq", root=str(root), valid_tracks=1), 0).subset("test"):
        half = {source: 0.5 * song.stem(source) for source in SOURCES}
        write_track(tmp_path / "made" / "half" / song.name, half, mixture=False)
    profile = tmp_path / "p.yaml"
    settings = "sources: [vocals, bass], evaluation: {conventions: [sisec18]}"
    profile.write_text(f"profile: {{name: p, data: {{kind: musdb18hq, root: '{root}', valid_tracks: 1}}, {settings}}}")
    assert main(["score", str(tmp_path / "made"), "--profile", str(profile), "--out", str(tmp_path / "out")]) == 0
    scores = load_scores(tmp_path / "out")
    assert set(scores.convention) == {"sisec18"} and scores.stem.tolist() == ["vocals"] * 2 + ["bass"] * 2
    assert scores.value[scores.metric == "SDR"].tolist() == pytest.approx([20 * np.log10(2)] * 2, abs=1e-4)
    assert set(scores.data) == {"musdb18hq"} and "measured here with estimates on disk" in capsys.readouterr().out


def test_endings_in_capitals_are_found_and_a_stem_in_two_formats_is_a_failed_row(folders):
    place = folders[1] / "good" / "test" / "song 0"
    (place / "bass.wav").rename(place / "bass.WAV")
    sf.write(place / "drums.flac", make_stems(3, 1.0)["drums"].T, RATE)
    rows = score(folders)["good"]
    rows = rows[rows.track == "song 0"].drop_duplicates("stem").set_index("stem")
    assert rows.status["bass"] == "ok" and rows.status["drums"] == "failed"
    assert "holds drums twice (drums.flac, drums.wav)" in rows.reason["drums"]


def test_the_same_mp3_as_reference_and_estimate_is_equally_long(tmp_path):
    rng = np.random.default_rng(0)
    audio = np.concatenate([rng.normal(0, 0.1, 2 * RATE), 0.001 * rng.normal(0, 0.1, 2 * RATE)])
    sf.write(tmp_path / "a.flac", audio, RATE)
    for place in ("true/song", "made/mine/song"):
        (tmp_path / place).mkdir(parents=True)
        options = ["-q:a", "4", "-write_xing", "0", tmp_path / place / "vocals.mp3"]
        subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.flac", *options], check=True)
    rows = score((tmp_path / "true", tmp_path / "made"))["mine"]
    assert set(rows.status) == {"ok"} and rows.audio_seconds[0] == pytest.approx(4, abs=0.1)
    assert (rows[rows.metric == "SDR"].value > 100).all()
