"""Separation at the paper's size: its plain loop, the package with the same weights, and the floor, side by side."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference import paper
from reference.checkpoints import research_checkpoint
from torch import Tensor

from flowsep.checkpoint import load_prior
from flowsep.config import GlowConfig, SeparationConfig
from flowsep.files import FlowsepError
from flowsep.prior import Prior
from flowsep.search import separate_magnitude

from .floor import FRAME_RATE, arithmetic, convolution_floor, size
from .harness import Context, Figure, figure, interleave, interleave_loops, ratios, threads

VARIANTS = {"fp32": {"precision": "32-true"}, "bf16": {"precision": "bf16-mixed"}}  # arithmetic -> configuration
ITERATIONS = 150  # the paper's
KINDS = {  # what the profile tells apart, by the names of torch's operators and of CUDA's kernels; the first that fits
    "matrix products": ("conv", "mkldnn", "mm", "matmul", "cudnn", "cutlass", "nvjet"),
    "Adam": ("adam", "foreach", "multi_tensor", "lerp", "addcdiv"),
    "copies": ("copy", "cat", "memcpy", "memset", "contiguous", "clone", "permute", "zero", "fill", "stack"),
}
Weights = tuple[dict[str, Tensor], dict[str, Any]]


def tamed(folder: Path) -> Path:
    """Move the random weights of `research_checkpoint` to a flow near the identity, where trained ones are."""
    (path,) = folder.glob("G_*.pth")
    content = torch.load(path, weights_only=True)
    for name, value in content["model"].items():
        if ".end." in name:
            value *= 0.02
        elif name.endswith("weight_g"):
            value *= 0.5
    torch.save(content, path)
    return folder


def checkpoints(folder: Path, model: GlowConfig, sources: int) -> list[Path]:
    """One folder of the research code a source, with the sizes of `model`."""
    sizes = {
        "hidden_channels": model.hidden, "n_blocks_dec": model.steps, "kernel_size_dec": model.kernel,
        "dilation_rate": model.dilation_rate, "n_block_layers": model.layers, "n_sqz": model.squeeze,
        "n_split": model.groups,
    }  # fmt: skip
    return [tamed(research_checkpoint(folder / f"source{i}", i, bins=model.bins, **sizes)) for i in range(sources)]


def loud_spectrogram(bins: int, frames: int, seed: int = 0) -> Tensor:
    """(bins, frames) of a magnitude that falls with frequency, as music does; every entry another."""
    noise = np.random.default_rng(seed).gamma(1.0, 1.0, (bins, frames))
    return torch.from_numpy((noise / (1 + np.arange(bins)[:, None] / 20)).astype(np.float32))


def plain_loop(magnitude: Tensor, priors: list[Weights]) -> Callable[[int], Tensor]:
    """iterations -> (sources, 513, frames), by the plain port; `magnitude`: (514, frames) on the device."""
    return lambda iterations: paper.separate(magnitude, priors, iterations=iterations, lr=0.01)[:, :-1]


def package_loop(
    magnitudes: Tensor, priors: Mapping[str, Prior], context: Context, **changes: Any
) -> Callable[[int], Tensor]:
    """iterations -> (sources, 513, frames), by flowsep; one mixture (513, frames) or several (batch, 513, frames)."""

    def loop(iterations: int) -> Tensor:
        config = SeparationConfig.paper(iterations=iterations, device=context.device, **changes)
        return torch.stack(list(separate_magnitude(magnitudes, priors, config).values()))

    return loop


def gap(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected|."""
    return ((actual - expected).norm() / expected.norm()).item()


def run(context: Context) -> list[Figure]:
    """For each number of threads: seconds an iteration, ratios, the share of the floor, the profile."""
    model, frames, sources = size(context)
    with tempfile.TemporaryDirectory() as folder:
        folders = checkpoints(Path(folder), model, sources)
        priors = {path.name: load_prior(path) for path in folders}
        plain = [paper.load(path) for path in folders]
    rows = []
    for count in context.thread_counts:
        with threads(count):
            for batch in (1, 8, 32) if context.device == "cuda" and not context.quick else (1,):
                try:
                    rows += compare(context, model, frames, priors, plain, count, batch)
                except FlowsepError:
                    if batch == 1:
                        raise
            rows += profile(context, frames, priors, count)
    return rows


