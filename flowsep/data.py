"""Tracks and stems of every data set, and the solo material that priors train on.

MUSDB18 is decoded to the very samples that musdb gives. The tracks are listed here and not by `musdb.DB`, which probes
every file and stops at the first broken one: here a track is checked when it is read, so a long run can go on.
"""

import hashlib
import logging
import math
import operator
import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import soxr

from .audio import STREAMS, inspect, is_packed, read_ffmpeg, read_sndfile
from .config import DataConfig, FeatureConfig, PiecesConfig
from .files import FlowsepError, atomic_path, brief, cache_folder, is_text, sha256, writable
from .pieces import cut, held_out, remove_silences
from .slakh import stem_files

SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".w64", ".rf64", ".caf", ".au", ".ogg", ".opus", ".mp3")
MUSDB_SOURCES = ("vocals", "bass", "drums", "other")
HOMES = {  # kind -> the variable that says where it lies, and where to get it
    "musdb18": ("MUSDB_PATH", "MUSDB18 (zenodo.org, doi 10.5281/zenodo.1117372)"),
    "musdb18hq": ("MUSDB_PATH", "MUSDB18-HQ (zenodo.org, doi 10.5281/zenodo.3338373)"),
    "slakh": ("SLAKH_PATH", "Slakh2100 (zenodo.org, doi 10.5281/zenodo.4599666)"),
}
TRACK_FILES = {"musdb18": "<track>.stem.mp4", "slakh": "Track<number>/metadata.yaml"}
GRID = 1024  # samples between the starts of crops whose level is known beforehand

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Track:
    """One song: its stems and their mixture, read from disk at each call as float32 (channels, samples).

    A read raises FlowsepError, naming the file, for one that is missing, empty, truncated, damaged, holds NaN or
    infinite samples or more than two channels, or differs in rate or length from the track's other files.
    """

    name: str
    subset: str  # the folder that it lies in: "train", "test" or Slakh's "validation"
    files: dict[str, tuple[Path, ...]] = field(repr=False)  # source or "mixture" -> the files that sum to it
    parts: tuple[str, ...]  # the sources that sum to the mixture

    @property
    def sources(self) -> tuple[str, ...]:
        """The parts, then sources that repeat some of them, such as a guitar that is also within `other`."""
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
        """The mixture file; where there is none, the sum of the parts."""
        return self._read("mixture") if "mixture" in self.files else _sum(self._read(part) for part in self.parts)

    def stem(self, source: str) -> np.ndarray:
        """One source; `accompaniment`, where it has no file, is the sum of all parts but the vocals."""
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
        """(sample rate, channels, samples), from the headers of all files, which must agree."""
        if not self.files:
            raise FlowsepError(f"{self.subset}/{self.name}: no audio files; expected stems such as vocals.wav")
        shapes = {path: inspect(path) for path in dict.fromkeys(path for its in self.files.values() for path in its)}
        first, (rate, _, samples) = next(iter(shapes.items()))
        for path, (its_rate, _, its_samples) in shapes.items():
            if (its_rate, its_samples) != (rate, samples):
                found = f"{its_samples} samples at {its_rate} Hz, but {first.name} has {samples} at {rate} Hz"
                raise FlowsepError(f"{path}: {found}; all files of a track must be equally long")
        return rate, max(channels for _, channels, _ in shapes.values()), samples


