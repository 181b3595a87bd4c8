"""The stem player: hear the stems of one or several systems in step, in Jupyter and in a built page, offline.

One static piece of HTML: a custom element around plain `<audio>` tags that hold the sound as base64. With scripts the
element (player.js) reads these tags and becomes a mixing desk; without scripts the reader sees and plays the tags.
"""

import base64
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

from flowsep import confidence

from .style import source_color

COLUMNS = 800  # of a waveform: enough for a wide page and some zoom, about 2 KB per stem
FORMATS: dict[str, tuple[dict[str, Any], str]] = {  # soundfile's options and the media type
    # Variable rate only: at low constant rates libsndfile omits the header with the encoder's delay, and decoders start
    # 1,105 samples late. Compression 0.1 means about 200 kbit/s for a stereo stem at 44,100 Hz, 25 dB above the error.
    "mp3": ({"subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.1}, "audio/mpeg"),
    "flac": ({"subtype": "PCM_16"}, "audio/flac"),
}
STRIP = (
    "The strip below each lane{} says how far a second can be trusted: it is full where the stem is expected to be "
    "12 dB above its error, and empty at 0 dB."
)
MATCH_DB = 12  # the most by which matched levels differ from the files
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz; others are resampled to the last
Stems = Mapping[str, np.ndarray]
Systems = Mapping[str, Stems] | Stems


class StemPlayer:
    """A player of `stems[name]` or of `systems[system][name]`, shown by Jupyter as the value of a cell.

    systems: name -> (channels, samples) or (samples,), all stems of one length; or system -> such stems, between which
        the listener switches at the same playhead.
    sample_rate: in Hz.
    title: shown above; any text, never read as markup.
    format: "mp3" (about 250 KB for 10 s of a stereo stem) or "flac" (16 bit, lossless, three times as much).
    licence: whose sounds these are and under which licence they are published; any text, shown below.
    confident: names of systems whose lanes have a strip below: how far each second of an estimate can be trusted, by
        `flowsep.confidence`. Estimates that sum to the mixture have one; true stems have none.

    Levels are never normalised. Only if a stem, or the sum of a system's stems, exceeds full scale are all stems of
    all systems scaled by the one factor that prevents clipping, and the player says so. A stem called "mixture" beside
    others is left out of the sum and starts muted. The listener may ask for matched levels: each stem then sounds as
    loud (RMS, within `MATCH_DB`) as in the first system.

    Raises ValueError, naming the stem: no stems, other names or lengths than the first ones, NaN or infinite samples.
    """

    def __init__(
        self,
        systems: Systems,
        sample_rate: int,
        *,
        title: str = "",
        format: str = "mp3",
        licence: str = "",
        confident: Collection[str] = (),
    ):
        several = any(isinstance(value, Mapping) for value in systems.values())
        named: Any = systems if several else {"": systems}
        self.systems: dict[str, dict[str, np.ndarray]] = {
            str(system): {str(name): _channels(audio) for name, audio in stems.items()}
            for system, stems in named.items()
        }
        _check(self.systems)
        self.sample_rate, self.title, self.format, self.licence = int(sample_rate), str(title), format, str(licence)
        names = list(next(iter(self.systems.values())))
        self.samples = self.systems[next(iter(self.systems))][names[0]].shape[1]
        self.presets = _presets(names)
        self.seconds = {system: _seconds(self.systems[system], self.sample_rate) for system in confident}
        every = [audio for stems in self.systems.values() for audio in stems.values()]
        self.loudest = max(_peak(audio) for audio in every)  # of all stems: it fills its lane
        self.scale = 1 / max(1.0, self.loudest, *(_peak(_sum(stems)) for stems in self.systems.values()))

    def _repr_html_(self) -> str:
        quieter = f"All stems are {-20 * math.log10(self.scale):.1f} dB quieter than the files, so none clips."
        title, note = escape(self.title), quieter if self.scale < 1 else ""
        whose = " and ".join(filter(None, self.seconds))
        told = STRIP.format(f" of {whose}" if whose else "") if self.seconds else ""
        note = " ".join(filter(None, (note, told)))
        parts = [
            f'<flowsep-player class="tex2jax_ignore mathjax_ignore" data-lm-suppress-shortcuts="true" '
            f'data-title="{title}" data-note="{escape(note)}" data-seconds="{self.samples / self.sample_rate:.6f}" '
            f'data-presets="{escape(json.dumps(self.presets))}"'
            + (f' data-licence="{escape(self.licence)}">' if self.licence else ">")
        ]
        parts += [f"<p><strong>{title}</strong></p>"] if title else []
        parts += [f"<p>{escape(note)}</p>"] if note else []
        for system, stems in self.systems.items():
            parts += [f"<p>{escape(system)}</p>"] if system else []
            parts += [self._audio(name, system, audio) for name, audio in stems.items()]
        licence = [f'<p class="flowsep-note">{escape(self.licence)}</p>'] if self.licence else []
        return "\n".join([*parts, "</flowsep-player>", f"<script>{script()}</script>", *licence])

    def _audio(self, name: str, system: str, audio: np.ndarray) -> str:
        """One plain `<audio>` tag with its sound, colour and waveform."""
        options, media = FORMATS[self.format]
        first = next(iter(self.systems.values()))[name]
        sound, rate = (audio * self.scale).T, self.sample_rate
        if self.format == "mp3" and rate not in MP3_RATES:
            sound, rate = soxr.resample(sound, rate, MP3_RATES[-1]), MP3_RATES[-1]
        buffer = io.BytesIO()
        soundfile.write(buffer, sound, rate, format=self.format.upper(), **options)
        label = escape(f"{name}, {system}" if system else name)
        told = self.seconds.get(system, {}).get(name)
        strip = f'data-confidence="{" ".join(f"{ratio:.1f}" for ratio in told)}" ' if told else ""
        return (
            f'<figure style="display:inline-block;margin:0 1rem .5rem 0"><figcaption>{escape(name)}</figcaption>'
            f'<audio controls preload="none" aria-label="{label}" data-system="{escape(system)}" '
            f'data-stem="{escape(name)}" data-color="{source_color(name)}" '
            f'data-peaks="{_columns(audio, self.loudest)}" data-match="{_match(audio, first):.4g}" {strip}'
            f'src="data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"></audio></figure>'
        )


def script() -> str:
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


def _seconds(stems: Stems, sample_rate: int) -> dict[str, list[float]]:
    """The expected ratio of each stem to its error in dB, second by second; NaN where it is silent."""
    names = [name for name in stems if name != "mixture"]
    audio = torch.from_numpy(np.stack([stems[name] for name in names]))
    starts = range(0, max(1, audio.shape[-1] - sample_rate // 2), sample_rate)
    ratios = [confidence.expected_ratio(audio[..., start : start + sample_rate], sample_rate) for start in starts]
    expected = confidence.SLOPE * torch.stack(ratios, dim=1) + confidence.OFFSET
    return dict(zip(names, expected.tolist(), strict=True))


def _presets(names: Sequence[str]) -> dict[str, list[str]]:
    """Label -> the stems that sound: all, the mixture alone, all but the vocals, bass with drums, where they exist."""
    stems = [name for name in names if name != "mixture"] or list(names)
    presets = {"all stems": stems}
    if len(names) > len(stems):
        presets["mixture"] = ["mixture"]
    if "vocals" in stems and len(stems) > 1:
        presets["without vocals"] = [name for name in stems if name != "vocals"]
    if {"bass", "drums"} < set(stems):
        presets["bass and drums"] = ["bass", "drums"]
    return presets


def _sum(stems: Stems) -> Any:
    """All stems but the mixture, unless it is alone."""
    return sum(audio for name, audio in stems.items() if name != "mixture" or len(stems) == 1)


def _channels(audio: np.ndarray) -> np.ndarray:
    """`audio` as float32 (channels, samples)."""
    return np.atleast_2d(np.asarray(audio, dtype=np.float32))


def _check(systems: Mapping[str, Stems]) -> None:
    """Raise ValueError where `StemPlayer` says so."""
    first = next(iter(systems.values()), {})
    if not first:
        raise ValueError("no stems: give at least one name and its samples")
    known, samples = next((name, audio.shape[1]) for name, audio in first.items())
    for system, stems in systems.items():
        if list(stems) != list(first):
            raise ValueError(f"system '{system}' has the stems {list(stems)}; the first system has {list(first)}")
        for name, audio in stems.items():
            label = f"stem '{name}' of system '{system}'" if system else f"stem '{name}'"
            if audio.shape[1] != samples:
                lengths = f"{label} has {audio.shape[1]} samples, '{known}' has {samples}"
                raise ValueError(f"{lengths}; cut the stems to one length")
            if not np.isfinite(audio).all():
                raise ValueError(f"{label} holds NaN or infinite samples; leave out the system or repair the stem")


def _columns(audio: np.ndarray, top: float) -> str:
    """Base64 of one byte per column: first the peaks, then the root mean squares, both (level / top)^0.6.

    The exponent makes quiet stems visible and keeps the order of levels.
    """
    samples = audio.shape[1]
    edges = np.linspace(0, samples, min(COLUMNS, samples) + 1).astype(int)
    power = np.square(audio, dtype=np.float64).mean(axis=0)
    peaks = np.maximum.reduceat(np.abs(audio).max(axis=0), edges[:-1])
    rms = np.sqrt(np.add.reduceat(power, edges[:-1]) / np.diff(edges))
    heights = np.concatenate([peaks, rms]) / (top or 1.0)
    return base64.b64encode(np.round(255 * heights.clip(0, 1) ** 0.6).astype(np.uint8).tobytes()).decode()
