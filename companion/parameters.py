"""What papermill injects into a notebook."""

import ast
import itertools
import sys
from typing import Any

from flowsep.files import FlowsepError


def notebook() -> Any:
    """IPython's shell around this process, or None."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def refuse_unknown_parameters() -> None:
    """FlowsepError if papermill injected a parameter that the notebook around this process does not have.

    Papermill only warns of it, and the notebook would run with its default.
    """
    shell = notebook()
    cells = shell.history_manager.input_hist_raw if shell else []
    for own, injected in itertools.pairwise(cells):
        if injected.startswith("# Parameters\n"):
            known, given = _assigned(own), _assigned(injected)
            if unknown := [name for name in given if name not in known]:
                raise FlowsepError(f"-p {unknown[0]}: this notebook has no such parameter; it has {', '.join(known)}")


def _assigned(code: str) -> list[str]:
    """The names to which the statements of a cell assign."""
    targets = [getattr(node, "targets", [getattr(node, "target", None)])[0] for node in ast.parse(code).body]
    return [target.id for target in targets if isinstance(target, ast.Name)]
