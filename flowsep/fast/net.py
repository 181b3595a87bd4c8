"""The coupling nets of several flows side by side, forward and backward: what training and separation share.

A gated layer is h <- h + residual(t s), t = tanh(a), s = sigmoid(b), (a, b) = conv(h); the skips of all layers are
summed, so they are one product, and `end` follows. Backward, with g the gradient with respect to what a symbol names:

    g_a = g s (1 - t^2),   g_b = g t s (1 - s),   g = skip^T end^T g_out + residual^T g_h   for each layer,

and each convolution is run transposed, in reverse order. Sources lie on an axis of their own, and a convolution of all
of them is one call with one group per source. tanh(a) is computed as 2 sigmoid(2 a) - 1: one call for both halves, and
several times faster on a CPU.

Shape:
    x (sources, inputs, batch, frames) -> (sources, outputs, batch, frames).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple  # Any: in type comments

import torch
from torch import Tensor
from torch.nn import functional

from ..glow import AffineCoupling


class Net(NamedTuple):
    """The weights of one coupling net per source, or their gradients."""

    start: Tensor  # (sources, hidden, inputs)
    start_bias: Tensor  # (sources, hidden, 1), like the other biases
    gates: Tensor  # (sources, layers, 2 hidden, hidden, kernel)
    gates_bias: Tensor  # (sources, layers, 2 hidden, 1)
    residual: Tensor  # (sources, layers - 1, hidden, hidden)
    residual_bias: Tensor  # (sources, layers - 1, hidden, 1)
    skip: Tensor  # (sources, layers, hidden, hidden)
    skip_bias: Tensor  # (sources, layers, hidden, 1)
    end: Tensor  # (sources, outputs, hidden)
    end_bias: Tensor  # (sources, outputs, 1)


class Prepared(NamedTuple):
    """A `Net` as the products need it."""

    net: Net
    doubled: Tensor  # gates; the tanh half is doubled
    doubled_bias: Tensor
    flipped: Tensor | None  # gates, transposed (sources, layers, hidden, 2 hidden, kernel); None of one source alone
    skip: Tensor  # (sources, hidden, layers * hidden)
    end_bias: Tensor  # with the biases of the skips in it
    dilations: tuple[int, ...]  # of each layer


class Kept(NamedTuple):
    """What `backward` needs of `forward`; only the weights' gradients need the last two."""

    gates: Tensor  # tanh and sigmoid, (sources, layers, 2 hidden, batch, frames)
    inputs: list[Tensor]  # of each layer
    total: Tensor  # of the skips


def gather(couplings: Sequence[AffineCoupling], half: Tensor) -> Net:
    """Copy the weights of some couplings; `half` is the order that the halves of the channels are brought into."""
    nets, hidden = [coupling.net for coupling in couplings], couplings[0].net.hidden
    both = torch.cat([half, half + len(half)])

    def stacked(weights: Sequence[Sequence[Tensor]], *shape: int) -> Tensor:
        """One tensor per layer of each net; a net of one layer has no residual."""
        return torch.stack([torch.stack([*each]) if each else each_net.end.weight.new_empty(0, *shape)
                            for each, each_net in zip(weights, nets, strict=True)]).detach()  # fmt: skip

    return Net(
        torch.stack([net.start.weight[:, half, 0] for net in nets]).detach(),
        torch.stack([net.start.bias[:, None] for net in nets]).detach(),
        stacked([[gate.weight for gate in net.gates] for net in nets]),
        stacked([[gate.bias[:, None] for gate in net.gates] for net in nets]),
        stacked([[conv.weight[:hidden, :, 0] for conv in net.res_skips[:-1]] for net in nets], hidden, hidden),
        stacked([[conv.bias[:hidden, None] for conv in net.res_skips[:-1]] for net in nets], hidden, 1),
        stacked([[conv.weight[-hidden:, :, 0] for conv in net.res_skips] for net in nets]),
        stacked([[conv.bias[-hidden:, None] for conv in net.res_skips] for net in nets]),
        torch.stack([net.end.weight[both, :, 0] for net in nets]).detach(),
        torch.stack([net.end.bias[both, None] for net in nets]).detach(),
    )


