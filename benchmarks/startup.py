"""What a user waits for before anything happens, each time in a fresh process."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from companion.profile import find_root
from flowsep.config import FeatureConfig, GlowConfig
from flowsep.files import FlowsepError
from flowsep.prior import Prior

from .harness import Context, Figure, figure, interleave

IMPORT = "import torch, time; t = time.perf_counter(); import flowsep; print(time.perf_counter() - t)"
CLI = "import sys; from flowsep.cli import main; sys.exit(main())"  # what the command `flowsep` does
PATIENCE = 120  # seconds


def until_end(*arguments: str, printed: bool = False) -> Callable[[], float]:
    """Seconds that a Python process takes from its start to its end, or the seconds that it `printed` itself."""

    def measure() -> float:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], cwd=find_root(Path(__file__).parent), capture_output=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise FlowsepError(f"startup: {arguments} ended with {done.returncode}: {done.stderr.decode()[-300:]}")
        return float(done.stdout) if printed else seconds

    return measure


def until_told(word: str, *arguments: str) -> Callable[[], float]:
    """Seconds from the start of a Python process until it has written `word` to standard error; then it is ended."""

    def measure() -> float:
        start, said = time.perf_counter(), b""
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=find_root(Path(__file__).parent), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        with process:
            while word.encode() not in said:
                part = os.read(process.stderr.fileno(), 4096)
                said += part
                if not part or time.perf_counter() - start > PATIENCE:
                    process.kill()
                    raise FlowsepError(f"startup: no '{word}' from {arguments}: {said.decode()[-300:]}")
            seconds = time.perf_counter() - start
            process.kill()
        return seconds

    return measure


def run(context: Context) -> list[Figure]:
    """Importing the package, the command's help, and its first line of progress on a song of three minutes."""
    seconds, model = (2, GlowConfig(steps=1, hidden=4)) if context.quick else (180, GlowConfig())
    rate = 44100
    noise = 0.1 * np.random.default_rng(0).standard_normal((seconds * rate, 2))
    with tempfile.TemporaryDirectory() as folder:
        song, priors = Path(folder) / "song.mp3", Path(folder) / "priors"
        soundfile.write(song, noise, rate)
        for source in ("vocals", "bass", "drums", "other"):
            Prior(model, FeatureConfig(), source).save(priors / f"{source}.safetensors")
        separate = ("separate", str(song), "--priors", str(priors), "--out", str(Path(folder) / "out"))
        waits = {
            "beyond torch": until_end("-c", IMPORT, printed=True),
            "import torch": until_end("-c", "import torch"),
            "import flowsep": until_end("-c", "import flowsep"),
            "flowsep --help": until_end("-c", CLI, "--help"),
            "flowsep separate": until_told(song.name, "-c", CLI, *separate),
        }
        times = interleave(waits, context.repeats, lambda wait: wait())
    rows = [figure("startup.import", "importing flowsep where torch is imported", times.pop("beyond torch"), "s")]
    rows += [figure("startup.wait", "a fresh process", values, "s", command=name) for name, values in times.items()]
    what = f"from the command to its first line of progress, a song of {seconds} s"
    return [*rows, figure("startup.progress", what, times["flowsep separate"], "s")]
