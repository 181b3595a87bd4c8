"""Every row of the table behind one call: `system = load_system(name, options, sources=...)`.

A system is a subclass of `System` in a file of its own, and a line in `SYSTEMS`; the file is imported when it is asked
for, so that what one system needs costs the others nothing. A system from outside the package needs no line there:
its options name its file and class (`notebooks/12_your_own_system.ipynb`).
"""

import difflib
import importlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from flowsep.files import FlowsepError
from flowsep.weights import read_header

from ..codehash import code_hash
from ..profile import find_root

SYSTEMS = {
    "instglow": "paper_flow:InstGlow",
    "flowsep": "our_flow:OurFlow",
    "nmf": "nmf:SourceNMF",
    "gan_prior": "gan_prior:GanPrior",
    "demucs_v2": "demucs_v2:DemucsV2",
    "conv_tasnet": "conv_tasnet:ConvTasNet",
    "open_unmix": "open_unmix:OpenUnmix",
    "open_unmix_random": "open_unmix:RandomMixesOpenUnmix",
    "wave_u_net": "wave_u_net:WaveUNet",
    "demucs_v2_pretrained": "pretrained:PretrainedDemucs",
    "open_unmix_pretrained": "pretrained:PretrainedOpenUnmix",
    "hpss": "hpss:HarmonicPercussive",
    "ideal_ratio_mask": "oracle:IdealRatioMask",
    "multichannel_wiener": "wiener_oracle:MultichannelWiener",
    "mixture": "mixture:UnprocessedMixture",
}
SUPERVISION = ("solo", "random mixes", "mixtures", "oracle", "none")
COSTS = ("parameters", "training_seconds", "training_memory_mib")  # in provenances and score files


