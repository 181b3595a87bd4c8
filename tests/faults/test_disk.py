"""A full and a read-only disk under every writer: one clear error, earlier files whole, and it goes on with room."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import write_hq_tree

pytestmark = pytest.mark.slow

# a file system of our own, which root and everybody else may mount in a user namespace; nothing outside sees it
SMALL = 'mount -t tmpfs -o size="$1" flowsep "$2" && shift 2 && exec "$@"'


def on_a_small_disk(size: str, place: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a command that finds a disk of its own, of `size`, at `place`."""
    place.mkdir()
    tried = subprocess.run(["unshare", "-rm", "sh", "-c", SMALL, "sh", size, str(place), "true"], capture_output=True)
    why = "this test mounts a small disk: allow user namespaces (unshare -rm) or run it as root outside a container"
    assert tried.returncode == 0, f"{why}: {tried.stderr.decode()}"
    command = ["unshare", "-rm", "sh", "-c", SMALL, "sh", size, str(place), *command]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_every_writer_on_a_full_and_on_a_read_only_disk(tmp_path, inject):
    songs = write_hq_tree(tmp_path / "songs", train=2, test=1, seconds=1.0)
    place = tmp_path / "small"
    script = [sys.executable, str(Path(__file__).with_name("small_disk.py")), str(place), str(songs)]
    done = on_a_small_disk("12m", place, *script, FLOWSEP_DATA=str(place / "cache"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    faults = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for kind, name in (("No space left on device", "full disk"), ("Read-only file system", "read-only results")):
        inject(name, sum(fault["kind"] == kind for fault in faults))
    assert len(faults) > 20
