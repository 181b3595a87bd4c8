"""Audio files in and out, by libsndfile or else by ffmpeg: whole, finite and as long as they say, or an error."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile as sf

from .files import FlowsepError, atomic_path

STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a MUSDB18 .stem.mp4, in this order


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
            return read_sndfile(path)
    return read_ffmpeg(path)


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


def is_packed(path: Path) -> bool:
    """Is it a stem file of MUSDB18, whose streams are the mixture and its sources?"""
    return path.name.endswith(".stem.mp4")


def inspect(path: Path) -> tuple[int, int, int]:
    """(sample rate, channels, samples) from a file's header, held against the size of the file."""
    if is_packed(path):
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


def read_sndfile(path: Path) -> tuple[np.ndarray, int]:
    """(audio, sample rate) of what libsndfile reads."""
    rate, _, samples = inspect(path)
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
    found = json.loads(run.stdout or "{}")
    streams = found.get("streams", [])
    if run.returncode or not streams:
        what = "neither libsndfile nor ffmpeg finds an audio stream in it"
        raise FlowsepError(f"{path}: truncated or damaged or not audio: {what} ({_last_line(run.stderr)})")
    if is_packed(path) and len(streams) != len(STREAMS):
        wanted = f"a stem file of MUSDB18 holds {len(STREAMS)} ({', '.join(STREAMS)})"
        raise FlowsepError(f"{path}: {len(streams)} audio stream(s); {wanted}; get it again")
    stream = streams[0]
    rate, channels = int(stream["sample_rate"]), int(stream["channels"])
    if channels > 2:
        raise FlowsepError(f"{path}: {channels} channels; downmix to stereo first")
    exact = "mp4" in found["format"]["format_name"]
    return rate, channels, round(float(stream.get("duration", 0)) * rate) if exact else 0


def read_ffmpeg(path: Path, stream: int = 0, sample: str = "<f4") -> tuple[np.ndarray, int]:
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
