"""Small data sets on disk, for the tests of whatever reads one."""

from pathlib import Path

import numpy as np
import soundfile as sf

RATE = 44100
SOURCES = ("vocals", "bass", "drums", "other")


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
