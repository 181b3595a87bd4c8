"""Profiles: the typed settings of an experiment, read from a YAML file in configs/.

The file holds one key, `profile`, so that `papermill -f configs/demo.yaml` gives a notebook one parameter and
`snakemake --configfile configs/demo.yaml` reads the same file.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from flowsep.config import HOW_ONLY, FeatureConfig, GlowConfig, Settings, TrainingConfig
from flowsep.files import MAX_DEPTH, MAX_YAML, FlowsepError, brief, check_size

from .parameters import notebook, refuse_unknown_parameters

SLAKH_CLASSES = {"Bass": "bass", "Drums": "drums", "Guitar": "guitar", "Piano": "piano"}  # the paper's submix
NAME = re.compile(r"\w[\w-]{0,63}")  # of a source or a system
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is 15 times as fast
PRETRAINED = ("demucs_v2_pretrained", "open_unmix_pretrained")  # systems with published weights


class PiecesConfig(Settings):
    """The paper's training pieces: stems without long silences, cut at random."""

    silence_db: float = -50.0  # a block of 20 ms with a lower RMS is silent (dB of full scale)
    max_silence_seconds: float = Field(1.0, ge=0)  # longer silences are removed whole
    seconds: tuple[PositiveFloat, PositiveFloat] = (7.0, 10.0)  # range of the length of a piece, drawn uniformly
    shortest: PositiveFloat = 3.0  # a shorter rest at the end of a stem is dropped
    valid_share: float = Field(0.02, gt=0, lt=1)  # share of the pieces for validation, at least one piece

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.shortest <= self.seconds[0] <= self.seconds[1]:
            raise ValueError(f"expected shortest <= seconds[0] <= seconds[1], found {self.shortest}, {self.seconds}")
        return self


class DataConfig(Settings):
    """The songs: the embedded band, MUSDB18 (`.stem.mp4`) or its sample, MUSDB18-HQ (wav), Slakh2100, a folder."""

    kind: Literal["toyband", "musdb18", "musdb18-7s", "musdb18hq", "slakh", "stems"] = "toyband"
    root: str | None = None  # a folder; None: the cache, $MUSDB_PATH or $SLAKH_PATH
    train_tracks: PositiveInt | None = None  # None: all; toyband: the number to compose
    test_tracks: PositiveInt | None = None
    seconds: float | None = Field(None, ge=1, le=3600)  # length of a toyband song
    valid_tracks: PositiveInt = 2  # training songs held out for validation, or the first in Slakh's validation/
    pieces: PiecesConfig | None = None  # train on pieces of all training songs; None: on whole stems
    classes: dict[str, str] = SLAKH_CLASSES  # slakh: inst_class of a stem -> its source


class EvaluationConfig(Settings):
    """Conventions of SDR, which never share a table, and metrics."""

    conventions: tuple[Literal["paper", "sisec18"], ...] = ("paper", "sisec18")
    # museval computes SIR, ISR and SAR in 1.6 times the length of the songs (four stems, one CPU core)
    metrics: tuple[Literal["SDR", "SI-SDR", "SIR", "ISR", "SAR"], ...] = ("SDR", "SI-SDR")

    @model_validator(mode="after")
    def _no_empty_table(self) -> Self:
        if "SDR" not in self.metrics:
            raise ValueError("metrics must hold SDR, which every table shows first")
        if "SIR" in self.metrics and "sisec18" not in self.conventions:
            raise ValueError("metric SIR needs convention sisec18; the paper's scores each source alone")
        return self


class AblationConfig(Settings):
    """The studies of `notebooks/11_ablations.ipynb`."""

    tracks: PositiveInt = 2  # validation songs
    seconds: PositiveFloat = 6.0  # of each song
    iterations: tuple[PositiveInt, ...] = (5, 10, 20, 40, 80, 150)  # at which estimates are scored
    base: dict[str, Any] = Field({})  # options of instglow in all studies, where they differ from the profile's
    # study -> option of instglow (space, alpha, lr, momentum, sigma, seed), or `priors` (their number) -> values
    studies: dict[str, dict[str, list[Any]]]


class NewSourcesConfig(Settings):
    """Sources that join the finished priors of `flowsep`."""

    sources: tuple[str, ...] = Field(min_length=1)
    within: str  # the source of the profile that holds them
    seconds: PositiveFloat | None = None  # separate an excerpt of each song; None: all of it