@dataclass(frozen=True, eq=False)
class Dataset:
    """The tracks below `root`, some of which are for validation.

    They are the ones of Slakh's `validation/`, or else `valid_tracks` of the training tracks, drawn by `seed`. With
    `pieces` no track is held out, but pieces of the training tracks are.
    """

    name: str
    root: Path
    tracks: tuple[Track, ...] = field(repr=False)
    valid_tracks: int
    seed: int
    pieces: PiecesConfig | None = None
    skipped: dict[str, str] = field(default_factory=dict, repr=False)  # "<subset>/<track>" -> why it is no track

    def subset(self, name: str) -> list[Track]:
        """The tracks of "train", "valid" or "test", which share none; FlowsepError if there are none.

        With `pieces`, "train" are all training tracks and "valid" is empty: `solo_segments` holds pieces out.
        """
        if name not in ("train", "valid", "test"):
            raise FlowsepError(f"unknown subset '{name}'; there are train, valid and test")
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
            found = f"{len(self.tracks)} tracks, data.valid_tracks = {self.valid_tracks}"
            raise FlowsepError(f"{self.root}: nothing is left for '{name}' ({found})")
        return tracks

    @cached_property
    def hash(self) -> str:
        """First 12 digits of the SHA-256 of all names and sizes, and of the embedded band's manifest."""
        paths = sorted({path for track in self.tracks for its in track.files.values() for path in its})
        lines = [f"{path.relative_to(self.root).as_posix()}\t{path.stat().st_size}" for path in paths]
        manifest = self.root / "manifest.json"
        lines += [sha256(manifest)] if manifest.is_file() else []
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def load_dataset(config: DataConfig, seed: int) -> Dataset:
    """List the tracks of a profile's data, composing the embedded band first if that is what it asks for.

    Args:
        config: kind and place of the data; environment variables and `~` in `root` are expanded.
        seed: of the embedded band and of the choice of validation tracks.
    Raises:
        FlowsepError: nothing there; says what is missing, where to get it and which variable to set.
    """
    root = _root(config, seed)
    counts = {"train": config.train_tracks, "test": config.test_tracks}
    if config.kind == "slakh" and not config.pieces:
        counts["validation"] = config.valid_tracks
    skipped: dict[str, str] = {}
    tracks = [track for subset in counts for track in _list_tracks(root / subset, config, skipped)[: counts[subset]]]
    if skipped:
        named = "\n  ".join(f"{name}: {reason}" for name, reason in skipped.items())
        log.info("%s: %d tracks skipped:\n  %s", root, len(skipped), named)
    if not any(track.files for track in tracks):
        name = TRACK_FILES.get(config.kind, "<track>/<source>.wav")
        hint = f"expected train/{name} and test/{name}"
        if skipped:
            first, reason = next(iter(skipped.items()))
            hint = f"{len(skipped)} were skipped, {first} because {reason}"
        elif config.kind != "musdb18" and any(root.glob("t*/*.stem.mp4")):
            hint = "its files end in .stem.mp4, so set data.kind to musdb18"
        elif config.kind == "musdb18" and any(root.glob("t*/*/mixture.wav")):
            hint = "its files are wav, so set data.kind to musdb18hq"
        raise FlowsepError(f"{root}: no tracks of kind {config.kind} in there; {hint}")
    name = root.name if config.kind == "stems" else config.kind
    return Dataset(name, root, tuple(tracks), config.valid_tracks, seed, config.pieces, skipped)


def load_references(folder: str | Path) -> Dataset:
    """Stems to score against, `<folder>/<track>/<source>.wav`, without any split: all are test tracks.

    Raises FlowsepError: no such folder, or no track in it.
    """
    folder = Path(folder)
    tracks = [replace(track, subset="test") for track in _list_tracks(folder, DataConfig(kind="stems"), {})]
    if not any(track.files for track in tracks):
        what = "no audio in there" if folder.is_dir() else "no such folder"
        raise FlowsepError(f"{folder}: {what}; expected references <track>/<source>.wav")
    return Dataset(folder.resolve().name, folder, tuple(track for track in tracks if track.files), 0, 0)


def _root(config: DataConfig, seed: int) -> Path:
    if config.kind == "toyband" and config.root is None:
        from .toyband import ensure_band

        train, test = config.train_tracks or 24, config.test_tracks or 8
        return ensure_band(seed=seed, seconds=config.seconds or 30, train=train, test=test)
    variable, home = HOMES.get(config.kind, ("data.root", "stems"))
    value = config.root or os.environ.get(variable)
    root = Path(os.path.expandvars(value or "")).expanduser()
    wanted = f"set {variable} to the folder of {home}, which holds train/ and test/"
    if not value or "$" in str(root):
        raise FlowsepError(f"{value or variable} is not set; {wanted}")
    if not root.is_dir():
        raise FlowsepError(f"{root}: no such folder; {wanted}")
    if config.kind == "musdb18" and not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise FlowsepError("MUSDB18 needs ffmpeg and ffprobe to decode it: install them, or use MUSDB18-HQ")
    return root


