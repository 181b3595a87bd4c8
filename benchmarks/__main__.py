"""`python -m benchmarks`: measure, write `results/bench/<device>.json`, and tell which targets are met."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from companion.profile import find_root
from flowsep.files import FlowsepError, safe_name
from flowsep.machine import choose_device, device_name

from . import TOPICS
from .harness import Context, merge, run_topic
from .targets import table


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="measure on the CUDA device")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries the bench, its numbers mean nothing")
    parser.add_argument("--only", metavar="TOPIC,...", default=",".join(TOPICS), help=f"of {', '.join(TOPICS)}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: results/bench/<device>.json")
    given = parser.parse_args(arguments)
    names = given.only.split(",")
    if unknown := [name for name in names if name not in TOPICS]:
        parser.error(f"--only: unknown topic '{unknown[0]}'; there are {', '.join(TOPICS)}")
    context = Context("cuda" if given.gpu else "cpu", given.quick)
    try:
        choose_device(context.device)
        folder = find_root(Path(__file__).parent) / "results" / "bench"
        path = (
            given.out
            or (folder / "quick" if given.quick else folder) / f"{safe_name(device_name()).replace(' ', '_')}.json"
        )
        for name in names:  # each one written as soon as it is there: what ends the next topic leaves it
            topic = run_topic(name, context)
            bench = merge(path, context, {name: topic})
            print(f"{name}: {topic['status']} in {topic['provenance']['seconds']} s {topic['reason']}", file=sys.stderr)
    except FlowsepError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(f"{path}\n\n{table(bench['targets'])}")
    return 1 if any(bench["topics"][name]["status"] == "failed" for name in names) else 0


if __name__ == "__main__":
    if "--gpu" not in sys.argv:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the bench of the CPU, named after the CPU, also where there is a GPU
    sys.exit(main())
