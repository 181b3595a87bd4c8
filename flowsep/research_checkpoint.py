"""Checkpoints of the paper's research code -> Prior: a folder with `config.json` and `G_<epoch>.pth`."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from .config import FeatureConfig, GlowConfig
from .files import FlowsepError, brief, read_json, sha256
from .prior import Prior
from .weights import FLOATS, check_sizes, load_exactly


def load_research_prior(folder: str | Path, *, epoch: int | None = None, source: str | None = None) -> Prior:
    """The prior in a research-code folder, weight norm folded into plain weights, in evaluation mode.

    Args:
        folder: holds `config.json` and at least one `G_<epoch>.pth`.
        epoch: which checkpoint; None: the newest.
        source: name of the source; None: the folder's name.
    Raises:
        FlowsepError: a file is missing or damaged, a weight is missing, surplus or misshaped, or the model tells
            several speakers apart, which the paper's priors do not. The research code only logs missing weights and
            goes on with random ones.

    With `gin_channels` it makes weights for a condition that it never gives. These are left out, and named as `unused`
    in the provenance.
    """
    folder = Path(folder)
    settings = _read_settings(folder / "config.json")
    model, feature = _architecture(settings, folder / "config.json")
    path = checkpoint_file(folder, epoch)
    content = read_tensors(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise FlowsepError(f"{path}: expected a dictionary with the key 'model'")
    provenance: dict[str, Any] = {"format": "research code", "file": path.name, "sha256": sha256(path)}
    provenance |= {key: content[key] for key in ("iteration",) if isinstance(content.get(key), int)}
    state = _by_name(content["model"], path)
    check_sizes(model, feature, (value for value in state.values() if isinstance(value, Tensor)), path)
    if settings["model"].get("gin_channels") and (unused := _of_the_condition(state, model.steps)):
        provenance["unused"] = list(unused)
        state = {name: value for name, value in state.items() if name not in unused}
    try:
        prior = Prior(model, feature, source or folder.resolve().name, provenance)
    except ValueError as error:  # numbers that do not divide each other
        raise FlowsepError(f"{folder / 'config.json'}: {error}") from error
    load_exactly(prior.glow, _translate(state, prior.glow.state_dict(), path), path)
    return prior.eval()


def read_tensors(path: Path) -> Any:
    """What a `.pth` file holds, tensors and plain values only: neither can it run code nor be larger than the file.

    Numbers of numpy, which a resumed training leaves in its learning rate, come back as plain ones. Raises FlowsepError
    for any other file.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                held = sum(max(entry.file_size, entry.compress_size) for entry in archive.infolist())
            if held > path.stat().st_size:  # torch never compresses, nor writes a part twice
                raise FlowsepError(f"{path}: not written by torch: it would unpack to {held:,} bytes; nothing was run")
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FlowsepError:
        raise
    except Exception as error:  # whatever the bytes of a damaged or forged pickle lead to
        reason = brief(error)
        raise FlowsepError(f"{path}: not a whole checkpoint of tensors; nothing was run ({reason})") from error


class _NumberKind:
    """Stands for `numpy.dtype` in a pickle: a kind of number. The class itself would take over a forged state."""

    def __init__(self, code: str, align: bool = False, copy: bool = True):
        if not re.fullmatch("b1|[iu][1248]|f[248]", code):
            raise ValueError(f"{brief(code)}: not a kind of number")
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("|", "<", ">"):
            raise ValueError(f"{brief(state[1])}: not an order of bytes")
        self.order = state[1]


def _number(kind: _NumberKind, content: bytes) -> bool | int | float:
    """Stands for numpy's function that makes a scalar of its bytes."""
    (number,) = np.frombuffer(content, kind.order + kind.code)
    return number.item()


# what a pickle calls, in the spellings of numpy 1 and 2 -> what is called instead
NUMPY_NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_NumberKind, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
]


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FlowsepError(f"{path}: missing; a research-code checkpoint needs its config.json beside it")
    settings = read_json(path)
    for section in ("data", "model"):
        if not isinstance(settings, dict) or not isinstance(settings.get(section), dict):
            raise FlowsepError(f"{path}: section '{section}' is missing")
    return settings


