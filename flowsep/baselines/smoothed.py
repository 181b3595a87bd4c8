"""The paper's method with smooth priors, several of them a source: this project's own variant."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PositiveInt, field_validator

from ..config import SeparationConfig, TrainingConfig
from ..files import FlowsepError
from ..prior import Prior, load_prior
from ..separate import separate
from . import System


class SmoothedOptions(SeparationConfig):
    """`SeparationConfig`, how many priors a source has, and what their training changes in the profile's."""

    members: PositiveInt = 1
    training: dict[str, Any] = Field({"noise": 0.1})

    @field_validator("training")
    @classmethod
    def _known_keys(cls, changes: dict[str, Any]) -> dict[str, Any]:
        TrainingConfig(**changes)
        return changes


class SmoothedFlow(System):
    """`s_i = mean_k flowsep.separate(x, priors_k)_i` over K sets of priors; every prior is one of source plus noise.

    A density of magnitudes spends most of its nats on bins that nobody hears, and the estimates that it prefers are
    smoother than any source. Noise of the level of what matters, added to the crops in training, lessens both. The sets
    differ in their seeds alone: averaging evens out what a single training gets wrong by chance. Like all priors these
    see solo recordings of their source and nothing else; mixtures enter in separation only.

    References: Jayaram and Thickstun 2020 (priors of noisy sources).
    """

    name = "flowsep"
    supervision = "solo"
    Options = SmoothedOptions
    defaults: ClassVar = {
        "space": "z",
        "alpha": 0.0,
        "iterations": 48,
        "lr": 0.03,
        "lr_decay": 0.98,
        "mask_power": 1.5,
    }
    curve_label = "negative log-likelihood (nats per element)"
    members: list[dict[str, Prior]] | None = None  # loaded on first use

    def fit(self, dataset, profile, folder, progress=False):
        """Train all priors, one after the other, into `<folder>/<member>/priors`, from solo stems alone.

        Raises FlowsepError for options of the training that there are not, and as `flowsep.train.train_source`.
        """
        from ..train import train_source

        for member in range(self.options.members):
            for source in self.sources:
                training = TrainingConfig(**profile.training_of(source).model_dump() | self.options.training)
                settings = {"training": training, "new_sources": None, "seed": profile.seed + member}
                own, place = profile.model_copy(update=settings), Path(folder) / str(member)
                train_source(dataset, source, own, place, progress=progress)
        self.folder, self.members = Path(folder), None

    def separate(self, mixture, sample_rate, references=None, callback=None):
        """See `System.separate`; `callback` as in `flowsep.separate`, of the first set of priors."""
        if self.members is None:
            numbers = range(self.options.members)
            self.members = [{source: load_prior(self._path(k, source)) for source in self.sources} for k in numbers]
        config = SeparationConfig(**self.options.model_dump(include=set(SeparationConfig.model_fields)))
        found = [
            separate(mixture, priors, config, sample_rate, None if number else callback)
            for number, priors in enumerate(self.members)
        ]
        return {source: np.mean([stems[source] for stems in found], axis=0) for source in self.sources}

    def checkpoints(self):
        """The priors' files, all sources of one set after the other."""
        return [self._path(k, source) for k in range(self.options.members) for source in self.sources]

    def curves(self):
        """One curve a source, of the first set of priors."""
        paths = {source: self.folder / "0" / "training" / source / "loss.csv" for source in self.sources}
        return {source: path for source, path in paths.items() if path.is_file()}

    def _path(self, member: int, source: str) -> Path:
        if self.folder is None:
            raise FlowsepError(f"{self.name}: not fitted, and no folder of a fitted one given")
        return self.folder / str(member) / "priors" / f"{source}.safetensors"
