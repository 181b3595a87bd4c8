"""New sources that join a finished model: their priors, and scores before and after."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from flowsep.files import FlowsepError, writable

from ..data.excerpts import excerpt
from ..data.tracks import Dataset, Track
from ..profile import NewSourcesConfig, Profile
from ..provenance import run_provenance
from ..scores.evaluate import evaluate_system, write_scores
from ..systems import System, load_system

REST = "rest"  # the stem of `within` minus the new sources


def fit_new_sources(profile: Profile, dataset: Dataset, *, progress: bool = True) -> System:
    """Train `flowsep`'s priors of the new sources and of the `rest`, with the settings of all its priors.

    They learn from the songs that have all new sources as stems, and go to `new_sources/<set>/priors/` in the profile's
    folder, beside copies of the priors that are there already. A training that was killed goes on.

    Returns the system that separates the new sources and the rest. Raises FlowsepError: no new sources or no system
    `flowsep` in the profile, a missing prior, no song to learn from.
    """
    new, folder = _asked_for(profile), profile.folder / "new_sources"
    old = load(profile, profile.sources, profile.folder / "systems" / "flowsep")
    for path in _files(
        old, "which the new sources could join; run notebooks/05_separate.ipynb -p system flowsep first"
    ):
        copy = folder / path.parent.parent.name / "priors" / path.name
        with writable(copy, "make room"):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    flow: Any = load(profile, (*new.sources, REST), folder)
    flow.fit(with_rest(dataset, profile), profile, folder, progress=progress)
    return flow


def with_rest(dataset: Dataset, profile: Profile) -> Dataset:
    """The data set, whose tracks with stems of all new sources have a stem `rest`, too."""
    new = _asked_for(profile).sources
    tracks: Any = [Parted(track, profile) if set(new) <= set(track.files) else track for track in dataset.tracks]
    return replace(dataset, tracks=tuple(tracks))


def load(profile: Profile, sources: Iterable[str], folder: Path) -> System:
    """`flowsep` with the profile's options and the priors of these sources in a folder."""
    return load_system("flowsep", profile.systems["flowsep"], sources=sources, folder=folder)


def score_new_sources(
    profile: Profile,
    dataset: Dataset,
    *,
    on_estimates: Callable[[str, Any, Mapping[str, np.ndarray]], None] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score `flowsep` before and after the priors of `fit_new_sources` join it; the rows go to `new_sources.csv`.

    The test songs with the new sources are separated by three sets of priors, the `variant` of the rows. 'before': the
    profile's priors; each new source and the `rest` get an equal share of `within`. 'after': the profile's and the new
    priors; the prior of `within` explains the rest. 'instead': the priors of the new sources and of the rest replace
    the prior of `within`. In the last two, `within` is the sum of its parts. All three are scored on the same stems, so
    that the same frames count.

    Args:
        on_estimates: called with (variant, track, estimates) after each track; the track has a stem `rest`.
    Raises:
        FlowsepError: no new sources in the profile, no test song with their stems, a missing prior.
    """
    new = _asked_for(profile)
    songs = [track for track in dataset.subset("test") if set(new.sources) <= set(track.files)]
    tracks = [Parted(track, profile, new.seconds) for track in songs]
    if not tracks:
        raise FlowsepError(f"{dataset.root}: no test song has stems of all new sources ({', '.join(new.sources)})")
    instead = (*(source for source in profile.sources if source != new.within), *new.sources, REST)
    sets = {"before": profile.sources, "after": (*profile.sources, *new.sources), "instead": instead}
    frames = []
    for variant, sources in sets.items():
        whole = load(profile, sources, profile.folder / "new_sources")
        _files(whole, "which `fit_new_sources` trains; notebooks/10_a_new_source.ipynb does both")
        flow = _PartedFlow(whole, new)

        def keep(track: Any, estimates: Mapping[str, np.ndarray], variant: str = variant) -> None:
            if on_estimates is not None:
                on_estimates(variant, track, estimates)

        frames.append(
            evaluate_system(
                flow,
                tracks,
                sources=(*profile.sources, *new.sources, REST),
                provenance=run_provenance(profile, flow, dataset, variant=variant),
                conventions=profile.evaluation.conventions,
                on_estimates=keep,
                progress=progress,
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    write_scores(frame, profile.folder / "new_sources.csv")
    return frame


def _files(flow: System, cure: str) -> list[Path]:
    for path in flow.checkpoints():
        if not path.is_file():
            raise FlowsepError(f"{path}: no such prior, {cure}")
    return flow.checkpoints()


def _asked_for(profile: Profile) -> NewSourcesConfig:
    if profile.new_sources is None:
        raise FlowsepError(f"profile {profile.name}: names no `new_sources`; add the key to score them")
    if "flowsep" not in profile.systems:
        raise FlowsepError(f"profile {profile.name}: `new_sources` join the priors of flowsep; add it to `systems`")
    return profile.new_sources


class Parted:
    """A track, or the `seconds` of it in which all parts sound, with a stem `rest`: `within` minus the new sources."""

    def __init__(self, track: Track, profile: Profile, seconds: float | None = None):
        new = _asked_for(profile)
        self.track, self.new, self.seconds = track, new, seconds
        kept = (source for source in profile.sources if source != new.within)
        self.sources = (*kept, *new.sources, REST)  # which sum to the mixture
        self.files = track.files | {REST: tuple(self.files_of(REST))}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.track, name)

    def files_of(self, source: str) -> list[Path]:
        """See `Track.files_of`."""
        made_of = (self.new.within, *self.new.sources) if source == REST else (source,)
        return [path for part in made_of for path in self.track.files_of(part)]

    def mixture(self) -> np.ndarray:
        """See `Track.mixture`."""
        return self.track.mixture()[:, self._span]

    def stem(self, source: str) -> np.ndarray:
        """See `Track.stem`."""
        return self._whole(source)[:, self._span]

    def _whole(self, source: str) -> np.ndarray:
        if source != REST:
            return self.track.stem(source)
        new: Any = (self.track.stem(name) for name in self.new.sources)
        return self.track.stem(self.new.within) - sum(new)

    @cached_property
    def _span(self) -> slice:
        if self.seconds is None:
            return slice(None)
        whole = SimpleNamespace(stem=self._whole, sample_rate=self.sample_rate)
        return slice(*excerpt(whole, self.sources, self.seconds))


class _PartedFlow:
    """A flow that also estimates the parts of `within`: the new sources and the `rest`."""

    def __init__(self, flow: System, new: NewSourcesConfig):
        self.flow, self.new = flow, new

    def __getattr__(self, name: str) -> Any:
        return getattr(self.flow, name)

    def separate(self, mixture: np.ndarray, sample_rate: int, references: Any = None) -> dict[str, np.ndarray]:
        """See `System.separate`."""
        estimates, within = self.flow.separate(mixture, sample_rate), self.new.within
        parts = (within, *self.new.sources)
        if not set(self.new.sources) <= set(estimates):
            estimates |= dict.fromkeys(parts, estimates[within] / len(parts))
        rest = estimates[REST if REST in estimates else within]
        return estimates | {REST: rest, within: rest + sum(estimates[name] for name in self.new.sources)}
