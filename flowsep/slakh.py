"""Slakh2100's own folders: which of a track's stems sum to which source, read from its metadata.yaml.

Reference: Manilow, Wichern, Seetharaman, Le Roux, "Cutting Music Source Separation Some Slakh", WASPAA 2019.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

from .files import FlowsepError

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
        source = classes.get("Drums" if about.get("is_drum") else about.get("inst_class"))
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
    try:
        stems = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)["stems"]
        return {str(name): dict(about) for name, about in stems.items()}
    except FileNotFoundError as error:
        raise FlowsepError("metadata.yaml is missing") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise FlowsepError("metadata.yaml does not list the track's stems") from error
