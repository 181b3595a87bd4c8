"""Scores of songs whose answer is known, the rows of songs that fail, and the files that hold them."""

import math
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import museval
import numpy as np
import pandas as pd
import pytest
import soxr

from companion import provenance
from companion.profile import Profile, load_profile
from companion.provenance import run_provenance
from companion.scores import evaluate, metrics, score
from companion.scores.evaluate import COLUMNS, evaluate_system, read_scores, score_track, write_scores
from flowsep.files import FlowsepError, sha256

RATE = 44_100


@dataclass
class Song:
    """A song in memory, with the interface of a track of `companion.data`."""

    name: str
    stems: dict
    sample_rate: int = RATE
    error: Exception | None = None

    def mixture(self):
        if self.error:
            raise self.error
        return sum(self.stems.values())

    def stem(self, source):
        return self.stems[source]


@dataclass
class Share:
    """Every estimate is a fixed share of the mixture."""

    name: str = "share"
    supervision: str = "none"
    needs_references: bool = False
    files: list = field(default_factory=list)
    seen: list = field(default_factory=list)

    def separate(self, mixture, sample_rate, references=None):
        self.seen.append(references)
        return {"vocals": 0.5 * mixture, "bass": 0.5 * mixture}

    def checkpoints(self):
        return self.files

    def costs(self):
        return {"parameters": 3, "training_seconds": 1.5, "training_memory_mib": 100.0}


def tone(seconds, level=0.1, rate=RATE, seed=0, channels=2):
    """Noise below 5 kHz, so that resampling to 22,050 Hz loses nothing of it."""
    samples = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal((channels, samples)))
    spectrum[:, np.fft.rfftfreq(samples, 1 / rate) > 5000] = 0
    audio = np.fft.irfft(spectrum, samples)
    return (level * audio / audio.std()).astype(np.float32)


