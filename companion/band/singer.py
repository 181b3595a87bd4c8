"""A formant synthesiser: glottal pulses and breath, filtered by the moving resonances of a vocal tract.

Source-filter synthesis after Fant (1960). The source is a band-limited pulse train plus noise. The tract is a complex
frequency response that changes from frame to frame, applied by overlap-add.
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import yaml
from scipy.ndimage import gaussian_filter1d
from scipy.signal import oaconvolve

RATE = 44100
HOP = 256  # samples from one control frame to the next: 5.8 ms, shorter than any consonant
WINDOW = 1024  # samples; transforms are twice as long, so that the tract's response has room to ring
FREQUENCY = np.fft.rfftfreq(2 * WINDOW, 1 / RATE)
BREATH = FREQUENCY / (FREQUENCY + 1500.0) / (1 + (FREQUENCY / 8000.0) ** 2)  # colour of aspiration before the tract
# The band's tables, of which the singer uses `vowels` and `consonants`.
BAND = SimpleNamespace(**yaml.safe_load(Path(__file__).with_name("toyband.yaml").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Consonant:
    """A consonant: length in s, levels of voicing and noise in 0..1, place as three formants, noise band in Hz.

    A plosive closes the tract and bursts at its end; other consonants sound throughout.
    """

    length: float
    voiced: float
    place: tuple[float, float, float]
    noise: float = 0.0
    band: tuple[float, float] = (3000.0, 2000.0)  # centre and width
    plosive: bool = False


CONSONANTS = {name: Consonant(*fields) for name, fields in BAND.consonants.items()}


@dataclass(frozen=True)
class Voice:
    """One singer: register, size of the tract relative to an adult man's, vibrato and breath."""

    name: str
    low: int  # lowest comfortable MIDI pitch; the range above is an octave and a third
    tract: float  # factor on all formants
    bright: float  # corner of the spectral tilt in Hz at full level
    breath: float = 0.02
    vibrato: float = 0.35  # depth in semitones
    rate: float = 5.5  # Hz


@dataclass(frozen=True)
class Syllable:
    """A sung note: start and end in s, MIDI pitch, consonant and vowel (an empty vowel continues the last one)."""

    start: float
    end: float
    pitch: float
    consonant: str
    vowel: str
    breath_before: bool = False  # first of a phrase
    level: float = 1.0


