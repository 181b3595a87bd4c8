"""The machine that computes: what it is, and how much memory it has held."""

import platform
import re
import resource
import sys
from pathlib import Path


def device_name() -> str:
    """The GPU if torch sees one, else the CPU's model."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", information.read_text()) if information.exists() else []
    return models[0] if models else platform.processor() or platform.machine()


def peak_memory() -> float:
    """Most memory held so far, MiB: on the GPU if torch used one, else of the process."""
    import torch

    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts KiB on Linux, bytes on macOS
    return round((used or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit) / 2**20, 1)
