"""Songs unlike the training songs: other sounds, tempi and ranges."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from companion.band.composer import compose
from companion.band.toyband import write_song
from companion.data.tracks import load_references
from companion.systems import load_system
from flowsep.files import FlowsepError

from .songs import Excerpt

SYSTEMS = ("mixture", "nmf", "instglow", "flowsep", "open_unmix_random", "open_unmix", "ideal_ratio_mask")
SEED, SONGS, SECONDS = 4711, 4, 12.0
SPEEDS = {"unseen SoundFont": 1.0, "and a fourth lower and slower": 0.75, "and a third higher and faster": 1.25}


def elsewhere(research: Any) -> list[dict[str, Any]]:
    """SDR of the book's fitted systems on songs of another seed, played with a SoundFont that no training song has.

    The songs are also played slower and faster, like a tape, which takes tempi and ranges beyond the training songs.
    """
    profile = research.profile
    systems = {name: _fitted(profile, name) for name in SYSTEMS if name in profile.systems}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(SONGS):
            song = compose(SEED, index, True, SECONDS, "unseen soundfont")
            write_song(song, Path(folder) / song.name, SECONDS)
        for track in load_references(folder).tracks:
            stems = track.stems(profile.sources)
            for kind, speed in SPEEDS.items():
                # resampled as if to play at `speed`, but played at the old rate
                tape = {
                    name: soxr.resample(x.T, speed * track.sample_rate, track.sample_rate).T.astype(np.float32)
                    for name, x in stems.items()
                }
                song = Excerpt(track.name, tape, track.sample_rate)
                for name, system in systems.items():
                    references = song.references if system.needs_references else None
                    estimates = system.separate(song.mixture, song.sample_rate, references)
                    origin = {"kind": kind, "track": song.name, "system": name, "supervision": system.supervision}
                    rows += [origin | {"stem": stem, "sdr": round(v, 4)} for stem, v in song.score(estimates).items()]
    return rows


def _fitted(profile: Any, name: str) -> Any:
    folders = {"priors": profile.folder / "priors", "folder": profile.folder / "systems" / name}
    system = load_system(name, profile.systems[name], sources=profile.sources, **folders)
    if missing := [path for path in system.checkpoints() if not path.is_file()]:
        raise FlowsepError(f"{missing[0]}: not there; make the book of profile {profile.name} first")
    return system
