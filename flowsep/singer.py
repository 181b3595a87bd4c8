"""A singer made of formulas: glottal pulses and breath, shaped by the moving resonances of a vocal tract.

Source-filter synthesis after Fant (1960). The source is a band-limited pulse train on an integrated phase plus noise;
the tract is a complex frequency response that changes from frame to frame and is applied by overlap-add.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import fftconvolve

RATE = 44100
HOP = 256  # samples from one control frame to the next: 5.8 ms, shorter than any consonant
WINDOW = 1024  # samples; transformed in twice that length, so that the tract's response has room to ring
FREQUENCY = np.fft.rfftfreq(2 * WINDOW, 1 / RATE)
BREATH = FREQUENCY / (FREQUENCY + 800.0) / (1 + (FREQUENCY / 8000.0) ** 2)  # colour of aspiration before the tract

# First three formants in Hz of an adult man's vowels, after Peterson and Barney (1952).
VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
    "ae": (660, 1720, 2410),
    "uh": (640, 1190, 2390),
    "er": (490, 1350, 1690),
}


@dataclass(frozen=True)
class Consonant:
    """How a consonant is made: its length in s, voicing and noise levels in 0..1, place as formants, noise band in Hz.

    A plosive closes the tract for its length and bursts at the end; the others sound throughout.
    """

    length: float
    voiced: float
    place: tuple[float, float, float]
    noise: float = 0.0
    band: tuple[float, float] = (3000.0, 2000.0)  # centre and width
    plosive: bool = False


CONSONANTS = {
    "": Consonant(0.03, 0.6, (500, 1500, 2500)),
    "m": Consonant(0.08, 0.35, (250, 1000, 1100)),
    "n": Consonant(0.07, 0.35, (250, 1450, 2500)),
    "l": Consonant(0.07, 0.5, (360, 1200, 2800)),
    "r": Consonant(0.08, 0.5, (320, 1100, 1500)),
    "w": Consonant(0.08, 0.45, (290, 610, 2150)),
    "y": Consonant(0.07, 0.45, (260, 2200, 1400)),
    "v": Consonant(0.06, 0.3, (220, 1100, 2100), 0.10, (6000, 5000)),
    "z": Consonant(0.08, 0.25, (250, 1700, 1500), 0.3, (7000, 2500)),
    "s": Consonant(0.11, 0.0, (300, 1700, 2600), 0.55, (7200, 2500)),
    "sh": Consonant(0.11, 0.0, (300, 1900, 2500), 0.55, (3800, 1800)),
    "f": Consonant(0.09, 0.0, (250, 1100, 2100), 0.15, (7500, 6000)),
    "h": Consonant(0.07, 0.0, (500, 1500, 2500), 0.2, (1800, 2500)),
    "b": Consonant(0.06, 0.12, (200, 900, 2200), 0.35, (900, 1200), True),
    "d": Consonant(0.06, 0.12, (200, 1700, 2600), 0.45, (4200, 2500), True),
    "g": Consonant(0.06, 0.12, (200, 2000, 2300), 0.4, (2200, 1300), True),
    "p": Consonant(0.09, 0.0, (200, 900, 2200), 0.5, (1200, 1800), True),
    "t": Consonant(0.09, 0.0, (200, 1700, 2600), 0.7, (5000, 3000), True),
    "k": Consonant(0.09, 0.0, (200, 2000, 2300), 0.6, (2400, 1400), True),
}


@dataclass(frozen=True)
class Voice:
    """One singer: register and the size of the tract relative to an adult man's, with habits of vibrato and breath."""

    name: str
    low: int  # lowest comfortable MIDI pitch; the range above is an octave and a third
    tract: float  # factor on all formants
    bright: float  # corner of the spectral tilt in Hz at full level
    breath: float = 0.02
    vibrato: float = 0.35  # depth in semitones
    rate: float = 5.5  # Hz


VOICES = (
    Voice("bass", 43, 0.94, 1600),
    Voice("tenor", 48, 1.02, 1900),
    Voice("alto", 55, 1.13, 2000),
    Voice("soprano", 59, 1.2, 1800),
)


@dataclass(frozen=True)
class Syllable:
    """A sung note: start and end in s, MIDI pitch, what is pronounced (an empty vowel goes on with the last one)."""

    start: float
    end: float
    pitch: float
    consonant: str
    vowel: str
    breath_before: bool = False  # first of a phrase
    level: float = 1.0


