"""The machine: its name, its devices and the memory of this process."""

import ctypes
import os
import platform
import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .files import FlowsepError

if TYPE_CHECKING:
    import torch


def device_name() -> str:
    """The model of the GPU if torch sees one, else of the CPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def processor_name() -> str:
    """The model of the CPU."""
    information = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", information.read_text()) if information.exists() else []
    return models[0] if models else platform.processor() or platform.machine()


def peak_memory() -> float:
    """Peak memory in MiB: on the GPU if torch used one, else of the process."""
    import torch

    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts KiB on Linux, bytes on macOS
    return round((used or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit) / 2**20, 1)


def processors() -> int:
    """How many this process may run on, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def held_memory() -> int:
    """Memory of the process in bytes; without /proc (macOS) its peak."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> None:
    """Let this process reuse freed blocks of up to 32 MiB (Linux with glibc only).

    By default glibc returns large blocks to the system, which zeroes them page by page when the next training step
    asks again. On a virtual machine that can cost more than the step itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its maximum
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def choose_device(name: str) -> "torch.device":
    """A device name as a torch device; 'auto' is torch's current GPU where there is one, else the CPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        usable = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise FlowsepError(f"device: '{name}' cannot be used here; this machine has {', '.join(usable)}") from error
