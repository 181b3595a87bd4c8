"""`python -m research.material`: how much solo material helps, for `flowsep` and for a network on random mixes.

Both are trained on the first 10, 30, 60 and on all training songs of a profile, three times each with other seeds, for
a share of the profile's steps, and scored on its test songs. The rows go to results/<profile>/material.csv, a killed
run goes on.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import companion
from companion.data.tracks import Dataset
from companion.profile import Profile
from flowsep.files import FlowsepError

from .choices import add_row, fitted, has_row, merged, one_set, scored, shortened

SONGS = (10, 30, 60, None)  # None: all
SEEDS = (0, 1, 2)  # added to the profile's
SYSTEMS = {"flowsep": one_set(noise=0.6), "open_unmix_random": {}}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m research.material", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="musdb18-7s")
    parser.add_argument("--only", metavar="SYSTEM", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--share", type=float, default=0.5, help="of the profile's training steps (default 0.5)")
    given = parser.parse_args()
    try:
        profile = companion.load_profile(given.profile)
        dataset = companion.load_dataset(profile.data, profile.seed)
        tests = [Decoded(track, profile.sources) for track in dataset.subset("test")]
        for seed, number, name in itertools.product(SEEDS, SONGS, given.only):
            trial(profile, fewer(dataset, number), name, profile.seed + seed, given.share, tests)
    except FlowsepError as error:
        print(f"material: {error}", file=sys.stderr)
        return 2
    return 0


class Decoded:
    """A song in memory, since decoding it takes as long as separating it, and each trial does it again."""

    def __init__(self, track: Any, sources: Sequence[str]):
        self.name, self.sample_rate, self.mix = track.name, track.sample_rate, track.mixture()
        self.stems = {source: track.stem(source) for source in sources}

    def stem(self, source: str) -> np.ndarray:
        """See `companion.data.tracks.Track.stem`."""
        return self.stems[source]

    def mixture(self) -> np.ndarray:
        """See `companion.data.tracks.Track.mixture`."""
        return self.mix


def fewer(dataset: Dataset, songs: int | None) -> Dataset:
    """The first training songs, with the validation and test songs of the whole data set."""
    valid = [replace(track, subset="validation") for track in dataset.subset("valid")]
    return replace(dataset, tracks=(*dataset.subset("train")[:songs], *valid, *dataset.subset("test")))


def trial(profile: Profile, dataset: Dataset, name: str, seed: int, share: float, tests: Sequence[Decoded]) -> None:
    """Train and score a system with one seed, unless the file has it, and add its row."""
    path, songs = profile.folder / "material.csv", len(dataset.subset("train"))
    key = {"data_hash": dataset.hash, "system": name, "songs": songs, "seed": seed, "share": share}
    if has_row(path, key):
        return
    options, shorter = shortened(name, merged(profile.systems[name], SYSTEMS[name]), profile, share)
    own = shorter.model_copy(update={"systems": {name: options}, "seed": seed})
    row = scored(fitted(own, dataset, name), own, dataset, name, tests)
    add_row(path, key | row)
    print(f"{name}, {songs} songs, seed {seed}: {row['mean']:.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
