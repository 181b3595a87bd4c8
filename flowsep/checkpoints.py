"""Which priors lie in a folder and what their headers say; torch is not needed for that."""

import json
from pathlib import Path
from typing import Any

from .files import MAX_HEADER, FlowsepError, brief

FORMAT = "flowsep-prior-1"  # in the header of a prior


def find_priors(folder: str | Path) -> dict[str, Path]:
    """{source: what `load_prior` takes} of all `<source>.safetensors` and research-code folders `<source>/` there.

    Raises FlowsepError where there is none, or both of one name.
    """
    folder = Path(folder)
    # a leading dot marks what is half-written
    files = {path.stem: path for path in sorted(folder.glob("[!.]*.safetensors"))}
    folders = {path.parent.name: path.parent for path in sorted(folder.glob("*/config.json"))}
    if both := set(files) & set(folders):
        raise FlowsepError(f"{folder}: two priors of '{min(both)}', a file and a folder; move one of them away")
    if not files and not folders:
        raise FlowsepError(f"{folder}: no priors there, neither <source>.safetensors nor <source>/config.json")
    return files | folders


def read_header(path: str | Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """(header, {tensor: shape}) of a file of `prior.save_safetensors`; FlowsepError if it is none."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length:,} bytes, {MAX_HEADER:,} at most")
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("flowsep", "{}"))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = brief(error)
        raise FlowsepError(f"{path}: not a whole .safetensors file ({reason}); nothing was loaded") from error
    return (header if isinstance(header, dict) else {}), shapes
