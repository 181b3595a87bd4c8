"""The typed profile: what a YAML file in configs/ may say, with defaults, and errors that name the key.

A profile file holds one key, `profile`, so that `papermill -f configs/demo.yaml` hands a notebook one parameter and
`snakemake --configfile configs/demo.yaml` reads the very same file.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .files import MAX_ALIASES, MAX_DEPTH, MAX_PROFILE, MAX_VALUES, SAMPLE_RATES, FlowsepError, brief, check_size

SLAKH_CLASSES = {"Bass": "bass", "Drums": "drums", "Guitar": "guitar", "Piano": "piano"}  # the paper's submix
HOW_ONLY = ("devices", "reversible")  # of a training: how it is computed, not what
HOW_RUN = ("shards",)  # of a profile: the same
NAME = re.compile(r"\w[\w-]{0,63}")  # of a source or a system
PRETRAINED = ("demucs_v2_pretrained", "open_unmix_pretrained")  # systems with weights that their authors published


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_key(cls, value: Any, handler: Any) -> Self:
        """Turn pydantic's report into one sentence with the offending key and the nearest valid one."""
        if isinstance(value, Mapping):
            for key, given in value.items():
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key)[:80], cls.model_fields, n=1, cutoff=0.5)
                    hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(cls.model_fields)}"
                    raise FlowsepError(f"unknown key {brief(key)} in {cls.__name__}; {hint}")
                if isinstance(given, bool) and cls.model_fields[key].annotation is not bool:
                    raise FlowsepError(f"key '{key}' in {cls.__name__} is no switch, found {given}")
        return handler(value)


class PiecesConfig(_Model):
    """The paper's training pieces: long silences are taken out of every stem, and what remains is cut at random."""

    silence_db: float = -50.0  # dB of full scale: a block of 20 ms whose RMS is below is silent
    max_silence_seconds: float = Field(1.0, ge=0)  # longer silences are removed whole
    seconds: tuple[PositiveFloat, PositiveFloat] = (7.0, 10.0)  # a piece is uniformly as long
    shortest: PositiveFloat = 3.0  # what is left at the end of a stem is a piece, too, unless it is shorter than this
    valid_share: float = Field(0.02, gt=0, lt=1)  # of the pieces, held out for validation; one piece at least

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.shortest <= self.seconds[0] <= self.seconds[1]:
            raise ValueError(f"expected shortest <= seconds[0] <= seconds[1], found {self.shortest}, {self.seconds}")
        return self


class DataConfig(_Model):
    """Which songs: the embedded band, MUSDB18 (`.stem.mp4`), MUSDB18-HQ (wav), Slakh2100, or any folder of stems."""

    kind: Literal["toyband", "musdb18", "musdb18hq", "slakh", "stems"] = "toyband"
    root: str | None = None  # a folder; None: the cache (toyband), $MUSDB_PATH (musdb18, musdb18hq) or $SLAKH_PATH
    train_tracks: PositiveInt | None = None  # None: all of them; for toyband: how many to compose
    test_tracks: PositiveInt | None = None
    seconds: PositiveFloat | None = None  # length of a toyband song
    valid_tracks: PositiveInt = 2  # songs to validate on: training songs held out, or the first of Slakh's validation/
    pieces: PiecesConfig | None = None  # None: train on whole stems; else on pieces of all training songs
    classes: dict[str, str] = SLAKH_CLASSES  # slakh: the inst_class of a stem -> the source that it is part of


class FeatureConfig(_Model):
    """Linear magnitude STFT of the paper: mono 22,050 Hz, Hann window of `n_fft` samples, centred."""

    sample_rate: int = Field(22050, ge=SAMPLE_RATES[0], le=SAMPLE_RATES[1])
    n_fft: int = Field(1024, ge=2, le=2**16)
    hop: PositiveInt = 256


