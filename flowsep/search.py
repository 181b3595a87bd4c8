"""Separation of magnitudes as optimisation in the priors' latent spaces (paper, section "Separation").

Read `search` first: it is the paper's algorithm. Around it stand the loss, the regulariser and the masks.
Taught in `notebooks/09_the_flow_shown.ipynb`; `flowsep.separator` brings audio to it and back.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .config import SeparationConfig
from .fast.layers import LayerByLayer
from .fast.stacked import StackedFlows
from .files import FlowsepError
from .machine import choose_device, choose_precision
from .prior import Prior
from .refine import NoisyFlows, refine
from .spectrogram import pad_features

LENGTH = 1000  # frames, 12 s: with a modulus floor, gradients are scaled as for a spectrogram of this length
FLOOR = 1e-8  # of magnitudes inside logarithms and ratios (paper)
DIM = 1e-3  # compressed magnitude; estimates below it still grow

Magnitudes = dict[str, Tensor]
Callback = Callable[[dict[str, Any]], None]


@torch.inference_mode(False)  # autograd needs tensors of its own, wherever the caller's were made
def search(target: Tensor, flows: "Flows", config: SeparationConfig, callback: Callback | None = None) -> Tensor:
    """argmin over z_i of KL(|x| ; |sum_i G_i(z_i)|) + alpha R(z), by Adam from z_i = sigma * noise; returns G_i(z_i).

    R = sum_i 0.5 |z_i|^2 / N in space 'z', the sum of the mean negative log-likelihoods of G_i(z_i) in space 'x'.
    The gradient of KL is autograd's, up to the sum of the estimates; `Flows.vjp` takes it through the flows and adds
    the gradient of alpha R. Returned are the estimates behind the last loss, as in the research code, or what `refine`
    makes of them. G_i(z_i) stands for linear magnitudes, also where the priors model compressed ones.

    Args:
        target: padded magnitudes of the mixture; the entries of a batch are independent.
        callback: see `separate_magnitude`; its estimates have the shape of the result.
    Shape:
        (batch, bins, frames) -> (batch, sources, bins, frames).
    """
    target, in_x = target.clone(), config.space == "x"
    scale = target.shape[-1] / LENGTH if config.modulus_floor else 1.0  # of the gradient: Adam's epsilon is absolute
    weight = (torch.tensor(config.alpha, dtype=target.dtype) / target[0].numel()).item() * scale
    z = flows.start(target, config.sigma, config.seed)
    optimizer = torch.optim.Adam(z, config.lr, betas=(config.momentum, 0.999), fused=config.engine == "stacked")
    for iteration in range(config.iterations):
        estimates, logdet = flows.decode(z)
        target += FLOOR  # the research code adds it anew at every iteration
        loss, gradient = misfit(target, estimates.sum(dim=1), flows.audible, config.modulus_floor)
        if config.alpha:
            loss = loss + config.alpha * regulariser(z, logdet if in_x else None, target)
        if callback is not None:
            steps = config.iterations + config.refine
            callback({"iteration": iteration, "iterations": steps, "loss": loss, "estimates": estimates})
        if iteration < config.iterations - 1:  # the latents of the last step would never be decoded
            flows.vjp(gradient * scale, z, weight, in_x=in_x)
            optimizer.param_groups[0]["lr"] = config.lr * config.lr_decay ** (iteration // config.lr_every)
            optimizer.step()
    if not torch.isfinite(loss):
        raise FlowsepError(f"separation diverged (loss {loss.item()}) at learning rate {config.lr}; lower `lr`")
    if flows.noisy is None:
        return estimates

    def report(step: int, nll: Tensor, refined: Tensor) -> None:  # where there is a callback
        shown = {"iteration": config.iterations + step, "iterations": config.iterations + config.refine}
        callback(shown | {"loss": nll, "estimates": refined})  # type: ignore[misc]

    return refine(target, estimates, flows.noisy, config, report if callback else None)


def misfit(target: Tensor, total: Tensor, audible: Tensor, modulus_floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """KL(|x| ; |s|) of the sum s of the estimates, the mean over a batch, and the gradient of each entry's own mean.

    |s| is sqrt(s^2 + d^2) with d = `modulus_floor`, which has no kink at zero. Bins that the mixture lacks are masked
    out of s by `audible`, but counted in the mean, as in the research code.
    Shape: (batch, bins, frames) -> scalar, (batch, bins, frames).
    """
    with torch.enable_grad():
        total = total.detach().requires_grad_()
        modulus = (total.square() + modulus_floor**2).sqrt() if modulus_floor else total.abs()
        loss = kl_divergence(target, audible * modulus)
        (gradient,) = torch.autograd.grad(loss * len(total), total)
    return loss.detach(), gradient


def kl_divergence(target: Tensor, estimate: Tensor) -> Tensor:
    """KL(a; b) = mean(a log(a / (b + e) + e) - a + b) with e = 1e-8, as the research code has it. Shape: any -> scalar.

    Neither may be negative. It is zero, up to terms of the size of e, only if a = b.
    """
    return (target * (target / (estimate + FLOOR) + FLOOR).log() - target + estimate).mean()


def regulariser(z: list[Tensor], logdet: Tensor | None, target: Tensor) -> Tensor:
    """R = sum_i 0.5 |z_i|^2 / N, or with the sum of log|det dx/dz| the negative log-likelihood of G_i(z_i) / N.

    -log p(x) = 0.5 |z|^2 + log|det dx/dz| + const at x = G(z). The mean over a batch. Its gradient
    is not taken here but written out in `Flows.vjp`: whoever changes R changes both.
    """
    total = sum(0.5 * latent.square().sum() for latent in z) / target.numel()  # type: Any
    if logdet is not None:
        sources = sum(latent.numel() for latent in z) // target.numel()
        total = total + logdet / target.numel() + sources * 0.5 * math.log(2 * math.pi)
    return total


def separate_magnitude(
    magnitude: Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig | None = None,
    callback: Callback | None = None,
) -> Magnitudes:
    """`search` for the magnitudes of the sources, G_i(z_i) or with `config.wiener` M_i |x|: see `masks`.

    With `SeparationConfig.paper()` and priors of the research code this is the research code's search. In single
    precision rounding grows along the iterations, to a few per cent after a dozen, and differs between processors,
    libraries and the engines: 'layers' keeps the research code's order of operations, the default,
    `flowsep.fast.stacked`, is faster. In double precision they agree to 1e-6. Nothing is cut into chunks here:
    `Separator` does that.

    Args:
        magnitude: linear magnitude spectrogram of the mixture, audio in [-1, 1]; the entries of a batch are
            independent.
        priors: name -> prior; all with the same number of bins.
        config: default `config_for(priors)`.
        callback: called before each step with `iteration` (from 0), `iterations`, `loss` (0-d tensor, not yet
            synchronised with the host; the mean of a batch; in `refine` the mean of -log p) and `estimates` {name: the
            shape of `magnitude`}; raise from it to cancel.
    Shape:
        (bins, frames) -> {name: (bins, frames)}, or (batch, bins, frames) -> {name: (batch, bins, frames)}.
    Raises:
        FlowsepError: no priors, priors with different features, NaN, or a loss that diverged.
    """
    config = config or config_for(priors)
    flows = Flows(priors, config)
    if magnitude.ndim not in (2, 3):
        raise FlowsepError(f"magnitude: expected (bins, frames) or a batch of them, found {tuple(magnitude.shape)}")
    if not torch.isfinite(magnitude).all():
        raise FlowsepError("magnitude: holds NaN or infinite values")
    mixture = magnitude.detach().to(flows.device, flows.dtype).reshape(-1, *magnitude.shape[-2:])

    def named(estimates: Tensor) -> Magnitudes:
        cut = estimates[..., : magnitude.shape[-2], : magnitude.shape[-1]]
        return {name: x.reshape(magnitude.shape) for name, x in zip(priors, cut.unbind(1), strict=True)}

    def watch(state: dict[str, Any]) -> None:
        callback(state | {"estimates": named(state["estimates"])})  # type: ignore[misc]  # called where there is one

    estimates = search(flows.pad(mixture), flows, config, watch if callback else None)
    if config.wiener:
        if not config.nonnegative:
            mixture = mixture + config.iterations * FLOOR  # which the research code has added by then
        estimates = estimates[..., : mixture.shape[-2], : mixture.shape[-1]]
        estimates = masks(estimates, mixture, config) * mixture.unsqueeze(1)
    return {name: x.to(magnitude.device, magnitude.dtype) for name, x in named(estimates).items()}


def masks(estimates: Tensor, mixture: Tensor, config: SeparationConfig) -> Tensor:
    """Masks such that M_i |x| estimates source i: `ratio_masks`, `signed_ratios`, or G_i / |x| without `config.wiener`.

    Shape: (batch, sources, bins, frames), (batch, bins, frames) -> (batch, sources, bins, frames).
    """
    if not config.wiener:
        return estimates / mixture.unsqueeze(1).clamp_min(FLOOR)
    return ratio_masks(estimates, config.mask_power) if config.nonnegative else signed_ratios(estimates)


def ratio_masks(estimates: Tensor, power: float = 1.0) -> Tensor:
    """M_i = max(G_i, 0)^p / sum_j max(G_j, 0)^p, each G floored at 1e-8: the masks sum to one also in silence.

    Shape: (..., sources, bins, frames) -> the same.
    """
    floored = estimates.clamp_min(FLOOR)
    if power != 1:
        floored = (floored / floored.amax(dim=-3, keepdim=True)).pow(power)  # or powers of small numbers underflow
    return floored / floored.sum(dim=-3, keepdim=True)


def named_ratio_masks(magnitudes: Magnitudes, power: float = 1.0) -> Magnitudes:
    """`ratio_masks` of {name: (bins, frames)}."""
    return dict(zip(magnitudes, ratio_masks(torch.stack([*magnitudes.values()]), power), strict=True))


def signed_ratios(estimates: Tensor) -> Tensor:
    """G_i / (|sum_j G_j| + 1e-8), the research code's mask: hardly bounded where estimates of opposite sign cancel."""
    return estimates / (estimates.sum(dim=-3, keepdim=True).abs() + FLOOR)


