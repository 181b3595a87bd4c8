"""A prior: a Glow with the feature that it models and the provenance of its weights, in one safetensors file."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .checkpoints import FORMAT, read_header
from .config import FeatureConfig, GlowConfig
from .files import FlowsepError, atomic_path, brief
from .glow import Glow, standard_normal_log_prob
from .spectrogram import pad_features

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # weights may come in any of them
MAX_DILATION = 4096  # frames, of the last layer's convolution
MAX_OVERLAP = 64  # windows of a spectrogram over one sample


class Prior(nn.Module):
    """p(x) = N(f(x); 0, I) |det df/dx| over magnitude spectrograms x of one source (paper, section "Prior").

    Args:
        model: sizes of the flow.
        feature: the spectrogram that it models.
        source: name of the source, e.g. "vocals".
        provenance: where the weights come from; anything JSON can hold.
    Shape:
        magnitudes (batch, 513 or 514 bins, even frames), linear, of audio in [-1, 1]; latents (batch, 514, frames).
    """

    def __init__(
        self, model: GlowConfig, feature: FeatureConfig, source: str, provenance: dict[str, Any] | None = None
    ):
        super().__init__()
        self.model, self.feature, self.source = model, feature, source
        self.provenance = dict(provenance or {})
        self.glow = Glow(**model.model_dump())

    @property
    def noise(self) -> float:
        """Standard deviation of the noise on the magnitudes that it was trained on; 0 where nothing is said of any."""
        return float((self.provenance.get("training") or {}).get("noise", 0.0))

    def encode(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """z = f(x) and log |det df/dx|, shape (batch,); a missing zero bin is appended."""
        return self.glow(pad_features(magnitude, self.model.bins, multiple=1))

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = f^-1(z) with all 514 bins, and log |det dx/dz|, shape (batch,)."""
        return self.glow.inverse(z)

    def log_prob(self, magnitude: Tensor) -> Tensor:
        """log p(x) = log N(f(x); 0, I) + log |det df/dx| in nats, summed over bins and frames: shape (batch,)."""
        z, logdet = self.encode(magnitude)
        return standard_normal_log_prob(z) + logdet

    def nll(self, magnitude: Tensor) -> Tensor:
        """-mean(log p(x)) / (bins * frames): the paper's training loss, nats per element, a scalar."""
        return -self.log_prob(magnitude).mean() / (self.model.bins * magnitude.shape[-1])

    def sample(self, frames: int, *, batch: int = 1, temperature: float = 1.0, seed: int = 0) -> Tensor:
        """x = f^-1(temperature * noise): (batch, bins, frames); frames even."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(batch, self.model.bins, frames, generator=generator)
        weight = next(self.parameters())
        return self.decode(temperature * noise.to(weight))[0]

    def save(self, path: str | Path) -> None:
        """Write weights, sizes, feature and provenance to one `.safetensors` file, whole or not at all."""
        header = {
            "format": FORMAT,
            "source": self.source,
            "model": self.model.model_dump(mode="json"),
            "feature": self.feature.model_dump(mode="json"),
            "provenance": self.provenance,
        }
        save_safetensors(path, self.glow.state_dict(), header)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The prior that `save` wrote, in evaluation mode on the CPU. See `load_prior` for what is raised."""
        header, tensors = read_safetensors(path)
        if header.get("format") != FORMAT:
            raise FlowsepError(f"{path}: not a flowsep prior (its header says format={header.get('format')!r})")
        try:
            model = GlowConfig.model_validate(header["model"])
            feature = FeatureConfig.model_validate(header["feature"])
            source, provenance = header["source"], header["provenance"]
            noise = ((provenance or {}).get("training") or {}).get("noise", 0.0)
            if not isinstance(source, str) or not math.isfinite(noise):
                raise ValueError(f"source {brief(source)}, noise {brief(noise)}")
            check_sizes(model, feature, tensors.values(), path)
            prior = cls(model, feature, source, provenance)
        except (KeyError, AttributeError, TypeError, OverflowError, ValueError) as error:
            if isinstance(error, FlowsepError) and str(path) in str(error):
                raise
            raise FlowsepError(f"{path}: damaged header ({brief(error)})") from error
        load_exactly(prior.glow, tensors, path)
        return prior.eval()


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
        from .instglow import load_research_prior

        return load_research_prior(path, **options)
    if not path.is_file():
        raise FlowsepError(f"{path}: no such prior; expected a .safetensors file or a folder with config.json")
    return Prior.load(path)


