"""Separation of magnitudes as optimisation in the priors' latent spaces (paper, section "Separation").

Taught in `notebooks/09_the_flow_shown.ipynb`; `flowsep.separate` brings audio to it and back.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .config import SeparationConfig
from .files import FlowsepError
from .glow import Glow
from .machine import choose_device
from .prior import Prior
from .spectrogram import pad_features
from .stacked import StackedFlows

LENGTH = 1000  # frames, 12 s: the scale of gradients where it shall not depend on the number of frames
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

    With `config.smooth` d, |s| is sqrt(s^2 + d^2), which has no kink at zero: chunks then agree with the whole song.
    R = sum_i 0.5 |z_i|^2 / N in space 'z', the sum of the mean negative log-likelihoods of G_i(z_i) in space 'x'.
    With `config.wiener` the estimates become max(G_i, 0)^p / sum_j max(G_j, 0)^p * |x| with p = `config.mask_power`, or
    G_i / |sum_j G_j| * |x| where `config.nonnegative` is off, as in the research code. As there, too, the estimates
    are those that the last loss was computed from, and the padded bin is masked out of the sum but counted in the mean.
    With `SeparationConfig.paper()` and priors of the research code this is the research code's search. In single
    precision rounding grows along the iterations, to some per cent after a dozen, and differs between processors,
    libraries and the engines: 'layers' keeps the research code's order of operations, the default, `flowsep.stacked`,
    is 1.5 times as fast. In double precision they agree to 1e-6.
    Nothing is cut into chunks here: `separate` does that.

    Args:
        magnitude: linear magnitude spectrogram of the mixture, audio in [-1, 1]; the entries of a batch do not see
            each other.
        priors: name -> prior; all of one number of bins.
        config: default `usual_config(priors)`.
        callback: called before each step with `iteration` (from 0), `iterations`, `loss` (0-d tensor, not yet
            synchronised with the host; the mean of a batch) and `estimates` {name: the shape of `magnitude`}; raise
            from it to cancel.
    Shape:
        (bins, frames) -> {name: (bins, frames)}, or (batch, bins, frames) -> {name: (batch, bins, frames)}.
    Raises:
        FlowsepError: no priors, priors of different feature, NaN, or a loss that diverged.
    """
    check_priors(priors)
    config = config or usual_config(priors)
    if magnitude.ndim not in (2, 3):
        raise FlowsepError(f"magnitude: expected (bins, frames) or a batch of them, found {tuple(magnitude.shape)}")
    if not torch.isfinite(magnitude).all():
        raise FlowsepError("magnitude: holds NaN or infinite values")
    device = choose_device(config.device)
    dtype = torch.float64 if config.precision == "64-true" else torch.float32
    first = next(iter(priors.values()))
    entries = magnitude if magnitude.ndim == 3 else magnitude.unsqueeze(0)
    squeeze = math.lcm(*(prior.model.squeeze for prior in priors.values()))
    search = _Search(pad_features(entries.to(device, dtype), first.model.bins, squeeze), priors, config)
    look, move = search.look, search.move
    if config.cuda_graph and device.type == "cuda":
        look, move = search.captured()
    for iteration in range(config.iterations):
        look()
        if callback is not None:
            # a graph writes its results over the last ones
            estimates = search.estimates.clone() if config.cuda_graph else search.estimates
            shown = _named(estimates, priors, magnitude.shape)
            state = {"iteration": iteration, "iterations": config.iterations, "loss": search.loss.clone()}
            callback(state | {"estimates": shown})
        if iteration < config.iterations - 1:  # the last step would move latents that nobody decodes any more
            search.set_rate(config.lr * config.lr_decay ** (iteration // config.lr_every))
            move()
    if not torch.isfinite(search.loss):
        raise FlowsepError(f"separation diverged (loss {search.loss.item()}) at learning rate {config.lr}; lower `lr`")
    found = _named(search.estimates, priors, magnitude.shape)
    if config.wiener:
        gains = ratio_masks(found, config.mask_power) if config.nonnegative else signed_ratios(found)
        if not config.nonnegative:
            magnitude = _cut(search.target, magnitude.shape)
        found = {name: gain * magnitude.to(gain) for name, gain in gains.items()}
    return {name: x.to(magnitude.device, magnitude.dtype) for name, x in found.items()}


class _Search:
    """The latents, what they decode to, and one step of the optimiser; `look` and `move` never wait for the device."""

    def __init__(self, target: Tensor, priors: Mapping[str, Prior], config: SeparationConfig):
        self.target, self.alpha, self.space, self.smooth = target, config.alpha, config.space, config.smooth
        self.scale = target.shape[-1] / LENGTH if config.smooth else 1.0  # of the gradient: Adam's floor is absolute
        audible = next(iter(priors.values())).feature.n_fft // 2 + 1
        self.audible = (torch.arange(target.shape[1], device=target.device) < audible).to(target.dtype).unsqueeze(1)
        self.flows = _Flows(priors, target.device, target.dtype, config)
        self.latents = self.flows.start(config, target)
        # rounded as autograd would
        self.weight = (torch.tensor(config.alpha, dtype=target.dtype) / target[0].numel()).item() * self.scale
        captured = config.cuda_graph and target.is_cuda
        self.optimizer = torch.optim.Adam(
            self.latents,
            lr=torch.tensor(config.lr, device=target.device) if captured else config.lr,
            betas=(config.momentum, 0.999),
            fused=config.engine == "stacked",
            capturable=captured,
        )

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate

    @torch.no_grad()
    def look(self) -> None:
        """Estimates and loss at the latents, and the gradient with respect to the sum of the estimates."""
        self.estimates, logdet = self.flows.decode(self.latents)
        # The research code adds its floor to the target anew at every iteration, in the padded bin as well.
        self.target += FLOOR
        total = self.estimates.sum(dim=1).requires_grad_()
        with torch.enable_grad():
            size = (total.square() + self.smooth**2).sqrt() if self.smooth else total.abs()
            loss = kl_divergence(self.target, self.audible * size)
            loss_of_all = loss * (len(total) * self.scale)  # each entry has a mean of its own
            (self.gradient,) = torch.autograd.grad(loss_of_all, total)
        self.loss = loss.detach()
        if self.alpha > 0:
            self.loss = self.loss + self.alpha * _regulariser(self.space, self.latents, logdet, self.target)

    @torch.no_grad()
    def move(self) -> None:
        """One step of the latents down the gradient that `look` left."""
        self.flows.pull_back(self.gradient, self.latents, self.weight, in_x=self.space == "x")
        self.optimizer.step()

    def captured(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """`look` and `move` as CUDA graphs, each of which launches all of its kernels at once; nothing has moved."""
        moved = [self.target, *self.latents]
        before = [tensor.clone() for tensor in moved]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # as often as torch asks for: libraries choose and allocate in the first calls
            for _ in range(3):
                self.look()
                self.move()
        torch.cuda.current_stream().wait_stream(aside)
        graphs = [torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()]
        for graph, part in zip(graphs, (self.look, self.move), strict=True):
            with torch.cuda.graph(graph):
                part()
        for tensor, value in zip(moved, before, strict=True):
            tensor.copy_(value)
        for moments in self.optimizer.state.values():
            for moment in moments.values():
                moment.zero_()
        return graphs[0].replay, graphs[1].replay


class _Flows:
    """All priors as one function of their latents: those of one shape in one stack, or each through autograd."""

    def __init__(self, priors: Mapping[str, Prior], device: torch.device, dtype: torch.dtype, config: SeparationConfig):
        self.names = list(priors)
        inner = torch.bfloat16 if config.precision == "bf16-mixed" else dtype
        shapes: dict[str, list[str]] = {}
        for name, prior in priors.items():
            shape = prior.model.model_dump_json(exclude={"order", "dropout"})
            shapes.setdefault(shape if config.engine == "stacked" else name, []).append(name)
        self.kinds = list(shapes.values())
        kind = StackedFlows if config.engine == "stacked" else _LayerByLayer
        more = {"recompute": config.recompute} if config.engine == "stacked" else {}
        self.engines = [
            kind([priors[name].glow for name in names], device=device, dtype=dtype, inner=inner, **more)
            for names in self.kinds
        ]

    def start(self, config: SeparationConfig, target: Tensor) -> list[Tensor]:
        """z_i = sigma * noise, the same for each entry of the batch, folded as each engine wants it."""
        generator = torch.Generator().manual_seed(config.seed)
        noise = {name: config.sigma * torch.randn(target.shape[1:], generator=generator) for name in self.names}
        each = [torch.stack([noise[name] for name in names]).to(target) for names in self.kinds]
        return [
            engine.fold(z.expand(len(target), *z.shape)).contiguous()
            for engine, z in zip(self.engines, each, strict=True)
        ]

    def decode(self, latents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(batch, sources, bins, frames) of all priors in their order, and the sum of their log-determinants."""
        found, logdet = {}, 0.0
        for names, engine, z in zip(self.kinds, self.engines, latents, strict=True):
            x, change = engine.decode(z)
            found |= dict(zip(names, engine.unfold(x).unbind(1), strict=True))
            logdet = logdet + change.sum()
        return torch.stack([found[name] for name in self.names], dim=1), logdet

    def pull_back(self, gradient: Tensor, latents: list[Tensor], weight: float, *, in_x: bool) -> None:
        """Leave dL/dz in each latent's `grad`, from dL/dx (batch, bins, frames), which all sources share."""
        for names, engine, z in zip(self.kinds, self.engines, latents, strict=True):
            shared = gradient.unsqueeze(1).expand(-1, len(names), -1, -1)
            z.grad = engine.pull_back(engine.fold(shared), weight if in_x else 0.0)
            if weight:
                z.grad.add_(z, alpha=weight)


class _LayerByLayer:
    """The same as `StackedFlows` by autograd, in the research code's order of operations."""

    def __init__(self, flows: list[Glow], *, device: torch.device, dtype: torch.dtype, inner: torch.dtype):
        self.flows = [copy.deepcopy(flow).to(device, dtype).eval().requires_grad_(False) for flow in flows]
        self.autocast = torch.autocast(device.type, inner, enabled=inner != dtype)

    def fold(self, x: Tensor) -> Tensor:
        return x

    def unfold(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.latents = [latent.clone().requires_grad_() for latent in z.unbind(1)]
        with self.autocast, torch.enable_grad():
            pairs = [flow.inverse(latent) for flow, latent in zip(self.flows, self.latents, strict=True)]
            self.decoded = [x.to(z.dtype) for x, _ in pairs]
            self.logdet = torch.stack([logdet for _, logdet in pairs])
        return torch.stack(self.decoded, dim=1).detach(), self.logdet.detach()

    def pull_back(self, gradient: Tensor, logdet_weight: float = 0.0) -> Tensor:
        outputs, gradients = [*self.decoded], [*gradient.unbind(1)]
        if logdet_weight:
            outputs, gradients = [*outputs, self.logdet], [*gradients, torch.full_like(self.logdet, logdet_weight)]
        return torch.stack(torch.autograd.grad(outputs, self.latents, gradients), dim=1)


def _regulariser(space: str, latents: list[Tensor], logdet: Tensor, target: Tensor) -> Tensor:
    """The mean over the batch of R."""
    total = sum(0.5 * z.square().sum() for z in latents) / target.numel()
    if space == "x":  # -log p(x) = 0.5 |z|^2 + log|det dx/dz| + const, at x = G(z)
        sources = sum(z.numel() for z in latents) // target.numel()
        total = total + logdet / target.numel() + sources * 0.5 * math.log(2 * math.pi)
    return total


def _named(estimates: Tensor, names: Iterable[str], shape: torch.Size) -> Magnitudes:
    """{name: estimate} without padding, of the shape of the mixture's magnitude."""
    return {name: _cut(estimates[:, i], shape) for i, name in enumerate(names)}


def _cut(padded: Tensor, shape: torch.Size) -> Tensor:
    """Without the padding of bins and frames, and of the mixture's own number of axes."""
    return padded[..., : shape[-2], : shape[-1]].reshape(shape)


def ratio_masks(magnitudes: Magnitudes, power: float = 1.0) -> Magnitudes:
    """M_i = max(G_i, 0)^p / sum_j max(G_j, 0)^p, each G floored at 1e-8: the masks sum to one also in silence."""
    stacked = torch.stack(list(magnitudes.values())).clamp_min(FLOOR)
    stacked = stacked if power == 1 else (stacked / stacked.amax(dim=0)).pow(power)  # of small numbers nothing is left
    return dict(zip(magnitudes, stacked / stacked.sum(dim=0), strict=True))


def signed_ratios(magnitudes: Magnitudes) -> Magnitudes:
    """G_i / (|sum_j G_j| + 1e-8), the research code's mask: hardly bounded where estimates of opposite sign cancel."""
    total = torch.stack(list(magnitudes.values())).sum(dim=0).abs() + FLOOR
    return {name: x / total for name, x in magnitudes.items()}


def usual_config(priors: Mapping[str, Prior], **changes: Any) -> SeparationConfig:
    """`SeparationConfig.smoothed` where all priors were trained with noise, else `SeparationConfig`, with `changes`."""
    make = SeparationConfig.smoothed if all(prior.noise for prior in priors.values()) else SeparationConfig
    return make(**changes)


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
