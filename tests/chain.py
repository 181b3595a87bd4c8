"""The smoke profile through its graph, as `make book PROFILE=smoke` runs it, for the tests that share what it makes."""

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def snakemake(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = ["snakemake", "--configfile", "configs/smoke.yaml", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    """What `make book PROFILE=smoke` calls."""
    command = [sys.executable, "tools/run.py", "book", "--profile", "smoke", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)
