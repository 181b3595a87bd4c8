"""Slakh2100: which stems of a track sum to which source, by its metadata.yaml.

Reference: Manilow, Wichern, Seetharaman, Le Roux, "Cutting Music Source Separation Some Slakh", WASPAA 2019.
"""

from collections.abc import Mapping
from pathlib import Path

from flowsep.files import FlowsepError

from ..profile import read_yaml

SUFFIXES = (".flac", ".wav")  # as distributed, and as slakh-utils converts it


def stem_files(folder: Path, classes: Mapping[str, str]) -> dict[str, tuple[Path, ...]]:
    """The files of each source of one track, {source: files in `<folder>/stems/` that sum to it}.

    Args:
        folder: `TrackNNNNN/` with `metadata.yaml`.
        classes: {`inst_class` of a stem: its source}; stems of other classes are left out. A stem with `is_drum` is of
            class Drums.
    Raises:
        FlowsepError: unreadable metadata, a rendered stem without a file, or a source without a stem. Slakh normalises
            the stems of a track together, so a source without one of them would be another mix.
    """
    files: dict[str, list[Path]] = {source: [] for source in classes.values()}
    for name, facts in sorted(_stems(folder / "metadata.yaml").items()):
        source = classes.get("Drums" if facts.get("is_drum") else str(facts.get("inst_class")))
        if source is None or not facts.get("audio_rendered", True):
            continue
        candidates = (folder / "stems" / f"{name}{suffix}" for suffix in SUFFIXES)
        path = next(filter(Path.is_file, candidates), None)
        if path is None:
            raise FlowsepError(f"stems/{name}.flac ({source}) is missing")
        files[source].append(path)
    if lacking := [source for source, stems in files.items() if not stems]:
        raise FlowsepError(f"no stem of {' and '.join(lacking)} was rendered")
    return {source: tuple(stems) for source, stems in files.items()}


def _stems(path: Path) -> dict[str, dict]:
    """The stems that metadata.yaml lists, {name: facts}."""
    content = read_yaml(path)
    try:
        return {str(name): dict(facts) for name, facts in content["stems"].items()}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FlowsepError(f"{path}: does not list the track's stems") from error