class GlowConfig(_Model):
    """Sizes of one prior; the defaults are the paper's."""

    bins: PositiveInt = 514
    squeeze: PositiveInt = 2
    steps: PositiveInt = 12
    hidden: PositiveInt = 128
    layers: PositiveInt = 4
    kernel: PositiveInt = 5
    dilation_rate: PositiveInt = 1
    groups: PositiveInt = 4
    dropout: float = Field(0.05, ge=0, lt=1)
    sigmoid_scale: bool = False
    order: Literal["grouped", "plain"] = "grouped"  # of the channels inside; plain: as in the research code


class TrainingConfig(_Model):
    """How a prior is fitted; `steps` counts optimiser steps, so that a run is the same on any machine."""

    steps: PositiveInt = 400_000
    epochs: PositiveInt | None = None  # passes through the segments, each drawn once in a pass; they replace `steps`
    batch: PositiveInt = 32
    crop_seconds: PositiveFloat = 3.0
    lr: PositiveFloat = 1e-4
    schedule: Literal["step", "cosine"] = "step"  # step: the paper's x0.3 every 80,000; cosine: warm-up, then to zero
    clip: PositiveFloat = 4.0  # norm of the gradient
    gain_db: float = Field(0.0, ge=0)  # crops are scaled by a uniform gain in [-gain_db, gain_db]
    speed: float = Field(0.0, ge=0, lt=1)  # crops are played up to 1 + speed times faster or slower
    silence_db: float = -50.0  # crops whose level lies below are left out (dB of full scale)
    # standard deviation of normal noise on the magnitudes: the prior becomes that of the source and the noise, smooth
    # where it would else be spent on what nobody hears; 0, the paper's: none but the last bit of the audio
    noise: float = Field(0.0, ge=0)
    validate_every: PositiveInt = 2_000
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"  # auto: bf16 on CUDA, else fp32
    device: str = "auto"
    devices: PositiveInt = 1  # GPUs (or processes of a CPU) that share each batch of a prior, in equal parts
    reversible: bool = False  # recompute activations on the way back: memory that does not grow with the flow's depth

    @model_validator(mode="after")
    def _in_equal_parts(self) -> Self:
        if self.batch % self.devices:
            raise ValueError(f"devices must divide batch = {self.batch}, found {self.devices}")
        return self


