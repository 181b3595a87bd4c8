"""Tracks and stems of every data set, the solo material that priors train on, and audio files in and out.

MUSDB18 is decoded to the very samples that musdb gives. The tracks are listed here and not by `musdb.DB`, which probes
every file and stops at the first broken one: here a track is checked when it is read, so a long run can go on.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from .config import DataConfig, FeatureConfig
from .files import FlowsepError, atomic_path, cache_folder, sha256

SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".w64", ".rf64", ".caf", ".au", ".ogg", ".opus", ".mp3")
MUSDB_SOURCES = ("vocals", "bass", "drums", "other")
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a MUSDB18 .stem.mp4, in this order
HOMES = {
    "musdb18": "MUSDB18 (zenodo.org, doi 10.5281/zenodo.1117372)",
    "musdb18hq": "MUSDB18-HQ (zenodo.org, doi 10.5281/zenodo.3338373)",
}
GRID = 1024  # samples between the starts of crops whose level is known beforehand


@dataclass(frozen=True, eq=False)
class Track:
    """One song: its stems and their mixture, read from disk at each call as float32 (channels, samples).

    A read raises FlowsepError, naming the file, for one that is missing, empty, truncated, damaged, holds NaN or
    infinite samples or more than two channels, or differs in rate or length from the track's other files.
    """

    name: str
    subset: str  # the folder that it lies in: "train" or "test"
    files: dict[str, Path] = field(repr=False)  # source or "mixture" -> file
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
        return self._read("mixture") if "mixture" in self.files else sum(self._read(part) for part in self.parts)

    def stem(self, source: str) -> np.ndarray:
        """One source; `accompaniment`, where it has no file, is the sum of all parts but the vocals."""
        rest = [part for part in self.parts if part != "vocals"]
        if source == "accompaniment" and source not in self.files and rest:
            return sum(self._read(part) for part in rest)
        return self._read(source)

    def stems(self, sources: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """{source: audio}; all parts by default."""
        return {source: self.stem(source) for source in sources or self.parts}

    def _read(self, source: str) -> np.ndarray:
        channels = self._shape[1]
        if source not in self.files:
            raise FlowsepError(f"{self.subset}/{self.name}: no source '{source}'; found {', '.join(self.files)}")
        path = self.files[source]
        # 16-bit samples of MUSDB18, as in musdb, so that scores compare
        packed = _is_packed(path)
        audio, _ = _read_ffmpeg(path, STREAMS.index(source), "<i2") if packed else _read_sndfile(path)
        return audio if len(audio) == channels else np.repeat(audio, channels, axis=0)  # a mono stem of a stereo song

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """(sample rate, channels, samples), from the headers of all files, which must agree."""
        if not self.files:
            raise FlowsepError(f"{self.subset}/{self.name}: no audio files; expected stems such as vocals.wav")
        shapes = {path: _inspect(path) for path in dict.fromkeys(self.files.values())}
        first, (rate, _, samples) = next(iter(shapes.items()))
        for path, (its_rate, _, its_samples) in shapes.items():
            if (its_rate, its_samples) != (rate, samples):
                found = f"{its_samples} samples at {its_rate} Hz, but {first.name} has {samples} at {rate} Hz"
                raise FlowsepError(f"{path}: {found}; all files of a track must be equally long")
        return rate, max(channels for _, channels, _ in shapes.values()), samples


@dataclass(frozen=True, eq=False)
class Dataset:
    """The tracks below `root`; `valid_tracks` of the training tracks, drawn by `seed`, are held out for validation."""

    name: str
    root: Path
    tracks: tuple[Track, ...] = field(repr=False)
    valid_tracks: int
    seed: int

    def subset(self, name: str) -> list[Track]:
        """The tracks of "train", "valid" or "test", which share none; FlowsepError if there are none."""
        if name not in ("train", "valid", "test"):
            raise FlowsepError(f"unknown subset '{name}'; there are train, valid and test")
        tracks = [track for track in self.tracks if track.subset == ("test" if name == "test" else "train")]
        if name != "test":
            order = np.random.default_rng(self.seed).permutation(len(tracks))
            held_out = set(order[max(0, len(tracks) - self.valid_tracks) :])
            tracks = [track for i, track in enumerate(tracks) if (i in held_out) == (name == "valid")]
        if not tracks:
            found = f"{len(self.tracks)} tracks, data.valid_tracks = {self.valid_tracks}"
            raise FlowsepError(f"{self.root}: nothing is left for '{name}' ({found})")
        return tracks

    @cached_property
    def hash(self) -> str:
        """First 12 digits of the SHA-256 of all names and sizes, and of the embedded band's manifest."""
        paths = sorted({path for track in self.tracks for path in track.files.values()})
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
    tracks = [track for subset in counts for track in _list_tracks(root / subset, config.kind)[: counts[subset]]]
    if not any(track.files for track in tracks):
        name = "<track>.stem.mp4" if config.kind == "musdb18" else "<track>/<source>.wav"
        hint = f"expected train/{name} and test/{name}"
        if config.kind != "musdb18" and any(root.glob("t*/*.stem.mp4")):
            hint = "its files end in .stem.mp4, so set data.kind to musdb18"
        elif config.kind == "musdb18" and any(root.glob("t*/*/mixture.wav")):
            hint = "its files are wav, so set data.kind to musdb18hq"
        raise FlowsepError(f"{root}: no tracks of kind {config.kind} in there; {hint}")
    return Dataset(root.name if config.kind == "stems" else config.kind, root, tuple(tracks), config.valid_tracks, seed)