def _list_tracks(folder: Path, config: DataConfig, skipped: dict[str, str]) -> list[Track]:
    """The tracks in one folder; those of Slakh that lack a source are added to `skipped`."""
    kind = config.kind
    visible = sorted(path for path in folder.glob("*") if not path.name.startswith("."))
    if odd := [path for path in visible if not is_text(path.name)]:
        raise FlowsepError(f"{brief(str(odd[0]))}: its name is not UTF-8 or holds control characters; rename it")
    if kind == "musdb18":
        packed = [path for path in visible if is_packed(path)]
        names = [path.name.removesuffix(".stem.mp4") for path in packed]
        files = [dict.fromkeys(STREAMS, (path,)) for path in packed]
        return [Track(name, folder.name, its, MUSDB_SOURCES) for name, its in zip(names, files, strict=True)]
    tracks = []
    for path in filter(Path.is_dir, visible):
        if kind == "slakh":
            try:
                files = stem_files(path, config.classes)
                tracks.append(Track(path.name, folder.name, files, tuple(files)))
            except FlowsepError as error:
                skipped[f"{folder.name}/{path.name}"] = str(error)
            continue
        stems = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        if odd := [p for p in stems if not is_text(p.name)]:
            raise FlowsepError(f"{brief(str(odd[0]))}: its name is not UTF-8 or holds control characters; rename it")
        parts = tuple(p.stem for p in stems if p.stem != "mixture") if kind == "stems" else MUSDB_SOURCES
        if set(parts) - {"vocals", "accompaniment"}:  # then an accompaniment would repeat the others
            parts = tuple(part for part in parts if part != "accompaniment")
        tracks.append(Track(path.name, folder.name, {p.stem: (p,) for p in stems}, parts))
    return tracks


def solo_segments(dataset: Dataset, subset: str, source: str, feature: FeatureConfig) -> list[np.ndarray]:
    """What a prior trains on: mono solo recordings at its rate, memory-mapped float32 arrays (samples,).

    Each is one track's whole stem or, for "train" and "valid" of a data set with `pieces`, a piece of a training track
    (`flowsep.pieces`); which pieces are held out depends on the seed and the source.

    Only solo stems are opened, never a mixture: source-only supervision. They are decoded and resampled (soxr) once,
    into one file in the cache folder. Tracks without that source are left out, and test tracks that are damaged.

    Raises FlowsepError: no track has the source, damaged tracks (named together), too few pieces to hold one out.
    """
    config = dataset.pieces if subset != "test" else None
    tracks = _having(dataset, "train" if config else subset, source)
    decoded = _decoded(dataset, tracks, source, feature.sample_rate, 1, config, strict=subset != "test")
    stems = [frames[:, 0] for frames in decoded]
    if config is None:
        return [stem for stem in stems if len(stem)]
    pieces = []
    for track, stem in zip(tracks, stems, strict=True):
        own_seed = [dataset.seed, zlib.crc32(f"{track.subset}/{track.name}/{source}".encode())]
        pieces += [stem[start:stop] for start, stop in cut(len(stem), feature.sample_rate, config, own_seed)]
    if len(pieces) < 2:
        found = f"{len(tracks)} tracks give {len(pieces)} piece(s) of '{source}' of {config.shortest} s or more"
        raise FlowsepError(f"{dataset.root}: {found}; two are needed, one of them to validate on")
    chosen = held_out(len(pieces), config.valid_share, dataset.seed) == (subset == "valid")
    return [pieces[i] for i in np.flatnonzero(chosen)]


def whole_stems(dataset: Dataset, subset: str, source: str, sample_rate: int, channels: int = 2) -> list[np.ndarray]:
    """The stems of one source in all tracks of a subset, memory-mapped float32 arrays (channels, samples).

    The arrays of several sources lie side by side in time; a track that lacks the source has one without samples. They
    are decoded and resampled (soxr) once, as for `solo_segments`, into 8 bytes a stereo sample. Songs are held out as a
    whole, also in a data set with `pieces`, which are of one source each.

    Raises FlowsepError: no track has the source, damaged tracks (named together).
    """
    whole = replace(dataset, pieces=None)
    _having(whole, subset, source)
    return [frames.T for frames in _decoded(whole, whole.subset(subset), source, sample_rate, channels, None)]