def sing(syllables: list[Syllable], voice: Voice, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A dry voice: (samples,) float64 at 44.1 kHz with peak 1, or zeros without syllables."""
    samples = round(seconds * RATE)
    if not syllables:
        return np.zeros(samples)
    frames = samples // HOP + 2
    tracks = _score(syllables, voice, frames, rng)
    pulses, phase = _pulses(tracks["f0"], samples, rng)
    noise = rng.standard_normal(samples)
    puffs = noise * (1.0 - 0.35 * np.cos(2 * np.pi * phase))  # breath comes in puffs, with the glottis
    # Formants at rest, up to far beyond hearing: without them the top octave would sink.
    centres = np.array([3300.0, 4000.0, *np.arange(5000.0, 250e3, 1050.0)]) * voice.tract
    above = np.prod(_poles(centres, 0.06 * centres), axis=0)
    sound = _filter((pulses, puffs, noise), lambda now: _responses(now, voice, above), tracks)
    return sound / np.abs(sound).max()


def room(voice: np.ndarray, rng: np.random.Generator, *, pan: float = 0.0, wet: float = 0.2) -> np.ndarray:
    """Put a dry voice (samples,) into a small stereo room: (2, samples).

    Reflections are decaying noise, independent left and right.
    """
    decay = rng.uniform(0.25, 0.5)  # seconds to fall by 20 dB
    time = np.arange(round(1.6 * decay * RATE)) / RATE
    tail = rng.standard_normal((2, time.size)) * 10.0 ** (-time / decay) * np.clip((time - 0.012) / 0.02, 0, 1)
    tail = gaussian_filter1d(tail, 2.5, axis=-1)  # walls swallow the highest octave
    tail *= wet / np.sqrt(np.sum(tail**2, axis=-1, keepdims=True))
    gains = np.sqrt(np.array([[1.0 - pan], [1.0 + pan]]) / 2.0) * np.sqrt(2.0)
    return gains * voice + oaconvolve(voice[None], tail, axes=-1)[:, : voice.size]


def _score(syllables, voice, frames, rng):
    """Control tracks by name, each (frames,) or (frames, n): f0 and formants in Hz, levels, noise bands."""
    clock = np.arange(frames) * HOP / RATE
    pitch, vowel = np.full(frames, float(syllables[0].pitch)), "uh"
    formants, band = np.tile(BAND.vowels[vowel], (frames, 1)).astype(float), np.full((frames, 2), 3000.0)
    voiced, noise, breath, depth = np.zeros((4, frames))
    for this, after in zip(syllables, [*syllables[1:], None], strict=True):
        consonant, vowel = CONSONANTS[this.consonant], this.vowel or vowel
        lead = min(consonant.length, 0.4 * (this.end - this.start)) if this.vowel else 0.0
        onset, body, end = this.start - 0.5 * lead, this.start + 0.5 * lead, this.end  # vowels are nearly on the beat
        if after is not None and after.start - end < 0.06:  # legato: up to the next consonant
            end = after.start - 0.3 * CONSONANTS[after.consonant].length * bool(after.vowel)
        mouth, sung = (clock >= onset) & (clock < body), (clock >= body) & (clock < end)
        since = np.clip(clock - body, 0, None)
        pitch[clock >= onset] = this.pitch
        formants[clock >= onset] = BAND.vowels[vowel]
        voiced[sung] = this.level * (1.0 - 0.25 * np.clip(since / max(end - body, 1e-3), 0, 1) ** 2)[sung]
        depth[sung] = np.clip((since - 0.22) / 0.45, 0, 1)[sung]  # vibrato grows in on long notes
        if this.breath_before:
            pitch[(clock >= onset - 0.2) & (clock < body + 0.05)] -= rng.uniform(0.3, 1.8)  # scooped from below
            breath[(clock > onset - 0.45) & (clock < onset - 0.12)] = rng.uniform(0.1, 0.25)  # the intake
        if this.vowel:
            voiced[mouth] = consonant.voiced * this.level
            formants[mouth] = consonant.place
            band[(clock >= onset - 0.03) & (clock < body + 0.04)] = consonant.band
            burst = (clock >= body - 0.018) & (clock < body + 0.004) if consonant.plosive else mouth
            noise[burst] = consonant.noise * this.level
            if consonant.plosive and not consonant.voiced:
                breath[(clock >= body) & (clock < body + 0.04)] = 0.6

    def wander(width):  # slow noise of about unit size
        return gaussian_filter1d(rng.standard_normal(frames), width) * np.sqrt(3.5 * width)

    rate = voice.rate * (1 + 0.04 * wander(60))
    vibrato = voice.vibrato * gaussian_filter1d(depth, 8) * np.sin(2 * np.pi * np.cumsum(rate) * HOP / RATE)
    pitch = gaussian_filter1d(pitch, rng.uniform(3.5, 6.0))  # portamento of about 60 ms
    pitch += vibrato + 0.06 * wander(30) + 0.03 * wander(5)
    return {
        "f0": 440.0 * 2.0 ** ((pitch - 69.0) / 12.0),
        "formants": gaussian_filter1d(formants, 3.5, axis=0),
        "voiced": gaussian_filter1d(voiced, 2.2) * (1 + 0.12 * vibrato) * np.clip(1 + 0.03 * wander(4), 0.8, 1.2),
        "noise": gaussian_filter1d(noise, 1.0),
        "band": band,
        "breath": gaussian_filter1d(breath, 4.0),
    }


def _pulses(f0, samples, rng):
    """Band-limited impulses, sum_k cos(2 pi k phase) in closed form (Dirichlet's kernel), and their phase in cycles."""
    hertz = np.interp(np.arange(samples), np.arange(f0.size) * HOP, f0)
    jitter = np.interp(np.arange(samples), np.arange(0, samples, 100), rng.standard_normal(-(-samples // 100)))
    phase = np.cumsum(hertz * (1 + 0.003 * jitter)) / RATE
    harmonics = np.floor(18000.0 / hertz)
    half = np.sin(np.pi * phase)
    small = np.abs(half) < 1e-6
    kernel = np.sin((2 * harmonics + 1) * np.pi * phase) / np.where(small, 1.0, half)
    kernel = np.where(small, 2 * harmonics + 1, kernel)
    return (kernel - 1) * hertz / RATE, phase % 1.0  # equal power at every pitch, before the glottis


def _poles(centre: np.ndarray, width: np.ndarray) -> np.ndarray:
    """1 / H of a resonance with unit gain at 0 Hz: 1 - (f / c)^2 + j w f / c^2, of shape centre.shape + (bins,)."""
    centre, width = np.asarray(centre)[..., None], np.asarray(width)[..., None]
    return 1.0 - (FREQUENCY / centre) ** 2 + 1j * (width / centre**2) * FREQUENCY


def _responses(now, voice, above):
    """Responses (frames, bins) for the pulses, the puffs of breath and the noise of consonants."""
    f0, level, breath = now["f0"][:, None], now["voiced"][:, None], now["breath"][:, None]
    tract = _tract(now, voice, above)
    # The causal-anticausal model of the LF pulse (Doval, d'Alessandro and Henrich, 2003): the open phase is a
    # resonance run backwards, and the closure a tilt that opens with level; the lips differentiate.
    open_phase = 1j * FREQUENCY / f0 / np.conj(_poles(0.9 * now["f0"], 0.9 * now["f0"]))
    tilt = 1.0 + 1j * FREQUENCY / (voice.bright * np.clip(level, 0.15, 1.2))
    centre, width = now["band"].T[..., None]
    hiss = 0.15 * now["noise"][:, None] * np.exp(-0.5 * ((FREQUENCY - centre) / (0.7 * width)) ** 2)
    return level * open_phase / tilt * tract, voice.breath * (0.4 * level + breath) * BREATH * tract, hiss


def _tract(now, voice, above):
    """Product of all formants: three that move, and the formants `above` at rest, which give the voice its colour.

    The first stays above the fundamental, as trained singers tune it, and no two merge into a whistle.
    """
    first, second, third = now["formants"].T * voice.tract
    first = np.maximum(first, 1.05 * now["f0"])
    second = np.maximum(second, first + 150.0)
    third = np.clip(third, second + 400.0, np.maximum(2900.0 * voice.tract, second + 400.0))
    below = _poles(first, 50 + 0.06 * first) * _poles(second, 60 + 0.04 * second) * _poles(third, 80 + 0.04 * third)
    return 1.0 / (below * above)


def _filter(signals, respond, tracks):
    """Sum of `signals`, each (samples,), filtered by responses that change every HOP samples, with Hann crossfades.

    `respond` maps the control tracks of some frames to one response (frames, bins) per signal. Few frames at a time
    bound the memory.
    """
    window = np.hanning(WINDOW + 1)[:-1] * (2.0 * HOP / WINDOW)
    padded = np.pad(np.stack(signals), ((0, 0), (WINDOW // 2, 2 * WINDOW)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::HOP][:, : len(tracks["f0"])]
    result = np.zeros((frames.shape[1] + 2 * WINDOW // HOP, HOP))
    for first in range(0, frames.shape[1], 256):
        part = slice(first, min(first + 256, frames.shape[1]))
        responses = respond({name: track[part] for name, track in tracks.items()})
        spectra = sum(np.fft.rfft(x[part] * window, 2 * WINDOW) * r for x, r in zip(frames, responses, strict=True))
        blocks = np.fft.irfft(spectra, 2 * WINDOW)
        for step, column in enumerate(np.split(blocks, 2 * WINDOW // HOP, axis=1)):  # overlap-add, hop by hop
            result[part.start + step : part.stop + step] += column
    return result.ravel()[WINDOW // 2 :][: signals[0].size]