def save_safetensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to a safetensors file, whole or not at all; the same content, the same bytes.

    The header also gets the `sha256` of both, by which `read_safetensors` knows a file that was damaged since.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        # one key only: safetensors writes several in an order of its own at every call
        try:
            save_file(plain, temporary, metadata={"flowsep": json.dumps({**header, "sha256": _digest(header, plain)})})
        except SafetensorError as error:  # which tells of a full disk in words only
            raise FlowsepError(f"{path}: not written ({error}); make room or choose another folder") from error


def read_safetensors(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors) of a file of `save_safetensors`.

    Raises FlowsepError if it is none (a pickle, a truncated file), or a single bit of it is another than was written.
    """
    header, names = read_header(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in names}
    expected = header.pop("sha256", None)
    if expected is None:
        raise FlowsepError(f"{path}: its header tells no sha256 of its content; flowsep did not write it, make it anew")
    if (found := _digest(header, tensors)) != expected:
        differs = f"damaged since it was written: sha256 {found[:12]}, written with {str(expected)[:12]}"
        raise FlowsepError(f"{path}: {differs}; restore it or make it anew")
    return header, tensors


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a header's JSON and of all names, types, shapes and numbers."""
    state = hashlib.sha256(json.dumps(header).encode())
    for name, value in sorted(tensors.items()):
        state.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        state.update(value.flatten().view(torch.uint8).numpy())
    return state.hexdigest()


def parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def check_sizes(model: GlowConfig, feature: FeatureConfig, weights: Iterable[Tensor], path: str | Path) -> None:
    """Hold the sizes that a header claims against the `weights` beside it, before a model of such sizes is made.

    Raises:
        FlowsepError: more numbers than these can be, or what no weight shows and would fill the memory later: see
            `MAX_DILATION` and `MAX_OVERLAP`, and windows of more bins than the model has.
    """
    channels, hidden, layers = model.bins * model.squeeze, model.hidden, model.layers
    net = channels // 2 * hidden + layers * 2 * hidden * hidden * model.kernel + (2 * layers - 1) * hidden * hidden
    numbers = model.steps * (2 * channels + model.groups**2 + net + hidden * channels)  # without biases
    plain = [value for value in weights if value.layout is torch.strided and value.device.type == "cpu"]
    held = {store.data_ptr(): store.nbytes() for store in (value.untyped_storage() for value in plain)}
    if 2 * numbers > sum(held.values()):  # of 16 bits at least
        found = f"a model of {brief(numbers)} numbers, its weights are {sum(held.values()):,} bytes"
        raise FlowsepError(f"{path}: {found}; another architecture than its header says?")
    if (layers - 1) * math.log(model.dilation_rate) > math.log(MAX_DILATION):
        found = f"{layers} layers with dilation_rate {brief(model.dilation_rate)}"
        raise FlowsepError(f"{path}: {found}; expected a last dilation of {MAX_DILATION} or less")
    if feature.n_fft // 2 + 1 > model.bins or feature.n_fft > MAX_OVERLAP * feature.hop:
        found = f"n_fft {brief(feature.n_fft)}, hop {brief(feature.hop)}, {brief(model.bins)} bins"
        raise FlowsepError(f"{path}: {found} do not belong together")


def check_weights(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """FlowsepError names the first name, shape or type of `tensors` that is not the expected one."""
    missing, surplus = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    both = [(name, tensors[name], expected[name]) for name in expected if name in tensors]
    misshaped = [
        f"'{name}' is {tuple(found.shape)}, expected {tuple(wanted.shape)}"
        for name, found, wanted in both
        if found.shape != wanted.shape
    ]
    mistyped = [
        f"'{name}' is of {found.dtype}, expected {wanted.dtype}"
        for name, found, wanted in both
        if found.dtype != wanted.dtype and (found.dtype not in FLOATS or wanted.dtype not in FLOATS)
    ]
    for what, names in (("missing", missing), ("surplus", surplus), ("misshaped", misshaped), ("mistyped", mistyped)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise FlowsepError(f"{path}: {what} weight {names[0]}{more}; another architecture than its header says?")


def load_exactly(module: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Load a state dict in which every name, shape and type must fit; FlowsepError names the first that does not."""
    check_weights(module.state_dict(), tensors, path)
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise FlowsepError(f"{path}: weight {bad[0]} holds NaN or infinite values; the training that wrote it diverged")
    module.load_state_dict(tensors)