def _having(dataset: Dataset, subset: str, source: str) -> list[Track]:
    """The tracks of a subset that have a source; FlowsepError where none has."""
    tracks = [track for track in dataset.subset(subset) if source in (*track.files, "accompaniment")]
    if not tracks:
        known = ", ".join(sorted({s for track in dataset.tracks for s in track.sources}))
        raise FlowsepError(f"{dataset.root}: no {subset} track has the source '{source}'; sources there: {known}")
    return tracks


def _decoded(
    dataset: Dataset,
    tracks: Sequence[Track],
    source: str,
    sample_rate: int,
    channels: int,
    pieces: PiecesConfig | None,
    strict: bool = True,
) -> list[np.ndarray]:
    """One array (samples, channels) a track; one channel is the mean of all, and `pieces` needs one.

    What cannot be read is an error, or, unless `strict`, an array without samples and a line of the log.

    All lie within one file: a mapped file each would need more open files than systems allow. The file holds where
    each array ends (64-bit integers, in numbers), then the numbers.
    """
    files = [[(path.name, path.stat().st_mtime_ns) for path in track.files_of(source)] for track in tracks]
    silence = pieces and (pieces.silence_db, pieces.max_silence_seconds)
    names = [(track.subset, track.name) for track in tracks]
    identity = repr((dataset.hash, names, files, source, sample_rate, channels, silence))
    cached = cache_folder() / "segments" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.f32"
    if not cached.is_file():
        ends, failed = np.zeros(len(tracks), np.int64), []
        with atomic_path(cached) as temporary, temporary.open("wb") as file:
            file.write(ends.tobytes())
            for i, track in enumerate(tracks):
                ends[i] = ends[i - 1]
                if not track.files_of(source):
                    continue
                try:
                    audio, rate = track.stem(source), track.sample_rate
                except FlowsepError as error:
                    failed.append(str(error))
                    continue
                audio = audio.mean(axis=0, keepdims=True) if channels == 1 else _as_channels(audio, channels)
                frames = soxr.resample(audio.T, rate, sample_rate, "HQ")
                frames = remove_silences(frames[:, 0], sample_rate, pieces) if pieces else frames
                with writable(cached, "make room, or set FLOWSEP_DATA to another folder"):
                    file.write(frames.tobytes())
                ends[i] += frames.size
            if failed and strict:
                raise FlowsepError(f"{len(failed)} of {len(tracks)} tracks cannot be trained on: {'; '.join(failed)}")
            if failed:
                log.warning("%s: %d tracks left out:\n  %s", source, len(failed), "\n  ".join(failed))
            file.seek(0)
            file.write(ends.tobytes())
    content = np.memmap(cached, mode="r")
    ends = content[: 8 * len(tracks)].view(np.int64)
    numbers = content[8 * len(tracks) :].view(np.float32)
    bounds = zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    return [numbers[start:stop].reshape(-1, channels) for start, stop in bounds]


