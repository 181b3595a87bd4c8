"""Systems fitted and scored by parts, and excerpts on disk that one job reads while others write beside them."""

import json
import os
import re
import subprocess
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import write_hq_tree

from companion.data import recordings, segments
from companion.data.excerpts import load_excerpt, load_excerpts
from companion.data.tracks import load_dataset
from companion.graph import steps
from companion.graph.cli import main
from companion.graph.steps import fit_system, prepare_cache, score_checkpoints, score_shard, score_system
from companion.profile import load_profile
from companion.scores.evaluate import read_scores
from companion.systems import SYSTEMS
from companion.systems.nmf import SourceNMF
from companion.systems.priors import train_source
from flowsep.audio import write_audio
from flowsep.config import SeparationConfig
from flowsep.files import FlowsepError, atomic_path, safe_name
from flowsep.separator import Separator

NMF = {"components": 2, "frames": 40, "iterations": 2, "activations": 2}
SAME = ("track", "stem", "metric", "convention", "piece", "value", "status", "checkpoint", "config_hash")
TONE = np.full((2, 800), 0.25, dtype=np.float32)


def test_half_written_excerpts_are_not_read(tmp_path):
    place = tmp_path / "audio" / "nmf" / safe_name("A/song")
    write_audio(place / "bass.flac", TONE, 8000)
    with atomic_path(place / "drums.flac") as temporary:
        assert temporary.suffix == ".flac" and temporary.is_file()
        assert list(load_excerpt(tmp_path, "nmf", "A/song")) == ["bass"]
        found, rate = load_excerpts(tmp_path)
        assert rate == 8000 and list(found[safe_name("A/song")]["nmf"]) == ["bass"]
        np.testing.assert_allclose(found[safe_name("A/song")]["nmf"]["bass"], TONE, atol=1e-6)
        write_audio(temporary, TONE, 8000)  # so that it may be renamed
    assert list(load_excerpt(tmp_path, "nmf", "A/song")) == ["bass", "drums"]


