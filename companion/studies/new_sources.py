"""New sources that join a finished model, scored before and after."""

from collections.abc import Callable, Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from flowsep.files import FlowsepError

from ..data.excerpts import excerpt
from ..data.tracks import Dataset, Track
from ..profile import NewSourcesConfig, Profile
from ..provenance import run_provenance
from ..scores.evaluate import evaluate_system, write_scores
from ..systems import System, load_system
from ..systems.priors import load_trained

REST = "rest"  # the stem of `within` minus the new sources


def score_new_sources(
    profile: Profile,
    dataset: Dataset,
    *,
    on_estimates: Callable[[str, Any, Mapping[str, np.ndarray]], None] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score the flow before and after the priors of the new sources join it; the rows go to `new_sources.csv`.

    The test songs with the new sources are separated under the profile's options by three sets of priors, the
    `variant` of the rows. 'before': the profile's priors; each new source and the `rest` get an equal share of
    `within`. 'after': the profile's and the new priors; the prior of `within` explains the rest. 'instead': the new
    priors replace the prior of `within`, so that no prior explains the rest. In the last two, `within` is the sum of
    its parts. All three are scored on the same stems, so that the same frames count.

    Args:
        on_estimates: called with (variant, track, estimates) after each track; the track has a stem `rest`.
    Raises:
        FlowsepError: no new sources in the profile, no test song with their stems, a missing prior.
    """
    new = profile.new_sources
    if new is None:
        raise FlowsepError(f"profile {profile.name}: names no `new_sources`; add the key to score them")
    tracks = [_Parted(track, profile) for track in dataset.subset("test") if set(new.sources) <= set(track.files)]
    if not tracks:
        raise FlowsepError(f"{dataset.root}: no test song has stems of all new sources ({', '.join(new.sources)})")
    load_trained(profile, dataset, profile.trained)  # other priors are refused
    instead = tuple(source for source in profile.trained if source != new.within)
    frames = []
    for variant, sources in (("before", profile.sources), ("after", profile.trained), ("instead", instead)):
        options = profile.systems.get("instglow")
        flow = _PartedFlow(load_system("instglow", options, sources=sources, priors=profile.folder / "priors"), new)

        def keep(track: Any, estimates: Mapping[str, np.ndarray], variant: str = variant) -> None:
            if on_estimates is not None:
                on_estimates(variant, track, estimates)

        frames.append(
            evaluate_system(
                flow,
                tracks,
                sources=(*profile.trained, REST),
                provenance=run_provenance(profile, flow, dataset, variant=variant),
                conventions=profile.evaluation.conventions,
                on_estimates=keep,
                progress=progress,
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    write_scores(frame, profile.folder / "new_sources.csv")
    return frame


class _Parted:
    """The separated seconds of a track, with a stem `rest`: `within` minus the new sources."""

    def __init__(self, track: Track, profile: Profile):
        self.track, self.new = track, profile.new_sources
        self.sources = (*(source for source in profile.trained if source != self.new.within), REST)  # sum: the mixture

    def __getattr__(self, name: str) -> Any:
        return getattr(self.track, name)

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
        if self.new.seconds is None:
            return slice(None)
        whole = SimpleNamespace(stem=self._whole, sample_rate=self.sample_rate)
        return slice(*excerpt(whole, self.sources, self.new.seconds))


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
        rest = estimates.get(within, np.zeros_like(mixture))
        return estimates | {REST: rest, within: rest + sum(estimates[name] for name in self.new.sources)}