def pick(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_known_noise_gives_known_sdr_under_both_conventions():
    reference = tone(3)
    noise = tone(3, level=0.01, seed=1)
    rows = score_track({"vocals": reference}, {"vocals": reference + noise}, RATE)
    assert [(r["convention"], r["metric"], r["sample_rate"], r["n_frames"]) for r in rows] == [
        ("paper", "SDR", 22_050, 1),
        ("paper", "SI-SDR", 22_050, 1),
        ("sisec18", "SDR", 44_100, 3),
        ("sisec18", "SI-SDR", 44_100, 1),
    ]
    assert all(row["status"] == "ok" and row["value"] == pytest.approx(20, abs=0.3) for row in rows)


def test_sisec18_is_the_median_over_frames_of_museval():
    rng = np.random.default_rng(3)
    references = {"vocals": rng.standard_normal((1, 8000)), "bass": rng.standard_normal((1, 8000))}
    references["bass"][:, 2000:3500] = 0  # frames of 0.25 s below: museval counts none in which a source is silent
    estimates = {
        stem: audio + rng.uniform(0.1, 0.9, 8000) * rng.random((1, 8000)) for stem, audio in references.items()
    }
    stacked = (np.stack([audio.T for audio in pair.values()]) for pair in (references, estimates))
    theirs = museval.evaluate(*stacked, win=1000, hop=1000)[0]
    frames = metrics.frame_sdr(np.stack(list(references.values())), np.stack(list(estimates.values())), 1000)
    np.testing.assert_allclose(frames, theirs, atol=1e-9)
    scores = list(score._score_sisec18({s: (references[s], estimates[s]) for s in references}, 1000, ["SDR"]))
    actual = {row["stem"]: row for row in scores if row["metric"] == "SDR"}
    for stem, row in zip(("vocals", "bass"), theirs, strict=True):
        assert actual[stem]["value"] == pytest.approx(np.nanmedian(row), abs=1e-9)
        assert (actual[stem]["n_frames"], actual[stem]["nan_count"]) == (8, 1)


@pytest.fixture(scope="module")
def pair():
    """References and estimates of two stereo sources, 2 s, each estimate with noise and some of the other."""
    references = {"vocals": tone(2, seed=1), "bass": tone(2, seed=2)}
    leak = 0.2 * sum(references.values())
    return references, {stem: audio + leak + tone(2, 0.01, seed=3) for stem, audio in references.items()}


def test_all_metrics_of_sisec18_are_those_of_museval(pair):
    stacked = (np.stack([audio.T.astype(float) for audio in part.values()]) for part in pair)
    theirs = dict(zip(("SDR", "ISR", "SIR", "SAR"), museval.evaluate(*stacked), strict=True))
    rows = score_track(*pair, RATE, ["sisec18"], evaluate.METRICS)
    assert [row["metric"] for row in pick(rows, stem="bass")] == list(evaluate.METRICS)
    for metric, values in theirs.items():
        for stem, frames in zip(("vocals", "bass"), values, strict=True):
            (row,) = pick(rows, stem=stem, metric=metric)
            np.testing.assert_allclose(row["frames"], frames, atol=1e-9)
            assert row["value"] == pytest.approx(np.median(frames), abs=1e-9) and row["n_frames"] == 2


def test_the_paper_has_no_sir_and_scores_each_source_alone(pair):
    references, estimates = ({"bass": part["bass"]} for part in pair)
    rows = score_track(references, estimates, RATE, ["paper"], evaluate.METRICS)
    assert [row["metric"] for row in rows] == ["SDR", "SI-SDR", "ISR", "SAR"]
    r, e = (
        soxr.resample(part["bass"].mean(axis=0, dtype=float), RATE, 22_050)[None, :, None]
        for part in (references, estimates)
    )
    theirs = dict(zip(("SDR", "ISR", "SIR", "SAR"), museval.evaluate(r, e, win=r.size, hop=r.size), strict=True))
    for row in rows:
        if row["metric"] in theirs:
            assert row["value"] == pytest.approx(theirs[row["metric"]].item(), abs=1e-9)
    lost = score_track({"bass": references["bass"]}, {}, RATE, metrics=evaluate.METRICS)
    assert [(row["convention"], row["metric"]) for row in lost] == [
        *(("paper", metric) for metric in ("SDR", "SI-SDR", "ISR", "SAR")),
        *(("sisec18", metric) for metric in evaluate.METRICS),
    ]


def test_museval_is_spared_what_is_silent(pair):
    references, estimates = pair
    silence = 0 * references["bass"]
    rows = score_track(references, estimates | {"bass": silence}, RATE, metrics=evaluate.METRICS)
    for convention in score.CONVENTIONS:
        actual = {row["metric"]: row for row in pick(rows, convention=convention, stem="bass")}
        assert actual["SDR"]["value"] == 0
        assert (actual["SAR"]["status"], actual["SAR"]["reason"]) == ("silent", "the estimate is silent")
    (alone,) = pick(rows, stem="vocals", metric="SIR")
    assert (alone["status"], alone["reason"]) == ("silent", "no other source sounds")
    assert all(row["status"] == "ok" for row in pick(rows, stem="vocals") if row is not alone)
    rows = score_track(references | {"bass": silence}, estimates, RATE, ["sisec18"], ["SDR", "SIR"])
    assert {row["reason"] for row in pick(rows, stem="bass")} == {"the reference is silent"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["SIR"]}, "metrics must hold SDR"),
        ({"metrics": ["SDR", "SIR"], "conventions": ["paper"]}, "SIR needs convention sisec18"),
        ({"metrics": ["SDR", "uSDR"]}, "evaluation.metrics.1: .*found 'uSDR'"),
    ],
)
def test_a_profile_asks_for_metrics_that_exist(changes, message):
    with pytest.raises(FlowsepError, match=message):
        load_profile({"name": "x", "evaluation": changes})
    assert load_profile({"name": "x"}).evaluation.metrics == ("SDR", "SI-SDR")


def test_paper_cuts_pieces_of_60_s_and_leaves_out_the_quiet_ones():
    reference = tone(130, rate=8000, channels=1)  # 60 s + 60 s + 10 s
    reference[:, 60 * 8000 : 120 * 8000] *= 1e-3
    estimate = 0.9 * reference
    rows = pick(score_track({"bass": reference}, {"bass": estimate}, 8000, ["paper"]), metric="SDR")
    assert [row["piece"] for row in rows] == [0, 1, 2]
    assert [row["status"] for row in rows] == ["ok", "silent", "ok"]
    assert [row["value"] for row in rows[::2]] == pytest.approx([20, 20], abs=1e-3)
    assert math.isnan(rows[1]["value"]) and rows[1]["nan_count"] == 1
    assert "is not above 20" in rows[1]["reason"]


@pytest.mark.parametrize(("energy", "status"), [(19.9, "silent"), (20.1, "ok")])
def test_energy_is_that_of_float_audio_at_22050_hz_mono(energy, status):
    reference = tone(2, rate=22_050, channels=1)
    reference *= np.sqrt(energy / np.sum(reference.astype(np.float64) ** 2))
    stereo = np.concatenate([reference, reference])
    rows = score_track({"bass": stereo}, {"bass": 0.5 * stereo}, 22_050, ["paper"])
    assert {row["status"] for row in rows} == {status}


