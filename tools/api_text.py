"""A Sphinx extension for autodoc, which wants reST: docstrings as this project writes them, plain text with `code`."""

import re

from sphinx.application import Sphinx

CODE = re.compile(r"(`[^`]+`|\{[^{}]+\})")  # {name: shape}, too, which napoleon would read as a type and a text
MARKUP = re.compile(r"([\\*|_])")


def plain_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Set code as code, and take every other sign as itself."""
    parts = CODE.split("\n".join(lines))
    parts[::2] = [MARKUP.sub(r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part.strip('`')}``" for part in parts[1::2]]
    lines[:] = "".join(parts).splitlines()


def setup(app: Sphinx) -> dict[str, bool]:
    # before napoleon, which turns the sections of a docstring into fields
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)
    return {"parallel_read_safe": True}