class Profile(Settings):
    """One experiment, `configs/<name>.yaml`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)
    seed: int = Field(2022, ge=0, lt=2**32)
    data: DataConfig = DataConfig()
    sources: tuple[str, ...] = Field(("vocals", "bass", "drums", "other"), min_length=1)
    new_sources: NewSourcesConfig | None = None
    feature: FeatureConfig = FeatureConfig()
    model: GlowConfig = GlowConfig()
    training: TrainingConfig = TrainingConfig()
    pretrained: bool = False  # add the systems `PRETRAINED`, which download their weights
    # name in the table -> options of the system
    systems: dict[str, dict[str, Any]] = Field({"instglow": {}}, validate_default=True)
    baselines: tuple[str, ...] | None = None  # the `systems` that run besides instglow; None: all
    evaluation: EvaluationConfig = EvaluationConfig()
    ablation: AblationConfig | None = None  # None: no chapter of ablations
    listen_seconds: PositiveFloat = 8.0  # length of the excerpts in the book
    listen_tracks: PositiveInt = 3
    threads: PositiveInt = 1  # CPU threads of one job
    shards: PositiveInt = 1  # jobs per system, which share its test songs

    @model_validator(mode="after")
    def _name_files(self) -> Self:
        """Names of sources and systems become names of files and jobs, and arguments in a shell."""
        every = self.sources + (self.new_sources.sources if self.new_sources else ())
        for kind, names in (("sources", every), ("systems", tuple(self.systems))):
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
        """Drop all `systems` but instglow and the listed ones."""
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
            sources = f"the profile's sources ({', '.join(self.sources)}), found {', '.join(sorted(made))}"
            raise ValueError(f"data.classes must make {sources}; the mixture is the sum of exactly these")
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
    def folder(self) -> Path:
        """The folder of the results, `results/<name>/` in the project around the working directory."""
        return find_root() / "results" / self.name

    @property
    def hash(self) -> str:
        """First 12 digits of the SHA-256 of all settings that decide the result, as canonical JSON."""
        settings = self.model_dump(mode="json", exclude={"training": set(HOW_ONLY), "shards": True})
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]

    def hash_of(self, system: str) -> str:
        """`hash` of this profile with one system alone, so that adding a system changes no other hash."""
        own = {name: options for name, options in self.systems.items() if name == system}
        rest = {"baselines": None, "pretrained": False, "ablation": None}
        return self.model_copy(update={"systems": own, **rest}).hash


def find_root(start: str | Path = ".") -> Path:
    """The project folder: the nearest one at or above `start` that holds `configs/` and `notebooks/`."""
    start, own = Path(start).resolve(), Path(__file__).resolve().parents[1]
    around = (start, *start.parents)
    roots = [folder for folder in (*around, own) if (folder / "configs").is_dir() and (folder / "notebooks").is_dir()]
    if roots and roots[0] in around:
        return roots[0]
    cure = f"run from the project's folder (papermill: --cwd {roots[0] if roots else 'FOLDER'})"
    raise FlowsepError(f"{start}: no folder with configs/ and notebooks/ here or above; {cure}")


def load_profile(profile: str | Path | Mapping[str, Any]) -> Profile:
    """A profile by name (`"demo"`), by path of a YAML file, or from the mapping that papermill passes.

    Relative paths are looked for beside its file first; for a mapping `FLOWSEP_PROFILE_FOLDER` says where that lies.
    Raises FlowsepError, which names the file, the key and its value. A copy of a profile needs a name of its own, since
    its results would replace the original's; a notebook refuses parameters that it does not have, and to run outside
    the project.
    """
    refuse_unknown_parameters()
    if notebook():  # whose results belong to a project; nothing is composed or trained first
        find_root()
    if isinstance(profile, Mapping):
        return _beside(_validate(profile, "profile"), Path(os.environ.get("FLOWSEP_PROFILE_FOLDER", ".")))
    path = profile_path(profile)
    content = read_yaml(path)
    if not isinstance(content, Mapping) or list(content) != ["profile"]:
        given = brief(list(content)) if isinstance(content, Mapping) else type(content).__name__
        raise FlowsepError(f"{path}: expected the single top-level key 'profile', found {given}")
    made = _validate(content["profile"], str(path))
    original = path.with_name(f"{made.name}.yaml")
    if path.stem != made.name and original.is_file():
        raise FlowsepError(f"{path}: profile.name: '{made.name}' is the profile {original}; give the copy another name")
    return _beside(made, path.parent)


def _beside(profile: Profile, folder: Path) -> Profile:
    """With the files that lie beside the profile's own, or below: the data's folder and systems' classes.

    Where there is none, a relative path begins where it did: a class at the project, the data in the working directory.
    """
    systems = {name: dict(options) for name, options in profile.systems.items()}
    for options in systems.values():
        path, _, attribute = str(options.get("class", "")).rpartition(":")
        if path and not Path(path).is_absolute() and (folder / path).is_file():
            options["class"] = f"{os.path.relpath(folder / path, find_root())}:{attribute}"  # so in every clone
    data, root = profile.data, profile.data.root
    if root and not Path(root).is_absolute() and (folder / root).is_dir():
        data = data.model_copy(update={"root": str((folder / root).resolve())})
    return profile.model_copy(update={"data": data, "systems": systems})


def profile_path(profile: str | Path) -> Path:
    """The file of a profile, given its name in configs/ or its path; FlowsepError if there is none."""
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = find_root() / "configs" / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise FlowsepError(f"{path}: no such profile; profiles there: {known}")
    return path


def read_yaml(path: Path) -> Any:
    """The content of a YAML file of plain values.

    Raises FlowsepError if it is no YAML or too large, nests too deeply, or holds an alias or a key twice.
    """
    check_size(path, MAX_YAML)
    try:
        text, depth = path.read_text(encoding="utf-8"), 0
        for event in yaml.parse(text, Loader=LOADER):  # before the loader, which deep nesting would crash
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
                problem = f"an alias, or more than {MAX_DEPTH} levels; write the value out"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two of numbers and dates
        raise FlowsepError(f"{path}: not a readable YAML file ({brief(error)})") from error


class _Loader(LOADER):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuse a key that stands twice; YAML would take the last one."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            twice, _ = Counter(str(key.value) for key, _ in node.value).most_common(1)[0]
            raise yaml.constructor.ConstructorError(None, None, f"key {brief(twice)} twice", node.start_mark)
        return mapping


def _validate(content: Any, where: str) -> Profile:
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "profile"
        message = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] in ("missing", "value_error") else f", found {brief(first['input'])}"
        raise FlowsepError(f"{where}: {key[:200]}: {message}{given}") from error
