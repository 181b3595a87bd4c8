"""Priors on disk: which ones lie in a folder, and how one is loaded."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import FlowsepError, brief

if TYPE_CHECKING:
    from torch import Tensor

    from .config import GlowConfig
    from .prior import Prior


SHIPPED = Path(__file__).parents[1] / "results" / "musdb18-7s" / "flowsep-priors"


def shipped_priors() -> Path:
    """The folder with the priors of real songs that come with the repository.

    Raises FlowsepError where the package was installed without the repository.
    """
    if not SHIPPED.is_dir():
        raise FlowsepError(f"{SHIPPED}: no such folder; the priors come with a clone of the repository, so name others")
    return SHIPPED


def load_priors(folder: str | Path | None = None) -> dict[str, "Prior"]:
    """{source: prior} of all priors in a folder; by default `shipped_priors`.

    Raises FlowsepError as `find_priors` and `load_prior`.
    """
    return {source: load_prior(path) for source, path in find_priors(folder or shipped_priors()).items()}


def find_priors(folder: str | Path) -> dict[str, Path]:
    """{source: what `load_prior` takes} of all `<source>.safetensors` and research-code folders `<source>/` there.

    Raises FlowsepError where there is none, or both of one name.
    """
    folder = Path(folder)
    # a leading dot marks what is half-written, and folders of programs such as .ipynb_checkpoints
    files = {path.stem: path for path in sorted(folder.glob("[!.]*.safetensors"))}
    folders = {path.parent.name: path.parent for path in sorted(folder.glob("[!.]*/config.json"))}
    if both := set(files) & set(folders):
        raise FlowsepError(f"{folder}: two priors of '{min(both)}', a file and a folder; move one of them away")
    if not files and not folders:
        what = "no priors there" if folder.is_dir() else "no such folder"
        raise FlowsepError(f"{folder}: {what}; expected <source>.safetensors or <source>/config.json in it")
    return files | folders


def load_prior(path: str | Path, **options: Any) -> "Prior":
    """A prior from a flowsep `.safetensors` file, or from a folder of the research code (`config.json` + `G_*.pth`).

    Neither can run code: safetensors holds tensors only, and `.pth` files are read with `weights_only`.

    Args:
        path: the file or folder.
        options: for a research-code folder only: see `flowsep.research_checkpoint.load_research_prior`.
    Raises:
        FlowsepError: no such file, truncated, a pickle, another format or architecture; names what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        from .research_checkpoint import load_research_prior

        return load_research_prior(path, **options)
    if not path.is_file():
        raise FlowsepError(f"{path}: no such prior; expected a .safetensors file or a folder with config.json")
    return _load_file(path)


def _load_file(path: Path) -> "Prior":
    """The prior that `Prior.save` wrote, in evaluation mode on the CPU."""
    # torch is imported here, so that folders can be looked through without it
    from .config import FeatureConfig, GlowConfig
    from .prior import FORMAT, Prior
    from .weights import check_sizes, load_exactly, read_safetensors

    header, tensors = read_safetensors(path)
    if header.get("format") != FORMAT:
        raise FlowsepError(f"{path}: not a flowsep prior (its header says format={header.get('format')!r})")
    try:
        sizes = dict(header["model"])
        order = sizes.pop("order", "plain")  # of an older file, whose channels may lie in the engine's order
        if order not in ("plain", "grouped"):
            raise ValueError(f"order of channels: neither 'plain' nor 'grouped', found {brief(order)}")
        model = GlowConfig.model_validate(sizes)
        feature = FeatureConfig.model_validate(header["feature"])
        source, provenance = header["source"], header["provenance"]
        noise = ((provenance or {}).get("training") or {}).get("noise", 0.0)
        if not isinstance(source, str) or not math.isfinite(noise):
            raise ValueError(f"source {brief(source)}, noise {brief(noise)}")
        check_sizes(model, feature, tensors.values(), path)
        prior = Prior(model, feature, source, provenance)
    except (KeyError, AttributeError, TypeError, OverflowError, ValueError) as error:
        if isinstance(error, FlowsepError) and str(path) in str(error):
            raise
        raise FlowsepError(f"{path}: damaged header ({brief(error)})") from error
    load_exactly(prior.glow, in_plain_order(tensors, model) if order == "grouped" else tensors, path)
    return prior.eval()


def in_plain_order(tensors: dict[str, "Tensor"], model: "GlowConfig") -> dict[str, "Tensor"]:
    """A flow's weights with the channels in the paper's order, from the engine's grouped order.

    ActNorm's channels, the inputs of `start` and the outputs of `end` are permuted; what does not fit stays as it is,
    and is refused when it is loaded.
    """
    import torch

    from .fast.layout import grouped_order

    back = grouped_order(model.bins * model.squeeze, model.groups).argsort()
    half = back[: len(back) // 2]
    both = torch.cat([half, half + len(half)])
    plain = dict(tensors)
    for name, value in tensors.items():
        if name.endswith((".logs", "bias")) and ".net." not in name and value.shape[:1] == back.shape:
            plain[name] = value[back]
        elif name.endswith("net.start.weight") and value.ndim == 3 and value.shape[1] == len(half):
            plain[name] = value[:, half]
        elif ".net.end." in name and value.shape[:1] == both.shape:
            plain[name] = value[both]
    return plain
