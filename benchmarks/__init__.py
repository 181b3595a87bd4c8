"""The bench: every figure a ratio of things measured side by side in one run. `python -m benchmarks --help`.

A topic is a module here with a function `run(context) -> list of figures` (`harness.figure`), named in `TOPICS`. What
is compared with lies in `tests/reference/`: the paper's loops as plainly as they can be written.
"""

import sys
from pathlib import Path

TOPICS = ("floor", "separation", "convergence", "training", "feeding", "memory", "evaluation", "startup", "page")

ROOT = Path(__file__).parent.parent
for name in ("tests", "tools"):  # for `reference`, the browser and the page, which no package installs
    if str(ROOT / name) not in sys.path:
        sys.path.append(str(ROOT / name))
