"""log p(x) of a flow, with its gradient written out by hand: what a training step computes.

`glow` teaches what the flow is. Here is the same function, as fast as matrix products go and, where asked for, in
memory that does not grow with its depth:

- All frames of a batch lie in one line. A tensor is (channels, batch * frames), so that a convolution is one matrix
  product, and the halves and groups of the channels are blocks of memory, which nobody copies.
- The same weights of all steps are one tensor (steps, ...), so that weight norm, clipping and Adam see few of them.
- ActNorm and the mixing of the groups are y_j = W (b_j + s_j x_j), where j counts the channels within a group. The
  gradients of W, b and s follow from the small matrices G_j = sum_n dy_j x_j^T and the sums D_j = sum_n dy_j alone.
- The coupling z1 = m + exp(logs) y1 takes the place of y1 in memory. Its gradients need no more of it than
  u = exp(logs) y1: dm = dz1, dlogs = u dz1 + (that of the log-determinant), dy1 = exp(logs) dz1.
- Each step is a bijection. If `reversible`, only the last z is kept: on the way back the coupling net is evaluated
  again, on the half that it left alone, and undoes the coupling, until x is found. Four units of work instead of three
  (Gomez, Ren, Urtasun, Grosse 2017).

A gradient of the result with respect to y is written dy; n counts frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ..glow import Glow, grouped_order


class _Weights(NamedTuple):
    """Of all steps, with the steps first, or of one step; channels in grouped order, biases as columns."""

    logs: Tensor  # of ActNorm
    bias: Tensor
    mixing: Tensor  # W
    start: Tensor  # of the coupling net, from here on: (hidden, inputs)
    start_bias: Tensor
    gates: Tensor  # of all layers, one below the other: 2 * hidden rows each; columns: input, then tap
    gate_biases: Tensor
    res_skips: Tensor  # likewise; the last layer has but the skip's, `hidden` rows
    res_skip_biases: Tensor
    end: Tensor  # shift, then log-scale
    end_bias: Tensor


NORMALISED = ("start", "gates", "res_skips")


class Likelihood(nn.Module):
    """log p(x) = log N(f(x); 0, I) + log|det df/dx| in nats, f the function of a `Glow`, with weights of its own.

    They begin as the flow's. All convolutions but the last ones of the couplings have weight norm, w = g v / |v| for
    each output channel (Salimans and Kingma 2016). `put_back` makes the flow compute what has been learnt. Under
    autocast the coupling nets compute in its lower precision, and all that must be inverted in that of x.

    Args:
        glow: the flow, with plain weights.
        reversible: keep no activations, but recompute them from z on the way back.
    Shape:
        (batch, bins, frames) -> (batch,); frames a multiple of the squeeze.
    """

    def __init__(self, glow: Glow, *, reversible: bool = False):
        super().__init__()
        self.reversible, self.squeeze = reversible, glow.squeeze
        _, mixing, coupling = glow.layers[:3]
        self.plain, self.sigmoid_scale, self.dropout = mixing.plain, coupling.sigmoid_scale, coupling.net.dropout.p
        self.kernel, self.dilations = coupling.net.gates[0].kernel_size[0], [g.dilation[0] for g in coupling.net.gates]
        order = grouped_order(glow.bins * glow.squeeze, len(mixing.weight))
        self.register_buffer("order", order, persistent=False)
        for name in _Weights._fields:
            steps = [torch.cat([p.detach().reshape(len(p), -1) for p in step]) for step in _parameters(glow, name)]
            weight = self._ordered(name, torch.stack(steps))
            self.register_parameter(name, nn.Parameter(weight))
            if name in NORMALISED:
                self.register_parameter(f"{name}_norm", nn.Parameter(weight.norm(dim=2, keepdim=True)))

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dropout = self.dropout if self.training else 0.0
        plan = _Plan(
            batch=len(x),
            kernel=self.kernel,
            dilations=tuple(self.dilations),
            sigmoid_scale=self.sigmoid_scale,
            dropout=dropout,
            seed=int(torch.randint(2**62, ())) if dropout else 0,  # drawn by the processor: nobody waits for a device
            precision=torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype,
            reversible=self.reversible,
        )
        with torch.autocast(kind, enabled=False):
            line = x.unflatten(2, (-1, self.squeeze)).permute(3, 1, 0, 2).flatten(0, 1).flatten(1)[self.order]
            frames = line.shape[1] // len(x)
            weights = self._folded()
            volume = self.logs.sum() * frames
            mixed = torch.linalg.slogdet(self.mixing.double())[1].sum().to(x.dtype)
            volume = volume + mixed * (len(line) // self.mixing.shape[1] * frames)
            return _LogLikelihood.apply(line, plan, *weights) + volume

    @torch.no_grad()
    def put_back(self, glow: Glow) -> None:
        """Copy the weights into `glow`, a flow of the sizes that this was made with."""
        for name, weight in self._folded()._asdict().items():
            for step, parameters in zip(self._ordered(name, weight, back=True), _parameters(glow, name), strict=True):
                rows = step.split([len(parameter) for parameter in parameters])
                for parameter, its in zip(parameters, rows, strict=True):
                    parameter.copy_(its.view_as(parameter))

    def _ordered(self, name: str, weight: Tensor, *, back: bool = False) -> Tensor:
        """Bring (steps, rows, columns) of a flow in plain order into grouped order, or `back`."""
        if not self.plain or name not in ("logs", "bias", "start", "end", "end_bias"):
            return weight
        half = self.order[: len(self.order) // 2]
        order = {"start": half, "end": torch.cat([half, half + len(half)])}.get(name.split("_")[0], self.order)
        return weight.index_select(2 if name == "start" else 1, order.argsort() if back else order)

    def _folded(self) -> _Weights:
        """The weights themselves: g v / |v| where they are normalised."""
        folded = {name: getattr(self, name) for name in _Weights._fields}
        for name in NORMALISED:
            direction, norm = folded[name], getattr(self, f"{name}_norm")
            folded[name] = torch._weight_norm(direction.flatten(0, 1), norm.flatten(0, 1), 0).view_as(direction)
        return _Weights(**folded)


def _parameters(glow: Glow, name: str) -> list[list[nn.Parameter]]:
    """Those of each step that make up the weight `name`, one below the other."""
    found = []
    for norm, mixing, coupling in zip(*(glow.layers[part::3] for part in range(3)), strict=True):
        net = coupling.net
        parameters = {
            "logs": [norm.logs],
            "bias": [norm.bias],
            "mixing": [mixing.weight],
            "start": [net.start.weight],
            "start_bias": [net.start.bias],
            "gates": [gate.weight for gate in net.gates],
            "gate_biases": [gate.bias for gate in net.gates],
            "res_skips": [res_skip.weight for res_skip in net.res_skips],
            "res_skip_biases": [res_skip.bias for res_skip in net.res_skips],
            "end": [net.end.weight],
            "end_bias": [net.end.bias],
        }
        found.append(parameters[name])
    return found


@dataclass(frozen=True)
class _Plan:
    """What the computation depends on beside the weights."""

    batch: int
    kernel: int
    dilations: tuple[int, ...]  # of each layer
    sigmoid_scale: bool
    dropout: float
    seed: int  # of dropout
    precision: torch.dtype  # of the coupling nets
    reversible: bool


class _LogLikelihood(torch.autograd.Function):
    """log N(z; 0, I) + the log-determinants of the couplings, (batch,), of a line x and the weights of all steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: _Plan, *weights: Tensor) -> Tensor:
        lines, activations = [x], []
        logdet = x.new_zeros(plan.batch)
        for number, step in enumerate(_steps(plan, weights)):
            z = _mix(step, lines[-1])
            kept, change = _couple(plan, step, number, z)
            logdet += change
            if plan.reversible:
                lines = [z]
            else:
                lines.append(z)
                activations += kept
        ctx.plan, ctx.lines = plan, len(lines)
        ctx.save_for_backward(*weights, *lines, *activations)
        return logdet - 0.5 * (_by_entry(plan, z.square()) + z.numel() // plan.batch * math.log(2 * math.pi))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        plan, saved, own = ctx.plan, list(ctx.saved_tensors), len(_Weights._fields)
        weights, lines, activations = saved[:own], saved[own : own + ctx.lines], saved[own + ctx.lines :]
        z = lines.pop()
        if plan.reversible:
            z = z.clone()  # to be turned into what it came from where it lies
        dlogdet = gradient.repeat_interleave(z.shape[1] // plan.batch)  # of each frame
        dz = z * -dlogdet
        steps = _steps(plan, weights)
        dweights = [torch.empty_like(its, dtype=one.dtype) for its, one in zip(weights, steps[0], strict=True)]
        each = len(activations) // len(steps)
        for number, step in reversed(list(enumerate(steps))):
            dstep = _Weights(*(its[number] for its in dweights))
            if plan.reversible:
                kept = _uncouple(plan, step, number, z)
                x = _unmix(step, z)
            else:
                kept, x = activations[number * each :], lines.pop()
                del activations[number * each :]
            _couple_backward(plan, step, number, z, kept, dz, dlogdet, dstep)
            dz = _mix_backward(step, x, dz, dstep, wanted=number > 0 or ctx.needs_input_grad[0])
            z = x
        return dz, None, *(its.to(weight.dtype) for its, weight in zip(dweights, weights, strict=True))


def _steps(plan: _Plan, weights: Sequence[Tensor]) -> list[_Weights]:
    """One by one, those of the coupling nets in their precision."""
    weights = [its if k < 3 else its.to(plan.precision) for k, its in enumerate(weights)]
    return [_Weights(*step) for step in zip(*(its.unbind() for its in weights), strict=True)]


def _mix(step: _Weights, x: Tensor) -> Tensor:
    y = (x * torch.exp(step.logs)).add_(step.bias)
    return torch.mm(step.mixing, y.view(len(step.mixing), -1)).view_as(x)


def _unmix(step: _Weights, y: Tensor) -> Tensor:
    x = torch.mm(torch.linalg.inv(step.mixing), y.view(len(step.mixing), -1)).view_as(y)
    return x.sub_(step.bias).mul_(torch.exp(-step.logs))


def _mix_backward(step: _Weights, x: Tensor, dy: Tensor, dstep: _Weights, *, wanted: bool) -> Tensor | None:
    """Set the gradients of ActNorm and of the mixing; returns dx where it is `wanted`."""
    groups, scale = len(step.mixing), torch.exp(step.logs)
    s, b = (its.view(groups, -1).T for its in (scale, step.bias))  # row j: of channel j of all groups
    by_channel = dy.view(groups, -1, dy.shape[1]).transpose(0, 1)
    products = torch.bmm(by_channel, x.view(groups, -1, x.shape[1]).permute(1, 2, 0))
    sums = dy.sum(dim=1).view(groups, -1).T
    torch.add((products * s.unsqueeze(1)).sum(dim=0), sums.T @ b, out=dstep.mixing)
    dstep.logs.view(groups, -1).copy_(((products * step.mixing).sum(dim=1) * s).T)
    dstep.bias.view(groups, -1).copy_((sums @ step.mixing).T)
    if wanted:
        return torch.mm(step.mixing.T, dy.view(groups, -1)).view_as(dy).mul_(scale)
    return None


def _couple(plan: _Plan, step: _Weights, number: int, y: Tensor) -> tuple[list[Tensor], Tensor]:
    """Turn y into z where it lies; returns what the way back needs, and the log-determinants."""
    y0, y1 = y.chunk(2)
    shift, scale, logdet, kept = _shift_and_scale(plan, step, number, y0)
    scaled = y1 * scale
    torch.add(scaled, shift, out=y1)
    return [scale, scaled, *kept], logdet


def _uncouple(plan: _Plan, step: _Weights, number: int, z: Tensor) -> list[Tensor]:
    """Turn z into y where it lies; returns what `_couple` did."""
    z0, z1 = z.chunk(2)
    shift, scale, _, kept = _shift_and_scale(plan, step, number, z0)
    scaled = z1 - shift
    torch.div(scaled, scale, out=z1)
    return [scale, scaled, *kept]


def _couple_backward(
    plan: _Plan,
    step: _Weights,
    number: int,
    z: Tensor,
    kept: list[Tensor],
    dz: Tensor,
    dlogdet: Tensor,
    dstep: _Weights,
) -> None:
    """Turn dz into dy where it lies, and set the gradients of the coupling net; of z only the first half is read."""
    scale, scaled, *kept = kept
    dz0, dz1 = dz.chunk(2)
    dlogs = (scaled * dz1).add_(dlogdet)
    if plan.sigmoid_scale:  # scale = 1e-6 + p, p = sigmoid(o): do = p (1 - p) / scale dlogs
        p = scale - 1e-6
        dlogs.mul_(p * (1 - p) / scale)
    dz0 += _net_backward(plan, step, number, z[: len(z) // 2], kept, dz1, dlogs, dstep)
    dz1 *= scale


def _shift_and_scale(
    plan: _Plan, step: _Weights, number: int, x: Tensor
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """m, exp(logs) and sum(logs), which the coupling net makes of the half x, and what `_net_backward` needs."""
    hidden = len(step.start)
    h = torch.addmm(step.start_bias, step.start, x.to(plan.precision))
    kept: list[Tensor] = []
    total = 0.0
    for layer, dilation in enumerate(plan.dilations):
        two = slice(2 * hidden * layer, 2 * hidden * (layer + 1))  # rows of this layer, half of them in the last one
        taps = _taps(plan, h, dilation)
        gates = torch.addmm(step.gate_biases[two], step.gates[two], taps)
        if plan.dropout:
            gates *= _mask(plan, number, layer, gates)
        gated = _activate(gates)
        out = torch.addmm(step.res_skip_biases[two], step.res_skips[two], gated)
        if layer < len(plan.dilations) - 1:
            h = h + out[:hidden]
        total = total + out[-hidden:]
        kept += [taps, gates]
    shift, scale = (
        torch.mm(half, total).add_(bias).to(x.dtype)
        for half, bias in zip(step.end.chunk(2), step.end_bias.chunk(2), strict=True)
    )
    if plan.sigmoid_scale:
        scale.add_(2).sigmoid_().add_(1e-6)
        return shift, scale, _by_entry(plan, torch.log(scale)), [*kept, total]
    logdet = _by_entry(plan, scale)
    return shift, scale.exp_(), logdet, [*kept, total]


def _activate(gates: Tensor) -> Tensor:
    """Turn the two halves into a = tanh and b = sigmoid where they lie; returns a b."""
    a, b = gates.chunk(2)
    if gates.device.type == "cpu" and gates.itemsize > 2:  # tanh(u) = 2 sigmoid(2 u) - 1 is three times as fast there
        a *= 2
        gates.sigmoid_()
        a.mul_(2).sub_(1)
    else:
        a.tanh_()
        b.sigmoid_()
    return a * b


def _by_entry(plan: _Plan, line: Tensor) -> Tensor:
    """Sums over the channels and frames of each batch entry."""
    return line.view(len(line), plan.batch, -1).sum(dim=(0, 2))


def _net_backward(
    plan: _Plan,
    step: _Weights,
    number: int,
    x: Tensor,
    kept: list[Tensor],
    dshift: Tensor,
    dlogs: Tensor,
    dstep: _Weights,
) -> Tensor:
    """Set the gradients of the coupling net; returns dx."""
    *kept, total = kept
    hidden, last = len(step.start), len(plan.dilations) - 1
    both = total.new_zeros(2 * hidden, total.shape[1])  # gradients of h, then of the sum of the skips
    dh, dtotal = both.chunk(2)
    for part, its in enumerate((dshift.to(plan.precision), dlogs.to(plan.precision))):
        torch.mm(its, total.T, out=dstep.end.chunk(2)[part])
        torch.sum(its, dim=1, keepdim=True, out=dstep.end_bias.chunk(2)[part])
        dtotal.addmm_(step.end.chunk(2)[part].T, its)
    for layer in reversed(range(last + 1)):
        two = slice(2 * hidden * layer, 2 * hidden * (layer + 1))
        taps, gates = kept[2 * layer : 2 * layer + 2]
        a, b = gates.chunk(2)
        gated = a * b
        dout = both if layer < last else dtotal
        torch.mm(dout, gated.T, out=dstep.res_skips[two])
        torch.sum(dout, dim=1, keepdim=True, out=dstep.res_skip_biases[two])
        dgated = torch.mm(step.res_skips[two].T, dout)
        dgates = torch.empty_like(gates)  # b (1 - a^2) and a b (1 - b), times dgated
        for its, of, factor in zip(dgates.chunk(2), (b, gated), (a, b), strict=True):
            torch.addcmul(of, gated, factor, value=-1, out=its).mul_(dgated)
        if plan.dropout:
            dgates *= _mask(plan, number, layer, gates)
        torch.mm(dgates, taps.T, out=dstep.gates[two])
        torch.sum(dgates, dim=1, keepdim=True, out=dstep.gate_biases[two])
        _taps_backward(plan, torch.mm(step.gates[two].T, dgates), plan.dilations[layer], dh)
    torch.mm(dh, x.to(plan.precision).T, out=dstep.start)
    torch.sum(dh, dim=1, keepdim=True, out=dstep.start_bias)
    return torch.mm(step.start.T, dh)


def _mask(plan: _Plan, number: int, layer: int, like: Tensor) -> Tensor:
    """Of dropout: 0 with its probability p, else 1 / (1 - p); the same at every call for one layer of one batch."""
    generator = torch.Generator(like.device).manual_seed(plan.seed + number * len(plan.dilations) + layer)
    kept = torch.rand(like.shape, generator=generator, device=like.device) >= plan.dropout
    return kept.to(like.dtype).div_(1 - plan.dropout)


def _taps(plan: _Plan, h: Tensor, dilation: int) -> Tensor:
    """Row k * i + t is what tap t of a kernel of k sees of channel i: h shifted, with zeros around each batch entry."""
    h, around = h.view(len(h), plan.batch, -1), dilation * (plan.kernel // 2)
    windows = functional.pad(h, (around, around)).unfold(2, h.shape[2], dilation)
    return windows.transpose(1, 2).reshape(len(h) * plan.kernel, -1)


def _taps_backward(plan: _Plan, dtaps: Tensor, dilation: int, dh: Tensor) -> None:
    """Add to dh what comes from `_taps`."""
    dh = dh.view(len(dh), plan.batch, -1)
    frames = dh.shape[2]
    for tap, its in enumerate(dtaps.view(len(dh), plan.kernel, plan.batch, frames).unbind(1)):
        by = (tap - plan.kernel // 2) * dilation
        if abs(by) < frames:
            dh[:, :, max(0, by) : frames + min(0, by)] += its[:, :, max(0, -by) : frames - max(0, by)]
