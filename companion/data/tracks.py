"""Tracks and stems of every data set.

MUSDB18 is decoded to the same samples as in musdb. Tracks are listed here and not by `musdb.DB`, which probes every
file and stops at the first broken one. Here a track is checked when it is read, so that a long run can go on.
"""

import hashlib
import json
import logging
import operator
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path

import numpy as np

from flowsep.audio import STREAMS, SUFFIXES, inspect, is_packed, read_audio, read_ffmpeg
from flowsep.files import FlowsepError, brief, cache_folder, is_text, read_json, sha256, writable, write_text

from ..profile import DataConfig, PiecesConfig
from .sample import find_sample
from .slakh import stem_files

MUSDB_SOURCES = ("vocals", "bass", "drums", "other")
HOMES = {  # kind -> the environment variable that holds its folder, and where to get it
    "musdb18": ("MUSDB_PATH", "MUSDB18 (zenodo.org, doi 10.5281/zenodo.1117372)"),
    "musdb18hq": ("MUSDB_PATH", "MUSDB18-HQ (zenodo.org, doi 10.5281/zenodo.3338373)"),
    "slakh": ("SLAKH_PATH", "Slakh2100 (zenodo.org, doi 10.5281/zenodo.4599666)"),
}
PACKED = ("musdb18", "musdb18-7s")  # kinds with one .stem.mp4 a track
TRACK_FILES = dict.fromkeys(PACKED, "<track>.stem.mp4") | {"slakh": "Track<number>/metadata.yaml"}
NO_SONGS = ("@eaDir", "#recycle", "#snapshot", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information")
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Track:
    """One song: stems and mixture, read from disk at each call as float32 (channels, samples).

    Reading raises FlowsepError, which names the file, if a file is missing, empty, truncated or damaged, holds NaN,
    infinite samples or more than two channels, or differs from the other files in sample rate or length.
    """

    name: str
    subset: str  # its folder: "train", "test" or Slakh's "validation"
    files: dict[str, tuple[Path, ...]] = field(repr=False)  # source or "mixture" -> the files that sum to it
    parts: tuple[str, ...]  # the sources that sum to the mixture

    @property
    def sources(self) -> tuple[str, ...]:
        """The parts, then sources that repeat some of them, such as a guitar that is also in `other`."""
        return self.parts + tuple(s for s in self.files if s not in (*self.parts, "mixture"))

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self._shape[0]

    @property
    def duration(self) -> float:
        """Length in seconds, from the headers alone."""
        return self._shape[2] / self._shape[0]

    def mixture(self) -> np.ndarray:
        """The mixture file; without one, the sum of the parts."""
        return self._read("mixture") if "mixture" in self.files else _sum(self._read(part) for part in self.parts)

    def stem(self, source: str) -> np.ndarray:
        """One source; an `accompaniment` without a file is the sum of all parts except the vocals."""
        return _sum(self._read(part) for part in self._made_of(source))

    def stems(self, sources: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """{source: audio}; all parts by default."""
        return {source: self.stem(source) for source in sources or self.parts}

    def files_of(self, source: str) -> list[Path]:
        """The files that `stem(source)` reads."""
        return [path for part in self._made_of(source) for path in self.files.get(part, ())]

    def _made_of(self, source: str) -> list[str]:
        rest = [part for part in self.parts if part != "vocals"]
        return rest if source == "accompaniment" and source not in self.files and rest else [source]

    def _read(self, source: str) -> np.ndarray:
        channels = self._shape[1]
        if source not in self.files:
            raise FlowsepError(f"{self.subset}/{self.name}: no source '{source}'; found {', '.join(self.files)}")
        return _sum(_as_channels(_read_stem(path, source), channels) for path in self.files[source])

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """(sample rate, channels, samples), from the headers of all files."""
        paths = dict.fromkeys(path for files in self.files.values() for path in files)
        shapes = {path: inspect(path) for path in paths}
        first, (rate, _, samples) = next(iter(shapes.items()))
        for path, (other_rate, _, other_samples) in shapes.items():
            if (other_rate, other_samples) != (rate, samples):
                shape = f"{other_samples} samples at {other_rate} Hz, but {first.name} has {samples} at {rate} Hz"
                raise FlowsepError(f"{path}: {shape}; all files of a track must be equally long")
        return rate, max(channels for _, channels, _ in shapes.values()), samples


@dataclass(frozen=True, eq=False)
class Dataset:
    """The tracks below `root`, some of them for validation.

    Validation tracks are those in Slakh's `validation/`, or else `valid_tracks` of the training tracks, drawn by
    `seed`. With `pieces`, pieces of the training tracks are held out instead of tracks.
    """

    name: str
    root: Path
    tracks: tuple[Track, ...] = field(repr=False)
    valid_tracks: int
    seed: int
    pieces: PiecesConfig | None = None
    skipped: dict[str, str] = field(default_factory=dict, repr=False)  # "<subset>/<track>" -> why it is no track

    def subset(self, name: str) -> list[Track]:
        """The tracks of "train", "valid" or "test", which are disjoint; FlowsepError if there are none.

        With `pieces`, "train" holds all training tracks and "valid" none: `solo_segments` holds pieces out.
        """
        if name == "valid" and self.pieces:
            return []
        own = [track for track in self.tracks if track.subset == "validation"]
        if name == "valid" and own:
            return own
        tracks = [track for track in self.tracks if track.subset == ("test" if name == "test" else "train")]
        if name != "test" and not self.pieces and not own:
            order = np.random.default_rng(self.seed).permutation(len(tracks))
            last = set(order[max(0, len(tracks) - self.valid_tracks) :])
            tracks = [track for i, track in enumerate(tracks) if (i in last) == (name == "valid")]
        if not tracks:
            counts = f"{len(self.tracks)} tracks, data.valid_tracks = {self.valid_tracks}"
            raise FlowsepError(f"{self.root}: nothing is left for '{name}' ({counts})")
        return tracks

    @cached_property
    def hash(self) -> str:
        """First 12 digits of the SHA-256 of all names and contents; the embedded band's are in its manifest."""
        paths = sorted({path for track in self.tracks for files in track.files.values() for path in files})
        manifest = self.root / "manifest.json"
        facts = [str(path.stat().st_size) for path in paths] if manifest.is_file() else content_hashes(paths)
        lines = [f"{path.relative_to(self.root).as_posix()}\t{x}" for path, x in zip(paths, facts, strict=True)]
        lines += [sha256(manifest)] if manifest.is_file() else []
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def content_hashes(paths: list[Path]) -> list[str]:
    """The SHA-256 of files. Each is read once: what has the path, size and time of before is looked up in the cache."""
    place = cache_folder() / "content.json"
    known = read_json(place) if place.is_file() else {}
    keys = [f"{path.resolve()}\t{path.stat().st_size}\t{path.stat().st_mtime_ns}" for path in paths]
    hashes = [known.get(key) or sha256(path) for key, path in zip(keys, paths, strict=True)]
    if fresh := dict(zip(keys, hashes, strict=True)).items() - known.items():
        with writable(place, "set FLOWSEP_DATA"):
            write_text(place, json.dumps(known | dict(fresh), indent=0))
    return hashes


def load_dataset(config: DataConfig, seed: int) -> Dataset:
    """List the tracks of a profile's data set; the embedded band is composed first if it is missing.

    Args:
        config: kind and place of the data; environment variables and `~` in `root` are expanded.
        seed: of the embedded band, and of the choice of validation tracks.
    Raises:
        FlowsepError: no data; says what is missing, where to get it and which variable to set.
    """
    root = _root(config, seed)
    counts = {"train": config.train_tracks, "test": config.test_tracks}
    if config.kind == "slakh" and not config.pieces:
        counts["validation"] = config.valid_tracks
    skipped: dict[str, str] = {}
    tracks = [track for subset in counts for track in _list_tracks(root / subset, config, skipped)[: counts[subset]]]
    if not tracks:
        raise FlowsepError(f"{root}: no tracks of kind {config.kind} in there; {_hint(root, config.kind, skipped)}")
    name = root.name if config.kind == "stems" else config.kind
    return Dataset(name, root, tuple(tracks), config.valid_tracks, seed, config.pieces, skipped)


def _hint(root: Path, kind: str, skipped: dict[str, str]) -> str:
    """Why a folder may hold no tracks of a kind."""
    if skipped:
        first, reason = next(iter(skipped.items()))
        return f"{len(skipped)} were skipped, {first} because {reason}"
    if kind not in PACKED and any(root.glob("t*/*.stem.mp4")):
        return "its files end in .stem.mp4, so set data.kind to musdb18"
    if kind in PACKED and any(root.glob("t*/*/mixture.wav")):
        return "its files are wav, so set data.kind to musdb18hq"
    name = TRACK_FILES.get(kind, "<track>/<source>.wav")
    return f"expected train/{name} and test/{name}"


def load_references(folder: str | Path) -> Dataset:
    """True stems to score against, `<folder>/<track>/<source>.wav`, all of them as test tracks.

    Raises FlowsepError if there is no such folder, or no track in it.
    """
    folder = Path(folder)
    skipped: dict[str, str] = {}
    tracks = tuple(replace(track, subset="test") for track in _list_tracks(folder, DataConfig(kind="stems"), skipped))
    if not tracks:
        what = f"no audio in there{''.join(f'; {name}: {why}' for name, why in [*skipped.items()][:1])}"
        what = what if folder.is_dir() else "no such folder"
        raise FlowsepError(f"{folder}: {what}; expected references <track>/<source>.wav")
    return Dataset(folder.resolve().name, folder, tracks, 0, 0)


def _root(config: DataConfig, seed: int) -> Path:
    if config.kind == "toyband" and config.root is None:
        from ..band.toyband import ensure_band

        train, test = config.train_tracks or 24, config.test_tracks or 8
        return ensure_band(seed=seed, seconds=config.seconds or 30, train=train, test=test)
    if config.kind in PACKED and not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise FlowsepError("MUSDB18 needs ffmpeg and ffprobe to decode it: install them, or use MUSDB18-HQ")
    if config.kind == "musdb18-7s" and config.root is None:
        return find_sample()
    variable, home = HOMES.get(config.kind, ("data.root", "stems"))
    value = config.root or os.environ.get(variable)
    root = Path(os.path.expandvars(value or "")).expanduser()
    unset = not value or "$" in str(root)
    if unset or not root.is_dir():
        problem = f"{value or variable} is not set" if unset else f"{root}: no such folder"
        raise FlowsepError(f"{problem}; set {variable} to the folder of {home}, which holds train/ and test/")
    return root


def _list_tracks(folder: Path, config: DataConfig, skipped: dict[str, str]) -> list[Track]:
    """The tracks in one folder; `skipped` gets the reason for each subfolder that is no track."""
    if config.kind in PACKED:
        packed = {path.name.removesuffix(".stem.mp4"): path for path in _visible(folder) if is_packed(path)}
        return [Track(k, folder.name, dict.fromkeys(STREAMS, (path,)), MUSDB_SOURCES) for k, path in packed.items()]
    tracks = []
    for path in filter(Path.is_dir, _visible(folder)):
        files, reason = {}, "it holds no audio files"
        if config.kind == "slakh":
            try:
                files = stem_files(path, config.classes)
            except FlowsepError as error:
                reason = str(error)
        else:
            there = audio_files(path)
            files = {name: paths for name, paths in there.items() if len(paths) == 1}
            if twice := [name for name in there if name not in files]:
                names = ", ".join(file.name for file in there[twice[0]])
                files, reason = {}, f"it holds {twice[0]} twice ({names}); remove all but one"
        if files:
            tracks.append(Track(path.name, folder.name, files, _parts(files, config.kind)))
        else:
            skipped[f"{folder.name}/{path.name}"] = reason
    return tracks


def _parts(files: Iterable[str], kind: str) -> tuple[str, ...]:
    """The sources that sum to the mixture."""
    if kind == "slakh":
        return tuple(files)
    parts = tuple(name for name in files if name != "mixture") if kind == "stems" else MUSDB_SOURCES
    if set(parts) - {"vocals", "accompaniment"}:  # beside other sources an accompaniment would repeat them
        parts = tuple(part for part in parts if part != "accompaniment")
    return parts


def audio_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """{name: files} of all audio in a folder, by the endings `SUFFIXES` in capitals or not."""
    files: dict[str, tuple[Path, ...]] = {}
    for path in _visible(folder):
        if path.suffix.lower() in SUFFIXES:
            files[path.stem] = (*files.get(path.stem, ()), path)
    return files


def _visible(folder: Path) -> list[Path]:
    """The paths in a folder in order, without hidden ones and what systems put beside songs (`@eaDir`, `#recycle`).

    Raises FlowsepError for a name that cannot be shown.
    """
    paths = sorted(path for path in folder.glob("*") if not path.name.startswith(".") and path.name not in NO_SONGS)
    if odd := [path for path in paths if not is_text(path.name)]:
        raise FlowsepError(f"{brief(str(odd[0]))}: its name is not UTF-8 or holds control characters; rename it")
    return paths


def _sum(parts: Iterable[np.ndarray]) -> np.ndarray:
    return reduce(operator.add, parts)


def _as_channels(audio: np.ndarray, channels: int) -> np.ndarray:
    return audio if len(audio) == channels else np.repeat(audio, channels, axis=0)  # a mono stem of a stereo song


def _read_stem(path: Path, source: str) -> np.ndarray:
    # MUSDB18 as 16-bit samples, as in musdb, so that scores compare
    return (read_ffmpeg(path, STREAMS.index(source), "<i2") if is_packed(path) else read_audio(path))[0]
