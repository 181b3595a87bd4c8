"""MUSDB18 at its full size, of three composed songs under 150 names: `python tests/scale/run.py` (`make test-scale`).

Both formats, wav folders and .stem.mp4, are decoded, trained on, separated and scored, and beside each a fifth of it.
Fails where disk or time grow faster than the number of songs, where memory grows at all but for the files that a
training maps, or where all of it takes longer than 20 minutes of two cores. Time is a processor's: it does not hang on
what else runs. The trainings are as small as can be, but look at all songs. Needs 30 GB below $TMPDIR and what the band
needs; `--names 12 --seconds 10` tries it in minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import stempeg
import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import RATE, SOURCES, copy_project  # noqa: E402

from companion.band.toyband import ensure_band  # noqa: E402
from flowsep.audio import read_audio  # noqa: E402

STREAMS = ("mixture", "drums", "bass", "other", "vocals")
SIZES = {"steps": 2, "hidden": 8, "kernel": 3, "layers": 1, "dropout": 0.0}
NETWORK = {"levels": 2, "filters": 2, "steps": 4, "batch": 4, "crop_seconds": 6.0}
MEMORY = 3 * 2**30  # bytes of any step, but for what it maps


def songs(folder: Path, seconds: float) -> dict[str, list[Path]]:
    """Three songs in each format, composed and, for .stem.mp4, encoded."""
    band = ensure_band(seed=20, seconds=seconds, train=3, test=0)
    folders = sorted(path for path in (band / "train").iterdir() if path.is_dir())
    packed = []
    for song in folders:
        audio = [read_audio(song / f"{name}.wav")[0].T for name in STREAMS]
        packed.append(folder / f"{song.name}.stem.mp4")
        stempeg.write_stems(str(packed[-1]), np.stack(audio), RATE)
    return {"musdb18hq": folders, "musdb18": packed}


def stand_in(root: Path, made: list[Path], names: int) -> Path:
    """`train/` and `test/`, two to one, whose files are hard links."""
    for number in range(names):
        song = made[number % len(made)]
        place = root / ("test" if number % 3 == 2 else "train") / f"Band {number:03d} - Song{''.join(song.suffixes)}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(song, place, copy_function=os.link) if song.is_dir() else os.link(song, place)
    return root


def measured(arguments: list[str], tree: Path, environment: dict[str, str]) -> tuple[float, int]:
    """(seconds of a processor, peak of the resident memory in bytes) of a command and the programs that it calls."""
    process = subprocess.Popen([sys.executable, "-m", "companion", *arguments], cwd=tree, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"test-scale: companion {' '.join(arguments)} failed")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def run(place: Path, kind: str, made: list[Path], names: int) -> dict[str, float]:
    """Seconds and bytes of all steps of a data set of so many names."""
    label = f"scale-{kind}-{names}"
    tree = place / "tree"
    data = {"kind": kind, "root": str(stand_in(place / label, made, names)), "pieces": {}}
    flow = {"members": [{}], "iterations": 1}
    profile = {"name": label, "data": data, "model": SIZES, "shards": names // 3}
    profile |= {"training": {"epochs": 1, "batch": 8, "crop_seconds": 7.0}}
    profile |= {"systems": {"flowsep": flow, "wave_u_net": NETWORK}}
    config = tree / "configs" / f"{label}.yaml"
    config.write_text(yaml.safe_dump({"profile": profile}))
    environment = os.environ | {"FLOWSEP_DATA": str(place / f"cache-{label}"), "PYTHONPATH": str(ROOT)}
    environment["OMP_WAIT_POLICY"] = "passive"  # threads that wait take no time
    commands = {
        "cache": ["cache"],
        "prior": ["fit", "flowsep", "--part", "0-vocals"],
        "network": ["fit", "wave_u_net"],
        "song": ["shard", "wave_u_net", "0"],
    }
    spent = {}
    for step, command in commands.items():
        spent[f"{step} s"], spent[f"{step} bytes"] = measured([*command, "--profile", label], tree, environment)
    cached = place / f"cache-{label}" / "segments"
    spent["disk bytes"] = sum(path.stat().st_size for path in cached.iterdir())
    shutil.rmtree(cached)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(prog="test-scale", description=__doc__.split(":")[0])
    parser.add_argument("--names", type=int, default=150, metavar="N")
    parser.add_argument("--seconds", type=float, default=240.0, metavar="S", help="of a song")
    given = parser.parse_args()
    few = max(6, given.names // 5 // 3 * 3)
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        place = Path(folder)
        os.environ["FLOWSEP_DATA"] = str(place / "band")
        # Linux counts what a process held when it started another as the other's memory, too: compose elsewhere
        with ProcessPoolExecutor(1, get_context("spawn")) as composer:
            made = composer.submit(songs, place, given.seconds).result()
        copy_project(place / "tree")
        for kind, files in made.items():
            small, large = (run(place, kind, files, names) for names in (few, given.names))
            times = given.names / few
            print(kind, {key: f"{small[key]:.3g} -> {large[key]:.3g}" for key in small}, flush=True)
            # of every stem 16-bit stereo at its rate, and mono pieces at half of it, of test songs 20 at most
            pieces = given.seconds * RATE * given.names  # bytes of one source in all songs
            whole = len(SOURCES) * pieces * (2 / 3 * (4 + 1) + 1 / 3 * 1)
            assert large["disk bytes"] <= 1.01 * whole, f"{kind}: the cache takes {large['disk bytes']:,} bytes"
            assert large["disk bytes"] <= 1.05 * times * small["disk bytes"]
            mapped = {"cache": 0, "prior": 2 / 3 * pieces, "network": 2 / 3 * 4 * len(SOURCES) * pieces, "song": 0}
            for step, size in mapped.items():
                assert large[f"{step} s"] <= 1.5 * times * small[f"{step} s"], f"{kind}, {step}: slows down"
                assert large[f"{step} bytes"] <= MEMORY + size, f"{kind}, {step}: too much memory"
                grown = large[f"{step} bytes"] - 1.2 * small[f"{step} bytes"]
                assert grown <= size, f"{kind}, {step}: memory grows"
    minutes = sum(os.times()[:4]) / 60
    print(f"{given.names} names of each format in {minutes:.1f} minutes of one core")
    assert minutes <= 2 * 20, "longer than 20 minutes of two cores"


if __name__ == "__main__":
    main()