def test_a_system_that_left_nothing_has_no_excerpt(tmp_path):
    (tmp_path / "audio" / "demucs").mkdir(parents=True)
    assert load_excerpt(tmp_path, "demucs", "A song") == {}
    with pytest.raises(FlowsepError, match="no excerpts yet"):
        load_excerpts(tmp_path)
    for rate, song in ((8000, "A"), (16000, "B")):
        write_audio(tmp_path / "audio" / "nmf" / song / "bass.flac", TONE, rate)
    with pytest.raises(FlowsepError, match="several sample rates"):
        load_excerpts(tmp_path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with three test songs, and what makes a profile of it."""
    for name in ("configs", "notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    root = write_hq_tree(tmp_path / "songs", train=2, test=3)

    def build(**changes):
        settings = {"name": "tiny", "data": {"kind": "musdb18hq", "root": str(root), "valid_tracks": 1}}
        settings |= {"systems": {"nmf": NMF, "mixture": {}}, "listen_seconds": 0.2, "listen_tracks": 2}
        profile = load_profile(settings | changes)
        Path("configs/tiny.yaml").write_text(json.dumps({"profile": profile.model_dump(mode="json")}))
        return profile, load_dataset(profile.data, profile.seed)

    return build


@pytest.mark.parametrize("shards", [2, 5])  # of five, two hold no song
def test_shards_give_the_rows_and_excerpts_of_the_whole(project, shards):
    profile, dataset = project()
    whole = score_system(profile, dataset, "nmf", progress=False)
    heard = {path: path.read_bytes() for path in profile.folder.glob("audio/nmf/*/*.flac")}
    assert len(heard) == 2 * 4
    profile, dataset = project(shards=shards)
    for number in range(shards):
        assert main(["shard", "nmf", str(number), "--profile", "tiny"]) == 0
    kept = {path: path.stat().st_mtime_ns for path in profile.folder.glob(f"shards/nmf/*of{shards}/scores.csv")}
    gathered = score_system(profile, dataset, "nmf", progress=False)
    assert len(kept) == shards and kept == {path: path.stat().st_mtime_ns for path in kept}
    pd.testing.assert_frame_equal(gathered[[*SAME]], whole[[*SAME]])
    assert heard == {path: path.read_bytes() for path in profile.folder.glob("audio/nmf/*/*.flac")}
    pd.testing.assert_frame_equal(read_scores(profile.folder / "scores" / "nmf.csv")[[*SAME]], whole[[*SAME]])


def test_two_folders_of_one_name_are_two_rows(project, tmp_path, tiny_prior):
    profile, dataset = project(systems={"instglow": {"iterations": 1}})
    for place, seed in (("a/priors", 0), ("b/priors", 1)):
        for source in profile.sources:
            tiny_prior(seed, source).save(tmp_path / place / f"{source}.safetensors")
    for place in ("a/priors", "b/priors", "a/priors"):  # the last one has its rows already
        score_checkpoints(profile, dataset, tmp_path / place)
    first, second = sorted(path.stem for path in profile.folder.glob("scores/*.csv"))
    assert first == "instglow@priors" and re.fullmatch(r"instglow@priors-[0-9a-f]{6}", second)
    rows = [read_scores(profile.folder / "scores" / f"{label}.csv") for label in (first, second)]
    assert [set(frame.variant) for frame in rows] == [{"priors"}, {second.partition("@")[2]}]
    assert set(rows[0].checkpoint) != set(rows[1].checkpoint)


def test_priors_are_searched_as_they_were_trained(project, tmp_path, tiny_prior, monkeypatch, capsys):
    profile, dataset = project(systems={"instglow": {"iterations": 1}, "flowsep": {"iterations": 2}})
    searches = []
    monkeypatch.setattr(Separator, "__init__", lambda self, priors, config: searches.append(config))
    monkeypatch.setattr(Separator, "__call__", lambda self, mixture, *_: dict.fromkeys(profile.sources, mixture))
    for kind, noise in (("plain", 0.0), ("noisy", 0.3)):
        for seed, source in enumerate(profile.sources):
            prior = tiny_prior(seed, source)
            prior.provenance["training"] = {"noise": noise}
            prior.save(tmp_path / kind / f"{source}.safetensors")
    labels = [score_checkpoints(profile, dataset, tmp_path / kind) for kind in ("plain", "noisy", "noisy")]
    assert labels == ["instglow@plain", "flowsep@noisy", "flowsep@noisy"]
    paper, ours = searches  # the third call has its rows already
    songs = [track.name for track in dataset.subset("test")]
    lines = [line for line in capsys.readouterr().out.splitlines() if ", song " in line]
    kinds = ("instglow [plain]", "flowsep [noisy]")
    told = [f"{kind}, song {k} of {len(songs)}: {name}" for kind in kinds for k, name in enumerate(songs, 1)]
    assert lines == told
    assert paper == SeparationConfig.paper(iterations=1)
    assert ours == SeparationConfig.for_noisy_priors(iterations=2)
    assert set(read_scores(profile.folder / "scores" / "flowsep@noisy.csv").variant) == {"noisy"}


def test_a_shard_of_other_settings_or_a_missing_one_is_scored_again(project):
    profile, dataset = project(shards=2)
    score_shard(profile, dataset, "mixture", 0)
    before = (profile.folder / "shards/mixture/0of2/scores.csv").read_text()
    changed, dataset = project(shards=2, seed=1)
    assert set(score_system(changed, dataset, "mixture", progress=False).seed) == {1}
    assert (profile.folder / "shards/mixture/0of2/scores.csv").read_text() != before
    with pytest.raises(FlowsepError, match="no shard 2; shards: 2, counted from 0"):
        score_shard(profile, dataset, "mixture", 2)


def test_what_was_fitted_is_not_fitted_again_unless_settings_or_code_change(project, monkeypatch):
    profile, dataset = project()
    assert main(["fit", "nmf", "--profile", "tiny", "--part", "all"]) == 0
    monkeypatch.setattr(SourceNMF, "fit", lambda *_: pytest.fail("fitted again"))
    assert fit_system(profile, dataset, "nmf").checkpoints()[0].is_file()
    changed, _ = project(systems={"nmf": NMF | {"components": 3}})
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        fit_system(changed, dataset, "nmf")
    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception, match="fitted again"):
        patch.setattr(steps, "code_of_class", lambda _: "of another day")
        fit_system(profile, dataset, "nmf")
    with pytest.raises(FlowsepError, match="system 'nmf': no part 'drums' to fit; its parts: all"):
        fit_system(profile, dataset, "nmf", "drums")
    with pytest.raises(FlowsepError, match="no system 'hpss'; its systems: nmf, mixture"):
        fit_system(profile, dataset, "hpss")


def test_a_system_that_cannot_be_fitted_has_rows_that_say_why_until_the_next_run(project, monkeypatch, capsys):
    profile, dataset = project()
    scores = profile.folder / "scores" / "nmf.csv"
    with monkeypatch.context() as patch:
        patch.setattr(SourceNMF, "fit", Mock(side_effect=FlowsepError("it diverged")))
        assert main(["fit", "nmf", "--profile", "tiny", "--part", "all"]) == 0
        assert "nmf: not fitted: it diverged; its rows will say so" in capsys.readouterr().err
    frame = score_system(profile, dataset, "nmf", progress=False)
    assert set(frame.status) == {"failed"} and set(frame.reason) == {"not fitted: it diverged"}
    assert set(read_scores(scores).reason) == {"not fitted: it diverged"}
    steps.forget_failures(profile.folder)
    assert not scores.exists()
    assert "failed" not in set(score_system(profile, dataset, "nmf", progress=False).status)


WAVE = {"levels": 2, "filters": 4, "sample_rate": 8000, "steps": 1, "batch": 2, "crop_seconds": 0.1}


def test_a_profile_for_a_gpu_does_not_turn_to_the_cpu(project, monkeypatch):
    """`training.device` speaks for all networks; what has none, and other checkpoints, run anywhere."""
    settings = {"systems": {"nmf": NMF, "wave_u_net": WAVE}, "training": {"device": "cuda:99"}}
    profile, dataset = project(**settings)
    refused = partial(pytest.raises, FlowsepError, match=r"device: 'cuda:99' cannot be used .*NVIDIA driver.*CUDA")
    with refused():
        fit_system(profile, dataset, "wave_u_net")
    with refused(), monkeypatch.context() as patch:
        patch.setattr(segments, "solo_segments", lambda *_, **__: pytest.fail("decoded first"))
        train_source(dataset, "bass", profile, profile.folder)
    fit_system(profile, dataset, "nmf")
    with monkeypatch.context() as patch:  # a job with a GPU fits it, one without separates
        patch.setattr(steps, "choose_device", lambda _: torch.device("cpu"))
        fit_system(profile, dataset, "wave_u_net")
    with refused():
        score_shard(profile, dataset, "wave_u_net", 0)
    profile, dataset = project(**settings | {"training": {"device": "cpu"}})
    assert "failed" not in set(score_system(profile, dataset, "wave_u_net", progress=False).status)


def test_the_profiles_for_a_gpu_say_so(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    devices = {path.stem: load_profile(path).training.device for path in Path("configs").glob("*.yaml")}
    assert {name for name, device in devices.items() if device == "cuda"} == {
        name for name in devices if load_profile(name).data.kind in ("musdb18", "slakh")
    }
    assert set(devices.values()) == {"auto", "cuda"}


MOODY = """
from pathlib import Path

from companion.systems import System


class Moody(System):
    supervision = "none"

    def separate(self, mixture, sample_rate, references=None):
        if not Path("healed").exists():
            raise RuntimeError("cannot")
        return dict.fromkeys(self.sources, mixture)
"""


def test_a_system_that_cannot_be_separated_has_rows_that_say_why_until_the_next_run(project, capsys):
    Path("moody.py").write_text(MOODY)
    profile, dataset = project(systems={"moody": {"class": "moody.py:Moody"}, "mixture": {}}, shards=2)
    with pytest.raises(FlowsepError, match=r"moody: all 3 tracks failed; the first: .*cannot") as raised:
        score_system(profile, dataset, "moody", progress=False)
    log, scores = Path("05_separate_moody.ipynb"), profile.folder / "scores" / "moody.csv"
    output = {"output_type": "error", "traceback": ["Traceback", f"\x1b[31mFlowsepError\x1b[0m: {raised.value}"]}
    log.write_text(json.dumps({"cells": [{"outputs": [output]}]}))
    assert main(["give-up", "moody", "--log", str(log), "--profile", "tiny"]) == 0
    why = f"not separated: {raised.value}"
    assert f"moody: {why}; its rows will say so, and the next run tries again" in capsys.readouterr().err
    assert not log.exists() and Path("05_separate_moody.failed.ipynb").is_file()
    for number in range(2):
        assert main(["shard", "moody", str(number), "--profile", "tiny"]) == 0
    assert set(score_system(profile, dataset, "moody", progress=False).reason) == {why}
    assert set(read_scores(scores).status) == {"failed"} and (profile.folder / "audio" / "moody").is_dir()
    assert "failed" not in set(score_system(profile, dataset, "mixture", progress=False).status)
    steps.forget_failures(profile.folder)
    assert not scores.exists()
    Path("healed").touch()
    assert "failed" not in set(score_system(profile, dataset, "moody", progress=False).status)


@pytest.mark.parametrize(
    ("job", "calls", "code"),
    [
        ("exit 0", 1, 0),
        ("test -e given-up", 2, 0),
        ("exit 1", 2, 1),  # it is not the separation: the run stops
        ("kill -TERM $PPID; sleep 0.1; exit 1", 1, 130),  # an interrupt is no failure
    ],
)
def test_a_separation_that_dies_runs_once_more_for_its_rows(tmp_path, job, calls, code):
    """The command of the Snakefile, with stand-ins for the job and for Python."""
    snakefile = (Path(__file__).parents[3] / "Snakefile").read_text("utf-8")
    names = {"CONFIG": "configs/tiny.yaml"}
    exec(re.search(r"^def or_rows.*?\n\n", snakefile, re.MULTILINE | re.DOTALL)[0], names)
    command = names["or_rows"]("job {log:q}").replace("{log:q}", "the.log").replace("{wildcards.system:q}", "moody")
    for name, body in {"job": f"echo job $* >> calls; {job}", "python": "echo $* >> given-up"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"set -euo pipefail; {command}"], cwd=tmp_path, env=environment)
    assert done.returncode == code and (tmp_path / "calls").read_text() == "job the.log\n" * calls
    told = ["-m companion give-up moody --log the.log --profile configs/tiny.yaml"] * (calls - 1)
    assert told == ((tmp_path / "given-up").read_text().splitlines() if calls > 1 else [])


def test_one_job_writes_all_that_trainings_read(project, monkeypatch):
    """Every system opens its material again with nothing left to decode: no two jobs write one file of the cache."""
    own = {name: {} for name in SYSTEMS if not name.endswith("pretrained")}
    own["flowsep"] = {"members": [{}, {"feature": {"sample_rate": 11025}}]}
    profile, dataset = project(systems=own)
    assert main(["cache", "--profile", "tiny"]) == 0
    monkeypatch.setattr(recordings, "atomic_path", lambda path: pytest.fail(f"written again: {path}"))
    prepare_cache(profile, dataset)
    assert json.loads((profile.folder / "cache.json").read_text())["data_hash"] == dataset.hash