def test_a_silent_source_is_said_so_and_blanks_no_other():
    sound, silence = tone(2), np.zeros((2, 2 * RATE), np.float32)
    rows = score_track({"vocals": silence, "bass": sound}, {"vocals": 0.1 * sound, "bass": 0.9 * sound}, RATE)
    assert {row["status"] for row in pick(rows, stem="vocals")} == {"silent"}
    assert [row["value"] for row in pick(rows, stem="bass", metric="SDR")] == pytest.approx([20, 20], abs=1e-3)
    rows = score_track({"vocals": sound, "bass": sound}, {"vocals": silence, "bass": 0.9 * sound}, RATE)
    assert [row["value"] for row in pick(rows, stem="vocals", metric="SDR")] == [0, 0]
    assert [row["value"] for row in pick(rows, stem="bass", metric="SDR")] == pytest.approx([20, 20], abs=1e-3)


def test_estimates_that_cannot_be_scored_are_failed_rows():
    good = tone(1)
    references = dict.fromkeys(("missing", "short", "nan", "fine"), good)
    broken = good.copy()
    broken[0, 7] = np.nan
    rows = score_track(references, {"short": good[:, :-1], "nan": broken, "fine": 0.9 * good}, RATE)
    status = {stem: {(row["status"], row["reason"]) for row in pick(rows, stem=stem)} for stem in references}
    assert status["fine"] == {("ok", "")}
    assert status["missing"] == {("failed", "no estimate of 'missing'")}
    assert status["nan"] == {("failed", "estimate of 'nan' holds NaN or Inf")}
    ((state, reason),) = status["short"]
    assert state == "failed" and "has shape (2, 44099), reference (2, 44100)" in reason
    assert all(len(pick(rows, stem=stem)) == 4 for stem in references)


def test_bad_references_and_conventions_are_errors():
    good = tone(1)
    with pytest.raises(FlowsepError, match="convention 'whole' is unknown; valid: paper, sisec18"):
        score_track({"bass": good}, {"bass": good}, RATE, ["whole"])
    with pytest.raises(FlowsepError, match="metric 'PESQ' is unknown; valid: SDR, SI-SDR, SIR, ISR, SAR"):
        score_track({"bass": good}, {"bass": good}, RATE, metrics=["PESQ"])
    for bad in (good[:, :0], good[0], np.full((2, 9), np.inf)):
        with pytest.raises(FlowsepError, match="reference 'bass'"):
            score_track({"bass": bad}, {"bass": good}, RATE)


@pytest.fixture
def scores(tmp_path, caplog):
    """Two good songs and two that fail, scored as one run."""
    prior = tmp_path / "vocals.safetensors"
    prior.write_bytes(b"weights")
    system = Share(files=[prior])
    stems = {"vocals": tone(1.5, seed=1), "bass": tone(1.5, seed=2)}
    tracks = [
        Song("first", stems),
        Song("torn", stems, error=OSError("torn.wav: truncated")),
        Song("uneven", stems | {"vocals": tone(1.0)}),
        Song("NA", {"vocals": 0 * stems["vocals"], "bass": stems["bass"]}),
    ]
    kept, scored = [], []
    provenance = run_provenance(Profile(name="tiny"), system, SimpleNamespace(name="band", hash="abc"))
    frame = evaluate_system(
        system,
        tracks,
        sources=("vocals", "bass"),
        provenance=provenance,
        on_estimates=lambda track, estimates: kept.append((track.name, set(estimates))),
        on_scores=lambda track, rows: scored.append((track.name, len(rows))),
        progress=False,
    )
    assert scored == [("first", 8), ("torn", 8), ("uneven", 8), ("NA", 8)]
    assert kept == [("first", {"vocals", "bass"}), ("NA", {"vocals", "bass"})]
    assert system.seen == [None, None]
    assert "share: 2 failed" in caplog.text and "torn: OSError: torn.wav: truncated" in caplog.text
    return frame


def test_a_failed_track_is_rows_and_the_run_goes_on(scores):
    assert list(scores.columns) == list(COLUMNS)
    assert scores.groupby("track", sort=False).size().to_dict() == {"first": 8, "torn": 8, "uneven": 8, "NA": 8}
    failed = scores[scores.status == "failed"]
    assert set(failed.track) == {"torn", "uneven"} and failed.value.isna().all() and (failed.n_frames == 0).all()
    assert set(failed.reason[failed.track == "torn"]) == {"OSError: torn.wav: truncated"}
    assert (scores.status[(scores.track == "NA") & (scores.stem == "vocals")] == "silent").all()


