"""`python -m research.transfer`: what systems trained on one kind of songs are worth on another.

`flowsep` and a network on random mixes, trained by the profiles of the embedded band (demo) and of real songs
(musdb18-7s), unless they are trained already; scored on the test songs of both, and on the band's songs of another
SoundFont and tempo. The rows go to results/musdb18-7s/transfer.csv, a killed run goes on.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soxr

import companion
from companion.band.composer import compose
from companion.band.toyband import write_song
from companion.data.tracks import load_references
from companion.graph.steps import fit_system
from flowsep.files import FlowsepError

from .choices import add_row, has_row, scored
from .elsewhere import SECONDS, SEED, SPEEDS

TRAINED_ON = ("demo", "musdb18-7s")
SYSTEMS = ("flowsep", "open_unmix_random")
SONGS = 8  # of each shifted set


class Tape:
    """A song played at another speed, like a tape."""

    def __init__(self, track: Any, speed: float):
        self.track, self.speed, self.name, self.sample_rate = track, speed, track.name, track.sample_rate

    def stem(self, source: str) -> np.ndarray:
        """See `companion.data.tracks.Track.stem`."""
        rate = self.sample_rate
        return soxr.resample(self.track.stem(source).T, self.speed * rate, rate).T.astype(np.float32)

    def mixture(self) -> np.ndarray:
        """See `companion.data.tracks.Track.mixture`."""
        return np.sum([self.stem(source) for source in self.track.parts], axis=0)


def main() -> int:
    argparse.ArgumentParser(prog="python -m research.transfer", description=__doc__.split("\n")[0]).parse_args()
    try:
        profiles = {name: companion.load_profile(name) for name in TRAINED_ON}
        sets = {name: companion.load_dataset(profile.data, profile.seed) for name, profile in profiles.items()}
        path = profiles[TRAINED_ON[-1]].folder / "transfer.csv"
        with shifted() as others:
            songs = {name: dataset.subset("test") for name, dataset in sets.items()} | others
            for trained, name, kind in itertools.product(profiles, SYSTEMS, songs):
                key = {"trained_on": trained, "data_hash": sets[trained].hash, "system": name, "songs": kind}
                if not has_row(path, key):
                    system = fit_system(profiles[trained], sets[trained], name)
                    add_row(path, key | scored(system, profiles[trained], sets[trained], name, songs[kind]))
                    print(f"{name} trained on {trained}, {kind}: done", flush=True)
    except FlowsepError as error:
        print(f"transfer: {error}", file=sys.stderr)
        return 2
    return 0


@contextmanager
def shifted() -> Iterator[dict[str, list[Tape]]]:
    """{kind: songs} of the band with a SoundFont that no training song has, at the tempi of `elsewhere.SPEEDS`."""
    with tempfile.TemporaryDirectory() as folder:
        for index in range(SONGS):
            song = compose(SEED, index, True, SECONDS, "unseen soundfont")
            write_song(song, Path(folder) / song.name, SECONDS)
        tracks = load_references(folder).tracks
        yield {kind: [Tape(track, speed) for track in tracks] for kind, speed in SPEEDS.items()}


if __name__ == "__main__":
    sys.exit(main())
