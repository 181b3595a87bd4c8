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
    """A device name as a torch device; 'auto' is torch's current GPU where there is one, else the CPU.

    Raises FlowsepError for a device that cannot be used; for a GPU it names the driver and torch's CUDA.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        usable = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        what = f"device: '{name}' cannot be used here"
        if "cuda" in name:
            what += f" ({_driver()}; `--device cpu`, or `device: cpu` in a profile, does without)"
        raise FlowsepError(f"{what}; this machine has {', '.join(usable)}") from error


def choose_precision(name: str, device: "torch.device") -> str:
    """Lightning's name of a precision; 'auto' is 'bf16-mixed' on a GPU that computes bfloat16, and else '32-true'.

    Lets products of 32-bit numbers on a GPU use TF32, with factors of 11 significant bits, for 'tf32' and for no other.
    Raises FlowsepError for 'bf16-mixed' on a GPU that only emulates it.
    """
    import torch

    computes = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8  # Ampere, 2020
    if name == "bf16-mixed" and device.type == "cuda" and not computes:
        card = torch.cuda.get_device_name(device)
        raise FlowsepError(f"precision: '{name}': {card} does not compute bfloat16; choose 32-true")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    return {"auto": "bf16-mixed" if computes else "32-true", "tf32": "32-true"}.get(name, name)


def runs_on(device: "torch.device", precision: str) -> str:
    """One line: the device, its memory, the precision and the driver."""
    import torch

    if device.type != "cuda":
        built = f"; no GPU: {_driver()}" if torch.version.cuda and not torch.cuda.is_available() else ""
        return f"runs on {processor_name()}, {precision}{built}"
    free, total = (size / 1e9 for size in torch.cuda.mem_get_info(device))
    card = torch.cuda.get_device_name(device)
    return f"runs on {device}, {card}, {free:.1f} of {total:.1f} GB free, {precision}; {_driver()}"


def _driver() -> str:
    """What a GPU hangs on: the NVIDIA driver of this machine, and the CUDA that torch was built for."""
    import torch

    told = Path("/proc/driver/nvidia/version")
    version = re.search(r"Module.*?\s(\d+\.[\d.]+)", told.read_text()) if told.exists() else None
    driver = f"NVIDIA driver {version[1]}" if version else "no NVIDIA driver"
    return f"{driver}, torch {torch.__version__} for CUDA {torch.version.cuda or '(none)'}"
