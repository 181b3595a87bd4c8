"""The paper's method with priors of noisy magnitudes, several per source: this project's own variant."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from flowsep.checkpoint import load_prior
from flowsep.config import FeatureConfig, GlowConfig, SeparationConfig, TrainingConfig
from flowsep.files import FlowsepError
from flowsep.separator import Separator

from ..profile import Profile
from . import System

PARTS = {"feature": FeatureConfig, "model": GlowConfig, "training": TrainingConfig}


class MemberOptions(BaseModel):
    """What one set of priors changes in the profile's `feature`, `model` and `training`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    feature: dict[str, Any] = {}
    model: dict[str, Any] = {}
    training: dict[str, Any] = {"noise": 0.3}

    @field_validator(*PARTS)
    @classmethod
    def _known_keys(cls, changes: dict[str, Any], info) -> dict[str, Any]:
        PARTS[info.field_name](**changes)
        return changes

    def profile(self, profile: Profile, source: str, seed: int) -> Profile:
        """`profile` for the training of the prior of one source."""
        now = {"feature": profile.feature, "model": profile.model, "training": profile.training}
        changed = {key: kind(**now[key].model_dump() | getattr(self, key)) for key, kind in PARTS.items()}
        return profile.model_copy(update=changed | {"new_sources": None, "seed": seed})


class OurOptions(SeparationConfig):
    """`SeparationConfig`, and the sets of priors, one or more."""

    members: tuple[MemberOptions, ...] = Field((MemberOptions(),), min_length=1)


class OurFlow(System):
    """`s_i = mean_k Separator(priors_k)(x)_i` over K sets of priors; every prior is one of source plus noise.

    A density of magnitudes spends most of its nats on bins that nobody hears, and the estimates that it prefers are
    smoother than any source. Noise of the level of what matters, added to the crops in training, lessens both. The sets
    may differ in the length of their windows: short ones tell onsets apart, long ones tones; and averaging evens out
    what a single training gets wrong by chance. Like all priors these see solo recordings of their source and nothing
    else; mixtures enter in separation only.

    References: Jayaram and Thickstun 2020 (priors of noisy sources).
    """

    name = "flowsep"
    supervision = "solo"
    Options = OurOptions
    defaults: ClassVar = SeparationConfig.for_noisy_priors().model_dump()
    curve_label = "negative log-likelihood (nats per element)"
    separators: list[Separator] | None = None  # one per set of priors, loaded on first use

    def fit(self, dataset, profile, folder, progress=False):
        """Train all priors, one after the other, into `<folder>/<member>/priors`, from solo stems alone.

        Raises FlowsepError as `companion.systems.priors.train_source`.
        """
        for part in self.parts():
            self.fit_part(part, dataset, profile, folder, progress)

    def parts(self):
        """Each prior by itself: `<member>-<source>`."""
        return tuple(f"{number}-{source}" for number in range(len(self.options.members)) for source in self.sources)

    def fit_part(self, part, dataset, profile, folder, progress=False):
        """Train one prior into `<folder>/<member>/priors`."""
        from .priors import train_source

        number, _, source = part.partition("-")
        own = self.options.members[int(number)].profile(profile, source, profile.seed + int(number))
        train_source(dataset, source, own, Path(folder) / number, progress=progress)
        self.folder, self.separators = Path(folder), None

    def material(self, dataset, profile):
        """The solo recordings of all sources, at each member's rate."""
        from ..data.segments import solo_segments

        features = {member.profile(profile, "", 0).feature for member in self.options.members}
        return [
            solo_segments(dataset, subset, source, feature)
            for feature in sorted(features, key=repr)
            for source in self.sources
            for subset in ("train", "valid")
        ]

    def separate(self, mixture, sample_rate, references=None, callback=None):
        """See `System.separate`; `callback` as in `Separator.stream`, of the first set of priors."""
        if self.separators is None:
            config = SeparationConfig(**self.options.model_dump(include=set(SeparationConfig.model_fields)))
            numbers = range(len(self.options.members))
            members = ({source: load_prior(self._path(k, source)) for source in self.sources} for k in numbers)
            self.separators = [Separator(priors, config) for priors in members]
        estimates = [
            separator(mixture, sample_rate, None if number else callback)
            for number, separator in enumerate(self.separators)
        ]
        return {source: np.mean([stems[source] for stems in estimates], axis=0) for source in self.sources}

    def checkpoints(self):
        """The priors' files, all sources of one set after the other."""
        return [self._path(k, source) for k in range(len(self.options.members)) for source in self.sources]

    def curves(self):
        """One curve per source, of the first set of priors."""
        paths = {source: self.folder / "0" / "training" / source / "loss.csv" for source in self.sources}
        return {source: path for source, path in paths.items() if path.is_file()}

    def _path(self, member: int, source: str) -> Path:
        if self.folder is None:
            raise FlowsepError(f"{self.name}: not fitted, and no folder of a fitted one given")
        return self.folder / str(member) / "priors" / f"{source}.safetensors"
