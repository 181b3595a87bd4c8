"""Checkpoints of all kinds with one byte flipped: the hash tells, whichever byte it is, and nothing is computed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import PROFILE

from companion import load_dataset
from companion.profile import load_profile
from companion.systems import load_system
from companion.systems.priors import train_source
from flowsep import FlowsepError, load_prior
from flowsep.weights import read_safetensors

pytestmark = pytest.mark.slow

FLIPS = 12  # of a file, half of them in its header


@pytest.fixture
def fitted(twins, tmp_path, monkeypatch):
    """A copy of a project in which each kind of system has left its checkpoints and its work; we are in it."""
    project = shutil.copytree(twins[0].parents[1], tmp_path / "project")
    monkeypatch.chdir(project)
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "cache"))
    return project / "results" / "tiny"


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
    # a training goes on from each: two priors, two more of our own variant, two GANs and a network
    assert sum(name.endswith("/state.safetensors") for name in kinds) == 2 + 2 + 2 + 1
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


def test_whatever_reads_a_checkpoint_names_the_damaged_one(fitted, inject):
    profile = load_profile("tiny")
    dataset = load_dataset(profile.data, profile.seed)
    song = dataset.subset("test")[0].mixture()
    damaged = {name: f"systems/{name}/{name}.safetensors" for name in ("nmf", "open_unmix")}
    damaged |= {
        "flowsep": "systems/flowsep/0/priors/vocals.safetensors",
        "gan_prior": "systems/gan_prior/accompaniment.safetensors",
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
