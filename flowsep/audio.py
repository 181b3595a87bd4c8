"""The door for audio: files are read by libsndfile or else by ffmpeg, and written whole or not at all.

What a file holds decides how it is read, never what it is called.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile as sf

from .files import MAX_SAMPLES, SAMPLE_RATES, FlowsepError, atomic_path

# the endings by which folders are searched; a file that is named alone may have any
SUFFIXES = (".wav", ".flac", ".aif", ".aiff", ".w64", ".rf64", ".caf", ".au", ".ogg", ".opus", ".mp3", ".m4a", ".mp4")
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a MUSDB18 .stem.mp4, in this order
BLOCK = 2**17  # samples read at once: 3 s
# formats of libsndfile whose length is a guess (MP3) or is of the first of several streams (Ogg)
INEXACT = ("MP3", "OGG")
SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
UNKNOWN = 2**62  # from here on a number of samples means that the header leaves it open
# The formats of ffmpeg that hold sound. Playlists are left out: they name other files and hosts.
FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,iff,matroska,webm,mov,mp4,m4a,mp3,mp2,mpc,mpc8,mpeg,"
    "mpegts,nut,ogg,opus,rm,shn,tak,tta,voc,w64,wav,wv,xwma"
)
CONFINED = ["-protocol_whitelist", "file", "-format_whitelist", FORMATS]  # what ffmpeg may open


class AudioStream(NamedTuple):
    """A file in blocks."""

    sample_rate: int
    channels: int
    samples: int | None  # total, if the file says so; approximate where ffmpeg reads
    blocks: Iterator[np.ndarray]  # float32 (channels, at most BLOCK)


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Any audio file as (float32 (channels, samples), sample rate).

    Raises FlowsepError as `stream_audio` does, and for more than `MAX_SAMPLES` samples.
    """
    with stream_audio(path) as stream:
        return _whole(path, stream)


@contextlib.contextmanager
def stream_audio(path: str | Path) -> Iterator[AudioStream]:
    """Any audio file as blocks of samples.

    Of a stem file of MUSDB18 it is the mixture.

    Raises FlowsepError, which names the file. On opening: the file is missing, empty or not audio, its header promises
    clearly more or less than it holds, it has more than two channels or a sample rate outside `SAMPLE_RATES`. While
    reading: it is damaged, or holds NaN or infinite samples.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        try:
            rate, channels, samples, exact = _header(path)
            by_sndfile = exact or not shutil.which("ffmpeg")
        except _UnknownFormatError:
            by_sndfile = False
        if by_sndfile:
            yield stack.enter_context(_stream_sndfile(path, rate, channels, samples))
        else:
            yield stack.enter_context(_stream_ffmpeg(path))


def write_audio(path: str | Path, audio: np.ndarray, sample_rate: int) -> int:
    """Write audio (channels, samples) as `audio_writer` does, and return the number of clipped samples."""
    with audio_writer(path, sample_rate, *audio.shape) as writer:
        writer.write(audio)
    return writer.clipped


class AudioWriter:
    """A file that is being written; `clipped` counts the samples beyond full scale."""

    def __init__(self, path: Path, file: sf.SoundFile):
        self.path, self.file, self.clipped = path, file, 0

    def write(self, audio: np.ndarray) -> None:
        """Append a block (channels, samples)."""
        if self.file.subtype != "FLOAT":
            self.clipped += int(np.count_nonzero(np.abs(audio) > 1))
            audio = np.clip(audio, -1, 1)
        with written(self.path):
            self.file.write(audio.T)


@contextlib.contextmanager
def audio_writer(
    path: str | Path, sample_rate: int, channels: int, samples: int | None = None
) -> Iterator[AudioWriter]:
    """Yield a writer of blocks to a `.wav` (32-bit float) or `.flac` (24-bit) file, written whole or not at all.

    FLAC clips samples beyond full scale, and the writer counts them. If the expected `samples` make a WAV of 2 GB or
    more, it becomes RF64, since many programs read the size in a WAV header as a signed number.
    Raises FlowsepError for another suffix, an unwritable folder or a full disk.
    """
    path, formats = Path(path), {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_24")}
    if path.suffix.lower() not in formats:
        raise FlowsepError(f"{path}: cannot write '{path.suffix}'; use .wav or .flac")
    container, subtype = formats[path.suffix.lower()]
    container = "RF64" if container == "WAV" and (samples or 0) * channels * 4 >= 2**31 else container
    with atomic_path(path) as temporary:
        with written(path):
            file = sf.SoundFile(os.fsencode(temporary), "w", sample_rate, channels, subtype, format=container)
        try:
            yield AudioWriter(path, file)
        finally:
            with written(path):
                file.close()


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn an error of soundfile while writing `path` into a FlowsepError."""
    try:
        yield
    except (OSError, sf.SoundFileError, AssertionError) as error:  # soundfile asserts that all was written
        # for a full disk libsndfile reports "System error."
        why = str(error).strip(". ") or "only in part"
        cure = "is the disk full? Make room or choose another folder"
        raise FlowsepError(f"{path}: not written ({why}); {cure}") from error