class CropSampler:
    """Batch k = g * crop(f t) + u / 32768: audible crops drawn uniformly, with random gain g and speed f, and noise u.

    A batch depends on (seed, step) alone, so that a resumed training sees what an uninterrupted one does.

    Args:
        segments: arrays (samples,); one shorter than a crop is padded with zeros.
        length, batch: samples of a crop, crops of a batch.
        gain_db: g lies within +-gain_db dB.
        in_turn: draw each segment once before any of them again, in an order of its own for each such pass, and a crop
            anywhere within it; otherwise every moment of the material is as likely.
        speed: f lies between 1 / (1 + speed) and 1 + speed: other keys and voices than the songs have.
        silence_db: crops whose RMS is below are left out (dB of full scale).
        dequantise: add u in [0, 1), one 16-bit step (paper, section "Prior").
        source: named in the FlowsepError when no crop is audible.
    """

    def __init__(
        self,
        segments: Sequence[np.ndarray],
        length: int,
        *,
        batch: int,
        in_turn: bool = False,
        gain_db: float = 0.0,
        speed: float = 0.0,
        silence_db: float = -50.0,
        seed: int = 0,
        dequantise: bool = True,
        source: str = "material",
    ):
        self.segments, self.length, self.size, self.seed = segments, length, batch, seed
        self.gain_db, self.floor, self.dequantise = gain_db, 10 ** (silence_db / 20), dequantise
        self.speed, self.in_turn = speed, in_turn
        self.grid = min(GRID, length)
        starts = [self._audible_starts(segment) for segment in segments]
        which = np.repeat(np.arange(len(starts)), [len(its) for its in starts])
        if not len(which):
            raise FlowsepError(f"{source}: no crop of {length} samples reaches {silence_db} dB; is it silent?")
        self.candidates = np.stack([which, np.concatenate(starts)], axis=1)
        _, self.first, self.count = np.unique(which, return_index=True, return_counts=True)  # of each segment

    def batch(self, step: int) -> np.ndarray:
        """The crops of one training step, float32 (batch, samples)."""
        rng = np.random.default_rng([self.seed, step])
        crops = np.zeros((self.size, self.length), np.float32)
        chosen = self._in_turn(rng, step) if self.in_turn else rng.choice(self.candidates, self.size)
        for crop, (which, start) in zip(crops, chosen, strict=True):
            segment = self.segments[which]
            beside = min(start + rng.integers(self.grid), max(len(segment) - self.length, 0))
            if _rms(_crop(segment, beside, self.length)) < self.floor:
                beside = start  # it is audible at the grid point, but no longer beside it
            crop[:] = self._faster(segment, beside, (1 + self.speed) ** rng.uniform(-1, 1))
        gains = 10 ** (rng.uniform(-self.gain_db, self.gain_db, (self.size, 1)) / 20)
        crops *= gains.astype(np.float32)
        if self.dequantise:
            crops += rng.random(crops.shape, np.float32) / 32768
        return crops

    def _in_turn(self, rng: np.random.Generator, step: int) -> np.ndarray:
        audible = len(self.first)
        turn, place = np.divmod(np.arange(step * self.size, (step + 1) * self.size), audible)
        orders = {t: np.random.default_rng([self.seed, t, 1]).permutation(audible) for t in set(turn.tolist())}
        drawn = np.array([orders[t][p] for t, p in zip(turn.tolist(), place, strict=True)])
        return self.candidates[self.first[drawn] + rng.integers(self.count[drawn])]

    def _faster(self, segment: np.ndarray, start: int, factor: float) -> np.ndarray:
        """A crop played `factor` times as fast, so that it needs as many more samples."""
        if not self.speed:
            return _crop(segment, start, self.length)
        piece = _crop(segment, start, math.ceil(self.length * factor))
        return _crop(soxr.resample(piece, factor, 1, "MQ"), 0, self.length)

    def _audible_starts(self, segment: np.ndarray) -> np.ndarray:
        """Grid points whose crop is audible by a running sum of energy (over the whole blocks within the crop)."""
        energy = np.add.reduceat(np.square(segment, dtype=np.float64), np.arange(0, len(segment), self.grid))
        running = np.concatenate([[0.0], np.cumsum(energy)])
        starts = np.arange(max(len(segment) - self.length, 0) // self.grid + 1)
        ends = np.minimum(starts + self.length // self.grid, len(energy))
        return starts[running[ends] - running[starts] >= self.floor**2 * self.length] * self.grid


def validation_crops(segments: Sequence[np.ndarray], length: int, silence_db: float = -50.0) -> np.ndarray:
    """All audible crops side by side from each segment's start, as they are: float32 (crops, samples)."""
    crops = (_crop(x, start, length) for x in segments for start in range(0, max(len(x) - length, 0) + 1, length))
    audible = [crop for crop in crops if _rms(crop) >= 10 ** (silence_db / 20)]
    if not audible:
        raise FlowsepError(f"validation: no crop of {length} samples reaches {silence_db} dB; choose other tracks")
    return np.stack(audible)


def _crop(segment: np.ndarray, start: int, length: int) -> np.ndarray:
    piece = np.asarray(segment[start : start + length], np.float32)
    return np.pad(piece, (0, length - len(piece)))


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.dot(audio, audio) / len(audio)))


def _sum(parts: Iterable[np.ndarray]) -> np.ndarray:
    return reduce(operator.add, parts)


def _as_channels(audio: np.ndarray, channels: int) -> np.ndarray:
    return audio if len(audio) == channels else np.repeat(audio, channels, axis=0)  # a mono stem of a stereo song


def _read_stem(path: Path, source: str) -> np.ndarray:
    # 16-bit samples of MUSDB18, as in musdb, so that scores compare
    return (read_ffmpeg(path, STREAMS.index(source), "<i2") if is_packed(path) else read_sndfile(path))[0]
