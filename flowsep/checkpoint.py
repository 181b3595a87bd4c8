"""Which priors lie in a folder and what their headers say; torch is not needed for that."""

from pathlib import Path
from typing import Any

from .files import FlowsepError
from .prior import Prior

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


def load_prior(path: str | Path, **options: Any) -> Prior:
    """A prior from a flowsep `.safetensors` file, or from a folder of the research code (`config.json` + `G_*.pth`).

    Neither can run code: safetensors holds tensors only, and `.pth` files are read with `weights_only`.

    Args:
        path: the file or folder.
        options: for a research-code folder only: see `flowsep.instglow.load_research_prior`.
    Raises:
        FlowsepError: no such file, truncated, a pickle, another format or architecture; names what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        from .research_checkpoint import load_research_prior

        return load_research_prior(path, **options)
    if not path.is_file():
        raise FlowsepError(f"{path}: no such prior; expected a .safetensors file or a folder with config.json")
    return Prior.load(path)
