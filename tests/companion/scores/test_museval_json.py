"""museval's files: what we write it reads, what it writes we read, and what does not compare is refused."""

import importlib.metadata
import json

import jsonschema
import museval
import numpy as np
import pytest
from helpers import RATE, make_stems, write_hq_tree

from companion.data.tracks import load_dataset
from companion.graph.steps import score_system
from companion.profile import DataConfig, load_profile
from companion.scores.evaluate import COLUMNS, METRICS, score_track
from companion.scores.museval_json import FRAMES, digest, read_museval, write_museval
from companion.tables import load_scores
from flowsep.files import FlowsepError, sha256


@pytest.fixture(scope="module")
def rows():
    references = {source: make_stems(0, seconds=2)[source] for source in ("vocals", "bass")}
    estimates = {source: audio + 0.3 * make_stems(1, seconds=2)["other"] for source, audio in references.items()}
    return score_track(references, estimates, RATE, metrics=METRICS)


def theirs(path, values, **changes):
    """A file written by museval itself: target -> its frames, the same for each metric."""
    store = museval.TrackStore(path.stem, **changes)
    for name, frames in values.items():
        store.add_target(name, dict.fromkeys(FRAMES, frames))
    path.parent.mkdir(parents=True, exist_ok=True)
    store.save(path)
    return path


def test_museval_reads_what_we_write(rows, tmp_path):
    write_museval(tmp_path / "flow" / "test" / "a song.json", rows)
    store = museval.EvalStore()
    store.add_eval_dir(tmp_path / "flow")
    medians = store.agg_frames_scores()
    for row in rows:
        if row["convention"] == "sisec18" and row["metric"] in FRAMES:
            score = medians["a song", row["stem"], row["metric"]]
            assert float(score) == pytest.approx(row["value"], abs=1e-5)
    content = json.loads((tmp_path / "flow" / "test" / "a song.json").read_text())
    jsonschema.validate(content, museval.TrackStore("a song").schema)
    assert [len(target["frames"]) for target in content["targets"]] == [2, 2]
    assert content["targets"][0]["frames"][1] | {"metrics": None} == {"time": 1, "duration": 1, "metrics": None}


def test_we_read_what_we_write(rows, tmp_path):
    path = tmp_path / "flow" / "test" / "a song.json"
    write_museval(path, rows)
    back = read_museval(tmp_path)
    assert list(back.columns) == list(COLUMNS) and len(back) == 2 * 4
    assert set(back.checkpoint) == {f"a song.json:{sha256(path)[:12]}"}
    assert set(back.system) == {"flow"} and set(back.data) == {tmp_path.name} and set(back.convention) == {"sisec18"}
    for row in back.itertuples():
        (mine,) = (r for r in rows if (r["convention"], r["stem"], r["metric"]) == ("sisec18", row.stem, row.metric))
        assert row.value == pytest.approx(mine["value"], abs=1e-5) and row.n_frames == mine["n_frames"]


def test_one_digest_names_many_files():
    assert digest(["b", "a", "b"]) == digest(["a", "b"]) != digest(["a"])


def test_stems_that_museval_would_refuse_are_left_out(tmp_path):
    sound = make_stems(seconds=1, channels=1)["bass"]
    rows = score_track(
        {"vocals": 0 * sound, "bass": sound}, {"vocals": sound, "bass": 0.5 * sound}, RATE, metrics=METRICS
    )
    write_museval(tmp_path / "song.json", rows)
    (target,) = json.loads((tmp_path / "song.json").read_text())["targets"]
    assert target["name"] == "bass"
    assert target["frames"][0]["metrics"]["SDR"] == 6.0206 and np.isnan(target["frames"][0]["metrics"]["SIR"])
    write_museval(tmp_path / "lost.json", score_track({"bass": sound}, {}, RATE, metrics=METRICS))
    write_museval(tmp_path / "short.json", score_track({"bass": sound}, {"bass": sound}, RATE))  # SDR alone
    assert [path.name for path in tmp_path.iterdir()] == ["song.json"]


def test_frames_without_a_number_do_not_count(tmp_path):
    theirs(tmp_path / "net" / "test" / "one.json", {"bass": [1.0, np.nan, 5.0, 9.0], "drums": [np.nan, np.inf]})
    actual = read_museval(tmp_path).set_index(["stem", "metric"])
    assert actual.loc[("bass", "SDR"), ["value", "n_frames", "nan_count", "status"]].tolist() == [5, 4, 1, "ok"]
    assert actual.loc["drums", "status"].unique() == ["silent"]
    assert actual.versions.unique() == ["museval " + importlib.metadata.version("museval")]


@pytest.mark.parametrize("changes", [{"hop": 0.5}, {"win": 2, "hop": 2}, {"win": 60, "hop": 60}])
def test_other_frames_are_another_convention(tmp_path, changes):
    path = theirs(tmp_path / "net" / "test" / "one.json", {"bass": [1.0, 2.0]}, **changes)
    with pytest.raises(FlowsepError, match=r"frames of 'bass' .*convention sisec18 has frames of 1 s") as error:
        read_museval(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "not a score file of museval"),
        ('{"targets": [{"name": "bass"}]}', "KeyError: 'frames'"),
        ('{"targets": [{"name": "bass", "frames": [{"time": 0, "duration": 1, "metrics": {"SDR": 1}}]}]}', "SIR"),
        ('{"targets": [{"name": "bass", "frames": []}, {"name": "bass", "frames": []}]}', "two targets of one name"),
        (None, "no museval scores; expected <system>/test/<track>.json"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    if text is not None:
        path = tmp_path / "net" / "test" / "one.json"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with pytest.raises(FlowsepError, match=message) as error:
        read_museval(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_run_leaves_a_file_a_song_where_the_profile_asks(tmp_path, monkeypatch):
    root = tmp_path / "project"
    for folder in ("configs", "notebooks"):
        (root / folder).mkdir(parents=True)
    monkeypatch.chdir(root)
    dataset = load_dataset(
        DataConfig(kind="musdb18hq", root=str(write_hq_tree(tmp_path / "hq", train=2, test=2)), valid_tracks=1), 0
    )
    asked = {"name": "tiny", "sources": ["vocals", "bass"], "systems": {"mixture": {}}}
    folder = root / "results" / "tiny" / "museval"
    for metrics, songs in ((list(METRICS), ["song 0", "song 1"]), (["SDR"], [])):  # the second run clears the first
        profile = load_profile(asked | {"evaluation": {"metrics": metrics}})
        score_system(profile, dataset, "mixture", progress=False)
        assert sorted(path.stem for path in folder.glob("mixture/test/*.json")) == songs
        if songs:
            ours = load_scores(root / "results" / "tiny").query("convention == 'sisec18' and metric in @FRAMES")
            keys = ["track", "stem", "metric"]
            values = read_museval(folder).set_index(keys).value.sort_index()
            np.testing.assert_allclose(values, ours.set_index(keys).value.sort_index(), atol=1e-4)
