"""The graph on a disk that gets full: it fails with the reason, and with room it goes on to the same results."""

import shutil

import pytest
from runs import COMMAND, Run, differing, state

pytestmark = pytest.mark.faults

TARGET = "results/battery/notebooks/06_results.ipynb"
# the results on a disk of their own, of which only $1 bytes are free: the graph must fail; with room it must not
SCRIPT = """
set -e
cp -a results/battery ../before
mount -t tmpfs -o size=64m flowsep results/battery
cp -a ../before/. results/battery
free=$(df --output=avail -B1 results/battery | tail -1)
head -c $((free - $1)) /dev/zero > results/battery/ballast
shift
if "$@"; then exit 9; fi
echo "and with room:"
rm results/battery/ballast
"$@"
cp -a results/battery ../after
"""


@pytest.mark.parametrize("room", [20_000, 300_000, 1_200_000])  # of 2 MB that the graph is to write here
def test_a_full_disk_stops_the_graph_and_room_lets_it_go_on(whole, inject, room):
    stage, made = whole
    stage.restore()
    gone = ["priors/vocals*", "training/vocals", "scores/inst*", "audio/inst*", "shards/inst*", "table*"]
    for pattern in [*gone, "notebooks/06*"]:
        for path in list(stage.results.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in ("before", "after"):
        shutil.rmtree(stage.folder / name, ignore_errors=True)
    run = Run(stage.tree, ["unshare", "-rm", "bash", "-c", SCRIPT, "bash", str(room), *COMMAND, TARGET])
    assert run.wait() == 0, run.said()[-6000:]
    first = run.said().split("and with room:")[0]
    # the system's words, or ours where libsndfile keeps them for itself
    assert "No space left on device" in first or "is the disk full? Make room" in first, first[-3000:]
    assert differing(state(stage.folder / "after"), made) == []
    inject("full disk")
