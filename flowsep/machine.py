"""The machine that computes: what it is, which device of it, and how much memory it has held."""

import ctypes
import itertools
import os
import platform
import re
import resource
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from .files import FlowsepError, writable

if TYPE_CHECKING:
    import torch


def device_name() -> str:
    """The GPU if torch sees one, else the CPU's model."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()


def processor_name() -> str:
    """The CPU's model."""
    information = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", information.read_text()) if information.exists() else []
    return models[0] if models else platform.processor() or platform.machine()


def peak_memory() -> float:
    """Most memory held so far, MiB: on the GPU if torch used one, else of the process."""
    import torch

    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts KiB on Linux, bytes on macOS
    return round((used or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit) / 2**20, 1)


def held_memory() -> int:
    """Bytes that the process holds now; where the system does not say (it has no /proc), the most it held so far."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to 32 MiB a block, for its next allocation (Linux with glibc only).

    By default large blocks go back to the system, and come again page by page, each of them zeroed, at every step of
    a training: on a virtual machine that can cost more than the step itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at the most that it may be
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


_HELD: list[TextIO] = []  # the locks of this process, which it keeps for as long as it lives


def choose_device(name: str) -> "torch.device":
    """`name` as a torch device; 'auto' is CUDA when there is one (of several that of `free_gpu`), else the CPU."""
    import torch

    if name == "auto":
        name = "cpu"
        if torch.cuda.is_available():
            # what a scheduler or torchrun has shared out leaves nothing to choose
            alone = torch.cuda.device_count() == 1 or "LOCAL_RANK" in os.environ
            name = "cuda" if alone else f"cuda:{free_gpu()}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise FlowsepError(f"device: '{name}' cannot be used here ({str(error).splitlines()[0]})") from error


@cache
def free_gpu() -> int:
    """The index of the GPU that the fewest processes of this user have been given, which is this process's from now on.

    So jobs side by side spread over the GPUs of a machine, one on each before any has two. A place on a GPU is a locked
    file in the folder of temporary files, which the system unlocks however the process ends. The GPU becomes torch's
    current one, too, so that 'cuda' means it.

    Raises FlowsepError where these files cannot be written.
    """
    import fcntl

    import torch

    # by what names the card itself: the same index may be another card where fewer are visible
    cards = [torch.cuda.get_device_properties(index).uuid for index in range(torch.cuda.device_count())]
    folder = Path(tempfile.gettempdir()) / f"flowsep-{os.getuid()}"
    with writable(folder, "set TMPDIR to a folder of your own, or name a `device`"):
        folder.mkdir(mode=0o700, exist_ok=True)
        for turn in itertools.count():
            place, index = divmod(turn, len(cards))
            lock = (folder / f"{cards[index]}.{place}").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            _HELD.append(lock)
            torch.cuda.set_device(index)
            return index
