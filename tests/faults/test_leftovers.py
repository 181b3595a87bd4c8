"""What a kill leaves between writing a file and giving it its name: never read, and never in the way."""

import os
import shutil
import signal
from pathlib import Path

import at_once
import numpy as np
import pandas as pd
import pytest
import torch

from companion.tables import load_scores, made_of
from flowsep import load_prior
from flowsep.checkpoint import find_priors
from flowsep.files import atomic_path

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def left(path: Path, part: int) -> None:
    """Beside `path` what a writer leaves that is killed when it has written `part` bytes of the same."""
    with atomic_path(path) as temporary:
        leftover = temporary
    leftover.write_bytes(path.read_bytes()[:part])


def test_what_was_half_written_is_not_read(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from kept import hash_of_scores, numbers

    results = tmp_path / "demo"
    shutil.copytree(ROOT / "results" / "demo" / "scores", results / "scores")
    before = load_scores(results), made_of(results), hash_of_scores(results), numbers(results)
    for path in sorted((results / "scores").glob("*.csv")):
        content = path.read_bytes()
        for part in (0, len(content) // 2, len(content)):
            left(path, part)
            path.write_bytes(content)
    assert len(list((results / "scores").iterdir())) == 4 * before[0].system.nunique()
    after = load_scores(results), made_of(results), hash_of_scores(results), numbers(results)
    pd.testing.assert_frame_equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_half_written_prior_is_no_prior(tmp_path, tiny_prior):
    for source in ("vocals", "bass"):
        tiny_prior(source=source).save(tmp_path / f"{source}.safetensors")
    content = (tmp_path / "bass.safetensors").read_bytes()
    left(tmp_path / "bass.safetensors", 1000)
    (tmp_path / "bass.safetensors").write_bytes(content)
    assert len(list(tmp_path.iterdir())) == 3 and set(find_priors(tmp_path)) == {"bass", "vocals"}


@pytest.mark.faults
def test_a_kill_between_any_file_and_its_name(tmp_path, inject):
    at_once.train(tmp_path / "whole")
    whole = load_prior(tmp_path / "whole" / "hum.safetensors").state_dict()
    curve = pd.read_csv(tmp_path / "whole" / "training" / "hum" / "loss.csv").drop(columns="seconds")
    writes = 3 * (at_once.TRAINING.steps // at_once.TRAINING.validate_every) + 1  # and those of each best prior
    for number in sorted(np.random.default_rng(0).choice(writes, 10, replace=False)):
        place, process = tmp_path / str(number), os.fork()
        if process == 0:
            try:
                die_at(int(number))
                at_once.train(place)
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
        at_once.train(place)
        for name, value in load_prior(place / "hum.safetensors").state_dict().items():
            assert torch.equal(value, whole[name]), (number, name)
        again = pd.read_csv(place / "training" / "hum" / "loss.csv").drop(columns="seconds")
        pd.testing.assert_frame_equal(curve, again)
        inject("kill -9 between a file and its name")


def die_at(number: int) -> None:
    """Let this process be killed when it is about to rename its file number `number`, from 0."""
    rename, done = Path.replace, iter(range(number))

    def replace(path: Path, target: Path) -> Path:
        if next(done, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(path, target)

    Path.replace = replace