def compare(
    context: Context, model: GlowConfig, frames: int, priors: Mapping[str, Prior], plain: list[Weights], count: int,
    batch: int,
) -> list[Figure]:  # fmt: skip
    """The plain loop on one mixture, flowsep on `batch` of them at once, and the floor, in turn."""
    mixtures = torch.stack([loud_spectrogram(513, frames, seed) for seed in range(batch)])
    one = torch.nn.functional.pad(mixtures[0], (0, 0, 0, 1)).to(context.device)
    here = [({name: value.to(context.device) for name, value in w.items()}, settings) for w, settings in plain]
    few, many = (1, 3) if context.quick else (20, 120) if context.device == "cuda" else (2, 8)
    given = mixtures[0] if batch == 1 else mixtures
    loops = {"plain": plain_loop(one, here)}
    loops |= {name: package_loop(given, priors, context, **changes) for name, changes in VARIANTS.items()}
    floors = {}
    for name in VARIANTS:
        with arithmetic(name) as dtype, torch.no_grad():
            made = convolution_floor(
                model, frames, len(priors), batch, dtype, context.device, context.clock,
                least=0.001 if context.quick else 0.02,
            )  # fmt: skip
        floors[name] = made.run
    expected = loops["plain"](many).cpu()
    gaps = {name: gap(loops[name](many).view(len(priors), -1, 513, frames)[:, 0], expected) for name in VARIANTS}
    times, bare = {name: ([], []) for name in loops}, {name: [] for name in floors}
    for _ in range(context.repeats):  # loops and floors in turn, so that all meet the same machine
        for name, (each, once) in interleave_loops(loops, few, many, 1, context.clock, warmup=0).items():
            times[name][0].extend(each)
            times[name][1].extend(once)
        with torch.no_grad():
            for name, seconds in interleave(floors, 1, context.clock, warmup=0).items():
                bare[name].extend(seconds)
    told = {"threads": count, "batch": batch}
    rows = []
    for name, (each, once) in times.items():
        plain_one = name == "plain"
        mixed = 1 if plain_one else batch
        settings = told | {"batch": mixed, "system": "plain" if plain_one else "flowsep"}
        settings["arithmetic"] = "fp32" if plain_one else name
        what = f"one iteration of {len(priors)} sources, {frames / FRAME_RATE:.3g} s of sound, a mixture"
        rows.append(figure("separation.iteration", what, [s / mixed for s in each], "s", **settings))
        what = f"seconds of computing a second of sound, {ITERATIONS} iterations, extrapolated from a short run"
        whole = [(a + (ITERATIONS - few) * b) / mixed / (frames / FRAME_RATE) for a, b in zip(once, each, strict=True)]
        rows.append(figure("separation.rtf_150", what, whole, "s/s", **settings))
    for name in VARIANTS:
        each, settings = times[name][0], told | {"arithmetic": name}
        what = "time of an iteration of the plain port over flowsep's, a mixture"
        faster = [batch * ratio for ratio in ratios(times["plain"][0], each)]
        rows.append(figure("separation.speedup", what, faster, "x", reference="plain port, fp32", **settings))
        what = "the iteration's convolutions alone"
        rows.append(figure("separation.floor", what, [s / batch for s in bare[name]], "s", **settings))
        what = "the share of an iteration that its convolutions alone would take"
        share = ratios(bare[name], each)
        rows.append(figure("separation.floor_share", what, share, "", reference="separation.floor", **settings))
        what = f"difference of the estimates from the plain port's after {many} iterations, relative"
        rows.append(figure("separation.gap", what, gaps[name], "", reference="plain port, fp32", **settings))
    return rows


def profile(context: Context, frames: int, priors: Mapping[str, Prior], count: int) -> list[Figure]:
    """Where the time of flowsep's iterations goes, by kind of operator; what none accounts for is 'Python and idle'."""
    few = 2 if context.quick else 5
    loop = package_loop(loud_spectrogram(513, frames), priors, context)
    loop(1)
    kind = torch.profiler.ProfilerActivity
    activities = [kind.CPU, kind.CUDA] if context.device == "cuda" else [kind.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        whole = context.clock(lambda: loop(few))
    parts = dict.fromkeys((*KINDS, "elementwise"), 0.0)
    for event in profiler.key_averages():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if on_gpu != (context.device == "cuda") or (on_gpu and event.is_user_annotation):
            continue  # kernels there, operators here: either alone accounts for all the time
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        words = event.key.lower()
        part = next((part for part, names in KINDS.items() if any(name in words for name in names)), "elementwise")
        parts[part] += spent / 1e6
    parts["Python and idle"] = max(0.0, whole - sum(parts.values()))
    what = f"seconds an iteration, of {few} under torch's profiler"
    return [figure("separation.part", what, s / few, "s", part=name, threads=count) for name, s in parts.items()]
