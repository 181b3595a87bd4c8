"""Searches in latent space that did not separate better than the package's.

All start at z = 0 by default, take steps of Adam without momentum and without a prior's term, and return G_i(z_i), like
`flowsep.search.separate_magnitude`; the plain one reproduces its numbers (`tests/test_research.py`).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flowsep.config import SeparationConfig
from flowsep.fast.stacked import StackedFlows
from flowsep.prior import Prior
from flowsep.search import LENGTH, Flows, kl_divergence, named_ratio_masks, search
from flowsep.spectrogram import pad_features

Magnitudes = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]  # the mixture's magnitude (bins, frames), the estimates (sources, ...)

SMOOTH = 0.05


def kl(x: Tensor, estimates: Tensor) -> Tensor:
    """KL(x; |s|) of the sum s of the estimates: Poisson counts. The paper's, with the smooth modulus."""
    return kl_divergence(x, (estimates.sum(0).square() + SMOOTH**2).sqrt())


def squares(x: Tensor, estimates: Tensor) -> Tensor:
    """(x - |s|)^2 / (2 (d^2 + (0.2 s)^2)) + log of its scale: a Gaussian whose deviation grows with the level."""
    size = (estimates.sum(0).square() + SMOOTH**2).sqrt()
    variance = SMOOTH**2 + (0.2 * size).square()
    return (0.5 * (x - size).square() / variance + 0.5 * variance.log()).mean()


def powers(x: Tensor, estimates: Tensor) -> Tensor:
    """x^2 / v + log v with v = sum_i G_i^2: Itakura-Saito, complex Gaussian sources whose powers add."""
    v = positive(estimates).square().sum(0) + SMOOTH**2
    return ((x.square() + SMOOTH**2) / v + v.log()).mean()


def phases(x: Tensor, estimates: Tensor) -> Tensor:
    """(x^2 - v)^2 / (2 w) + log(w) / 2 with w = v^2 - sum_i G_i^4: the two moments of x^2 for phases at random."""
    power = positive(estimates).square()
    v = power.sum(0)
    w = v.square() - power.square().sum(0) + SMOOTH**2 * v + 1e-6
    return ((x.square() - v).square() / (2 * w) + 0.5 * w.log()).mean()


def positive(estimates: Tensor) -> Tensor:
    """max(G, 0) without the kink."""
    return 0.5 * (estimates + (estimates.square() + 1e-4).sqrt())


class Search:
    """Steps of Adam (no momentum) in the latents of priors of one shape; `estimates`: of the last evaluation."""

    def __init__(self, magnitude: Tensor, priors: Mapping[str, Prior], loss: Loss = kl):
        first = next(iter(priors.values()))
        self.names, self.shape, self.loss = tuple(priors), magnitude.shape, loss
        self.x = pad_features(magnitude, first.model.bins, first.model.squeeze)
        self.audible = (torch.arange(len(self.x)) < len(magnitude)).to(magnitude).unsqueeze(1)
        self.flows = StackedFlows([prior.glow for prior in priors.values()])
        self.z = self.flows.fold(torch.zeros(1, len(self.names), *self.x.shape))
        self.optimizer = torch.optim.Adam([self.z], betas=(0.0, 0.999))

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Evaluate the estimates, and take one step by their gradient."""
        self.evaluate()
        leaf = self.estimates.clone().requires_grad_()
        with torch.enable_grad():
            loss = self.loss(self.x * self.audible, leaf * self.audible) * (self.x.shape[-1] / LENGTH)
            (gradient,) = torch.autograd.grad(loss, leaf)
        self.z.grad = self.flows.vjp(self.flows.fold(gradient.unsqueeze(0)))
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """(sources, bins, frames): G_i(z_i)."""
        self.estimates = self.flows.unfold(self.flows.decode(self.z)[0])[0]
        return self.estimates

    def named(self, estimates: Tensor) -> Magnitudes:
        """Without padding, by source."""
        return dict(zip(self.names, estimates[:, : self.shape[0], : self.shape[1]], strict=True))


def descend(
    magnitude: Tensor,
    priors: Mapping[str, Prior],
    loss: Loss = kl,
    *,
    iterations: int = 48,
    lr: float = 0.03,
    decay: float = 0.98,
    start: Tensor | None = None,
    averaged: bool = False,
    noise: float = 0.0,
) -> Magnitudes:
    """G_i(z_i) after `iterations` - 1 steps, from `start` (1, sources, bins, frames).

    averaged: take the mean of the estimates over the second half of the steps. noise: of Langevin's kind; each of the
    first two thirds of the steps adds `noise` times the root of the step size times normal noise to the latents.
    """
    search, total = Search(magnitude, priors, loss), 0.0
    if start is not None:
        search.z.copy_(search.flows.fold(start))
    generator = torch.Generator().manual_seed(0)
    for step in range(iterations - 1):
        rate = lr * decay**step
        search.step(rate)
        if noise and step < 2 * iterations // 3:
            search.z += noise * rate**0.5 * torch.randn(search.z.shape, generator=generator)
        if averaged and step >= iterations // 2:
            total = total + search.estimates.clamp_min(0)
    return search.named(total if averaged else search.evaluate())


def restarts(magnitude: Tensor, priors: Mapping[str, Prior], *, count: int = 3, sigma: float = 0.3) -> Magnitudes:
    """The mean of `descend` from `count` starts z = sigma * noise."""
    first = next(iter(priors.values()))
    shape = (1, len(priors), *pad_features(magnitude, first.model.bins, first.model.squeeze).shape)
    estimates = []
    for seed in range(count):
        start = sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        estimates.append(descend(magnitude, priors, start=start))
    return {name: sum(one[name].clamp_min(0) for one in estimates) for name in priors}


def from_shares(magnitude: Tensor, priors: Mapping[str, Prior]) -> Magnitudes:
    """`descend` from the latents of each source's share of the mixture in a first search."""
    first = next(iter(priors.values()))
    masks = named_ratio_masks(descend(magnitude, priors))
    shares = {
        name: pad_features(mask * magnitude, first.model.bins, first.model.squeeze) for name, mask in masks.items()
    }
    with torch.no_grad():
        latents = [priors[name].glow(share.unsqueeze(0))[0] for name, share in shares.items()]
    return descend(magnitude, priors, start=torch.stack(latents, dim=1))


def refined_without_noise(mixture: Tensor, priors: Mapping[str, Prior]) -> Magnitudes:
    """`flowsep.refine` where priors judge the estimates as they are, which no training has shown them."""
    config = SeparationConfig.for_compressed_priors()
    flows = Flows(priors, config)
    assert flows.noisy is not None
    flows.noisy.noises = [0.0] * len(priors)
    estimates = search(flows.pad(mixture.unsqueeze(0)), flows, config)[0, :, : mixture.shape[0], : mixture.shape[1]]
    return dict(zip(priors, estimates, strict=True))