def test_rows_say_where_they_come_from(scores, tmp_path):
    row = scores.iloc[0]
    assert (row.profile, row.system, row.kind, row.data, row.data_hash) == (
        "tiny",
        "share",
        "measured",
        "band",
        "abc",
    )
    assert row.checkpoint == "vocals.safetensors:" + sha256(tmp_path / "vocals.safetensors")[:12]
    assert (row.config_hash, row.seed, row.variant) == (Profile(name="tiny").hash_of("share"), 2022, "")
    assert row.seconds >= 0 and row.audio_seconds == 1.5 and row.peak_memory_mib > 10 and row.device
    assert (row.parameters, row.training_seconds, row.training_memory_mib) == (3, 1.5, 100)
    assert pd.Timestamp(row.time).tzinfo is not None
    assert all(f"{name} " in row.versions for name in ("python", "torch", "numpy", "soxr", "flowsep"))


def test_a_bug_is_not_a_failed_track():
    class Buggy(Share):
        def separate(self, mixture, sample_rate, references=None):
            raise AttributeError("no such thing")

    song = Song("song", {"vocals": tone(1), "bass": tone(1)})
    with pytest.raises(AttributeError):
        evaluate_system(Buggy(), [song], sources=("vocals",), provenance={"system": "buggy"}, progress=False)


def test_only_an_oracle_sees_the_references():
    system = Share(needs_references=True)
    song = Song("song", {"vocals": tone(1), "bass": tone(1, seed=1)})
    evaluate_system(
        system, [song], sources=("bass",), provenance={"system": "x"}, conventions=["paper"], progress=False
    )
    assert set(system.seen[0]) == {"bass"}


def test_scores_survive_the_file(scores, tmp_path):
    path = tmp_path / "results" / "share.csv"
    write_scores(scores, path)
    back = read_scores(path)
    assert list(back.columns) == list(COLUMNS)
    numbers = ["value", "seconds", "peak_memory_mib"]
    pd.testing.assert_frame_equal(back.drop(columns=numbers), scores.drop(columns=numbers), check_dtype=False)
    np.testing.assert_allclose(back[numbers], scores[numbers].astype(float), rtol=1e-5)
    assert set(back.track) == {"first", "torn", "uneven", "NA"}
    assert len(read_scores([path, path])) == 2 * len(scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",stem,", ",stump,", 1), "lacks column 'stem'"),
        (lambda text: text.replace("profile,", "profile,extra,", 1), "has the unknown column 'extra'"),
        (lambda text: text.replace(",22050,", ",fast,", 1), "column 'sample_rate' holds something that is no number"),
        (lambda text: text.replace(",ok,", ",fine,", 1), "column 'status' holds 'fine'; valid: ok, silent, failed"),
        (lambda text: text.replace(",paper,", ",mine,", 1), "column 'convention' holds 'mine'"),
        (lambda text: text[: text.rindex(",")], "1 row.s. end before column 'time'"),
        (lambda text: "", "not a readable CSV file"),
        (lambda text: text + "a,b\n" + "," * 99 + "\n", "not a readable CSV file"),
    ],
)
def test_a_bad_score_file_is_named(scores, tmp_path, change, message):
    path = tmp_path / "share.csv"
    write_scores(scores, path)
    path.write_text(change(path.read_text()))
    with pytest.raises(FlowsepError, match=message) as error:
        read_scores(path)
    assert str(path) in str(error.value)


def test_a_missing_score_file_is_named(tmp_path):
    with pytest.raises(FlowsepError, match=r"nowhere\.csv"):
        read_scores(tmp_path / "nowhere.csv")


def test_git_state_outside_a_repository_and_without_git_is_empty(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "evaluate.py"))
    assert provenance.git_state() == {"git_commit": "", "git_dirty": ""}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state() == {"git_commit": "", "git_dirty": ""}


def test_git_state_knows_changed_code_but_not_changed_results(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    (tmp_path / "flowsep").mkdir()
    (tmp_path / "results").mkdir()
    code, result = tmp_path / "flowsep" / "evaluate.py", tmp_path / "results" / "a.csv"
    for path in (code, result):
        Path(path).write_text("old")
    git("init")
    git("add", ".")
    git("commit", "-m", "start")
    monkeypatch.setattr(provenance, "__file__", str(code))
    result.write_text("new")
    state = provenance.git_state()
    assert len(state["git_commit"]) == 40 and state["git_dirty"] == "no"
    code.write_text("new")
    assert provenance.git_state()["git_dirty"] == "yes"