def _root(config: DataConfig, seed: int) -> Path:
    if config.kind == "toyband" and config.root is None:
        from .toyband import ensure_band

        train, test = config.train_tracks or 24, config.test_tracks or 8
        return ensure_band(seed=seed, seconds=config.seconds or 30, train=train, test=test)
    variable = "MUSDB_PATH" if config.kind in HOMES else "data.root"
    value = config.root or (os.environ.get("MUSDB_PATH") if config.kind in HOMES else None)
    root = Path(os.path.expandvars(value or "")).expanduser()
    wanted = f"set {variable} to the folder of {HOMES.get(config.kind, 'stems')}, which holds train/ and test/"
    if not value or "$" in str(root):
        raise FlowsepError(f"{value or variable} is not set; {wanted}")
    if not root.is_dir():
        raise FlowsepError(f"{root}: no such folder; {wanted}")
    if config.kind == "musdb18" and not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise FlowsepError("MUSDB18 needs ffmpeg and ffprobe to decode it: install them, or use MUSDB18-HQ")
    return root


def _list_tracks(folder: Path, kind: str) -> list[Track]:
    visible = sorted(path for path in folder.glob("*") if not path.name.startswith("."))
    if kind == "musdb18":
        packed = [path for path in visible if _is_packed(path)]
        names = [path.name.removesuffix(".stem.mp4") for path in packed]
        files = [dict.fromkeys(STREAMS, path) for path in packed]
        return [Track(name, folder.name, its, MUSDB_SOURCES) for name, its in zip(names, files, strict=True)]
    tracks = []
    for path in filter(Path.is_dir, visible):
        stems = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        parts = tuple(p.stem for p in stems if p.stem != "mixture") if kind == "stems" else MUSDB_SOURCES
        if set(parts) - {"vocals", "accompaniment"}:  # then an accompaniment would repeat the others
            parts = tuple(part for part in parts if part != "accompaniment")
        tracks.append(Track(path.name, folder.name, {p.stem: p for p in stems}, parts))
    return tracks


def solo_segments(dataset: Dataset, subset: str, source: str, feature: FeatureConfig) -> list[np.ndarray]:
    """Each track's stem as mono at the prior's rate: memory-mapped float32 arrays (samples,).

    Only solo stems are opened, never a mixture: source-only supervision. They are decoded and resampled once, into the
    cache folder. Tracks without that source are left out; damaged ones are named together in one FlowsepError.
    """
    tracks = [track for track in dataset.subset(subset) if source in (*track.files, "accompaniment")]
    if not tracks:
        known = ", ".join(sorted({s for track in dataset.tracks for s in track.sources}))
        raise FlowsepError(f"{dataset.root}: no {subset} track has the source '{source}'; sources there: {known}")
    segments, failed = [], []
    for track in tracks:
        changed = [path.stat().st_mtime_ns for path in track.files.values()]
        identity = repr((dataset.hash, track.subset, track.name, changed, source, feature.sample_rate))
        cached = cache_folder() / "segments" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npy"
        try:
            if not cached.is_file():
                mono = track.stem(source).mean(axis=0)
                with atomic_path(cached) as temporary:
                    np.save(temporary, soxr.resample(mono, track.sample_rate, feature.sample_rate, "HQ"))
            segments.append(np.load(cached, mmap_mode="r"))
        except FlowsepError as error:
            failed.append(str(error))
    if failed:
        raise FlowsepError(f"{len(failed)} of {len(tracks)} tracks cannot be trained on: {'; '.join(failed)}")
    return segments


