"""`python -m companion COMMAND`: see `companion.graph.cli`."""

import sys

from .graph.cli import main

if __name__ == "__main__":
    sys.exit(main())