class NoOptions(BaseModel):
    """The options of a system that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class System:
    """What all systems share; a subclass overrides what it needs.

    Class attributes: `name` in `SYSTEMS`, or in the profile; `supervision`, what it learns from ('solo' recordings of
    one source, 'random mixes' of them, true 'mixtures' with their stems, 'oracle' for the stems themselves, or 'none');
    `needs_references`, true for oracles alone; `Options`, a pydantic model; `defaults`, where they differ from the
    model's own; `curve_label`, what the values of its training curves are, with their unit; `kind`, the block of the
    table. `unavailable` says why a system that needs a download cannot run; `fit` sets it.
    """

    name: str
    supervision: str
    kind = "measured"
    needs_references = False
    unavailable = ""
    Options: ClassVar[type[BaseModel]] = NoOptions
    defaults: ClassVar[Mapping[str, Any]] = {}
    curve_label = ""

    def __init__(self, options: Any, sources: Iterable[str], priors: Any = None, folder: str | Path | None = None):
        self.options, self.sources, self.priors = options, tuple(sources), priors
        self.folder = None if folder is None else Path(folder)

    def parts(self) -> tuple[str, ...]:
        """What is learnt, in parts that jobs of their own can learn side by side; () where nothing is."""
        return () if self.supervision in ("oracle", "none") else ("all",)

    def material(self, dataset: Any, profile: Any) -> Any:
        """Open all that `fit` learns from, which decodes it into the cache folder; here: nothing."""

    def fit(self, dataset: Any, profile: Any, folder: str | Path) -> None:
        """Learn from `dataset.subset("train")` and write what was learnt to `folder`; here: nothing to learn."""

    def fit_part(self, part: str, dataset: Any, profile: Any, folder: str | Path) -> None:
        """`fit` for one of `parts()`; here: for all there is."""
        self.fit(dataset, profile, folder)

    def separate(
        self, mixture: np.ndarray, sample_rate: int, references: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """(channels, samples) -> {source: estimate of the same shape and rate}."""
        raise NotImplementedError

    def checkpoints(self) -> list[Path]:
        """The files that an estimate depends on, for its provenance."""
        return []

    def costs(self) -> dict[str, float]:
        """`total_costs` of the provenances in the headers of its checkpoints."""
        files = [path for path in self.checkpoints() if path.suffix == ".safetensors"]
        headers = [read_header(path)[0] for path in files]
        others = [{}] * (len(self.checkpoints()) - len(files))  # type: list[Mapping[str, Any]]
        provenances = [header.get("provenance") for header in headers]
        return total_costs([about if isinstance(about, Mapping) else {} for about in provenances] + others)

    def curves(self) -> dict[str, Path]:
        """Training curves below `folder`: label -> CSV with the columns step, split, value, seconds; '' if alone."""
        return {}


def load_system(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    sources: Iterable[str],
    priors: str | Path | Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
) -> System:
    """The system called `name`, ready to `fit`, or to `separate` with what was fitted before.

    Args:
        name: a key of `SYSTEMS`, or a new one.
        options: of that system, as under `systems` in a profile. A new system also has `class`, "file.py:ClassName"
            (see `own.own_class`), whose code is run: name only files that you trust.
        sources: the stems that it is to separate.
        priors: folder of `<source>.safetensors`, or source -> `Prior`: for systems built on the flow.
        folder: where a fitted system lies: `<folder>/<name>.safetensors`.
    Raises:
        FlowsepError: an unknown system or option, with the nearest valid one; a value that the option does not take; a
            class that does not exist, or has no valid `supervision`.
    """
    chosen = dict(options or {})
    if "class" in chosen:
        from .outside import own_class

        system = own_class(name, chosen.pop("class"))
    elif name in SYSTEMS:
        module, _, attribute = SYSTEMS[name].partition(":")
        system = getattr(importlib.import_module(f".{module}", __name__), attribute)
    else:
        raise FlowsepError(f"unknown system '{name}'; {_hint(name, SYSTEMS)}; one of your own needs the option 'class'")
    for key in chosen:
        if key not in system.Options.model_fields:
            raise FlowsepError(f"system '{name}': unknown option '{key}'; {_hint(key, system.Options.model_fields)}")
    try:
        made = system(system.Options(**{**system.defaults, **chosen}), sources, priors, folder)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise FlowsepError(f"system '{name}': {key}: {first['msg']}, found {first['input']!r}") from error
    if (kind := getattr(made, "supervision", None)) not in SUPERVISION:
        raise FlowsepError(f"system '{name}': supervision is {kind!r}; valid: {', '.join(SUPERVISION)}")
    if made.needs_references and kind != "oracle":
        raise FlowsepError(f"system '{name}': needs_references is for supervision 'oracle' alone, found '{kind}'")
    return made


def code_of(name: str, options: Mapping[str, Any] | None = None) -> str:
    """`code_hash` of a system, with all that it calls, and of scoring; for one of your own, of its whole file."""
    scoring = "companion.scores.score:score_track"
    if own := (options or {}).get("class"):
        place = Path(str(own).rpartition(":")[0])
        return code_hash(scoring, files=[place if place.is_absolute() else find_root() / place])
    return code_hash(scoring, *([f"companion.systems.{SYSTEMS[name]}"] if name in SYSTEMS else []))


def total_costs(provenances: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What it cost to learn all of these: the sum of `parameters` and of `training_seconds`, the largest memory (MiB).

    0 where nothing was learnt, NaN where a provenance does not say.
    """
    said = [[_number(provenance.get(key)) for key in COSTS] for provenance in provenances]
    numbers, seconds, memory = np.reshape(said, (-1, len(COSTS))).T
    return dict(zip(COSTS, map(float, (numbers.sum(), seconds.sum(), memory.max(initial=0.0))), strict=True))


def _number(value: Any) -> float:
    """A number that a header tells; NaN for anything else."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else math.nan


def library(module: str) -> ModuleType:
    """A module of an optional package; FlowsepError says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise FlowsepError(f"{package} cannot be imported ({error}); pip install flowsep[baselines]") from error


def _hint(word: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    meant = f"did you mean '{near[0]}'? " if near else ""
    return f"{meant}valid: {', '.join(valid) or 'none'}"
