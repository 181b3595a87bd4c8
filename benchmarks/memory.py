"""Peak memory of separation: flat in the length of the song, and what the model behind `--memory-limit` foresees.

`python -m benchmarks.memory` prints both tables. Every run is a process of its own, which reads a song of noise by
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

from .harness import Context, Figure, figure

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
    return _in_a_process({"song": {"seconds": seconds} | options})


def _in_a_process(task: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(task)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=root)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def _measure(
    seconds: float, *, size: str = "small", sources: int = 2, chunk_seconds: float = 20.0, overlap_seconds: float = 1.0,
    batch: int = 1, device: str = "cpu", rate: int = 44100, channels: int = 2,
) -> dict[str, float]:  # fmt: skip
    import numpy as np
    import torch

    from flowsep import FeatureConfig, GlowConfig, Prior, SeparationConfig, Separator
    from flowsep.audio import BLOCK, audio_writer, stream_audio
    from flowsep.memory import AUDIO, SPARE, bytes_of_separation, bytes_of_weights

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
            separator = Separator(priors, config)
            separator.batch = batch
            for _, stems in separator.stream(song.blocks, rate, samples=song.samples):
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
    return peak_of("self")


def peak_of(process: str) -> float:
    """MiB, the most that a process has held."""
    status = Path("/proc", process, "status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def _forget_peak(device: str) -> None:
    """Let the peak begin again from what is held now, on Linux or CUDA."""
    if "cuda" in device:
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
        Path("/proc/self/clear_refs").write_text("5")


def growth_of_core(size: str, sources: int, seconds: float) -> tuple[float, float]:
    """What `separate_magnitude` adds to this process at its peak, and what the model foresees (MiB).

    On Linux alone, where a process can forget its peak.
    """
    import torch

    from flowsep import FeatureConfig, GlowConfig, Prior, SeparationConfig, separate_magnitude
    from flowsep.memory import bytes_of_separation, bytes_of_weights

    priors = {f"source {k}": Prior(GlowConfig(**SIZES[size]), FeatureConfig(), "") for k in range(sources)}
    magnitude = torch.rand(513, round(seconds * 22050 / 256) // 2 * 2)
    modelled = (bytes_of_separation(priors, seconds) + bytes_of_weights(priors)) / 2**20
    _forget_peak("cpu")
    before = _peak("cpu")
    separate_magnitude(magnitude, priors, SeparationConfig(iterations=2, space="z", device="cpu"))
    return _peak("cpu") - before, modelled


def run(context: Context) -> list[Figure]:
    """Ratios of peaks: ten minutes to one, and 48 steps to 12 where activations are recomputed, each without the bare
    process, which holds torch and has no part in either; the peaks themselves beside them."""
    lengths = (2, 6) if context.quick else (60, 600)
    options = {"chunk_seconds": 1.0} if context.quick else {}
    told = {"device": context.device, **options}
    one, ten = (peak_of_separation(seconds, **told) for seconds in lengths)
    rows = [
        figure("memory.song", "most memory of a separation that streams, two sources", run["peak"], "MiB", seconds=s)
        for s, run in zip(lengths, (one, ten), strict=True)
    ]
    what, reference = f"{lengths[1]} s of sound over {lengths[0]} s, whole process", f"{lengths[0]} s"
    rows.append(figure("memory.length", what, ten["peak"] / one["peak"], "x", reference=reference))
    shallow, deep = (2, 4) if context.quick else (12, 48)
    sizes = {"hidden": 4, "layers": 1} if context.quick else {"hidden": 128, "layers": 4}
    for recompute in (True, False):
        grown = [_growth_of_gradient(context.device, steps, recompute, **sizes) for steps in (shallow, deep)]
        for steps, each in zip((shallow, deep), grown, strict=True):
            what = "memory of one separation of 8 s beyond the weights, one source"
            rows.append(figure("memory.flow", what, each, "MiB", steps=steps, recompute=recompute))
        name = "memory.depth" if recompute else "memory.depth_kept"
        what = f"{deep} steps over {shallow}, beyond the weights"
        rows.append(figure(name, what, grown[1] / grown[0], "x", reference=f"{shallow} steps", recompute=recompute))
    return rows


def _growth_of_gradient(device: str, steps: int, recompute: bool, **sizes: int) -> float:
    """MiB that one decoding and its gradient add, in a process of their own, to weights that are there already."""
    given = {"device": device, "steps": steps, "recompute": recompute, **sizes}
    return _in_a_process({"flow": given})["growth"]


def _measure_flow(device: str, steps: int, recompute: bool, **sizes: int) -> dict[str, float]:
    import torch

    from flowsep import FeatureConfig, GlowConfig, Prior
    from flowsep.fast.stacked import StackedFlows

    prior = Prior(GlowConfig(steps=steps, **sizes), FeatureConfig(), "").requires_grad_(False)
    flows = StackedFlows([prior.glow], device=device, recompute=recompute)
    small, z = torch.zeros(1, 1028, 1, 4, device=device), torch.zeros(1, 1028, 1, 345, device=device)
    flows.vjp(flows.decode(small)[0])  # what libraries allocate once
    _forget_peak(device)
    before = _peak(device)
    flows.vjp(flows.decode(z)[0])
    return {"growth": _peak(device) - before}


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
        ((kind, given),) = json.loads(sys.argv[1]).items()
        print(json.dumps({"song": _measure, "flow": _measure_flow}[kind](**given)))
    else:
        main()
