"""Every kind of learnt system, fitted and scored in seconds, in a process of its own: `tiny.py PROJECT SONGS`."""

import json
import os
import sys
from pathlib import Path

from companion import load_dataset
from companion.graph.steps import score_system
from companion.profile import load_profile
from companion.systems.priors import train_source
from flowsep.files import write_text

PROFILE = {
    "name": "tiny",
    "sources": ["vocals", "accompaniment"],
    "model": {"steps": 1, "hidden": 4, "kernel": 3, "layers": 1, "dropout": 0.1},
    "training": {"steps": 8, "batch": 2, "crop_seconds": 0.2, "lr": 0.001, "validate_every": 2, "device": "cpu"},
    "systems": {
        "instglow": {"iterations": 3, "device": "cpu"},
        "flowsep": {"iterations": 3, "device": "cpu"},
        "nmf": {"components": 2, "frames": 40, "iterations": 2, "activations": 2},
        "gan_prior": {
            "prior": {"depth": 2, "channels": 2, "steps": 2, "batch": 2},
            "iterations": 2,
            "device": "cpu",
        },
        "open_unmix": {
            "hidden": 4,
            "layers": 1,
            "n_fft": 512,
            "hop": 128,
            "sample_rate": 11025,
            "steps": 4,
            "batch": 2,
            "crop_seconds": 0.5,
            "lr": 0.001,
            "device": "cpu",
        },
    },
    "listen_seconds": 1,
}


def begin(project: Path, songs: Path, **changes) -> None:
    """Make `project` a place in which the profile `tiny` can be worked on, and go there."""
    for name in ("configs", "notebooks"):
        (project / name).mkdir(parents=True)
    settings = PROFILE | {"data": {"kind": "musdb18hq", "root": str(songs), "valid_tracks": 1}} | changes
    write_text(project / "configs" / "tiny.yaml", json.dumps({"profile": settings}))
    os.chdir(project)


def main(project: Path, songs: Path) -> None:
    begin(project, songs)
    profile = load_profile("tiny")
    dataset = load_dataset(profile.data, profile.seed)
    for source in profile.sources:
        train_source(dataset, source, profile, profile.folder, progress=False)
    for name in profile.systems:
        score_system(profile, dataset, name, progress=False)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
