"""Separation of magnitudes as optimisation in the priors' latent spaces (paper, section "Separation").

Taught in `notebooks/09_the_flow_shown.ipynb`; `flowsep.separate` brings audio to it and back.
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .config import SeparationConfig
from .files import FlowsepError
from .machine import choose_device
from .prior import Prior
from .spectrogram import pad_features

FLOOR = 1e-8  # of magnitudes inside logarithms and ratios (paper)

Magnitudes = dict[str, Tensor]
Callback = Callable[[dict[str, Any]], None]


def kl_divergence(target: Tensor, estimate: Tensor) -> Tensor:
    """KL(a; b) = mean(a log(a / (b + e) + e) - a + b) with e = 1e-8, as the research code has it. Shape: any -> scalar.

    Neither may be negative; it is zero, but for terms of the size of e, only where they agree.
    """
    return (target * (target / (estimate + FLOOR) + FLOOR).log() - target + estimate).mean()


def separate_magnitude(
    magnitude: Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig | None = None,
    callback: Callback | None = None,
) -> Magnitudes:
    """argmin over z_i of KL(|x| ; |sum_i G_i(z_i)|) + alpha R(z), by Adam from z_i = sigma * noise; returns G_i(z_i).

    R = sum_i 0.5 |z_i|^2 / N in space 'z', the sum of the mean negative log-likelihoods of G_i(z_i) in space 'x'.
    With `config.wiener` the estimates become max(G_i, 0) / sum_j max(G_j, 0) * |x|, or G_i / |sum_j G_j| * |x| where
    `config.nonnegative` is off, as in the research code. As there, too, the estimates are those that the last loss was
    computed from, and the padded bin is masked out of the sum but counted in the mean: with `SeparationConfig.paper()`
    and priors of the research code the result is the research code's own, from the same magnitude and on the same
    processor to the last bit (another rounding of either drifts by some per cent).
    Nothing is cut into chunks here: `separate` does that.

    Args:
        magnitude: linear magnitude spectrogram of the mixture, audio in [-1, 1].
        priors: name -> prior; all of one number of bins.
        config: default `SeparationConfig()`.
        callback: called before each step with `iteration` (from 0), `iterations`, `loss` (0-d tensor, not yet
            synchronised with the host) and `estimates` {name: (bins, frames)}; raise from it to cancel.
    Shape:
        (bins, frames) -> {name: (bins, frames)}.
    Raises:
        FlowsepError: no priors, priors of different feature, NaN, or a loss that diverged.
    """
    config = config or SeparationConfig()
    check_priors(priors)
    if magnitude.ndim != 2:
        raise FlowsepError(f"magnitude: expected (bins, frames), found shape {tuple(magnitude.shape)}")
    if not torch.isfinite(magnitude).all():
        raise FlowsepError("magnitude: holds NaN or infinite values")
    device, dtype = choose_device(config.device), _dtype(config)
    flows = {name: _placed(prior, device, dtype) for name, prior in priors.items()}
    bins, frames = magnitude.shape
    first = next(iter(flows.values()))
    target = pad_features(magnitude.to(device, dtype), first.model.bins, _common_squeeze(priors))
    audible = (torch.arange(first.model.bins, device=device) <= first.feature.n_fft // 2).to(dtype).unsqueeze(1)

    shape = (1, *target.shape)
    generator = torch.Generator().manual_seed(config.seed)
    latents = {
        name: (config.sigma * torch.randn(shape, generator=generator)).to(device, dtype).requires_grad_()
        for name in flows
    }
    optimizer = torch.optim.Adam(latents.values(), lr=config.lr)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16-mixed")
    for iteration in range(config.iterations):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * config.lr_decay ** (iteration // config.lr_every)
        with autocast:
            decoded = {name: flows[name].decode(z) for name, z in latents.items()}
        estimates = {name: x[0].to(dtype) for name, (x, _) in decoded.items()}
        total = torch.stack(list(estimates.values())).sum(dim=0).abs()
        # The research code adds its floor to the target anew at every iteration, in the padded bin as well.
        target = target + FLOOR
        loss = kl_divergence(target, audible * total)
        if config.alpha > 0:
            loss = loss + config.alpha * _regulariser(config.space, latents, decoded)
        if callback is not None:
            shown = {name: x.detach()[:bins, :frames] for name, x in estimates.items()}
            callback(
                {"iteration": iteration, "iterations": config.iterations, "loss": loss.detach(), "estimates": shown}
            )
        if iteration < config.iterations - 1:  # the last step would move latents that nobody decodes any more
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if not torch.isfinite(loss):
        raise FlowsepError(f"separation diverged (loss {loss.item()}) at learning rate {config.lr}; lower `lr`")
    found = {name: x.detach()[:bins, :frames] for name, x in estimates.items()}
    if config.wiener:
        gains = ratio_masks(found) if config.nonnegative else signed_ratios(found)
        mixture = magnitude.to(device, dtype) if config.nonnegative else target[:bins, :frames]
        found = {name: gain * mixture for name, gain in gains.items()}
    return {name: x.to(magnitude.device, magnitude.dtype) for name, x in found.items()}


def ratio_masks(magnitudes: Magnitudes) -> Magnitudes:
    """M_i = max(G_i, 0) / sum_j max(G_j, 0), each floored at 1e-8, so that the masks sum to one also in silence."""
    stacked = torch.stack(list(magnitudes.values())).clamp_min(FLOOR)
    return dict(zip(magnitudes, stacked / stacked.sum(dim=0), strict=True))


def signed_ratios(magnitudes: Magnitudes) -> Magnitudes:
    """G_i / (|sum_j G_j| + 1e-8), the research code's mask: hardly bounded where estimates of opposite sign cancel."""
    total = torch.stack(list(magnitudes.values())).sum(dim=0).abs() + FLOOR
    return {name: x / total for name, x in magnitudes.items()}


def check_priors(priors: Mapping[str, Prior]) -> None:
    """FlowsepError unless there are priors, and all of one feature."""
    if not priors:
        raise FlowsepError("priors: at least one is needed, found none")
    kinds = {name: (prior.feature, prior.model.bins) for name, prior in priors.items()}
    (first, kind), *others = kinds.items()
    for name, other in others:
        if other != kind:
            raise FlowsepError(
                f"priors: '{name}' models {other}, but '{first}' models {kind}; use priors of one feature"
            )


def _common_squeeze(priors: Mapping[str, Prior]) -> int:
    return math.lcm(*(prior.model.squeeze for prior in priors.values()))


def _dtype(config: SeparationConfig) -> torch.dtype:
    return torch.float64 if config.precision == "64-true" else torch.float32


def _placed(prior: Prior, device: torch.device, dtype: torch.dtype) -> Prior:
    """A frozen copy of the prior: gradients flow to the latents only, and the caller's module stays as it was."""
    return copy.deepcopy(prior).to(device, dtype).eval().requires_grad_(False)


def _regulariser(space: str, latents: Magnitudes, decoded: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.stack([0.5 * z.square().mean() for z in latents.values()]).sum()
    if space == "x":  # -log p(x) = 0.5 |z|^2 + log|det dx/dz| + const, at x = G(z)
        elements = next(iter(latents.values())).numel()
        total = total + torch.stack([logdet.sum() for _, logdet in decoded.values()]).sum() / elements
        total = total + len(latents) * 0.5 * math.log(2 * math.pi)
    return total
