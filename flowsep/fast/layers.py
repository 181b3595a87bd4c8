"""The reference engine: each flow through its own layers, the gradient by autograd."""

import copy
from typing import Any

import torch
from torch import Tensor

from ..glow import Glow


class LayerByLayer:
    """The same as `StackedFlows` by autograd through the layers: the reference, in the research code's order."""

    def __init__(self, flows: list[Glow], *, device: torch.device, dtype: torch.dtype, inner: torch.dtype, **_: Any):
        self.flows = [copy.deepcopy(flow).to(device, dtype).eval().requires_grad_(False) for flow in flows]
        self.autocast = torch.autocast(device.type, inner, enabled=inner != dtype)

    def fold(self, x: Tensor) -> Tensor:
        """Nothing to fold."""
        return x

    unfold = fold

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See `StackedFlows.decode`; (batch, sources, bins, frames)."""
        self.latents = [latent.clone().requires_grad_() for latent in z.unbind(1)]
        with self.autocast, torch.enable_grad():
            pairs = [flow.inverse(latent) for flow, latent in zip(self.flows, self.latents, strict=True)]
            self.decoded = [x.to(z.dtype) for x, _ in pairs]
            self.logdet = torch.stack([logdet for _, logdet in pairs])
        return torch.stack(self.decoded, dim=1).detach(), self.logdet.detach()

    def vjp(self, gradient: Tensor, logdet_weight: float = 0.0) -> Tensor:
        """See `StackedFlows.vjp`."""
        outputs, gradients = [*self.decoded], [*gradient.unbind(1)]
        if logdet_weight:
            outputs, gradients = [*outputs, self.logdet], [*gradients, torch.full_like(self.logdet, logdet_weight)]
        return torch.stack(torch.autograd.grad(outputs, self.latents, gradients), dim=1)