class _UnknownFormatError(FlowsepError):
    """libsndfile does not know the format."""


def is_packed(path: Path) -> bool:
    """Whether the file is a stem file of MUSDB18, with the streams `STREAMS`."""
    return path.name.endswith(".stem.mp4")


def inspect(path: Path) -> tuple[int, int, int]:
    """(sample rate, channels, samples): from the header where it is exact, or else counted by decoding."""
    if is_packed(path):
        _must_exist(path)
        return _probe(path)[:3]
    with contextlib.suppress(_UnknownFormatError):
        rate, channels, samples, exact = _header(path)
        if exact and samples is not None:
            return rate, channels, samples
    with stream_audio(path) as stream:
        return stream.sample_rate, stream.channels, sum(block.shape[1] for block in stream.blocks)


def _must_exist(path: Path) -> None:
    if not path.is_file():
        why = "is a folder, a pipe or a device; save the sound as a file" if path.exists() else "no such file"
        raise FlowsepError(f"{path}: {why}")


def _header(path: Path) -> tuple[int, int, int | None, bool]:
    """(sample rate, channels, samples or None, whether libsndfile reads all of it), checked against the file's size."""
    _must_exist(path)
    try:
        info = sf.info(os.fsencode(path))  # not all names are UTF-8
    except (sf.LibsndfileError, TypeError) as error:  # TypeError: raw samples
        raise _UnknownFormatError(f"{path}: not audio, empty or damaged ({error})") from error
    # libsndfile corrects a wrong size silently and would read a truncated file as a short one. Sizes from 2 GB on may
    # be placeholders by programs that write to a pipe.
    with path.open("rb") as file:
        head = file.read(28)
    orders: dict[bytes, Literal["little", "big"]] = {b"RIFF": "little", b"RIFX": "big", b"FORM": "big"}
    order = orders.get(head[:4])
    promised = int.from_bytes(head[4:8], order) if order else 0
    held, most = path.stat().st_size, 0x7FFF0000
    if head[:4] == b"RF64":  # a 64-bit size in its first chunk
        promised, most = int.from_bytes(head[20:28], "little"), 2**63
    if held < promised < most:  # some programs count the 8 bytes before the size, too
        raise FlowsepError(f"{path}: truncated: its header promises {promised + 8} bytes, it holds {held}")
    # and a header whose 32 bits have wrapped, or that nobody completed, promises a part of the song
    read = info.frames * info.channels * SAMPLE_BYTES.get(info.subtype, 0)
    more = held - max(read, promised if promised <= held else 0)  # beside samples, pictures and texts
    if read and more > max(read, 2**16):
        parts = f"{info.frames / info.samplerate:,.1f} s in {read:,} bytes, but it holds {held:,}"
        cure = "have a program write it again, as RF64 or W64 from 4 GB on"
        raise FlowsepError(f"{path}: its header promises {parts}; {cure}")
    _check_shape(path, info.samplerate, info.channels)
    known = info.frames < UNKNOWN and (info.frames > 0 or more <= 2**16)  # else only ffmpeg reads to the end
    return info.samplerate, info.channels, info.frames if known else None, known and info.format not in INEXACT


def _check_shape(path: Path, rate: int, channels: int) -> None:
    if channels > 2:
        raise FlowsepError(f"{path}: {channels} channels; downmix to stereo first")
    low, high = SAMPLE_RATES
    if channels < 1 or not low <= rate <= high:
        raise FlowsepError(f"{path}: {channels} channels at {rate} Hz; expected 1 or 2, and {low:,} to {high:,} Hz")


@contextlib.contextmanager
def _stream_sndfile(path: Path, rate: int, channels: int, samples: int | None) -> Iterator[AudioStream]:
    def blocks() -> Iterator[np.ndarray]:
        try:
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                yield block.T
        except sf.SoundFileError as error:
            raise FlowsepError(f"{path}: truncated or damaged ({error})") from error

    with sf.SoundFile(os.fsencode(path)) as file:
        yield AudioStream(rate, channels, samples, _checked(path, blocks(), samples or 0))