class CropSampler:
    """Batch k = g * crop(f t) + u / 32768: audible crops drawn uniformly, with random gain g and speed f, and noise u.

    A batch depends on (seed, step) alone, so that a resumed training sees what an uninterrupted one does.

    Args:
        segments: arrays (samples,); one shorter than a crop is padded with zeros.
        length, batch: samples of a crop, crops of a batch.
        gain_db: g lies within +-gain_db dB.
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
        gain_db: float = 0.0,
        speed: float = 0.0,
        silence_db: float = -50.0,
        seed: int = 0,
        dequantise: bool = True,
        source: str = "material",
    ):
        self.segments, self.length, self.size, self.seed = segments, length, batch, seed
        self.gain_db, self.floor, self.dequantise = gain_db, 10 ** (silence_db / 20), dequantise
        self.speed = speed
        self.grid = min(GRID, length)
        starts = [self._audible_starts(segment) for segment in segments]
        which = np.repeat(np.arange(len(starts)), [len(its) for its in starts])
        if not len(which):
            raise FlowsepError(f"{source}: no crop of {length} samples reaches {silence_db} dB; is it silent?")
        self.candidates = np.stack([which, np.concatenate(starts)], axis=1)

    def batch(self, step: int) -> np.ndarray:
        """The crops of one training step, float32 (batch, samples)."""
        rng = np.random.default_rng([self.seed, step])
        crops = np.zeros((self.size, self.length), np.float32)
        for crop, (which, start) in zip(crops, rng.choice(self.candidates, self.size), strict=True):
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


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Any audio file as (float32 (channels, samples), sample rate): by libsndfile, else by ffmpeg.

    Raises FlowsepError naming the file: missing, empty, truncated, not audio, NaN or infinite samples, more than two
    channels.
    """
    path = Path(path)
    if not path.is_file():
        raise FlowsepError(f"{path}: no such file")
    # libsndfile guesses the length of an MP3 whose header lacks it, and may then drop half of a song
    if path.suffix.lower() != ".mp3" or not shutil.which("ffmpeg"):
        with contextlib.suppress(_UnknownFormatError):
            return _read_sndfile(path)
    return _read_ffmpeg(path)


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int) -> int:
    """Write (channels, samples) by suffix, whole or not at all: `.wav` (32-bit float) or `.flac` (24 bit).

    Returns how many samples were clipped: an integer format holds nothing beyond full scale. A WAV beyond 4 GB becomes
    RF64. Raises FlowsepError: another suffix, an unwritable folder, a full disk.
    """
    path, formats = Path(path), {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_24")}
    if path.suffix.lower() not in formats:
        raise FlowsepError(f"{path}: cannot write '{path.suffix}'; use .wav or .flac")
    container, subtype = formats[path.suffix.lower()]
    container = "RF64" if container == "WAV" and audio.size * 4 > 2**32 - 2**16 else container
    clipped = 0 if subtype == "FLOAT" else int(np.count_nonzero(np.abs(audio) > 1))
    audio = np.clip(audio, -1, 1) if clipped else audio
    with atomic_path(path) as temporary:
        try:
            sf.write(temporary, audio.T, sample_rate, subtype, format=container)
        except (OSError, sf.SoundFileError, AssertionError) as error:  # soundfile asserts that all was written
            raise FlowsepError(f"{path}: not written ({error or 'is the disk full?'})") from error
    return clipped


class _UnknownFormatError(FlowsepError):
    """The file is of no format that libsndfile knows."""


def _is_packed(path: Path) -> bool:
    return path.name.endswith(".stem.mp4")


def _inspect(path: Path) -> tuple[int, int, int]:
    """(sample rate, channels, samples) from a file's header, held against the size of the file."""
    if _is_packed(path):
        return _probe(path)
    try:
        info = sf.info(path)
    except sf.LibsndfileError as error:
        raise _UnknownFormatError(f"{path}: not audio, empty or damaged ({error.error_string})") from error
    # libsndfile corrects a wrong size silently, and a truncated file would read as a short one. From 2 GB on programs
    # that write to a pipe put placeholders.
    with path.open("rb") as file:
        head = file.read(28)
    order = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}.get(head[:4])
    promised = int.from_bytes(head[4:8], order) if order else 0
    held = path.stat().st_size
    if held < promised < 0x7FFF0000:  # the size leaves out its own 8 bytes, which some programs count
        raise FlowsepError(f"{path}: truncated: its header promises {promised + 8} bytes, it holds {held}")
    if info.channels > 2:
        raise FlowsepError(f"{path}: {info.channels} channels; downmix to stereo first")
    return info.samplerate, info.channels, info.frames