def _architecture(settings: dict[str, Any], path: Path) -> tuple[GlowConfig, FeatureConfig]:
    model, data = settings["model"], settings["data"]
    for section in (settings, data, model):
        if (speakers := section.get("n_speakers")) not in (None, 0, 1):
            raise FlowsepError(f"{path}: n_speakers = {brief(speakers)}: models of several speakers are not supported")
    try:
        glow = GlowConfig(
            bins=data["n_ipt_channels"],
            squeeze=model["n_sqz"],
            steps=model["n_blocks_dec"],
            hidden=model.get("hidden_channels_dec") or model["hidden_channels"],
            layers=model["n_block_layers"],
            kernel=model["kernel_size_dec"],
            dilation_rate=model["dilation_rate"],
            groups=model.get("n_split", 4),
            dropout=model.get("p_dropout_dec", 0.0),
            sigmoid_scale=model.get("sigmoid_scale", False),
        )
        feature = FeatureConfig(sample_rate=data["sampling_rate"], n_fft=data["filter_length"], hop=data["hop_length"])
    except KeyError as error:
        raise FlowsepError(f"{path}: key {error} is missing") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FlowsepError(f"{path}: {where}: {first['msg']}, found {brief(first['input'])}") from error
    except FlowsepError as error:
        raise FlowsepError(f"{path}: {error}") from error
    return glow, feature


def checkpoint_file(folder: Path, epoch: int | None = None) -> Path:
    """`G_<epoch>.pth` of a research-code folder, the newest for None; FlowsepError if there is none or two of one."""
    paths: dict[int, Path] = {}
    for path in sorted(folder.glob("G_*.pth")):
        match = re.fullmatch(r"G_(\d+)\.pth", path.name)
        if match:
            if int(match[1]) in paths:
                raise FlowsepError(
                    f"{folder}: {paths[int(match[1])].name} and {path.name} are the same epoch; keep one"
                )
            paths[int(match[1])] = path
    if not paths:
        raise FlowsepError(f"{folder}: no G_<epoch>.pth there")
    if epoch is None:
        return paths[max(paths)]
    if epoch not in paths:
        raise FlowsepError(f"{folder}: no epoch {epoch}; epochs there: {', '.join(map(str, sorted(paths)))}")
    return paths[epoch]


def _by_name(state: dict[Any, Any], path: Path) -> dict[str, Any]:
    """The weights under their names, without the prefix that DataParallel gives them; no speakers' embedding."""
    if odd := [name for name in state if not isinstance(name, str)]:
        raise FlowsepError(f"{path}: a weight is called {brief(odd[0])}; expected names")
    named = {name.removeprefix("module."): value for name, value in state.items()}
    if embedding := [name for name in named if name.startswith("emb_")]:
        raise FlowsepError(f"{path}: '{embedding[0]}' tells speakers apart; models of several are not supported")
    return named


def _of_the_condition(state: dict[str, Any], steps: int) -> dict[str, Any]:
    """The weights that let a condition into the coupling nets."""
    layers = [f"decoder.flows.{3 * step + 2}.wn.cond_layer" for step in range(steps)]
    names = {f"{layer}.{part}" for layer in layers for part in ("weight", "weight_g", "weight_v", "bias")}
    return {name: value for name, value in state.items() if name in names}


def _translate(state: dict[str, Any], wanted: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """All `wanted` weights from the research code's names, g v / |v| made one; errors say the names in the file."""
    left = dict(state)

    def take(name: str, shape: tuple[int, ...]) -> Tensor:
        value = left.pop(name, None)
        if not isinstance(value, Tensor):
            raise FlowsepError(f"{path}: missing weight '{name}'; does its config.json belong to it?")
        if value.shape != shape:
            differs = f"'{name}' is {tuple(value.shape)}, expected {tuple(shape)}"
            raise FlowsepError(f"{path}: misshaped weight {differs}; does its config.json belong to it?")
        if value.dtype not in FLOATS or value.layout is not torch.strided or value.device.type != "cpu":
            raise FlowsepError(f"{path}: weight '{name}' is of {value.dtype}, {value.layout}, not plain numbers")
        return value.float()  # some are saved in half precision

    translated = {}
    for name, ours in wanted.items():
        theirs = _their_name(name)
        if theirs.endswith((".logs", ".bias")) and ".net." not in name:  # of ActNorm
            translated[name] = take(theirs, (1, *ours.shape)).squeeze(0)
        elif ours.ndim == 3 and ".end." not in theirs:
            length = take(f"{theirs}_g", (len(ours), 1, 1))
            translated[name] = torch._weight_norm(take(f"{theirs}_v", ours.shape), length, 0)  # torch's own rounding
        else:
            translated[name] = take(theirs, ours.shape)
    if left:
        raise FlowsepError(f"{path}: surplus weight '{min(left)}'; does its config.json belong to it?")
    return translated


def _their_name(name: str) -> str:
    """`layers.<3k + j>` of ours is `decoder.flows.<3k + j>` of the research code."""
    for ours, theirs in (
        ("layers.", "decoder.flows."), ("net.gates.", "wn.in_layers."), ("net.res_skips.", "wn.res_skip_layers."),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name.replace(".net.", ".")
