"""The compared sets of priors: the changes of each in the profile's training or songs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from companion.data.tracks import Dataset
from companion.profile import Profile
from companion.systems.our_flow import MemberOptions
from companion.systems.priors import train_source
from flowsep.checkpoint import load_prior
from flowsep.prior import Prior


@dataclass(frozen=True)
class PriorSet:
    """One prior for each source of the profile.

    `oracle` priors are trained on the validation songs themselves. They bound the search with priors that know the
    songs by heart, and are no result.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    oracle: bool = False


def _short(noise: float, steps: int, seed: int = 0) -> PriorSet:
    return PriorSet({"training": {"noise": noise, "steps": steps}}, seed)


def _long(noise: float, steps: int, seed: int = 0) -> PriorSet:
    window = {"feature": {"sample_rate": 11025, "n_fft": 2048, "hop": 512}, "model": {"bins": 1026}}
    return PriorSet(window | {"training": {"noise": noise, "steps": steps, "crop_seconds": 3}}, seed)


def _roots(noise: float, steps: int = 900) -> PriorSet:
    chosen = _long(noise, steps).changes
    return PriorSet(chosen | {"feature": chosen["feature"] | {"exponent": 0.5}})


SETS = {
    "paper": PriorSet({"training": {}}),
    "short, noise 0": _short(0.0, 900),
    "short, noise 0.1": _short(0.1, 900),
    "short, noise 0.1, other seed": _short(0.1, 900, 1),
    "short, noise 0.1, 450 steps": _short(0.1, 450),
    "short, noise 0.3": _short(0.3, 900),
    "long, noise 0.08": _long(0.08, 900),
    "long, noise 0.15": _long(0.15, 900),
    "long, noise 0.3": _long(0.3, 900),
    "long, noise 0.3, other seed": _long(0.3, 900, 1),
    "long, noise 0.6": _long(0.6, 900),
    "roots, noise 0.3": _roots(0.3),
    "roots, noise 0.5": _roots(0.5),
    "roots, noise 0.5, 1800 steps": _roots(0.5, 1800),
    "oracle": PriorSet({"training": {"steps": 900}}, oracle=True),
}


def fitted(
    name: str,
    profile: Profile,
    dataset: Dataset,
    folder: Path,
    progress: bool = True,
    *,
    sets: Mapping[str, PriorSet] = SETS,
) -> dict[str, Prior]:
    """The set `name` of `sets`, source -> prior; priors that `folder`/<name> lacks are trained."""
    chosen, place = sets[name], folder / name.replace(", ", "_").replace(" ", "-")
    if chosen.oracle:
        songs = dataset.subset("valid")
        known = tuple(replace(song, subset=part) for part in ("train", "validation") for song in songs)
        dataset = replace(dataset, tracks=known)
    for source in profile.sources:
        if not (place / "priors" / f"{source}.safetensors").is_file() or _unfinished(place, source):
            own = MemberOptions(**chosen.changes).profile(profile, source, profile.seed + chosen.seed)
            train_source(dataset, source, own, place, progress=progress)
    return {source: load_prior(place / "priors" / f"{source}.safetensors") for source in profile.sources}


def _unfinished(place: Path, source: str) -> bool:
    # the cost of the training is written last
    return "training_seconds" not in load_prior(place / "priors" / f"{source}.safetensors").provenance
