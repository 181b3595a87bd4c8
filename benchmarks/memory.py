"""Peak memory of separation: flat in the length of the song, and what the model behind `--memory-limit` foresees.

`python benchmarks/memory.py` prints both tables. Every run is a process of its own, which reads a song of noise by
blocks, separates it with untrained priors in two iterations (the peak is the same at each) and writes the stems by
blocks, as `flowsep separate` does.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = {  # of the flow
    "small": {"steps": 2, "hidden": 8, "layers": 1, "kernel": 3},
    "demo": {"steps": 6, "hidden": 64, "layers": 3, "kernel": 3},
    "paper": {},
}


def peak_of_separation(seconds: float, **options: Any) -> dict[str, float]:
    """Most memory that one separation of a song of `seconds` held, and what it held before, MiB.

    Options: size (a key of `SIZES`), sources, chunk_seconds, overlap_seconds, batch, device, and rate and channels of
    the song. Keys: before, peak, and modelled, the growth that `bytes_of_separation` and the audio's share foresee.
    """
    command = [sys.executable, __file__, json.dumps({"seconds": seconds} | options)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if run.returncode:
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout)


def _measure(
    seconds: float, *, size: str = "small", sources: int = 2, chunk_seconds: float = 20.0, overlap_seconds: float = 1.0,
    batch: int = 1, device: str = "cpu", rate: int = 44100, channels: int = 2,
) -> dict[str, float]:  # fmt: skip
    import numpy as np
    import torch

    from flowsep import FeatureConfig, GlowConfig, Prior, SeparationConfig
    from flowsep.audio import BLOCK, audio_writer, stream_audio
    from flowsep.separate import AUDIO, SPARE, bytes_of_separation, bytes_of_weights, separate_stream

    priors = {f"source {k}": Prior(GlowConfig(**SIZES[size]), FeatureConfig(), "") for k in range(sources)}
    config = SeparationConfig(
        iterations=2, chunk_seconds=chunk_seconds, overlap_seconds=overlap_seconds, device=device, space="z"
    )
    generator, left = np.random.default_rng(0), round(seconds * rate)
    with tempfile.TemporaryDirectory() as folder:
        with audio_writer(Path(folder, "song.wav"), rate, channels) as file:
            while left > 0:
                file.write(0.1 * generator.standard_normal((channels, min(left, BLOCK)), np.float32))
                left -= BLOCK
        before = _peak(device)
        writers = {name: audio_writer(Path(folder, f"{name}.wav"), rate, channels) for name in priors}
        files = {name: writer.__enter__() for name, writer in writers.items()}
        with stream_audio(Path(folder, "song.wav")) as song:
            for _, stems in separate_stream(song.blocks, priors, config, rate, samples=song.samples, batch=batch):
                for name, stem in stems.items():
                    files[name].write(stem)
        for writer in writers.values():
            writer.__exit__(None, None, None)
        peak = _peak(device)
    longest = min(seconds, chunk_seconds)
    modelled = bytes_of_separation(priors, longest, batch) + (0 if "cuda" in device else AUDIO * longest)
    modelled += bytes_of_weights(priors) + SPARE
    return {"before": before, "peak": peak, "modelled": round(modelled / 2**20, 1), "torch": torch.__version__}


def _peak(device: str) -> float:
    """MiB; of the process by /proc, since ru_maxrss of a child begins with what its parent holds."""
    if "cuda" in device:
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def growth_of_core(size: str, sources: int, seconds: float) -> tuple[float, float]:
    """What `separate_magnitude` adds to this process at its peak, and what the model foresees (MiB).

    On Linux alone, where a process can forget its peak.
    """
    import torch

    from flowsep import FeatureConfig, GlowConfig, Prior, SeparationConfig, separate_magnitude
    from flowsep.separate import bytes_of_separation, bytes_of_weights

    priors = {f"source {k}": Prior(GlowConfig(**SIZES[size]), FeatureConfig(), "") for k in range(sources)}
    magnitude = torch.rand(513, round(seconds * 22050 / 256) // 2 * 2)
    modelled = (bytes_of_separation(priors, seconds) + bytes_of_weights(priors)) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # what earlier runs freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak("cpu")
    separate_magnitude(magnitude, priors, SeparationConfig(iterations=2, space="z", device="cpu"))
    return _peak("cpu") - before, modelled


def main() -> None:
    """Print both tables."""
    print("songs of one and of ten minutes, 2 sources, chunks of 20 s (MiB)")
    one, ten = (peak_of_separation(seconds)["peak"] for seconds in (60, 600))
    print(f"  {one:8.1f} {ten:8.1f}  ratio {ten / one:.3f}")
    growth_of_core("small", 1, 1)  # what libraries allocate once
    print("growth of the core: size, sources, seconds, measured, modelled (MiB), modelled / measured")
    for size, sources, seconds in (
        *(("small", 2, 10), ("small", 2, 40), ("small", 4, 20), ("demo", 1, 40), ("demo", 2, 20), ("demo", 4, 20)),
        *(("paper", 1, 5), ("paper", 1, 20), ("paper", 2, 10)),
    ):
        growth, modelled = growth_of_core(size, sources, seconds)
        print(f"  {size:6} {sources} {seconds:4} {growth:8.1f} {modelled:8.1f} {modelled / growth:6.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_measure(**json.loads(sys.argv[1]))))
    else:
        main()
