"""Checkpoints of all kinds with one byte flipped: the hash tells, whichever byte it is, and nothing is computed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import write_hq_tree

from flowsep import FlowsepError, load_dataset, load_prior
from flowsep.baselines import load_system
from flowsep.config import load_profile
from flowsep.prior import read_safetensors
from flowsep.run import fit_system
from flowsep.train import train_source

FLIPS = 12  # of a file, half of them in its header
NETWORK = {"steps": 4, "batch": 2, "crop_seconds": 0.5, "lr": 0.001, "sample_rate": 11025}
PROFILE = {
    "name": "tiny",
    "model": {"steps": 1, "hidden": 4, "kernel": 3, "layers": 1, "dropout": 0.0},
    "training": {"steps": 8, "batch": 2, "crop_seconds": 0.2, "lr": 0.001, "validate_every": 2, "device": "cpu"},
    "systems": {
        "nmf": {"components": 2, "frames": 40, "iterations": 2, "activations": 2},
        "flowsep": {"iterations": 1},
        "gan_prior": {"prior": {"depth": 2, "channels": 2, "steps": 2, "batch": 2}, "iterations": 1},
        "open_unmix": {"hidden": 4, "layers": 1, "n_fft": 512, "hop": 128, **NETWORK},
    },
}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A project in which each kind of system has left its checkpoints and its work."""
    place = tmp_path_factory.mktemp("fitted")
    for name in ("configs", "notebooks"):
        (place / name).mkdir()
    songs = write_hq_tree(place / "songs", train=3, test=1, seconds=1.5)
    data = {"kind": "musdb18hq", "root": str(songs), "valid_tracks": 1}
    (place / "configs" / "tiny.yaml").write_text(json.dumps({"profile": PROFILE | {"data": data}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("FLOWSEP_DATA", str(place / "cache"))
        profile = load_profile("tiny")
        dataset = load_dataset(profile.data, profile.seed)
        train_source(dataset, "vocals", profile, profile.folder, progress=False)
        for name in profile.systems:
            fit_system(profile, dataset, name)
        return place / profile.folder


def places(path: Path, seed: int) -> list[int]:
    """Seeded bytes of a file: its length field, some of its header, some of its tensors, its last."""
    rng, size = np.random.default_rng(seed), path.stat().st_size
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    drawn = [*rng.integers(8, header, FLIPS // 2 - 1), *rng.integers(header, size, FLIPS // 2 - 1)]
    return [int(rng.integers(0, 8)), *map(int, drawn), size - 1]


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_in_any_checkpoint_is_caught(fitted, tmp_path, inject):
    kinds = {path.relative_to(fitted).as_posix() for path in fitted.rglob("*.safetensors")}
    assert {"priors/vocals.safetensors", "systems/nmf/nmf.safetensors", "systems/gan_prior/vocals.safetensors"} <= kinds
    assert {"systems/open_unmix/open_unmix.safetensors", "systems/flowsep/0/priors/vocals.safetensors"} <= kinds
    assert sum(name.endswith("/state.safetensors") for name in kinds) == 1 + 1 + 4 + 4  # a training goes on from each
    told = 0
    for seed, name in enumerate(sorted(kinds)):
        copy = shutil.copy(fitted / name, tmp_path / "copy.safetensors")
        read_safetensors(copy)
        for place in places(Path(copy), seed):
            flip(Path(copy), place, place % 8)
            with pytest.raises(FlowsepError) as error:
                read_safetensors(copy)
            assert "copy.safetensors" in str(error.value), (name, place)
            told += "sha256" in str(error.value)
            flip(Path(copy), place, place % 8)
        read_safetensors(copy)
        inject("flipped bit of a checkpoint", FLIPS)
    assert told >= FLIPS / 2 * len(kinds), "what is still readable is told by its hash"


def test_whatever_reads_a_checkpoint_names_the_damaged_one(fitted, inject, monkeypatch):
    monkeypatch.chdir(fitted.parent.parent)
    profile = load_profile("tiny")
    dataset = load_dataset(profile.data, profile.seed)
    song = dataset.subset("test")[0].mixture()
    damaged = {name: f"systems/{name}/{name}.safetensors" for name in ("nmf", "open_unmix")}
    damaged |= {
        "flowsep": "systems/flowsep/0/priors/bass.safetensors",
        "gan_prior": "systems/gan_prior/drums.safetensors",
    }
    for name, path in damaged.items():
        flip(fitted / path, (fitted / path).stat().st_size - 5, 3)
        system = load_system(name, PROFILE["systems"][name], sources=profile.sources, folder=fitted / "systems" / name)
        with pytest.raises(FlowsepError, match=rf"{Path(path).name}: damaged since it was written: sha256"):
            system.separate(song, 44_100)
        flip(fitted / path, (fitted / path).stat().st_size - 5, 3)
    for path in ("priors/vocals.safetensors", "training/vocals/state.safetensors"):
        flip(fitted / path, (fitted / path).stat().st_size - 5, 3)
    with pytest.raises(FlowsepError, match=r"vocals\.safetensors: damaged since"):
        load_prior(fitted / "priors" / "vocals.safetensors")
    with pytest.raises(FlowsepError, match=r"state\.safetensors: damaged since"):
        train_source(dataset, "vocals", profile, profile.folder, progress=False)
    inject("flipped bit of a checkpoint", len(damaged) + 2)
