"""`python -m research`: train the compared priors, separate with them, and write results/research/<topic>.csv."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import companion
from companion.data.tracks import Dataset
from companion.profile import Profile, find_root
from companion.provenance import git_state
from flowsep.files import FlowsepError, atomic_path
from flowsep.machine import device_name
from flowsep.prior import Prior

from . import limits, real, trials
from .elsewhere import elsewhere
from .priors import SETS, fitted
from .songs import Excerpt, excerpts
from .transformer import components, transformer, transposed


@dataclass(frozen=True)
class Research:
    """The common input of all topics; songs are decoded for those that need them."""

    name: str
    seconds: float
    count: int
    folder: Path

    @cached_property
    def profile(self) -> Profile:
        return companion.load_profile(self.name)

    @cached_property
    def dataset(self) -> Dataset:
        return companion.load_dataset(self.profile.data, self.profile.seed)

    @cached_property
    def songs(self) -> list[Excerpt]:
        return excerpts(self.profile, self.dataset, self.seconds, self.count)

    def priors(self, name: str) -> dict[str, Prior]:
        """A set of `priors.SETS`, trained now if it is not on disk."""
        return fitted(name, self.profile, self.dataset, self.folder / "priors")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m research", description=__doc__)
    parser.add_argument("--profile", default="demo", help="whose data and priors; its book must have been made")
    parser.add_argument("--only", metavar="TOPIC", nargs="+", choices=TOPICS, default=list(TOPICS), help="default: all")
    parser.add_argument("--songs", type=int, default=4, metavar="N", help="validation songs (default 4)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each song, where it sounds most (default 10)")
    given = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    try:
        research = Research(given.profile, given.seconds, given.songs, find_root() / "results" / "research")
        for name in given.only:
            print(f"{name}: {TOPICS[name](research)}", file=sys.stderr)
    except FlowsepError as error:
        print(f"research: {error}", file=sys.stderr)
        return 2
    return 0


def compare(research: Any, studies: Callable[[], Iterable[trials.Trial]], name: str) -> Path:
    """Every trial on every song; trials on the same songs that the file already holds are not repeated."""
    path, first = research.folder / f"{name}.csv", research.songs[0]
    songs = f"{research.dataset.hash} {len(research.songs)} {first.name} {first.mixture.shape}"
    frame = pd.read_csv(path, dtype={"key": str}) if path.is_file() else pd.DataFrame({"key": []})
    wanted = {trials.key(trial, songs): trial for trial in studies()}
    frame = frame[frame["key"].isin(wanted)]
    sets: dict[str, dict[str, Prior]] = {}
    for key, trial in wanted.items():
        if key in set(frame["key"]):
            continue
        sets |= {name: research.priors(name) for name in trial.sets if name not in sets}
        rows = [row for song in research.songs for row in trials.run(trial, song, sets)]
        priors = [prior for name in trial.sets for prior in sets[name].values()]
        cost = sum(prior.provenance.get("training_seconds", 0.0) for prior in priors)
        new = pd.DataFrame(rows).assign(training_seconds=round(cost, 1), settings=trial.settings, key=key, **origin())
        frame = pd.concat([frame, new]) if len(frame) else new
        write(frame, path)
        print(f"{trial.study}: {trial.label}: {new.sdr.mean():.2f} dB", file=sys.stderr)
    return path


def once(name: str, measure: Callable[[Research], list[dict[str, Any]]]) -> Callable[[Research], Path]:
    """A topic of which `measure` gives all rows at once."""

    def topic(research: Research) -> Path:
        path = research.folder / f"{name}.csv"
        write(pd.DataFrame(measure(research)).assign(**origin()), path)
        return path

    return topic


def origin() -> dict[str, str]:
    """The columns with the origin of a row."""
    return git_state() | {"device": device_name(), "time": datetime.now(UTC).isoformat(timespec="seconds")}


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write the whole file or nothing."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")


TOPICS: dict[str, Callable[[Research], Path]] = {
    "priors": lambda research: [research.priors(name) for name in SETS] and research.folder / "priors",
    "trials": lambda research: compare(research, trials.studies, "trials"),
    "band": lambda research: compare(research, trials.band, "band"),
    "real": lambda research: compare(real.Real.of(research.folder), real.studies, "real"),
    "real_likelihood": once("real_likelihood", real.likelihood),
    "transformer": once("transformer", transformer),
    "components": once("components", components),
    "transposed": once("transposed", transposed),
    "confidence": once("confidence", real.confidence),
    "likelihood": once("likelihood", limits.likelihood),
    "ceiling": once("ceiling", limits.ceiling),
    "silence": once("silence", limits.silence),
    "uncertainty": once("uncertainty", limits.uncertainty),
    "elsewhere": once("elsewhere", elsewhere),
}

if __name__ == "__main__":
    sys.exit(main())