class SeparationConfig(_Model):
    """The optimiser in latent space (PAPER, section "Separation"): `alpha` = 0 is MLE, above 0 MAP.

    The defaults were chosen on the demo's validation songs, for priors without noise; `smoothed` has those for priors
    of noisy sources, and `flowsep.latent.usual_config` chooses. What each is worth: `notebooks/11_ablations.ipynb` and
    `notebooks/14_beyond_the_paper.ipynb`.
    """

    space: Literal["z", "x"] = "x"
    alpha: float = Field(0.015, ge=0)
    iterations: PositiveInt = 24
    lr: PositiveFloat = 0.04
    lr_decay: float = Field(0.97, gt=0, le=1)  # the learning rate is multiplied by it ...
    lr_every: PositiveInt = 1  # ... after each so many iterations
    momentum: float = Field(0.0, ge=0, lt=1)  # Adam's first beta; with 0.9, the paper's, estimates run past the stems
    # |s|, the magnitude of the sum of the estimates, is sqrt(s^2 + smooth^2), and the gradient's scale is the same for
    # any length: chunks then agree with the whole song to 60 dB, to 50 at 0.03. 0, the paper's: a kink where s changes
    # its sign, at which tiny differences grow, and the mean over all elements, beside which Adam's floor is not small
    smooth: float = Field(0.05, ge=0)
    sigma: float = Field(0.0, ge=0)  # standard deviation of the initial latents; 0: start at the prior's mode
    wiener: bool = True  # ratio mask of the estimates on the mixture, so that the stems sum to it
    nonnegative: bool = True  # negative estimates count as zero in that mask; the paper keeps their sign
    mask_power: PositiveFloat = 1.0  # of the estimates in that mask: 1 divides magnitudes, 2 powers
    seed: int = 0  # of the initial latents, when sigma > 0
    chunk_seconds: PositiveFloat = 20.0  # of the song that are separated together
    # by which two chunks overlap: faded in its middle half, thrown away outside; 0: pieces, each a song of its own
    overlap_seconds: float = Field(1.0, ge=0)
    device: str = "auto"
    precision: Literal["32-true", "64-true", "bf16-mixed"] = "32-true"
    engine: Literal["stacked", "layers"] = "stacked"  # layers: slower, in the research code's order
    recompute: bool = False  # activations from outputs, not from memory: depth costs none, a third more operations
    cuda_graph: bool = False  # on CUDA: all kernels of an iteration are launched at once

    @classmethod
    def smoothed(cls, **changes: Any) -> Self:
        """For priors whose training had noise (`TrainingConfig.noise`): more steps, smoother modulus, sharper masks."""
        ours = {"iterations": 72, "lr": 0.02, "lr_decay": 0.98, "smooth": 0.2, "mask_power": 1.5}
        return cls(**(ours | changes))

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The paper's own setting: MLE in z space from z = 0, 150 Adam steps of 0.01, 60 s pieces, no Wiener mask."""
        paper = {
            "space": "z",
            "alpha": 0.0,
            "iterations": 150,
            "lr": 0.01,
            "lr_decay": 0.2,
            "lr_every": 800,
            "momentum": 0.9,
            "smooth": 0.0,
            "sigma": 0.0,
            "wiener": False,
            "nonnegative": False,
        }
        return cls(**(paper | {"chunk_seconds": 60.0, "overlap_seconds": 0.0} | changes))


class EvaluationConfig(_Model):
    """Which conventions of SDR are computed (they never share a table), and which metrics beside it."""

    conventions: tuple[Literal["paper", "sisec18"], ...] = ("paper", "sisec18")
    # SIR, ISR and SAR run museval, 1.6 times as long as the songs last (four stems on one CPU core: `metrics.bss_eval`)
    metrics: tuple[Literal["SDR", "SI-SDR", "SIR", "ISR", "SAR"], ...] = ("SDR", "SI-SDR")

    @model_validator(mode="after")
    def _no_empty_table(self) -> Self:
        if "SDR" not in self.metrics:
            raise ValueError("metrics must hold SDR, which every table shows first")
        if "SIR" in self.metrics and "sisec18" not in self.conventions:
            raise ValueError("metric SIR needs convention sisec18; the paper's scores each source alone")
        return self


class AblationConfig(_Model):
    """What `notebooks/11_ablations.ipynb` varies, on validation songs."""

    tracks: PositiveInt = 2  # validation songs
    seconds: PositiveFloat = 6.0  # of each
    iterations: tuple[PositiveInt, ...] = (5, 10, 20, 40, 80, 150)  # at which estimates are scored; the last one ends
    base: dict[str, Any] = {}  # options of the separator that all studies change in the profile's instglow
    # study -> option of the separator (space, alpha, lr, momentum, sigma, seed) or `priors`, their number -> values
    studies: dict[str, dict[str, list[Any]]]


class NewSourcesConfig(_Model):
    """Sources that join a finished model later, with one new prior each; all other priors stay as they are."""

    sources: tuple[str, ...] = Field(min_length=1)
    within: str  # the source of the profile that has held them so far
    steps: PositiveInt | None = None  # of their training, where it is shorter than the others'; all else is the same
    seconds: PositiveFloat | None = None  # of each song that are separated, where its sources sound most; None: all