def _read_sndfile(path: Path) -> tuple[np.ndarray, int]:
    rate, _, samples = _inspect(path)
    try:
        audio = sf.read(path, dtype="float32", always_2d=True)[0].T
    except sf.LibsndfileError as error:
        raise FlowsepError(f"{path}: truncated or damaged ({error.error_string})") from error
    return _checked(path, audio, samples), rate


def _probe(path: Path) -> tuple[int, int, int]:
    """(sample rate, channels, samples) as ffprobe finds them; 0 samples if the container may only guess its length."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise FlowsepError(f"{path}: libsndfile does not know this format; install ffmpeg, or convert it to wav")
    query = ["-select_streams", "a", "-show_entries", "format=format_name:stream=sample_rate,channels,duration"]
    run = subprocess.run(["ffprobe", "-v", "error", *query, "-of", "json", _url(path)], capture_output=True)
    found, needed = json.loads(run.stdout or "{}"), len(STREAMS) if _is_packed(path) else 1
    if run.returncode or len(found.get("streams", [])) < needed:
        what = f"neither libsndfile nor ffmpeg finds {needed} audio stream(s) in it"
        raise FlowsepError(f"{path}: truncated or damaged or not audio: {what} ({_last_line(run.stderr)})")
    stream = found["streams"][0]
    rate, channels = int(stream["sample_rate"]), int(stream["channels"])
    if channels > 2:
        raise FlowsepError(f"{path}: {channels} channels; downmix to stereo first")
    exact = "mp4" in found["format"]["format_name"]
    return rate, channels, round(float(stream.get("duration", 0)) * rate) if exact else 0


def _read_ffmpeg(path: Path, stream: int = 0, sample: str = "<f4") -> tuple[np.ndarray, int]:
    """(audio, sample rate) of one audio stream, decoded to 32-bit floats ("<f4") or to 16-bit integers ("<i2")."""
    rate, channels, samples = _probe(path)
    layout, full_scale = {"<f4": ("f32le", 1), "<i2": ("s16le", 32768)}[sample]
    decode = ["ffmpeg", "-nostdin", "-v", "error", "-i", _url(path), "-map", f"0:a:{stream}", "-f", layout, "pipe:1"]
    run = subprocess.run(decode, capture_output=True)
    if run.returncode:
        raise FlowsepError(f"{path}: truncated or damaged ({_last_line(run.stderr)})")
    audio = np.frombuffer(run.stdout, sample).reshape(-1, channels).T / np.float32(full_scale)
    return _checked(path, audio, samples), rate


def _url(path: Path) -> str:
    return f"file:{path.resolve()}"  # with the prefix, no name can be taken for an option or a protocol


def _checked(path: Path, audio: np.ndarray, samples: int) -> np.ndarray:
    """`audio` in one block, if it is finite and holds the `samples` that were promised, but for codecs' padding."""
    if not audio.size:
        raise FlowsepError(f"{path}: holds no samples")
    if audio.shape[1] < samples - 4096:
        raise FlowsepError(f"{path}: truncated: {audio.shape[1]} of {samples} samples could be read")
    if not np.isfinite(audio).all():
        raise FlowsepError(f"{path}: holds NaN or infinite samples; export it again")
    return np.ascontiguousarray(audio)


def _last_line(stderr: bytes) -> str:
    return (stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
