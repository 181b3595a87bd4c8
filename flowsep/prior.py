"""A prior: a Glow with the feature that it models and the provenance of its weights, in one safetensors file."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import FeatureConfig, GlowConfig
from .glow import Glow, standard_normal_log_prob
from .spectrogram import pad_features
from .weights import save_safetensors

FORMAT = "flowsep-prior-1"  # in the header of a prior's file


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
        """Standard deviation of the noise on the training magnitudes; 0 if the provenance names none."""
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

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write weights, sizes, feature and provenance to one `.safetensors` file, whole or not at all.

        `half`: weights of 16 bits, which make the file half as large; loading makes them 32 bits wide again.
        """
        header = {
            "format": FORMAT,
            "source": self.source,
            "model": self.model.model_dump(mode="json"),
            "feature": self.feature.model_dump(mode="json"),
            "provenance": self.provenance,
        }
        weights = self.glow.state_dict()
        save_safetensors(path, {name: value.half() for name, value in weights.items()} if half else weights, header)


def parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
