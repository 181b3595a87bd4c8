"""Small data sets on disk, for the tests of whatever reads one."""

import shutil
from pathlib import Path

import numpy as np
import soundfile as sf
import yaml

from flowsep import GlowConfig

RATE = 44100
SOURCES = ("vocals", "bass", "drums", "other")
ODD_NAME = 'Jürgen\'s "<script>alert(1)</script>" – Groß & Söhne'.replace("/", "_")
TINY = GlowConfig(steps=2, hidden=8, layers=2, kernel=3, dropout=0.0)


def make_stems(seed: int = 0, seconds: float = 0.5, channels: int = 2) -> dict[str, np.ndarray]:
    """{source: float32 (channels, samples)}: a tone of its own in faint noise for each of the four sources."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE)
    time = np.arange(samples) / RATE
    stems = {}
    for source, frequency in zip(SOURCES, (440, 110, 2500, 1000), strict=True):
        tone = 0.1 * np.sin(2 * np.pi * frequency * time + rng.uniform(0, 6))
        noise = 0.01 * rng.standard_normal((channels, samples))
        stems[source] = (tone * rng.uniform(0.5, 1, (channels, 1)) + noise).astype(np.float32)
    return stems


def write_track(folder: Path, stems: dict[str, np.ndarray], *, mixture: bool = True, subtype: str = "FLOAT") -> Path:
    """One folder of wav files, with their sum as `mixture.wav` unless told otherwise."""
    folder.mkdir(parents=True)
    for source, audio in stems.items():
        sf.write(folder / f"{source}.wav", audio.T, RATE, subtype)
    if mixture:
        sf.write(folder / "mixture.wav", sum(stems.values()).T, RATE, subtype)
    return folder


def write_hq_tree(root: Path, *, train: int = 3, test: int = 1, seconds: float = 0.5, subtype: str = "FLOAT") -> Path:
    """A miniature MUSDB18-HQ: `<root>/train/song <k>/<source>.wav`, and `test`."""
    for subset, count, first in (("train", train, 0), ("test", test, 100)):
        for k in range(count):
            write_track(root / subset / f"song {k}", make_stems(first + k, seconds), subtype=subtype)
    return root


def write_packed_tree(root: Path, *, train: int = 1, test: int = 1, seconds: float = 0.5) -> Path:
    """A miniature MUSDB18: `<root>/train/song <k>.stem.mp4` with the five AAC streams in MUSDB18's order."""
    import stempeg

    for subset, count, first in (("train", train, 0), ("test", test, 100)):
        (root / subset).mkdir(parents=True)
        for k in range(count):
            stems = make_stems(first + k, seconds)
            order = [sum(stems.values()), *(stems[source] for source in ("drums", "bass", "other", "vocals"))]
            path = root / subset / f"song {k}.stem.mp4"
            stempeg.write_stems(str(path), np.stack(order).transpose(0, 2, 1), RATE)
    return root


def save_as_trained(prior, profile, dataset) -> Path:
    """Save a prior where notebook 04 leaves it, with the provenance of a training by this profile."""
    training = profile.training.model_dump(mode="json")
    prior.provenance |= {"training": training, "seed": profile.seed, "data_hash": dataset.hash}
    path = profile.folder / "priors" / f"{prior.source}.safetensors"
    prior.save(path)
    return path


def copy_project(tree: Path) -> Path:
    """A copy of what a run needs: `Snakefile`, notebooks, configs, the pages of the book, the kept real songs."""
    root = Path(__file__).parent.parent
    tree.mkdir()
    for name in ("book", "configs", "notebooks", "profiles", "tools"):
        shutil.copytree(root / name, tree / name, ignore=shutil.ignore_patterns("_build", "chapters", "__pycache__"))
    for name in ("_config.yml", "README.md", "Snakefile"):
        shutil.copy(root / name, tree)
    for folder in ("results", "results/research"):
        (tree / folder).mkdir()
        for path in (root / folder).glob("*.csv"):
            shutil.copy(path, tree / folder)
    (tree / "node_modules").symlink_to(root / "node_modules")
    shutil.copytree(root / "results/musdb18-7s", tree / "results/musdb18-7s", ignore=shutil.ignore_patterns("*priors"))
    return tree


SLAKH_STEMS = ("Guitar", "Piano", "Guitar", "Bass", "Strings (continued)", "Drums")  # inst_class of S00 to S05
SLAKH_TONES = ("vocals", "other", "vocals", "bass", "vocals", "drums")  # which of the four tones each of them plays


def write_slakh_track(
    folder: Path, seed: int = 0, *, seconds: float = 0.5, unrendered: tuple[str, ...] = (), suffix: str = "flac"
) -> dict[str, np.ndarray]:
    """One TrackNNNNN/ of Slakh2100 with the stems of `SLAKH_STEMS`, mono, 16 bits; returns {inst_class: their sum}.

    Stems of the classes `unrendered` are in the metadata alone, as `audio_rendered: false`.
    """
    (folder / "stems").mkdir(parents=True)
    (folder / "MIDI").mkdir()
    (folder / "all_src.mid").write_bytes(b"MThd")
    stems, sums = {}, {}
    for number, kind in enumerate(SLAKH_STEMS):
        audio = make_stems(10 * seed + number, seconds, 1)[SLAKH_TONES[number]][0]
        audio = np.round(audio * 2**15) / 2**15
        stems[f"S{number:02d}"] = {
            "audio_rendered": kind not in unrendered,
            "inst_class": kind,
            "integrated_loudness": -13.0,
            "is_drum": kind == "Drums",
            "midi_program_name": kind,
            "midi_saved": True,
            "plugin_name": "plugin.nkm",
            "program_num": 128 if kind == "Drums" else 8 * number,
        }
        if kind not in unrendered:
            sf.write(folder / "stems" / f"S{number:02d}.{suffix}", audio, RATE, "PCM_16")
            sums[kind] = sums.get(kind, 0) + audio
    sf.write(folder / f"mix.{suffix}", sum(sums.values()), RATE, "PCM_16")
    metadata = {"UUID": "0", "audio_dir": "stems", "midi_dir": "MIDI", "normalized": True, "overall_gain": 1.0}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata | {"stems": stems}))
    return sums


def damage(path, how):
    """Replace a good wav file by a bad one."""
    audio, rate = sf.read(path, dtype="float32", always_2d=True)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "cut header":
        path.write_bytes(path.read_bytes()[:30])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("this is not audio")
    elif how in ("nan", "inf"):
        audio[len(audio) // 2, 0] = float(how)
        sf.write(path, audio, rate, "FLOAT")
    elif how == "no samples":
        for file in path.parent.iterdir():
            sf.write(file, audio[:0], rate, "FLOAT")
    elif how == "shorter":
        sf.write(path, audio[:-1], rate, "FLOAT")
    elif how == "other rate":
        sf.write(path, audio, 48000, "FLOAT")
    elif how == "six channels":
        sf.write(path, np.repeat(audio, 3, axis=1), rate, "FLOAT")


BROKEN = {
    "truncated": "truncated: its header promises",
    "cut header": "truncated or damaged or not audio",
    "empty": "truncated or damaged or not audio",
    "text": "truncated or damaged or not audio",
    "nan": "NaN or infinite",
    "inf": "NaN or infinite",
    "no samples": "holds no samples",
    "shorter": "22049 samples at 44100 Hz, but .* has 22050",
    "other rate": "at 48000 Hz, but .* at 44100 Hz; all files of a track must be equally long",
    "six channels": "6 channels; downmix to stereo first",
}
