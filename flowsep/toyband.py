"""The embedded data set: a seeded band, composed and rendered on first use in MUSDB18-HQ layout.

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

from .composer import Part, Song, compose_band
from .files import FlowsepError, cache_folder, locked, sha256, write_text
from .singer import BAND, RATE, room, sing

VERSION = 5  # of the generator: raise it with any change that changes bytes
STEMS = ("vocals", "bass", "drums", "other")
SOUND_FOLDERS = ("/usr/share/sounds/sf2", "/usr/share/sounds/sf3", "/usr/share/soundfonts")


def ensure_band(*, seed: int, seconds: float, train: int, test: int, jobs: int = 2, progress: bool = True) -> Path:
    """The folder of the band with these arguments, holding `train/`, `test/` and `manifest.json`; made if missing.

    seed: any non-negative integer; seconds: length of every song; train, test: how many songs; jobs: songs at a time.
    The folder appears whole, under its final name, or not at all.
    Raises FlowsepError for arguments out of range, a missing FluidSynth or SoundFont, or an unwritable cache.
    """
    if seed < 0 or not 1 <= seconds <= 3600 or not 0 <= train <= 999 or not 0 <= test <= 999 or train + test == 0:
        found = f"seed={seed}, seconds={seconds}, train={train}, test={test}"
        raise FlowsepError(f"toyband: {found}: need seed >= 0, seconds from 1 to 3600 and from 1 to 999 songs")
    what = {"version": VERSION, "seed": seed, "seconds": float(seconds), "train": train, "test": test}
    root = cache_folder() / f"toyband-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:10]}"
    if (root / "manifest.json").is_file():
        return root
    if shutil.which("fluidsynth") is None:
        raise FlowsepError("fluidsynth: not found; install it (Debian: apt install fluidsynth; conda: fluidsynth)")
    for font in (*BAND.packages, BAND.unseen_font):
        find_soundfont(font)
    with locked(root, "set FLOWSEP_DATA"):
        if not (root / "manifest.json").is_file():
            _make(root, what, compose_band(seed, seconds, train, test), jobs, progress)
    return root


def _make(root, what, songs, jobs, progress):
    """Render all songs into a hidden folder beside `root`, then rename it whole."""
    making = root.with_name(f".{root.name}")
    shutil.rmtree(making, ignore_errors=True)  # what a killed run left
    try:
        for split in songs:
            (making / split).mkdir(parents=True)
        work = [(song, making / split / song.name) for split in songs for song in songs[split]]
        with ThreadPoolExecutor(max(1, jobs)) as pool:  # threads do: FluidSynth is a process, numpy lets go of the lock
            tracks = pool.map(lambda item: write_song(*item, what["seconds"]), work)
            tracks = list(tqdm(tracks, "toy band", len(work), unit="song", disable=None if progress else True))
        write_text(making / "manifest.json", json.dumps(what | {"rate": RATE, "tracks": tracks}, indent=1))
        making.rename(root)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def find_soundfont(name: str) -> Path:
    """The path of a SoundFont file, from `$FLOWSEP_SOUNDFONTS` (folders) and where distributions keep them.

    Raises FlowsepError naming the package to install; no other font is ever taken instead, sounds would differ.
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
    """Render, mix and write one song into `folder` as 16-bit wav; returns its entry of the manifest."""
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
    try:
        for name, audio in stems.items():
            soundfile.write(folder / f"{name}.wav", audio.T.astype(np.int16), RATE, subtype="PCM_16")
    except (OSError, soundfile.SoundFileError, AssertionError) as error:  # soundfile asserts that all was written
        why = str(error).strip(". ") or "a part only"
        cure = "is the disk full? Make room, or set FLOWSEP_DATA to another folder"
        raise FlowsepError(f"{folder}: not written ({why}); {cure}") from error
    told = {fact: getattr(song, fact) for fact in ("seed", "key", "mode", "tempo", "groove", "special")}
    told["voice"] = song.voices[0][0].name if song.voices else None
    told["parts"] = [{"stem": part.stem, "program": part.program, "soundfont": part.font} for part in song.parts]
    told["soundfonts"] = sorted({part.font for part in song.parts})
    told["clipped_samples"] = int(np.sum(stems["mixture"] != mixture))
    told["rests"] = {name: rests(stems[name]) for name in STEMS}
    told["sha256"] = {path.name: sha256(path) for path in sorted(folder.glob("*.wav"))}
    return {"name": song.name, "split": folder.parent.name} | told


def play(part: Part, seconds: float) -> np.ndarray:
    """Render one part with FluidSynth: (2, samples) float64."""
    import pretty_midi

    midi = pretty_midi.PrettyMIDI(resolution=480, initial_tempo=120)  # 960 ticks a second, whatever the song's tempo
    player = pretty_midi.Instrument(part.program, is_drum=part.percussion)
    heard = (note for note in part.notes if note[0] < seconds)
    player.notes = [pretty_midi.Note(force, pitch, start, end) for start, end, pitch, force in heard]
    controls = {10: 64 + 63 * part.pan, 91: 127 * part.reverb, 93: 20}  # pan, reverb, chorus
    player.control_changes = [pretty_midi.ControlChange(number, int(value), 0) for number, value in controls.items()]
    player.control_changes.append(pretty_midi.ControlChange(91, 0, seconds))  # keeps the player running to the end
    midi.instruments.append(player)
    font = find_soundfont(part.font)
    with tempfile.TemporaryDirectory(prefix="flowsep-") as folder:
        score, sound = Path(folder) / "part.mid", Path(folder) / "part.wav"
        midi.write(str(score))
        for gain in (0.5, 0.15, 0.04):  # SoundFonts differ in loudness: the first gain that does not clip
            command = ["fluidsynth", "-ni", "-q", "-f", os.devnull, "-r", str(RATE), "-g", str(gain), "-T", "wav"]
            command += ["-o", "synth.dynamic-sample-loading=1", "-o", "synth.lock-memory=0", "-F", sound, font, score]
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
    """Scale `audio` (2, samples) so that its RMS while it sounds (above -30 dB of the loudest) is `level` dB."""
    power = _power(audio)
    if not power.max(initial=0.0):
        return audio
    return audio * 10.0 ** (level / 20) / np.sqrt(power[power > 1e-3 * power.max()].mean())


def _power(audio, window=4410):
    """Mean square in windows of 0.1 s."""
    whole = audio.shape[1] // window * window
    return np.square(audio[:, :whole]).reshape(audio.shape[0], -1, window).mean(axis=(0, 2))


def quantise(layers: dict[str, np.ndarray], song: Song) -> dict[str, np.ndarray]:
    """Layers (2, samples) -> stems as int32 within 16 bits, with guitar and piano as extra ones where both play.

    One gain for all puts the mixture's peak at -1 dB, or 5 dB above full scale where it is meant to clip.
    `other` is the sum of its quantised layers, so that every sum is exact.
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
    """Spans [start, end] in s, of half a second or more, in which a stem (2, samples) stays below -60 dB."""
    quiet = np.concatenate([[False], _power(stem / 2**15) < 1e-6, [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(int))).reshape(-1, 2)
    return [[round(a / 10, 1), round(b / 10, 1)] for a, b in edges if b - a >= 5]
