"""Systems from outside the package: the class in a file that a profile names."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from flowsep.files import FlowsepError

from ..profile import find_root
from . import SYSTEMS, System

TAKEN = ("references",)  # folders beside the systems' own


def own_class(name: str, place: str) -> type[System]:
    """The subclass of `System` at `place`, 'path/to/file.py:ClassName', under the `name` of the profile.

    A path that is not absolute begins at the project's folder. The file's code is run, so name only files you trust.

    Raises FlowsepError: a name that the package has, or that is no name of a file; no such file or class, no `System`.
    """
    if name in SYSTEMS:
        raise FlowsepError(
            f"system '{name}': flowsep has a system of this name; call yours otherwise or remove 'class'"
        )
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name) or name in TAKEN:
        rule = f"use letters, digits, _ and -, and none of {', '.join(TAKEN)}"
        raise FlowsepError(f"system '{name}': its name becomes part of file names; {rule}")
    path, _, attribute = str(place).rpartition(":")
    if not path.endswith(".py") or not attribute:
        raise FlowsepError(f"system '{name}': class: expected 'path/to/file.py:ClassName', found {place!r}")
    file = Path(path) if Path(path).is_absolute() else find_root() / path
    if not file.is_file():
        raise FlowsepError(f"system '{name}': class: {file}: no such file")
    spec: Any = importlib.util.spec_from_file_location(f"flowsep_own_{name}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the module that they were defined in
    spec.loader.exec_module(module)
    loaded = getattr(module, attribute, None)
    if not isinstance(loaded, type) or not issubclass(loaded, System):
        what = f"no class '{attribute}' there" if loaded is None else f"{attribute} is not a subclass of System"
        raise FlowsepError(f"system '{name}': class: {file}: {what}")
    return type(attribute, (loaded,), {"name": name, "__module__": spec.name})
