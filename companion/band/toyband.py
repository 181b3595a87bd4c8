"""The embedded data set: a seeded band, composed and rendered on first use in the layout of MUSDB18-HQ.

    root = ensure_band(seed=2022, seconds=30, train=24, test=8)
    musdb.DB(root, is_wav=True)

`composer` writes the notes, FluidSynth plays them from SoundFonts, `singer` sings. The same arguments give the same
bytes on one machine. Another processor or library may round the last bit of a sample differently, which the data set's
hash tells. Every test set ends with four awkward songs on purpose, see `composer.SPECIAL`; the manifest says which.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from flowsep.audio import written
from flowsep.files import FlowsepError, cache_folder, locked, sha256, write_text

from .composer import Part, Song, compose_band
from .singer import BAND, RATE, room, sing

VERSION = 5  # of the generator: raise it with every change of its bytes
STEMS = ("vocals", "bass", "drums", "other")
JOBS = 2  # songs rendered at a time
SOUND_FOLDERS = ("/usr/share/sounds/sf2", "/usr/share/sounds/sf3", "/usr/share/soundfonts")


def ensure_band(*, seed: int, seconds: float, train: int, test: int) -> Path:
    """The folder of a band, with `train/`, `test/` and `manifest.json`; rendered if it is missing.

    The folder appears whole, under its final name, or not at all.

    Args:
        seed: non-negative.
        seconds: length of every song, from 1 on.
        train: number of training songs.
        test: number of test songs.
    Raises:
        FlowsepError: a missing FluidSynth or SoundFont, or an unwritable cache.
    """
    settings = {"version": VERSION, "seed": seed, "seconds": float(seconds), "train": train, "test": test}
    root = cache_folder() / f"toyband-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:10]}"
    if (root / "manifest.json").is_file():
        return root
    if shutil.which("fluidsynth") is None:
        raise FlowsepError("fluidsynth: not found; install it (Debian: apt install fluidsynth; conda: fluidsynth)")
    for font in (*BAND.packages, BAND.unseen_font):
        find_soundfont(font)
    with locked(root, "set FLOWSEP_DATA"):
        if not (root / "manifest.json").is_file():
            _make(root, settings, compose_band(seed, seconds, train, test))
    return root


def _make(root, settings, songs):
    """Render all songs into a hidden folder beside `root`, then rename it whole."""
    making = root.with_name(f".{root.name}")
    shutil.rmtree(making, ignore_errors=True)  # left by a killed run
    try:
        for split in songs:
            (making / split).mkdir(parents=True)
        work = [(song, making / split / song.name) for split in songs for song in songs[split]]
        with ThreadPoolExecutor(JOBS) as pool:  # threads suffice: FluidSynth is a process, numpy releases the lock
            tracks = pool.map(lambda item: write_song(*item, settings["seconds"]), work)
            tracks = list(tqdm(tracks, "toy band", len(work), unit="song", disable=None))
        write_text(making / "manifest.json", json.dumps(settings | {"rate": RATE, "tracks": tracks}, indent=1))
        making.rename(root)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def find_soundfont(name: str) -> Path:
    """The path of a SoundFont, from the folders in `$FLOWSEP_SOUNDFONTS` or of Linux distributions.

    Raises FlowsepError with the package to install. No other font replaces it, since the sounds would differ.
    """
    folders = [Path(part) for part in os.environ.get("FLOWSEP_SOUNDFONTS", "").split(os.pathsep) if part]
    if name == BAND.unseen_font:
        import pretty_midi

        folders.append(Path(pretty_midi.__file__).parent)
    folders += map(Path, SOUND_FOLDERS)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    package = f"Debian's {BAND.packages[name]}" if name in BAND.packages else "the Python package pretty_midi"
    places = ", ".join(map(str, folders))
    raise FlowsepError(f"{name}: SoundFont not found in {places}; install {package}, or set FLOWSEP_SOUNDFONTS")


def write_song(song: Song, folder: Path, seconds: float) -> dict:
    """Render, mix and write one song into `folder` as 16-bit wav, and return its entry in the manifest."""
    samples = round(seconds * RATE)
    layers = {name: np.zeros((2, samples)) for name in ("vocals", "bass", "drums", "guitar", "piano", "rest")}
    rng = np.random.default_rng([song.seed, 1])
    for voice, syllables, level, pan in song.voices:
        layers["vocals"] += set_level(room(sing(syllables, voice, seconds, rng), rng, pan=pan), level)
    for part in song.parts:
        layers[part.stem] += set_level(play(part, seconds), part.level)
    stems = quantise(layers, song)
    mixture = sum(stems[name] for name in STEMS)
    stems["mixture"] = np.clip(mixture, -(2**15), 2**15 - 1)
    folder.mkdir()
    with written(folder):
        for name, audio in stems.items():
            soundfile.write(folder / f"{name}.wav", audio.T.astype(np.int16), RATE, subtype="PCM_16")
    facts = {fact: getattr(song, fact) for fact in ("seed", "key", "mode", "tempo", "groove", "special")}
    facts["voice"] = song.voices[0][0].name if song.voices else None
    facts["parts"] = [{"stem": part.stem, "program": part.program, "soundfont": part.font} for part in song.parts]
    facts["soundfonts"] = sorted({part.font for part in song.parts})
    facts["clipped_samples"] = int(np.sum(stems["mixture"] != mixture))
    facts["rests"] = {name: rests(stems[name]) for name in STEMS}
    facts["sha256"] = {path.name: sha256(path) for path in sorted(folder.glob("*.wav"))}
    return {"name": song.name, "split": folder.parent.name} | facts


def play(part: Part, seconds: float) -> np.ndarray:
    """Render one part with FluidSynth: (2, samples) float64."""
    import pretty_midi

    midi = pretty_midi.PrettyMIDI(resolution=480, initial_tempo=120)  # 960 ticks per second at any tempo
    player = pretty_midi.Instrument(part.program, is_drum=part.percussion)
    heard = (note for note in part.notes if note[0] < seconds)
    player.notes = [pretty_midi.Note(force, pitch, start, end) for start, end, pitch, force in heard]
    controls = {10: 64 + 63 * part.pan, 91: 127 * part.reverb, 93: 20}  # pan, reverb, chorus
    player.control_changes = [pretty_midi.ControlChange(number, int(value), 0) for number, value in controls.items()]
    player.control_changes.append(pretty_midi.ControlChange(91, 0, seconds))  # keeps FluidSynth running to the end
    midi.instruments.append(player)
    font = find_soundfont(part.font)
    with tempfile.TemporaryDirectory(prefix="flowsep-") as folder:
        score, sound = Path(folder) / "part.mid", Path(folder) / "part.wav"
        midi.write(str(score))
        for gain in (0.5, 0.15, 0.04):  # SoundFonts differ in loudness: the first gain that does not clip
            command = ["fluidsynth", "-ni", "-q", "-f", os.devnull, "-r", str(RATE), "-g", str(gain), "-T", "wav"]
            command += ["-o", "synth.dynamic-sample-loading=1", "-o", "synth.lock-memory=0"]
            command += ["-F", str(sound), str(font), str(score)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode or not sound.is_file():
                reason = run.stderr.strip()[-300:] or run.returncode
                raise FlowsepError(f"fluidsynth could not render {font} ({reason})")
            audio = soundfile.read(sound, dtype="float64")[0].T
            if np.abs(audio).max() < 0.99:
                break
    samples = round(seconds * RATE)
    return np.pad(audio[:, :samples], ((0, 0), (0, max(0, samples - audio.shape[1]))))


def set_level(audio: np.ndarray, level: float) -> np.ndarray:
    """Scale `audio` (2, samples) to an RMS of `level` dB where it is above -30 dB of its loudest 0.1 s."""
    power = _power(audio)
    if not power.max(initial=0.0):
        return audio
    return audio * 10.0 ** (level / 20) / np.sqrt(power[power > 1e-3 * power.max()].mean())


def _power(audio, window=4410):
    """Mean square of `audio` (channels, samples) in windows of 0.1 s."""
    whole = audio.shape[1] // window * window
    return np.square(audio[:, :whole]).reshape(audio.shape[0], -1, window).mean(axis=(0, 2))


def quantise(layers: dict[str, np.ndarray], song: Song) -> dict[str, np.ndarray]:
    """Turn layers (2, samples) into stems, int32 within 16 bits; guitar and piano are extra stems if both play.

    One gain puts the peak of the mixture at -1 dB, or at +5 dB if it is meant to clip. `other` is the sum of its
    quantised layers, so that every sum is exact.
    """
    fade = round((1.2 if song.rings else 0.05) * RATE)  # seconds
    other = layers["guitar"] + layers["piano"] + layers["rest"]
    loudest = max(np.abs(stem).max() for stem in (layers["vocals"], layers["bass"], layers["drums"], other))
    gain = 10.0 ** ((5.0 if song.special == "clipped mixture" else -1.0) / 20) / np.abs(sum(layers.values())).max()
    gain = min(gain, 0.99 / loudest)
    ramp = np.ones(other.shape[1])
    ramp[-fade:] = np.linspace(1, 0, fade)
    whole = {name: np.rint(layer * gain * ramp * 2**15).astype(np.int32) for name, layer in layers.items()}
    accompaniment = {name: whole.pop(name) for name in ("guitar", "piano", "rest")}
    whole["other"] = sum(accompaniment.values())
    both = {"guitar", "piano"} <= {part.stem for part in song.parts}
    return whole | ({name: accompaniment[name] for name in ("guitar", "piano")} if both else {})


def rests(stem: np.ndarray) -> list[list[float]]:
    """Intervals [start, end] in seconds, at least 0.5 s long, in which a stem (2, samples) stays below -60 dB."""
    quiet = np.concatenate([[False], _power(stem / 2**15) < 1e-6, [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(int))).reshape(-1, 2)
    return [[round(a / 10, 1), round(b / 10, 1)] for a, b in edges if b - a >= 5]
