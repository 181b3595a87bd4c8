"""Slakh2100's own folders: which of a track's stems sum to which source, read from its metadata.yaml.

Reference: Manilow, Wichern, Seetharaman, Le Roux, "Cutting Music Source Separation Some Slakh", WASPAA 2019.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

from flowsep.files import MAX_DEPTH, MAX_PROFILE, FlowsepError, brief, check_size

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where there is one: 1700 files take 1 s, not 15
SUFFIXES = (".flac", ".wav")  # as distributed, and as slakh-utils converts it


def stem_files(folder: Path, classes: Mapping[str, str]) -> dict[str, tuple[Path, ...]]:
    """{source: the files in `<folder>/stems/` that sum to it}, one file for each stem that was rendered.

    Args:
        folder: `TrackNNNNN/` with `metadata.yaml`.
        classes: a stem's `inst_class` -> its source; stems of other classes are left out. A stem whose `is_drum` is
            set is of the class Drums.
    Raises:
        FlowsepError: the metadata cannot be read, a stem that was rendered has no file, or a source has no stem. The
            stems are normalised together, so a source without one of them would be another mix.
    """
    files: dict[str, list[Path]] = {source: [] for source in classes.values()}
    for name, about in sorted(_stems(folder / "metadata.yaml").items()):
        source = classes.get("Drums" if about.get("is_drum") else str(about.get("inst_class")))
        if source is None or not about.get("audio_rendered", True):
            continue
        found = [path for path in (folder / "stems" / f"{name}{suffix}" for suffix in SUFFIXES) if path.is_file()]
        if not found:
            raise FlowsepError(f"stems/{name}.flac ({source}) is missing")
        files[source].append(found[0])
    if lacking := [source for source, its in files.items() if not its]:
        raise FlowsepError(f"no stem of {' and '.join(lacking)} was rendered")
    return {source: tuple(its) for source, its in files.items()}


def _stems(path: Path) -> dict[str, Mapping]:
    if not path.is_file():
        raise FlowsepError("metadata.yaml is missing")
    check_size(path, MAX_PROFILE)
    try:
        text = path.read_text(encoding="utf-8")
        _check_events(text)
        stems = {str(name): dict(about) for name, about in yaml.load(text, Loader=LOADER)["stems"].items()}
    except FlowsepError:
        raise
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FlowsepError("metadata.yaml does not list the track's stems") from error
    if odd := [name for name in stems if Path(name).name != name or not name.isprintable()]:
        raise FlowsepError(f"metadata.yaml: a stem is called {brief(odd[0])}, which is no name of a file")
    return stems


def _check_events(text: str) -> None:
    """Refuse aliases, which the data set has none of and which may repeat each other, and nesting, on which libyaml's
    loader would end the process for want of stack."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise FlowsepError(f"metadata.yaml holds aliases, or more than {MAX_DEPTH} levels")
