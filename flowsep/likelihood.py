"""log p(x) of a flow with its gradient written out by hand: what a training step computes.

`glow` teaches what the flow is. Here is the same function, as fast as matrix products go and, where asked for, in
memory that does not grow with its depth:

- All frames of a batch lie in one line. A tensor is (channels, batch * frames), so that a convolution is one matrix
  product, and the halves and groups of the channels are blocks of memory, which nobody copies.
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
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .glow import Glow, grouped_order


class Likelihood(nn.Module):
    """log p(x) = log N(f(x); 0, I) + log|det df/dx| in nats, f a `Glow`, whose parameters it shares.

    Under autocast the coupling nets compute in its lower precision, and all that must be inverted in that of x.

    Args:
        glow: the flow.
        reversible: keep no activations, but recompute them from z on the way back.
    Shape:
        (batch, bins, frames) -> (batch,); frames a multiple of the squeeze.
    """

    def __init__(self, glow: Glow, *, reversible: bool = False):
        super().__init__()
        self.glow, self.reversible = glow, reversible
        groups = len(glow.layers[1].weight)
        self.register_buffer("order", grouped_order(glow.bins * glow.squeeze, groups), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kind, steps = x.device.type, list(zip(*(self.glow.layers[k::3] for k in range(3)), strict=True))
        _, mixing, coupling = steps[0]
        net = coupling.net
        dropout = net.dropout.p if self.training else 0.0
        plan = _Plan(
            batch=len(x),
            groups=len(mixing.weight),
            layers=len(net.gates),
            kernel=net.gates[0].kernel_size[0],
            dilations=tuple(gate.dilation[0] for gate in net.gates),
            sigmoid_scale=coupling.sigmoid_scale,
            dropout=dropout,
            seed=int(torch.randint(2**62, ())) if dropout else 0,  # drawn by the processor: nobody waits for a device
            precision=torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype,
            reversible=self.reversible,
        )
        with torch.autocast(kind, enabled=False):
            line = x.unflatten(2, (-1, self.glow.squeeze)).permute(3, 1, 0, 2).flatten(0, 1).flatten(1)[self.order]
            frames = line.shape[1] // len(x)
            volume = torch.stack([norm.logs for norm, _, _ in steps]).sum() * frames
            mixed = torch.linalg.slogdet(torch.stack([mixing.weight for _, mixing, _ in steps]).double())[1]
            volume = volume + mixed.sum().to(x.dtype) * (len(line) // plan.groups * frames)
            weights = [weight for step in steps for weight in self._weights(*step)]
            return _LogLikelihood.apply(line, plan, *weights) + volume

    def _weights(self, norm: nn.Module, mixing: nn.Module, coupling: nn.Module) -> list[Tensor]:
        """Of one step, in the order in which `_LogLikelihood` reads them, of channels in grouped order."""
        net = coupling.net
        logs, bias, start, end, end_bias = norm.logs, norm.bias, net.start.weight, net.end.weight, net.end.bias
        if mixing.plain:
            half = self.order[: len(self.order) // 2]
            both = torch.cat([half, half + len(half)])
            logs, bias, start, end, end_bias = (
                logs[self.order],
                bias[self.order],
                start[:, half],
                end[both],
                end_bias[both],
            )
        weights = [logs, bias, mixing.weight, start, net.start.bias]
        for gate, res_skip in zip(net.gates, net.res_skips, strict=True):
            weights += [gate.weight, gate.bias, res_skip.weight, res_skip.bias]
        return [*weights, end, end_bias]


@dataclass(frozen=True)
class _Plan:
    batch: int
    groups: int
    layers: int
    kernel: int
    dilations: tuple[int, ...]
    sigmoid_scale: bool
    dropout: float
    seed: int
    precision: torch.dtype
    reversible: bool


class _LogLikelihood(torch.autograd.Function):
    """log N(z; 0, I) + the log-determinants of the couplings, (batch,), of a line x and the weights of all steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: _Plan, *weights: Tensor) -> Tensor:
        lines, activations = [x], []
        logdet = x.new_zeros(plan.batch)
        for number, (affine, net) in enumerate(_by_step(plan, weights)):
            z = _mix(affine, lines[-1])
            kept, logs = _couple(plan, net, number, z)
            logdet += logs.view(len(logs), plan.batch, -1).sum(dim=(0, 2))
            if plan.reversible:
                lines = [z]
            else:
                lines.append(z)
                activations += kept
        ctx.plan, ctx.count = plan, len(lines)
        ctx.save_for_backward(*weights, *lines, *activations)
        z = lines[-1]
        squares = z.view(len(z), plan.batch, -1).square().sum(dim=(0, 2))
        return logdet - 0.5 * (squares + z.numel() // plan.batch * math.log(2 * math.pi))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        plan, saved = ctx.plan, list(ctx.saved_tensors)
        weights, saved = saved[: len(ctx.needs_input_grad) - 2], saved[len(ctx.needs_input_grad) - 2 :]
        lines, activations = saved[: ctx.count], saved[ctx.count :]
        z = lines.pop()
        if plan.reversible:
            z = z.clone()
        dlogdet = gradient.repeat_interleave(z.shape[1] // plan.batch)
        dz = z * -dlogdet
        gradients: list[Tensor] = []
        each = 3 + 2 * plan.layers  # of `_couple`
        for number, (affine, net) in reversed(list(enumerate(_by_step(plan, weights)))):
            if plan.reversible:
                kept = _uncouple(plan, net, number, z)
                x = _unmix(affine, z)
            else:
                kept, x = activations[-each:], lines.pop()
                del activations[-each:]
            of_net = _couple_backward(plan, net, number, z, kept, dz, dlogdet)
            of_affine, dz = _mix_backward(affine, x, dz, wanted=number > 0 or ctx.needs_input_grad[0])
            gradients = of_affine + of_net + gradients
            z = x
        shaped = [its.to(weight.dtype).view_as(weight) for its, weight in zip(gradients, weights, strict=True)]
        return dz, None, *shaped


def _by_step(plan: _Plan, weights: Sequence[Tensor]) -> list[tuple[Sequence[Tensor], list[Tensor]]]:
    """Of every step (logs, bias, W), and the matrices of the coupling net and its biases as columns."""
    each = 3 + 2 + 4 * plan.layers + 2
    steps = [weights[k : k + each] for k in range(0, len(weights), each)]
    return [(step[:3], [w.to(plan.precision).reshape(len(w), -1) for w in step[3:]]) for step in steps]


def _mix(affine: Sequence[Tensor], x: Tensor) -> Tensor:
    logs, bias, matrix = affine
    y = (x * torch.exp(logs)).add_(bias)
    return torch.mm(matrix, y.view(len(matrix), -1)).view_as(x)


def _unmix(affine: Sequence[Tensor], y: Tensor) -> Tensor:
    logs, bias, matrix = affine
    x = torch.mm(torch.linalg.inv(matrix), y.view(len(matrix), -1)).view_as(y)
    return x.sub_(bias).mul_(torch.exp(-logs))


def _mix_backward(
    affine: Sequence[Tensor], x: Tensor, dy: Tensor, *, wanted: bool
) -> tuple[list[Tensor], Tensor | None]:
    """Gradients of logs, bias, W, and of x where `wanted`."""
    logs, bias, matrix = affine
    groups = len(matrix)
    scale, shift = (its.view(groups, -1).T for its in (torch.exp(logs), bias))  # (channels of a group, groups)
    by_channel = dy.view(groups, -1, dy.shape[1]).transpose(0, 1)
    products = torch.bmm(by_channel, x.view(groups, -1, x.shape[1]).permute(1, 2, 0))  # G_j
    sums = dy.sum(dim=1).view(groups, -1).T  # D_j
    dmatrix = (products * scale.unsqueeze(1)).sum(dim=0) + sums.T @ shift
    dlogs = (products * matrix).sum(dim=1) * scale
    dbias = sums @ matrix
    dx = torch.mm(matrix.T, dy.view(groups, -1)).view_as(dy).mul_(torch.exp(logs)) if wanted else None
    return [dlogs.T.reshape_as(logs), dbias.T.reshape_as(bias), dmatrix], dx


def _couple(plan: _Plan, net: list[Tensor], number: int, y: Tensor) -> tuple[list[Tensor], Tensor]:
    """Turn y into z where it lies; returns what the way back needs, and the log-scales."""
    y0, y1 = y.chunk(2)
    shift, logs, scale, kept = _shift_and_scale(plan, net, number, y0)
    scaled = y1 * scale
    torch.add(scaled, shift, out=y1)
    return [scale, scaled, *kept], logs


def _uncouple(plan: _Plan, net: list[Tensor], number: int, z: Tensor) -> list[Tensor]:
    """Turn z into y where it lies; returns what `_couple` does."""
    z0, z1 = z.chunk(2)
    shift, _, scale, kept = _shift_and_scale(plan, net, number, z0)
    scaled = z1 - shift
    torch.div(scaled, scale, out=z1)
    return [scale, scaled, *kept]


def _couple_backward(
    plan: _Plan, net: list[Tensor], number: int, z: Tensor, kept: list[Tensor], dz: Tensor, dlogdet: Tensor
) -> list[Tensor]:
    """Turn dz into dy where it lies; returns the gradients of the net's weights."""
    scale, scaled, *kept = kept
    dz0, dz1 = dz.chunk(2)
    dlogs = (scaled * dz1).add_(dlogdet)
    if plan.sigmoid_scale:  # scale = 1e-6 + p, p = sigmoid(.): dlogs = dscale / scale, dp = p (1 - p)
        p = scale - 1e-6
        dlogs.mul_(p * (1 - p) / scale)
    gradients, dx = _net_backward(plan, net, number, z[: len(z) // 2], kept, dz1, dlogs)
    dz0 += dx
    dz1 *= scale
    return gradients


def _shift_and_scale(
    plan: _Plan, net: list[Tensor], number: int, x: Tensor
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """m, logs and exp(logs) of the coupling net for the half x, and what `_net_backward` needs."""
    start, start_bias, *layers, end, end_bias = net
    hidden = len(start)
    h = torch.addmm(start_bias, start, x.to(plan.precision))
    kept: list[Tensor] = []
    total = 0.0
    for layer in range(plan.layers):
        gate, gate_bias, res_skip, res_skip_bias = layers[4 * layer : 4 * layer + 4]
        taps = _taps(plan, h, plan.dilations[layer])
        gates = torch.addmm(gate_bias, gate, taps)
        if plan.dropout:
            gates *= _mask(plan, number, layer, gates)
        a, b = gates[:hidden], gates[hidden:]
        a *= 2
        gates.sigmoid_()
        a.mul_(2).sub_(1)
        out = torch.addmm(res_skip_bias, res_skip, a * b)
        if layer < plan.layers - 1:
            h = h + out[:hidden]
            out = out[hidden:]
        total = total + out
        kept += [taps, gates]
    shift, logs = (
        torch.mm(half, total).add_(bias).to(x.dtype) for half, bias in zip(end.chunk(2), end_bias.chunk(2), strict=True)
    )
    if plan.sigmoid_scale:
        scale = logs.add_(2).sigmoid_().add_(1e-6)
        return shift, torch.log(scale), scale, [*kept, total]
    return shift, logs, torch.exp(logs), [*kept, total]


def _net_backward(
    plan: _Plan, net: list[Tensor], number: int, x: Tensor, kept: list[Tensor], dshift: Tensor, dlogs: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Gradients of the net's weights, and of x."""
    start, _, *layers, end, _ = net
    *kept, total = kept
    hidden = len(start)
    dshift, dlogs = dshift.to(plan.precision), dlogs.to(plan.precision)
    of_shift, of_logs = end.chunk(2)
    gradients = [torch.cat([dshift @ total.T, dlogs @ total.T]), torch.cat([dshift.sum(dim=1), dlogs.sum(dim=1)])]
    both = total.new_zeros(2 * hidden, total.shape[1])  # of the residual, then of the skip
    residual, skip = both.chunk(2)
    torch.addmm(of_logs.T @ dlogs, of_shift.T, dshift, out=skip)
    for layer in reversed(range(plan.layers)):
        gate, _, res_skip, _ = layers[4 * layer : 4 * layer + 4]
        taps, gates = kept[2 * layer : 2 * layer + 2]
        a, b = gates.chunk(2)
        product = a * b
        dout = both if layer < plan.layers - 1 else skip
        dproduct = res_skip.T @ dout
        dgates = torch.empty_like(gates)  # of tanh and sigmoid: (1 - a^2) b and a b (1 - b)
        torch.addcmul(b, a, product, value=-1, out=dgates[:hidden]).mul_(dproduct)
        torch.addcmul(product, product, b, value=-1, out=dgates[hidden:]).mul_(dproduct)
        if plan.dropout:
            dgates *= _mask(plan, number, layer, gates)
        gradients = [dgates @ taps.T, dgates.sum(dim=1), dout @ product.T, dout.sum(dim=1), *gradients]
        residual += _taps_backward(plan, gate.T @ dgates, plan.dilations[layer])
    return [residual @ x.to(plan.precision).T, residual.sum(dim=1), *gradients], start.T @ residual


def _mask(plan: _Plan, number: int, layer: int, like: Tensor) -> Tensor:
    """Of dropout: 0 with its probability p, else 1 / (1 - p); the same at every call for one layer of one batch."""
    generator = torch.Generator(like.device).manual_seed(plan.seed + number * plan.layers + layer)
    kept = torch.rand(like.shape, generator=generator, device=like.device) >= plan.dropout
    return kept.to(like.dtype).div_(1 - plan.dropout)


def _taps(plan: _Plan, h: Tensor, dilation: int) -> Tensor:
    """Row k * i + t holds what tap t of a kernel of k sees of channel i: h shifted, with zeros beyond each entry."""
    h, around = h.view(len(h), plan.batch, -1), dilation * (plan.kernel - 1) // 2
    windows = functional.pad(h, (around, around)).unfold(2, h.shape[2], dilation)
    return windows.transpose(1, 2).reshape(len(h) * plan.kernel, -1)


def _taps_backward(plan: _Plan, dtaps: Tensor, dilation: int) -> Tensor:
    dtaps = dtaps.view(-1, plan.kernel, plan.batch, dtaps.shape[1] // plan.batch).unbind(1)
    frames, around = dtaps[0].shape[2], dilation * (plan.kernel - 1) // 2
    dh = functional.pad(dtaps[0], (0, 2 * around))
    for tap in range(1, plan.kernel):
        dh.narrow(2, tap * dilation, frames).add_(dtaps[tap])
    return dh.narrow(2, around, frames).flatten(1)