@torch.no_grad()
def scatter(net: Net, couplings: Sequence[AffineCoupling], half: Tensor) -> None:
    """Copy what `gather` took, or has become since, back into the couplings."""
    back, both = half.argsort(), torch.cat([half, half + len(half)]).argsort()
    for number, coupling in enumerate(couplings):
        own, target = Net(*(weight[number] for weight in net)), coupling.net
        target.start.weight.copy_(own.start[:, back, None])
        target.start.bias.copy_(own.start_bias[:, 0])
        for layer, (gate, conv) in enumerate(zip(target.gates, target.res_skips, strict=True)):
            gate.weight.copy_(own.gates[layer])
            gate.bias.copy_(own.gates_bias[layer, :, 0])
            weights = [*own.residual[layer : layer + 1], own.skip[layer]]
            biases = [*own.residual_bias[layer : layer + 1], own.skip_bias[layer]]
            conv.weight.copy_(torch.cat(weights).unsqueeze(2))
            conv.bias.copy_(torch.cat(biases)[:, 0])
        target.end.weight.copy_(own.end[both, :, None])
        target.end.bias.copy_(own.end_bias[both, 0])


def prepare(net: Net, dilations: tuple[int, ...], dtype: torch.dtype) -> Prepared:
    """Do once what does not depend on the input; all products are computed in `dtype`."""
    net = Net(*(weight.to(dtype) for weight in net))
    factor = torch.ones_like(net.gates_bias)
    factor[:, :, : factor.shape[2] // 2] = 2
    return Prepared(
        net,
        (net.gates * factor.unsqueeze(4)).contiguous(),
        net.gates_bias * factor,
        net.gates.flip(4).transpose(2, 3).contiguous() if len(net.gates) > 1 else None,
        net.skip.transpose(1, 2).flatten(2).contiguous(),
        torch.baddbmm(net.end_bias, net.end, net.skip_bias.sum(dim=1)),
        dilations,
    )


def forward(prepared: Prepared, x: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Kept]:
    """The nets' outputs; `masks` are dropout's, shaped like `Kept.gates`."""
    net, hidden, layers = prepared.net, prepared.net.start.shape[1], len(prepared.dilations)
    h = _product(net.start, x, net.start_bias)
    activations = h.new_empty(len(h), layers, 2 * hidden, *h.shape[2:])
    gated = h.new_empty(len(h), layers, hidden, *h.shape[2:])
    inputs = []
    for layer, dilation in enumerate(prepared.dilations):
        inputs.append(h)
        both = _convolution(h, prepared.doubled[:, layer], prepared.doubled_bias[:, layer], dilation)
        if masks is not None:
            both *= masks[:, layer]
        t, s = torch.sigmoid(both, out=activations[:, layer]).chunk(2, dim=1)
        t.mul_(2).sub_(1)
        torch.mul(t, s, out=gated[:, layer])
        if layer < layers - 1:
            h = _product(net.residual[:, layer], gated[:, layer], net.residual_bias[:, layer], onto=h)
    total = _product(prepared.skip, gated.flatten(1, 2))
    return _product(net.end, total, prepared.end_bias), Kept(activations, inputs, total)


def backward(
    prepared: Prepared, kept: Kept, g_out: Tensor, g_x: Tensor, masks: Tensor | None = None, x: Tensor | None = None
) -> Net | Any:
    """Add the gradient with respect to the input to `g_x`; returns the weights' gradients where the input is given."""
    net, (activations, inputs, total) = prepared.net, kept
    g_total = _product(net.end.mT, g_out)
    g_gated = _product(prepared.skip.mT, g_total).unflatten(1, (len(prepared.dilations), -1))
    g_h, skips, gates, biases, residuals = None, [], [], [], []  # of the last layer first
    for layer in reversed(range(len(prepared.dilations))):
        g = g_gated[:, layer]
        t, s = activations[:, layer].chunk(2, dim=1)
        if x is not None:
            gated = t * s
            skips.append(_outer(g_total, gated))
            if g_h is not None:
                residuals.append((_outer(g_h, gated), _sum(g_h)))
        if g_h is not None:
            _add_product(net.residual[:, layer].mT, g_h, g)
        g *= s
        product = g * t  # g t s
        g_both = torch.empty_like(activations[:, layer])
        g_a, g_b = g_both.chunk(2, dim=1)
        torch.addcmul(g, product, t, value=-1, out=g_a)
        torch.addcmul(product, product, s, value=-1, out=g_b)
        if masks is not None:
            g_both *= masks[:, layer]
        if x is not None:
            taps = _taps(inputs[layer], net.gates.shape[4], prepared.dilations[layer])
            gates.append(_outer(g_both, taps).view_as(net.gates[:, layer]))
            biases.append(_sum(g_both))
        back = _transposed(g_both, prepared, layer)
        g_h = back if g_h is None else back.add_(g_h)
    assert g_h is not None
    if g_x.dtype == g_h.dtype:
        _add_product(net.start.mT, g_h, g_x)
    else:
        g_x += _product(net.start.mT, g_h)
    if x is None:
        return None
    end_bias = _sum(g_out)
    return Net(
        start=_outer(g_h, x),
        start_bias=_sum(g_h),
        gates=torch.stack(gates[::-1], dim=1),
        gates_bias=torch.stack(biases[::-1], dim=1),
        residual=torch.stack([g for g, _ in residuals[::-1]], dim=1) if residuals else net.residual,
        residual_bias=torch.stack([g for _, g in residuals[::-1]], dim=1) if residuals else net.residual_bias,
        skip=torch.stack(skips[::-1], dim=1),
        skip_bias=(net.end.mT @ end_bias).unsqueeze(1).expand_as(net.skip_bias),
        end=_outer(g_out, total) + end_bias @ net.skip_bias.sum(dim=1).mT,
        end_bias=end_bias,
    )


def _product(matrix: Tensor, x: Tensor, bias: Tensor | None = None, onto: Tensor | None = None) -> Tensor:
    """A 1x1 convolution: (sources, o, i), (sources, i, batch, frames) -> (sources, o, batch, frames)."""
    flat = x.flatten(2)
    out = torch.bmm(matrix, flat) if onto is None else torch.baddbmm(onto.flatten(2), matrix, flat)
    if bias is not None:
        out += bias
    return out.view(len(x), -1, *x.shape[2:])


def _add_product(matrix: Tensor, x: Tensor, to: Tensor) -> None:
    to.flatten(2).baddbmm_(matrix, x.flatten(2))


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Along frames, each source with its own weights; entries of the batch lie as rows of an image."""
    sources, _, batch, frames = x.shape
    if sources == 1 and bias is not None:  # a product of matrices is faster than many short rows
        return _product(weight.flatten(2), _taps(x, weight.shape[-1], dilation), bias)
    image = functional.conv2d(
        x.reshape(1, -1, batch, frames),
        weight.flatten(0, 1).unsqueeze(2),
        None if bias is None else bias.flatten(),
        padding=(0, dilation * (weight.shape[-1] // 2)),
        dilation=(1, dilation),
        groups=sources,
    )
    return image.view(sources, -1, batch, frames)


def _transposed(g: Tensor, prepared: Prepared, layer: int) -> Tensor:
    """The gradient of a convolution's input."""
    dilation = prepared.dilations[layer]
    if len(g) > 1:
        assert prepared.flipped is not None
        return _convolution(g, prepared.flipped[:, layer], None, dilation)
    gates, frames = prepared.net.gates[:, layer], g.shape[3]
    kernel, out = gates.shape[-1], g.new_zeros(1, gates.shape[2], *g.shape[2:])
    for tap, part in enumerate(_product(gates.flatten(2).mT, g).unflatten(1, (-1, kernel)).unbind(2)):
        by = (tap - kernel // 2) * dilation
        if abs(by) < frames:
            out[..., max(0, by) : frames + min(0, by)] += part[..., max(0, -by) : frames - max(0, by)]
    return out


def _taps(h: Tensor, kernel: int, dilation: int) -> Tensor:
    """Row k * i + t is what tap t of a kernel of k sees of channel i: h shifted, with zeros around each entry."""
    around = dilation * (kernel // 2)
    windows = functional.pad(h, (around, around)).unfold(3, h.shape[3], dilation)  # (..., kernel, frames)
    return windows.transpose(2, 3).flatten(1, 2)


def _outer(g: Tensor, x: Tensor) -> Tensor:
    """The gradient of a matrix: g x^T, summed over batch and frames."""
    return torch.bmm(g.flatten(2), x.flatten(2).mT)


def _sum(g: Tensor) -> Tensor:
    return g.sum(dim=(2, 3)).unsqueeze(2)
