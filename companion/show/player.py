"""The stem player: hear the stems of one or several systems in step, in Jupyter and in a built page, offline.

One static piece of HTML: a custom element around plain `<audio>` tags that hold the sound as base64. With scripts the
element (player.js) reads those tags and becomes a mixing desk; without, the tags are what the reader sees and plays.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from zlib import crc32

import numpy as np
import soundfile
import soxr
import yaml

SOURCE_COLORS = yaml.safe_load(Path(__file__).with_name("colors.yaml").read_text(encoding="utf-8"))
COLUMNS = 800  # of a waveform: enough for a wide page and some zoom, about 2 KB a stem
FORMATS = {  # soundfile's options and the media type
    # Variable rate only: at low constant rates libsndfile leaves out the header that tells decoders the encoder's
    # delay, and the sound then starts 1,105 samples late. Compression 0.75 is about
    # 40 kbit/s and 15 kHz of bandwidth for a mono stem.
    "mp3": ({"subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.75}, "audio/mpeg"),
    "flac": ({"subtype": "PCM_16"}, "audio/flac"),
}
MATCH_DB = 12  # the most by which matched levels differ from the files
MP3_TOP_RATE = 32000  # Hz; the encoder ends at 15 kHz anyway, and faster sampling only costs a tenth more bytes
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
Stems = Mapping[str, np.ndarray]
Systems = Mapping[str, Stems] | Stems


class StemPlayer:
    """A player of `stems[name]` or of `systems[system][name]`, shown by Jupyter as the value of a cell.

    systems: stems by name, each (channels, samples) or (samples,) with one or two channels; or several systems, each
        with the same stems of the same length, between which the listener switches at the same playhead.
    sample_rate: in Hz.
    title: shown above; any text, never read as markup.
    format: "mp3" (up to 15 kHz, about 70 KB of page for 10 s of a mono stem) or "flac" (16 bit, lossless).
    mono: mix two channels down to their mean, which halves the page; False keeps stereo.
    presets: label -> names of the stems that are heard, to choose from; default: all of them and, where there are such
        stems, the mixture alone, all without the vocals, and bass with drums.

    Levels are never normalised. Only if a stem, or the sum of a system's stems, exceeds full scale are all stems of
    all systems scaled by the one factor that prevents clipping, and the player says so. A stem called "mixture" beside
    others is left out of the sum and starts muted. The listener may ask for matched levels: each stem then sounds as
    loud (RMS, within `MATCH_DB`) as in the first system.

    Raises ValueError, naming the stem, for no stems, empty or non-finite samples, other shapes, unequal lengths or
    names; and for an unknown format, a sample rate that MP3 does not have, or a preset of other stems.
    """

    def __init__(
        self,
        systems: Systems,
        sample_rate: int,
        *,
        title: str = "",
        format: str = "mp3",
        mono: bool = True,
        presets: Mapping[str, Sequence[str]] | None = None,
    ):
        if format not in FORMATS:
            raise ValueError(f"format '{format}': choose one of {', '.join(FORMATS)}")
        if format == "mp3" and sample_rate not in MP3_RATES:
            raise ValueError(f"sample rate {sample_rate} Hz: MP3 has only {MP3_RATES}; resample, or use format='flac'")
        nested = [isinstance(value, Mapping) for value in systems.values()]
        if any(nested) and not all(nested):
            raise ValueError("systems: expected either stems by name or a mapping of stems for every system")
        named = systems if any(nested) else {"": systems}
        self.systems = {
            str(system): {str(name): _check(audio, str(name), str(system), mono) for name, audio in stems.items()}
            for system, stems in named.items()
        }
        self.sample_rate, self.title, self.format = int(sample_rate), str(title), format
        self.samples = self._agree()
        names = list(next(iter(self.systems.values())))
        self.presets = _usual(names) if presets is None else {str(label): list(of) for label, of in presets.items()}
        for label, heard in self.presets.items():
            if unknown := [name for name in heard if name not in names]:
                raise ValueError(f"preset '{label}': no stem '{unknown[0]}'; the stems are {', '.join(names)}")
        every = [audio for stems in self.systems.values() for audio in stems.values()]
        self.loudest = max(_peak(audio) for audio in every)  # of all stems: it fills its lane
        self.scale = 1 / max(1.0, self.loudest, *(_peak(_sum(stems)) for stems in self.systems.values()))

    def _agree(self) -> int:
        """The common number of samples; an error if systems differ in their stems, or stems in their length."""
        first = next(iter(self.systems.values()), {})
        if not first:
            raise ValueError("no stems: give at least one name and its samples")
        known, samples = next((name, audio.shape[1]) for name, audio in first.items())
        for system, stems in self.systems.items():
            if list(stems) != list(first):
                raise ValueError(f"system '{system}' has the stems {list(stems)}; the first system has {list(first)}")
            for name, audio in stems.items():
                if audio.shape[1] != samples:
                    found = f"{_label(name, system)} has {audio.shape[1]} samples"
                    raise ValueError(f"{found}, '{known}' has {samples}; cut the stems to one length")
        return samples

    def _repr_html_(self) -> str:
        quieter = f"All stems are {-20 * math.log10(self.scale):.1f} dB quieter than the files, so none clips."
        title, note = escape(self.title), quieter if self.scale < 1 else ""
        parts = [
            f'<flowsep-player class="tex2jax_ignore mathjax_ignore" data-lm-suppress-shortcuts="true" '
            f'data-title="{title}" data-note="{note}" data-seconds="{self.samples / self.sample_rate:.6f}" '
            f'data-presets="{escape(json.dumps(self.presets))}">'
        ]
        parts += [f"<p><strong>{title}</strong></p>"] if title else []
        parts += [f"<p>{note}</p>"] if note else []
        for system, stems in self.systems.items():
            parts += [f"<p>{escape(system)}</p>"] if system else []
            parts += [self._audio(name, system, audio) for name, audio in stems.items()]
        return "\n".join([*parts, "</flowsep-player>", f"<script>{_script()}</script>"])

    def _audio(self, name: str, system: str, audio: np.ndarray) -> str:
        """One plain `<audio>` tag with its sound, colour and waveform."""
        options, media = FORMATS[self.format]
        first = next(iter(self.systems.values()))[name]
        sound, rate = (audio * self.scale).T, self.sample_rate
        if self.format == "mp3" and rate > MP3_TOP_RATE:
            sound, rate = soxr.resample(sound, rate, MP3_TOP_RATE), MP3_TOP_RATE
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, rate, format=self.format.upper(), **options)
        label = escape(f"{name}, {system}" if system else name)
        return (
            f'<figure style="display:inline-block;margin:0 1rem .5rem 0"><figcaption>{escape(name)}</figcaption>'
            f'<audio controls preload="none" aria-label="{label}" data-system="{escape(system)}" '
            f'data-stem="{escape(name)}" data-color="{source_color(name)}" '
            f'data-peaks="{_columns(audio, self.loudest)}" data-match="{_match(audio, first):.4g}" '
            f'src="data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"></audio></figure>'
        )


def source_color(name: str) -> str:
    """The fixed colour of a source; a name outside the table always gets the same one of its colours."""
    return SOURCE_COLORS.get(name) or list(SOURCE_COLORS.values())[crc32(name.encode()) % len(SOURCE_COLORS)]


def _script() -> str:
    """player.js without its comments and indentation."""
    lines = (line.strip() for line in Path(__file__).with_name("player.js").read_text("utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("//", "/** ")))


def _peak(audio: np.ndarray) -> float:
    return float(np.abs(audio).max())


def _match(audio: np.ndarray, first: np.ndarray) -> float:
    """The factor that gives `audio` the RMS of `first`, within `MATCH_DB`; 1 where either is silent."""
    ratio = np.square(first, dtype=np.float64).mean() / max(np.square(audio, dtype=np.float64).mean(), 1e-20)
    limit = 10.0 ** (MATCH_DB / 20)
    return float(np.clip(np.sqrt(ratio), 1 / limit, limit)) if first.any() and audio.any() else 1.0


def _usual(names: Sequence[str]) -> dict[str, list[str]]:
    """The presets of a player that is given none."""
    stems = [name for name in names if name != "mixture"] or list(names)
    found = {"all stems": stems}
    if len(names) > len(stems):
        found["mixture"] = ["mixture"]
    if "vocals" in stems and len(stems) > 1:
        found["without vocals"] = [name for name in stems if name != "vocals"]
    if {"bass", "drums"} < set(stems):
        found["bass and drums"] = ["bass", "drums"]
    return found


def _sum(stems: Stems) -> np.ndarray:
    """What is heard first: all stems but the mixture, unless it is alone."""
    return sum(audio for name, audio in stems.items() if name != "mixture" or len(stems) == 1)


def _label(name: str, system: str) -> str:
    return f"stem '{name}' of system '{system}'" if system else f"stem '{name}'"


def _check(audio: np.ndarray, name: str, system: str, mono: bool) -> np.ndarray:
    """`audio` as float32 (channels, samples), or a ValueError that names the stem."""
    audio = np.atleast_2d(np.asarray(audio, dtype=np.float32))
    if audio.size == 0:
        raise ValueError(f"{_label(name, system)} is empty")
    if audio.ndim != 2 or audio.shape[0] > 2:
        expected = "expected (samples,) or (channels, samples) with one or two channels"
        raise ValueError(f"{_label(name, system)} has the shape {audio.shape}; {expected}")
    if not np.isfinite(audio).all():
        raise ValueError(f"{_label(name, system)} holds NaN or infinite samples")
    return audio.mean(axis=0, keepdims=True) if mono else audio


def _columns(audio: np.ndarray, top: float) -> str:
    """Base64 of one byte a column: first the peaks, then the root mean squares, both (level / top)^0.6.

    The exponent lets quiet stems be seen; louder still looks louder.
    """
    samples = audio.shape[1]
    edges = np.linspace(0, samples, min(COLUMNS, samples) + 1).astype(int)
    power = np.square(audio, dtype=np.float64).mean(axis=0)
    peaks = np.maximum.reduceat(np.abs(audio).max(axis=0), edges[:-1])
    rms = np.sqrt(np.add.reduceat(power, edges[:-1]) / np.diff(edges))
    heights = np.concatenate([peaks, rms]) / (top or 1.0)
    return base64.b64encode(np.round(255 * heights.clip(0, 1) ** 0.6).astype(np.uint8).tobytes()).decode()