def sing(syllables: list[Syllable], voice: Voice, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """The voice alone, dry: (samples,) float64 at 44.1 kHz, peak 1; zeros if there is no syllable."""
    samples = round(seconds * RATE)
    if not syllables:
        return np.zeros(samples)
    frames = samples // HOP + 2
    tracks = _score(syllables, voice, frames, rng)
    pulses, phase = _pulses(tracks["f0"], samples, rng)
    noise = rng.standard_normal(samples)
    puffs = noise * (1.0 - 0.35 * np.cos(2 * np.pi * phase))  # breath comes in puffs, with the glottis
    sound = _filter(pulses, lambda now: _voicing(now, voice), tracks)
    sound += _filter(puffs, lambda now: _aspiration(now, voice), tracks)
    sound += _filter(noise, _frication, tracks)
    return sound / np.abs(sound).max()


def room(voice: np.ndarray, rng: np.random.Generator, *, pan: float = 0.0, wet: float = 0.2) -> np.ndarray:
    """Put a dry voice (samples,) into a small stereo room: (2, samples).

    Reflections are decaying noise, independent left and right, darker and sparser the later they come.
    """
    decay = rng.uniform(0.25, 0.5)  # seconds to fall by 20 dB
    time = np.arange(round(1.6 * decay * RATE)) / RATE
    tail = rng.standard_normal((2, time.size)) * 10.0 ** (-time / decay) * np.clip((time - 0.012) / 0.02, 0, 1)
    tail = gaussian_filter1d(tail, 2.5, axis=-1)  # walls swallow the highest octave
    tail *= wet / np.sqrt(np.sum(tail**2, axis=-1, keepdims=True))
    gains = np.sqrt(np.array([[1.0 - pan], [1.0 + pan]]) / 2.0) * np.sqrt(2.0)
    return gains * voice + fftconvolve(voice[None], tail, axes=-1)[:, : voice.size]


def _score(syllables, voice, frames, rng):
    """Syllables -> control tracks by name, each (frames,) or (frames, n): f0 in Hz, formants, levels, noise bands."""
    clock = np.arange(frames) * HOP / RATE
    pitch = np.full(frames, float(syllables[0].pitch))
    depth = np.zeros(frames)
    formants = np.tile(np.array(VOWELS["uh"], float), (frames, 1))
    voiced, noise, breath = np.zeros(frames), np.zeros(frames), np.zeros(frames)
    band = np.tile([3000.0, 2000.0], (frames, 1))
    vowel = "uh"
    for this, after in zip(syllables, [*syllables[1:], None], strict=True):
        consonant = CONSONANTS[this.consonant]
        lead = min(consonant.length, 0.4 * (this.end - this.start))
        onset = this.start if not this.vowel else this.start - 0.5 * lead  # the vowel is nearly on the beat
        body = onset + (lead if this.vowel else 0.0)
        linked = after is not None and after.start - this.end < 0.06
        end = (
            (after.start if not after.vowel else after.start - 0.3 * CONSONANTS[after.consonant].length)
            if linked
            else this.end
        )
        span = (clock >= body) & (clock < end)
        pitch[clock >= onset] = this.pitch
        if this.breath_before:
            pitch[(clock >= onset - 0.2) & (clock < body + 0.05)] = this.pitch - rng.uniform(
                0.3, 1.8
            )  # scooped from below
            breath[(clock > onset - 0.45) & (clock < onset - 0.12)] = rng.uniform(0.25, 0.5)  # the intake
        vowel = this.vowel or vowel
        formants[clock >= onset] = VOWELS[vowel]
        since = np.clip(clock - body, 0, None)
        voiced[span] = (this.level * (1.0 - 0.25 * np.clip(since / max(end - body, 1e-3), 0, 1) ** 2))[span]
        depth[span] = np.clip((since - 0.22) / 0.45, 0, 1)[span]  # vibrato grows in on long notes
        if not this.vowel:
            continue
        mouth = (clock >= onset) & (clock < body)
        voiced[mouth] = consonant.voiced * this.level
        formants[mouth] = consonant.place
        band[(clock >= onset - 0.03) & (clock < body + 0.04)] = consonant.band
        hiss = (clock >= body - 0.018) & (clock < body + 0.004) if consonant.plosive else mouth
        noise[hiss] = consonant.noise * this.level
        if consonant.plosive and not consonant.voiced:
            breath[(clock >= body) & (clock < body + 0.04)] = 2.0
    drift = (
        gaussian_filter1d(rng.standard_normal(frames), 30) * 0.6
        + gaussian_filter1d(rng.standard_normal(frames), 5) * 0.12
    )
    rate = voice.rate * (1 + 0.6 * gaussian_filter1d(rng.standard_normal(frames), 60))
    vibrato = voice.vibrato * gaussian_filter1d(depth, 8) * np.sin(2 * np.pi * np.cumsum(rate) * HOP / RATE)
    pitch = gaussian_filter1d(pitch, rng.uniform(3.5, 6.0)) + vibrato + drift  # portamento of about 60 ms
    shimmer = 1 + 0.5 * gaussian_filter1d(rng.standard_normal(frames), 4)[:, None] * 0.25
    return {
        "f0": 440.0 * 2.0 ** ((pitch - 69.0) / 12.0),
        "formants": gaussian_filter1d(formants, 3.5, axis=0),
        "voiced": np.clip(gaussian_filter1d(voiced, 2.2) * shimmer[:, 0], 0, None) * (1 + 0.12 * vibrato),
        "noise": gaussian_filter1d(noise, 1.0),
        "band": band,
        "breath": gaussian_filter1d(breath, 4.0),
    }


def _pulses(f0, samples, rng):
    """Band-limited impulses, sum_k cos(2 pi k phase) in closed form (Dirichlet's kernel), and their phase in cycles."""
    hertz = np.interp(np.arange(samples), np.arange(f0.size) * HOP, f0)
    jitter = 1 + 0.004 * gaussian_filter1d(rng.standard_normal(samples), 60) * np.sqrt(60)
    phase = np.cumsum(hertz * jitter) / RATE
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


def _voicing(now, voice):
    """Tract times glottal flow derivative: an anticausal resonance (the open phase) and a tilt that opens with level.

    The causal-anticausal linear model of the LF pulse (Doval, d'Alessandro and Henrich, 2003).
    """
    f0, level = now["f0"], now["voiced"][:, None]
    open_phase = 1j * FREQUENCY / f0[:, None] / np.conj(_poles(0.9 * f0, 0.9 * f0))
    tilt = 1.0 + 1j * FREQUENCY / (voice.bright * np.clip(level, 0.15, 1.2))
    return level * open_phase / tilt * _tract(now, voice)


def _tract(now, voice):
    """All formants up to 17 kHz: three that move, and those above them at rest, which give the voice its colour.

    The first keeps above the fundamental, as trained singers tune it, and no two merge into a whistle.
    """
    first, second, third = now["formants"].T * voice.tract
    first = np.maximum(first, 1.05 * now["f0"])
    second = np.maximum(second, first + 150.0)
    third = np.clip(third, second + 400.0, np.maximum(2900.0 * voice.tract, second + 400.0))
    fixed = np.array([3300.0, 4000.0, *np.arange(5000.0, 16000.0, 1050.0)]) * voice.tract
    above = np.prod(_poles(fixed, 0.06 * fixed), axis=0)
    below = _poles(first, 50 + 0.06 * first) * _poles(second, 60 + 0.04 * second) * _poles(third, 80 + 0.04 * third)
    return 1.0 / (below * above)


def _aspiration(now, voice):
    level = voice.breath * (0.4 * now["voiced"] + now["breath"])
    return level[:, None] * np.abs(_tract(now | {"f0": np.minimum(now["f0"], 300.0)}, voice)) * BREATH


def _frication(now):
    centre, width = now["band"].T[..., None]
    return 0.15 * now["noise"][:, None] * np.exp(-0.5 * ((FREQUENCY - centre) / (0.7 * width)) ** 2)


def _filter(signal, respond, tracks):
    """Apply a moving response to `signal` (samples,): frame t acts around sample t * HOP, crossfaded by Hann windows.

    `respond` maps the control tracks of some frames to (frames, bins); a few seconds at a time bound the memory.
    """
    window = np.hanning(WINDOW + 1)[:-1] * (2.0 * HOP / WINDOW)
    padded = np.pad(signal, (WINDOW // 2, 2 * WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: len(tracks["f0"])]
    result = np.zeros((len(frames) + 2 * WINDOW // HOP, HOP))
    for first in range(0, len(frames), 512):
        part = slice(first, min(first + 512, len(frames)))
        response = respond({name: track[part] for name, track in tracks.items()})
        pieces = np.fft.irfft(np.fft.rfft(frames[part] * window, 2 * WINDOW) * response, 2 * WINDOW)
        for step, column in enumerate(np.split(pieces, 2 * WINDOW // HOP, axis=1)):  # overlap-add, hop by hop
            result[part.start + step : part.stop + step] += column
    return result.ravel()[WINDOW // 2 :][: signal.size]
