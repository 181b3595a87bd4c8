"""Measuring: several callables in turn, repeated, with their medians and quartiles, and where the numbers come from."""

import importlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from companion.provenance import git_state
from companion.tables.speed import FORMAT, read_bench
from flowsep.files import FlowsepError, write_text
from flowsep.machine import device_name, processors

from .targets import compare

PACKAGES = ("torch", "numpy", "lightning-fabric", "soxr", "soundfile", "museval", "flowsep")
FAILURES = (FlowsepError, OSError, RuntimeError)  # end a topic, CUDA's lack of memory included; bugs end the bench

Clock = Callable[[Callable[[], Any]], float]
Figure = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """How a topic shall measure: on the 'cpu' or on 'cuda'; `quick` is for trying the bench, not for its numbers."""

    device: str = "cpu"
    quick: bool = False

    @property
    def repeats(self) -> int:
        return 2 if self.quick else 7

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """One and all on the CPU; all beside a GPU, where they only feed it."""
        if self.quick:
            return (1,)
        return (processors(),) if self.device == "cuda" else tuple(sorted({1, processors()}))

    @property
    def clock(self) -> Clock:
        return cuda_clock if self.device == "cuda" else wall_clock


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wall_clock(function: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def cuda_clock(function: Callable[[], Any]) -> float:
    """Seconds between two events around one call, once the device has done all that was asked of it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def interleave(
    functions: Mapping[str, Callable[[], Any]], repeats: int, clock: Clock, *, warmup: int = 1, least: float = 0.0
) -> dict[str, list[float]]:
    """Seconds a call of each function, `repeats` samples each, taken in turn: what drifts meets all alike.

    Round k begins with the k-th function, so that none always runs after the same other one. A call that takes less
    than `least` seconds is repeated within each sample until the sample lasts as long.
    """
    calls = {}
    for name, function in functions.items():
        for _ in range(warmup):
            function()
        calls[name] = max(1, math.ceil(least / max(clock(function), 1e-9))) if least else 1
    samples: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(clock(_times(functions[name], calls[name])) / calls[name])
    return samples


def _times(function: Callable[[], Any], calls: int) -> Callable[[], Any]:
    if calls == 1:
        return function

    def repeated() -> None:
        for _ in range(calls):
            function()

    return repeated


def interleave_loops(
    loops: Mapping[str, Callable[[int], Any]], few: int, many: int, repeats: int, clock: Clock, *, warmup: int = 1
) -> dict[str, tuple[list[float], list[float]]]:
    """Of loops that are told how many iterations to make: seconds an iteration, and of the call with `few` of them.

    An iteration takes (t(many) - t(few)) / (many - few), pair by pair: whatever happens once a call cancels. Where
    that is not positive the clock was too coarse or the machine too busy, and the sample is NaN.
    """
    calls = itertools.product(loops.items(), (few, many))
    seconds = interleave(
        {f"{name} {count}": lambda loop=loop, count=count: loop(count) for (name, loop), count in calls},
        repeats,
        clock,
        warmup=warmup,
    )
    per_iteration = {}
    for name in loops:
        pairs = zip(seconds[f"{name} {few}"], seconds[f"{name} {many}"], strict=True)
        each = [(long - short) / (many - few) for short, long in pairs]
        per_iteration[name] = ([value if value > 0 else math.nan for value in each], seconds[f"{name} {few}"])
    return per_iteration


def figure(
    name: str, what: str, samples: float | Sequence[float], unit: str, *, reference: str = "", **settings: Any
) -> Figure:
    """Median and quartiles of the samples that are numbers; with none, the figure has no value.

    Args:
        name: `<topic>.<figure>`, by which targets and the book find it.
        what: one line that says what was measured.
        reference: what it is a ratio of, or the difference to; '' for a measurement by itself.
        settings: threads, precision and whatever else tells it from the others of its name.
    """
    kept = [float(value) for value in np.ravel(samples) if math.isfinite(value)]
    low, middle, high = (float(value) for value in np.percentile(kept, (25, 50, 75))) if kept else (None, None, None)
    row = {"name": name, "what": what, "value": middle, "unit": unit, "low": low, "high": high}
    return row | {"repeats": len(kept), "reference": reference, "settings": settings}


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """above / below, round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def provenance(context: Context) -> dict[str, Any]:
    """When, where, on what and with which versions: of a topic, as topics of one file may be of several runs."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    facts = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **git_state(), "quick": context.quick}
    facts |= {"device": device_name(), "processors": processors(), "load": load and round(load, 2)}
    facts |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""), "repeats": context.repeats}
    facts |= {"instructions": torch.backends.cpu.get_cpu_capability(), "python": platform.python_version()}
    if context.device == "cuda":
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return facts | {name: version for name in PACKAGES if (version := _version(name))}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def run_topic(name: str, context: Context) -> dict[str, Any]:
    """One topic's part of the file: status 'done', 'skipped' (a package is missing) or 'failed', with the reason."""
    outcome: dict[str, Any] = {"status": "done", "reason": "", "provenance": provenance(context), "figures": []}
    start = time.perf_counter()
    try:
        outcome["figures"] = importlib.import_module(f"{__package__}.{name}").run(context)
    except ModuleNotFoundError as error:
        outcome |= {"status": "skipped", "reason": str(error)}
    except FAILURES as error:
        outcome |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    outcome["provenance"]["seconds"] = round(time.perf_counter() - start, 1)
    return outcome


def merge(path: Path, context: Context, topics: Mapping[str, Any]) -> dict[str, Any]:
    """Replace topics of the same names in the file, keep the others, judge by the targets; all of it or nothing.

    Raises FlowsepError if the file is of another device, or no bench.
    """
    bench = read_bench(path) if path.exists() else {"format": FORMAT, "device": device_name(), "kind": context.device}
    if (bench["device"], bench["kind"]) != (device_name(), context.device):
        elsewhere = f"{bench['device']} ({bench['kind']}), this is {device_name()} ({context.device})"
        raise FlowsepError(f"{path}: of {elsewhere}; name another file by --out")
    bench["topics"] = bench.get("topics", {}) | topics
    rows = [row for topic in bench["topics"].values() for row in topic["figures"]]
    bench["targets"] = compare(rows, context.device)
    write_text(path, json.dumps(bench, indent=1, allow_nan=False) + "\n")
    return bench