class Profile(_Model):
    """One complete experiment: what `configs/<name>.yaml` says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)
    seed: int = Field(2022, ge=0, lt=2**32)
    data: DataConfig = DataConfig()
    sources: tuple[str, ...] = Field(("vocals", "bass", "drums", "other"), min_length=1)
    new_sources: NewSourcesConfig | None = None
    feature: FeatureConfig = FeatureConfig()
    model: GlowConfig = GlowConfig()
    training: TrainingConfig = TrainingConfig()
    pretrained: bool = False  # add the rows of `PRETRAINED`, which download weights when they are first run
    # name in the table -> options of that system
    systems: dict[str, dict[str, Any]] = Field({"instglow": {}}, validate_default=True)
    baselines: tuple[str, ...] | None = None  # which of `systems` run besides instglow; None: all; []: none
    evaluation: EvaluationConfig = EvaluationConfig()
    ablation: AblationConfig | None = None  # None: no such chapter
    listen_seconds: PositiveFloat = 8.0  # length of the excerpts kept for the book
    listen_tracks: PositiveInt = 3
    threads: PositiveInt = 1  # CPU threads of one job
    shards: PositiveInt = 1  # jobs that share the test songs of a system

    @model_validator(mode="after")
    def _name_files(self) -> Self:
        """Names of sources and systems become those of files, of jobs and of options in a shell."""
        for kind, names in (("sources", self.trained), ("systems", tuple(self.systems))):
            for name in names:
                if not NAME.fullmatch(name):
                    raise ValueError(f"{kind}: {brief(name)}: use letters, digits, _ and -, 64 at most, first no -")
            if twice := [name for name in names if [other.casefold() for other in names].count(name.casefold()) > 1]:
                raise ValueError(f"{kind}: '{twice[0]}' is there twice, or in small and capital letters")
        return self

    @field_validator("systems")
    @classmethod
    def _with_pretrained(cls, systems: dict[str, dict[str, Any]], info: ValidationInfo) -> dict[str, dict[str, Any]]:
        return systems | {name: systems.get(name, {}) for name in PRETRAINED if info.data.get("pretrained")}

    @model_validator(mode="before")
    @classmethod
    def _choose_baselines(cls, value: Any) -> Any:
        """Leave instglow and the listed ones in `systems`, so that nothing else is fitted, scored or asked for."""
        chosen = value.get("baselines") if isinstance(value, Mapping) else None
        systems = value.get("systems", {"instglow": {}}) if isinstance(chosen, list | tuple) else None
        if not isinstance(systems, Mapping):
            return value
        if unknown := [name for name in chosen if name not in systems]:
            there = ", ".join(systems)
            raise ValueError(f"baselines: {', '.join(map(str, unknown))}: not among `systems`, which are {there}")
        kept = {name: options for name, options in systems.items() if name == "instglow" or name in chosen}
        return {**value, "systems": kept}

    @model_validator(mode="after")
    def _sources_of_slakh(self) -> Self:
        made = set(self.data.classes.values())
        if self.data.kind == "slakh" and made != set(self.sources):
            found = f"found {', '.join(sorted(made))}; the mixture is the sum of exactly these"
            raise ValueError(f"data.classes must make the profile's sources ({', '.join(self.sources)}), {found}")
        return self

    @model_validator(mode="after")
    def _fit_new_sources(self) -> Self:
        if new := self.new_sources:
            if new.within not in self.sources:
                raise ValueError(f"new_sources.within: '{new.within}' is none of the sources {', '.join(self.sources)}")
            if "rest" in new.sources:
                raise ValueError("new_sources.sources: none may be called 'rest', which is what remains of `within`")
        return self

    @property
    def trained(self) -> tuple[str, ...]:
        """The sources that have a prior: the profile's, then the new ones."""
        return self.sources + (self.new_sources.sources if self.new_sources else ())

    def training_of(self, source: str) -> TrainingConfig:
        """`training`, with the number of steps that new sources may have of their own."""
        new = self.new_sources
        own = new is not None and new.steps is not None and source in new.sources
        return self.training.model_copy(update={"steps": new.steps}) if own else self.training

    @property
    def folder(self) -> Path:
        """Where this profile's results lie: `results/<name>/` in the project that holds the working directory."""
        return find_root() / "results" / self.name

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the canonical JSON of all settings that decide the result."""
        how = {"training": set(HOW_ONLY), **dict.fromkeys(HOW_RUN, True)}
        settings = self.model_dump(mode="json", exclude=how)
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def hash_of(self, system: str) -> str:
        """`hash` of this profile with one system alone: another one that joins leaves the hashes of the rest alone."""
        own = {name: options for name, options in self.systems.items() if name == system}
        rest = {"baselines": None, "pretrained": False, "ablation": None}
        return self.model_copy(update={"systems": own, **rest}).hash


def find_root(start: str | Path = ".") -> Path:
    """The project folder: the nearest one at or above `start` that holds `configs/` and `notebooks/`."""
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if (folder / "configs").is_dir() and (folder / "notebooks").is_dir():
            return folder
    raise FlowsepError(f"{start}: no folder with configs/ and notebooks/ here or above; run from the project's folder")


def load_profile(profile: str | Path | Mapping[str, Any]) -> Profile:
    """A profile by name (`"demo"`), by path of a YAML file, or from the mapping that papermill injected.

    Raises FlowsepError naming the file, the key and what was found.
    """
    if isinstance(profile, Mapping):
        return _validate(profile, "profile")
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = find_root() / "configs" / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise FlowsepError(f"{path}: no such profile; profiles there: {known}")
    check_size(path, MAX_PROFILE)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of numbers and dates, too
        raise FlowsepError(f"{path}: not a YAML file ({error})") from error
    if not isinstance(content, Mapping) or list(content) != ["profile"]:
        found = brief(list(content)) if isinstance(content, Mapping) else type(content).__name__
        raise FlowsepError(f"{path}: expected the single top-level key 'profile', found {found}")
    return _validate(content["profile"], str(path))


class _Loader(yaml.SafeLoader):
    """YAML of plain values, no key twice, and neither nesting nor aliases that grow beyond the limits."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self.depth = self.aliases = 0
        self.known: set[int] = set()  # mappings that were looked at, which merges change

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Count aliases and how deep it goes: the composer itself would run out of stack."""
        self.aliases += self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > MAX_DEPTH or self.aliases > MAX_ALIASES:
            most = f"more than {MAX_DEPTH} levels or {MAX_ALIASES} aliases"
            raise yaml.composer.ComposerError(None, None, most, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse a key that is there twice, of which the last would count in silence, and merges without end."""
        seen = set()
        for key, _ in () if id(node) in self.known else node.value:
            name = self.construct_object(key, deep=True) if key.tag != "tag:yaml.org,2002:merge" else "<<"
            if isinstance(name, Hashable) and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {brief(name)} twice", key.start_mark)
            seen |= {name} if isinstance(name, Hashable) else set()
        self.known.add(id(node))
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MAX_VALUES} keys", node.start_mark)


def _check_extent(content: Any, where: str) -> None:
    """FlowsepError for more values than a profile can have, counted with all that aliases repeat, or for a circle."""
    left, values = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        values += 1
        if values > MAX_VALUES or depth > MAX_DEPTH:
            raise FlowsepError(f"{where}: more than {MAX_VALUES} values or {MAX_DEPTH} levels; write a smaller profile")
        if isinstance(value, Mapping | list | tuple | set):
            inner = value.values() if isinstance(value, Mapping) else value
            left += [(item, depth + 1) for item in inner]


def _validate(content: Any, where: str) -> Profile:
    _check_extent(content, where)
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "profile"
        message = first["msg"].removeprefix("Value error, ")
        found = "" if first["type"] in ("missing", "value_error") else f", found {brief(first['input'])}"
        raise FlowsepError(f"{where}: {key[:200]}: {message}{found}") from error