def _probe(path: Path) -> tuple[int, int, int, bool]:
    """(sample rate, channels, samples, whether the container knows `samples` exactly), by ffprobe."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise FlowsepError(f"{path}: libsndfile does not know this format; install ffmpeg, or convert it to wav")
    query = ["-select_streams", "a", "-show_entries", "format=format_name:stream=sample_rate,channels,duration"]
    run = subprocess.run(["ffprobe", "-v", "error", *CONFINED, *query, "-of", "json", _url(path)], capture_output=True)
    try:
        run.check_returncode()
        content = json.loads(run.stdout.decode(errors="replace"))
        streams, kind = content["streams"], content["format"]["format_name"]
        rate, channels = int(streams[0]["sample_rate"]), int(streams[0]["channels"])
        samples = round(float(streams[0].get("duration", 0)) * rate)
    except (subprocess.CalledProcessError, ValueError, LookupError, TypeError, OverflowError) as error:
        reason = f"neither libsndfile nor ffmpeg finds an audio stream in it ({_last_line(run.stderr)})"
        raise FlowsepError(f"{path}: truncated or damaged or not audio: {reason}") from error
    if is_packed(path) and len(streams) != len(STREAMS):
        wanted = f"a stem file of MUSDB18 holds {len(STREAMS)} ({', '.join(STREAMS)})"
        raise FlowsepError(f"{path}: {len(streams)} audio stream(s); {wanted}; get it again")
    _check_shape(path, rate, channels)
    return rate, channels, samples, "mp4" in kind


def read_ffmpeg(path: Path, stream: int = 0, sample: str = "<f4") -> tuple[np.ndarray, int]:
    """(audio, sample rate) of one stream by ffmpeg, decoded to 32-bit floats ("<f4") or 16-bit integers ("<i2")."""
    with _stream_ffmpeg(path, stream, sample) as opened:
        return _whole(path, opened)


@contextlib.contextmanager
def _stream_ffmpeg(path: Path, stream: int = 0, sample: str = "<f4") -> Iterator[AudioStream]:
    rate, channels, samples, exact = _probe(path)
    layout, full_scale = {"<f4": ("f32le", 1), "<i2": ("s16le", 32768)}[sample]
    decode = ["ffmpeg", "-nostdin", "-v", "error", *CONFINED, "-i", _url(path)]
    decode += ["-map", f"0:a:{stream}", "-f", layout, "pipe:1"]

    def blocks() -> Iterator[np.ndarray]:
        assert process.stdout is not None  # a pipe
        while data := process.stdout.read(BLOCK * channels * np.dtype(sample).itemsize):
            if len(data) % (channels * np.dtype(sample).itemsize):
                raise FlowsepError(f"{path}: truncated or damaged (its decoder stopped within a sample)")
            yield np.frombuffer(data, sample).reshape(-1, channels).T / np.float32(full_scale)
        if process.wait():
            log.seek(0)
            raise FlowsepError(f"{path}: truncated or damaged ({_last_line(log.read())})")

    # a file for the messages: nobody reads a second pipe while the samples come
    with tempfile.TemporaryFile() as log, subprocess.Popen(decode, stdout=subprocess.PIPE, stderr=log) as process:
        try:
            yield AudioStream(rate, channels, samples or None, _checked(path, blocks(), samples if exact else 0))
        finally:
            process.kill()  # if not all was read


def _url(path: Path) -> str:
    return f"file:{path.resolve()}"  # so that no name is taken for an option or a protocol


def _whole(path: str | Path, stream: AudioStream) -> tuple[np.ndarray, int]:
    blocks, left = [], MAX_SAMPLES
    for block in stream.blocks:
        left -= block.size
        if left < 0:
            longer = "only `flowsep separate` takes longer files"
            raise FlowsepError(f"{path}: more than {MAX_SAMPLES:,} samples in all channels; {longer}")
        blocks.append(block)
    return np.concatenate(blocks, axis=1), stream.sample_rate


def _checked(path: Path, blocks: Iterator[np.ndarray], samples: int) -> Iterator[np.ndarray]:
    """Pass blocks on if they are finite and add up to `samples`, except for the padding of codecs."""
    read = 0
    for block in blocks:
        if not np.isfinite(block).all():
            raise FlowsepError(f"{path}: holds NaN or infinite samples; export it again")
        read += block.shape[1]
        yield np.ascontiguousarray(block)
    if not read:
        raise FlowsepError(f"{path}: holds no samples")
    if read < samples - 4096:
        raise FlowsepError(f"{path}: truncated: {read} of {samples} samples could be read")


def _last_line(stderr: bytes) -> str:
    return (stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