class Flows:
    """x_i = G_i(z_i) of all priors as one function. Priors of one shape share a stack; engine 'layers' has none.

    The weights are copied and prepared once. Latents are a list of folded tensors, one per stack.
    """

    @torch.inference_mode(False)
    def __init__(self, priors: Mapping[str, Prior], config: SeparationConfig):
        check_priors(priors)
        first = next(iter(priors.values()))
        self.names, self.bins, self.feature = list(priors), first.model.bins, first.feature
        self.squeeze = math.lcm(*(prior.model.squeeze for prior in priors.values()))
        self.device = choose_device(config.device)
        choose_precision(config.precision, self.device)
        self.dtype = torch.float64 if config.precision == "64-true" else torch.float32
        inner = torch.bfloat16 if config.precision == "bf16-mixed" else self.dtype
        # the padded bin counts in the mean, but the estimates there are ignored
        self.audible = torch.arange(self.bins, device=self.device).unsqueeze(1) < first.feature.n_fft // 2 + 1
        self.audible = self.audible.to(self.dtype)
        shapes: dict[str, list[str]] = {}
        for name, prior in priors.items():
            shape = prior.model.model_dump_json(exclude={"dropout"})
            shapes.setdefault(shape if config.engine == "stacked" else name, []).append(name)
        self.stacks = list(shapes.values())
        kind = StackedFlows if config.engine == "stacked" else LayerByLayer  # type: Any
        settings = {"device": self.device, "dtype": self.dtype, "inner": inner, "recompute": config.recompute}
        self.engines = [kind([priors[name].glow for name in names], **settings) for names in self.stacks]
        self.noisy = NoisyFlows(priors, self.device, self.dtype) if config.refine else None

    def pad(self, magnitude: Tensor) -> Tensor:
        """With the bins and the number of frames that the flows take."""
        return pad_features(magnitude, self.bins, self.squeeze)

    def start(self, target: Tensor, sigma: float, seed: int) -> list[Tensor]:
        """z_i = sigma * noise, the same for each entry of the batch."""
        generator = torch.Generator().manual_seed(seed)
        noise = {name: sigma * torch.randn(target.shape[1:], generator=generator) for name in self.names}
        stacked = [torch.stack([noise[name] for name in names]).to(target) for names in self.stacks]
        return [
            engine.fold(z.expand(len(target), *z.shape)).contiguous()
            for engine, z in zip(self.engines, stacked, strict=True)
        ]

    @torch.no_grad()
    def decode(self, z: list[Tensor]) -> tuple[Tensor, Tensor]:
        """G_i(z_i), (batch, sources, bins, frames) in the order of the priors, and the sum of the log-determinants.

        Of priors that model |x|^c it is max(x_i, 0)^(1 / c), which `vjp` knows.
        """
        decoded, total = {}, 0.0  # type: dict[str, Tensor], Any
        for names, engine, latent in zip(self.stacks, self.engines, z, strict=True):
            x, logdet = engine.decode(latent)
            decoded |= dict(zip(names, engine.unfold(x).unbind(1), strict=True))
            total = total + logdet.sum()
        x = torch.stack([decoded[name] for name in self.names], dim=1)
        if (c := self.feature.exponent) == 1:
            return x, total
        self._compressed = x
        return x.clamp_min(0).pow(1 / c), total

    @torch.no_grad()
    def vjp(self, gradient: Tensor, z: list[Tensor], weight: float, *, in_x: bool) -> None:
        """Leave dL/dz in `grad` of each latent, from dL/dx (batch, bins, frames), which all sources share.

        `weight` is the regulariser's, whose gradient is z, and in space 'x' also the log-determinant's.
        """
        c = self.feature.exponent
        for names, engine, latent in zip(self.stacks, self.engines, z, strict=True):
            own = gradient.unsqueeze(1).expand(-1, len(names), -1, -1)
            if c != 1:  # below `DIM` the root is taken to be as steep as there
                x = torch.stack([self._compressed[:, self.names.index(name)] for name in names], dim=1)
                own = own * (x.clamp_min(DIM).pow(1 / c - 1) / c)
            latent.grad = engine.vjp(engine.fold(own), weight if in_x else 0.0)
            if weight:
                latent.grad.add_(latent, alpha=weight)


def config_for(priors: Mapping[str, Prior], **changes: Any) -> SeparationConfig:
    """The settings that were chosen for priors trained like these: with noise, of compressed magnitudes, or neither."""
    if not all(prior.noise for prior in priors.values()):
        return SeparationConfig(**changes)
    if all(prior.feature.exponent < 1 for prior in priors.values()):
        return SeparationConfig.for_compressed_priors(**changes)
    return SeparationConfig.for_noisy_priors(**changes)


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
