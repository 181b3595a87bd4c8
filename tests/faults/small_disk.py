"""Every writer of the package on a disk that is full, then on one that is read-only: `small_disk.py MOUNT SONGS`.

MOUNT is a file system of a few MB that this process may fill and remount, SONGS a data set on another disk. One line of
JSON a fault on standard output. Run by `test_disk.py` in a mount namespace of its own.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from companion import load_dataset
from companion.band.toyband import ensure_band
from companion.data.segments import solo_segments
from companion.graph.steps import score_system
from companion.profile import load_profile
from companion.scores.evaluate import COLUMNS, read_scores, write_scores
from flowsep import FeatureConfig, FlowsepError, GlowConfig, Prior, TrainingConfig, fit_prior
from flowsep.audio import write_audio
from flowsep.cli import main
from flowsep.files import write_text
from flowsep.train import crop_samples

torch.set_num_threads(1)
PLACE, SONGS = Path(sys.argv[1]), sys.argv[2]
ROOM = 16 * 1024  # bytes that a full disk still takes: a file begins well and does not end
MODEL = GlowConfig(steps=2, hidden=8, layers=1, kernel=3, dropout=0.0)
TRAINING = TrainingConfig(
    steps=12, batch=2, crop_seconds=0.2, lr=0.01, validate_every=3, precision="32-true", device="cpu"
)
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 44_100)).astype(np.float32)


class Crops:
    """Noise; the disk is full from step `full` on."""

    def __init__(self, full: int | None = None):
        self.full = full

    def batch(self, step: int) -> np.ndarray:
        if step == self.full:
            fill()
        rng = np.random.default_rng(step)
        return 0.1 * rng.standard_normal((2, crop_samples(TRAINING, FeatureConfig()))).astype(np.float32)


def fill() -> None:
    """Leave `ROOM` bytes, once."""
    if (PLACE / "ballast").exists():
        return
    free = os.statvfs(PLACE).f_bavail * os.statvfs(PLACE).f_frsize
    (PLACE / "ballast").write_bytes(b"\0" * max(0, free - ROOM))


def make_room() -> None:
    """Throw the ballast away."""
    (PLACE / "ballast").unlink(missing_ok=True)


def contents() -> dict[str, bytes]:
    """All files of the disk but the ballast and locks, those that start with a dot included."""
    files = (path for path in PLACE.rglob("*") if path.is_file() and path.name != "ballast" and path.suffix != ".lock")
    return {path.relative_to(PLACE).as_posix(): path.read_bytes() for path in files}


def training(full: int | None = None) -> Prior:
    folder = PLACE / "trained"
    sizes = {"model": MODEL, "feature": FeatureConfig(), "training": TRAINING, "source": "hum", "progress": False}
    return fit_prior(
        Crops(full), Crops().batch(99), **sizes, checkpoint=folder / "hum.safetensors", work=folder / "hum"
    )


def separation() -> None:
    """What `flowsep separate` says, as an error; it is one line."""
    said = io.StringIO()
    song = str(next(Path(SONGS).glob("test/*/mixture.wav")))
    command = ["separate", song, "--priors", str(PLACE / "priors"), "--out", str(PLACE / "stems"), "--iterations", "2"]
    with contextlib.redirect_stderr(said):
        if main([*command, "--force"]):
            lines = [line for line in said.getvalue().splitlines() if "cannot write" in line or "not written" in line]
            assert len(lines) == 1 and "Traceback" not in said.getvalue(), said.getvalue()
            raise FlowsepError(lines[0])


def writers() -> Iterator[tuple[str, str, Callable[[int], object]]]:
    """(what, where, write): `write` takes a number that makes other content."""
    rows = pd.DataFrame([dict.fromkeys(COLUMNS, "x" * 40) for _ in range(200)])
    torch.manual_seed(0)
    prior = Prior(MODEL, FeatureConfig(), "vocals", {})
    dataset = load_dataset(load_profile("tiny").data, 0)

    def save(number: int) -> None:
        prior.provenance = {"number": number}
        prior.save(PLACE / "priors" / "vocals.safetensors")

    yield "text", "notes.md", lambda k: write_text(PLACE / "notes.md", f"{k}" * 40_000)
    yield "scores", "scores.csv", lambda k: write_scores(rows.assign(time=f"{k}"), PLACE / "scores.csv")
    yield "prior", "priors/vocals.safetensors", save
    for suffix in ("wav", "flac"):
        path = PLACE / f"stem.{suffix}"
        yield f"sound, {suffix}", path.name, lambda k, path=path: write_audio(path, NOISE / (k + 1), 44_100)
    yield "embedded band", "cache", lambda k: ensure_band(seed=k, seconds=1, train=1, test=0)
    yield (
        "decoded stems",
        "cache",
        lambda k: solo_segments(dataset, "train", "vocals", FeatureConfig(sample_rate=22050 - k)),
    )
    yield "scores of a system", "results", lambda k: score_system(load_profile("tiny"), dataset, "mixture")
    yield "stems of a song", "stems", lambda k: separation()


def refused(what: str, where: str, write: Callable[[], object], why: str) -> None:
    """One FlowsepError that names the place and the reason, and nothing else has happened."""
    before = contents()
    try:
        write()
    except FlowsepError as error:
        said = str(error)
    else:
        raise AssertionError(f"{what}: nothing was refused")
    assert where in said and (why in said or "is the disk full?" in said) and "\n" not in said, f"{what}: {said}"
    after = contents()
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    # rows of the shard that comes to nothing are made anew, and stems of a song that were done stay
    assert [name for name in changed if not name.startswith("results/tiny/shards/")] == [], f"{what}: {changed}"
    print(json.dumps({"kind": why, "writer": what, "said": said}), flush=True)


def everything() -> None:
    """Fill the disk under each writer, let it write when there is room, then make the disk read-only under each."""
    os.chdir(PLACE)
    for name in ("configs", "notebooks"):
        (PLACE / name).mkdir()
    settings = {"name": "tiny", "data": {"kind": "musdb18hq", "root": SONGS, "valid_tracks": 1}}
    settings |= {"systems": {"mixture": {}}, "listen_seconds": 0.5}
    write_text(PLACE / "configs" / "tiny.yaml", json.dumps({"profile": settings}))
    for what, where, write in writers():
        write(0)
        fill()
        refused(what, where, lambda write=write: write(1), "No space left on device")
        make_room()
        write(1)
    whole = training()
    for path in sorted((PLACE / "trained").rglob("*.*")):
        path.unlink()
    for full in (1, 5, 11):
        before = contents()
        try:
            training(full)
        except FlowsepError as error:
            assert "trained/" in str(error) and "No space left on device" in str(error), error
        else:
            raise AssertionError("a training wrote to a full disk")
        assert not (PLACE / "trained" / "hum.safetensors").exists()
        assert before.items() <= contents().items() or full > 1
        make_room()
        print(json.dumps({"kind": "No space left on device", "writer": f"training, step {full}"}), flush=True)
    resumed = training()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    subprocess.run(["mount", "-o", "remount,ro", PLACE], check=True)
    for what, where, write in writers():
        refused(what, where, lambda write=write: write(2), "Read-only file system")
    (PLACE / "trained" / "hum.safetensors").stat()
    refused("training", "trained/", training, "Read-only file system")
    assert len(read_scores(PLACE / "results/tiny/scores/mixture.csv")), "what is there can be read"


if __name__ == "__main__":
    everything()
