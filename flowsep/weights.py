"""Weights on disk: safetensors files with a JSON header, whole, checked against it, and never code."""

import contextlib
import filecmp
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import FeatureConfig, GlowConfig
from .files import MAX_HEADER, FlowsepError, atomic_path, brief
from .glow import InvertibleConv


def read_header(path: str | Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """(header, {tensor: shape}) of a file of `save_safetensors`; FlowsepError if it is none."""
    path = Path(path)
    with _whole(path):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length:,} bytes, {MAX_HEADER:,} at most")
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("flowsep", "{}"))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return (header if isinstance(header, dict) else {}), shapes


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        reason = brief(error)
        raise FlowsepError(f"{path}: not a whole .safetensors file ({reason}); nothing was loaded") from error


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # weights may come in any of them
MAX_DILATION = 4096  # frames, of the last layer's convolution
MAX_OVERLAP = 64  # windows of a spectrogram over one sample
MAX_SECOND = 2_000_000_000  # bytes that the separation of one second takes; the paper's priors take a hundredth of that
MAX_CONDITION = 10_000_000  # of a 1x1 convolution, beyond which its inverse is noise in single precision


def save_safetensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to a safetensors file, whole or not at all; the same content, the same bytes.

    The header also gets the `sha256` of both, for `read_safetensors`. A file that holds the same keeps its time.
    """
    path = Path(path)
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        # one key only: safetensors writes several in an order of its own at every call
        try:
            save_file(plain, temporary, metadata={"flowsep": json.dumps({**header, "sha256": _digest(header, plain)})})
        except SafetensorError as error:  # which tells of a full disk in words only
            raise FlowsepError(f"{path}: not written ({error}); make room or choose another folder") from error
        if path.is_file() and filecmp.cmp(path, temporary, shallow=False):
            os.utime(temporary, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))


def read_safetensors(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors) of a file of `save_safetensors`.

    Raises FlowsepError if it is none (a pickle, a truncated file), or a single bit of it is another than was written.
    """
    header, names = read_header(path)
    with _whole(Path(path)), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in names}
    expected = header.pop("sha256", None)
    if expected is None:
        raise FlowsepError(f"{path}: its header tells no sha256 of its content; flowsep did not write it, make it anew")
    if (actual := _digest(header, tensors)) != expected:
        differs = f"damaged since it was written: sha256 {actual[:12]}, written with {str(expected)[:12]}"
        raise FlowsepError(f"{path}: {differs}; restore it or make it anew")
    return header, tensors


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a header's JSON and of all names, types, shapes and numbers."""
    state = hashlib.sha256(json.dumps(header).encode())
    for name, value in sorted(tensors.items()):
        state.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        state.update(value.flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()


def check_sizes(model: GlowConfig, feature: FeatureConfig, weights: Iterable[Tensor], path: str | Path) -> None:
    """Hold the sizes that a header claims against the `weights` beside it, before a model of such sizes is made.

    Raises:
        FlowsepError: more numbers than these can be, or what no weight shows and would fill the memory later: see
            `MAX_DILATION`, `MAX_OVERLAP` and `MAX_SECOND`, and windows of more bins than the model has.
    """
    channels, hidden, layers = model.bins * model.squeeze, model.hidden, model.layers
    net = channels // 2 * hidden + layers * 2 * hidden * hidden * model.kernel + (2 * layers - 1) * hidden * hidden
    numbers = model.steps * (2 * channels + model.groups**2 + net + hidden * channels)  # without biases
    plain = [value for value in weights if value.layout is torch.strided and value.device.type == "cpu"]
    held = {store.data_ptr(): store.nbytes() for store in (value.untyped_storage() for value in plain)}
    if 2 * numbers > sum(held.values()):  # of 16 bits at least
        claim = f"a model of {brief(numbers)} numbers, its weights are {sum(held.values()):,} bytes"
        raise FlowsepError(f"{path}: {claim}; another architecture than its header says?")
    if (layers - 1) * math.log(model.dilation_rate) > math.log(MAX_DILATION):
        claim = f"{layers} layers with dilation_rate {brief(model.dilation_rate)}"
        raise FlowsepError(f"{path}: {claim}; expected a last dilation of {MAX_DILATION} or less")
    if feature.n_fft // 2 + 1 > model.bins or feature.n_fft > MAX_OVERLAP * feature.hop:
        claim = f"n_fft {brief(feature.n_fft)}, hop {brief(feature.hop)}, {brief(model.bins)} bins"
        raise FlowsepError(f"{path}: {claim} do not belong together")
    from .memory import bytes_of_separation  # which knows priors, and they this module

    needed = bytes_of_separation({"": _Sizes(model, feature)}, 1.0)  # type: ignore[dict-item]
    if needed > MAX_SECOND:
        claim = f"sample_rate {brief(feature.sample_rate)}, hop {brief(feature.hop)}, {brief(model.bins)} bins"
        raise FlowsepError(f"{path}: {claim}: one second would take {needed / 1e9:,.0f} GB; not a real prior?")


class _Sizes(NamedTuple):
    """What `bytes_of_separation` asks of a prior."""

    model: GlowConfig
    feature: FeatureConfig


def check_weights(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """FlowsepError names the first name, shape or type of `tensors` that is not the expected one."""
    missing, surplus = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    both = [(name, tensors[name], expected[name]) for name in expected if name in tensors]
    misshaped = [
        f"'{name}' is {tuple(given.shape)}, expected {tuple(wanted.shape)}"
        for name, given, wanted in both
        if given.shape != wanted.shape
    ]
    mistyped = [
        f"'{name}' is of {given.dtype}, expected {wanted.dtype}"
        for name, given, wanted in both
        if given.dtype != wanted.dtype and (given.dtype not in FLOATS or wanted.dtype not in FLOATS)
    ]
    for what, names in (("missing", missing), ("surplus", surplus), ("misshaped", misshaped), ("mistyped", mistyped)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise FlowsepError(f"{path}: {what} weight {names[0]}{more}; another architecture than its header says?")


def load_exactly(module: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict in which every name, shape and type must fit, and every 1x1 convolution can be inverted.

    Raises FlowsepError, which names the first weight that does not.
    """
    check_weights(module.state_dict(), tensors, path)
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise FlowsepError(f"{path}: weight {bad[0]} holds NaN or infinite values; the training that wrote it diverged")
    module.load_state_dict(tensors)
    for name, part in module.named_modules():
        if isinstance(part, InvertibleConv) and not torch.linalg.cond(part.weight.double()) < MAX_CONDITION:
            raise FlowsepError(f"{path}: weight {name}.weight cannot be inverted; the training that wrote it diverged")
