"""What the log of a job says: an executed notebook, or text."""

import json
import re
from pathlib import Path


def last_words(log: str | Path) -> tuple[Path, list[str]]:
    """The file that tells how a job ended, its log or what papermill wrote beside it, and its lines, if it has any.

    Of a notebook these are the traceback of its first error, without colours.
    """
    for path in (Path(log), Path(f"{log}.err")):
        try:
            text = path.read_text("utf-8", errors="replace")
            lines = _traceback(json.loads(text)) if path.suffix == ".ipynb" else text.rstrip().splitlines()
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if lines:
            return path, lines
    return Path(log), []


def _traceback(notebook: dict) -> list[str]:
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output["traceback"])).splitlines()
    return []
