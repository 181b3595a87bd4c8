"""Several flows of one shape side by side, decoding and its gradient in one set of products: the fast path.

Taught in `notebooks/13_speed.ipynb`. It computes what `Glow.inverse` and autograd compute, up to rounding, in half the
time, because for frozen priors much can be done once and the rest written down. In the direction z -> x a step is

    (y0, y1) = (x0, (x1 - m(x0)) e),  e = exp(-logs(x0));   y -> W^-1 y;   affine: x -> a x + b  per channel,

and its gradient, from the end to the start, with g the gradient of the loss with respect to what a symbol stands for:

    g_y = W^-T (a g);   g_m = -e g_y1;   g_logs = -(y1 g_y1 + c);   g_x1 = e g_y1;   g_x0 = g_y0 + net^T(g_m, g_logs)

where c is the weight of the log-determinant in the loss, and net^T runs each convolution transposed in reverse order;
with t = tanh(a), s = sigmoid(b) a gated layer passes on g_a = g s (1 - t^2) and g_b = g t s (1 - s).

Taken once: the inverses W^-1, and each affine, which is folded into the step after it (weight norm is folded when a
prior is loaded). The skip connections of all layers are one product, since they are only summed. Sources lie on an axis
of their own, and each convolution is one call with a group a source. Everything is written to the same buffers at each
call.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..glow import ActNorm, AffineCoupling, Glow, InvertibleConv, grouped_order
from .winograd import OUTPUTS, ShortConvolution, transformed

WIDE = 96  # hidden channels from which the products that `winograd` saves outweigh its transforms on a CPU


class StackedFlows:
    """x = G(z) for S flows of one shape, and dL/dz from dL/dx; weights are copied, the flows stay as they were.

    Args:
        flows: of one architecture (`order`, a matter of numbering, may differ).
        device, dtype: of latents and magnitudes.
        inner: type inside the coupling nets, where nearly all operations are; default `dtype`.
        recompute: keep no activations: `pull_back` reconstructs them from the output, step by step, because a flow can
            be run backwards. Depth then costs no memory, and the gradient a third more operations.
        winograd: convolve by fewer multiplications, see that module; default: on a CPU where it is faster.
    Shape:
        folded tensors are (sources, channels, batch, frames / squeeze), channels = squeeze * bins in grouped order;
        `fold` and `unfold` lead there from (batch, sources, bins, frames) and back.
    """

    def __init__(
        self,
        flows: Sequence[Glow],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        inner: torch.dtype | None = None,
        recompute: bool = False,
        winograd: bool | None = None,
    ):
        self.bins, self.squeeze, self.sources = flows[0].bins, flows[0].squeeze, len(flows)
        self.dtype, self.inner, self.recompute = dtype, inner or dtype, recompute
        plain = [_in_grouped_order(flow, device, dtype) for flow in flows]
        norms, mixes, couplings = ([[*flow][part::3] for flow in plain] for part in range(3))
        self.groups = len(mixes[0][0].weight)
        net = couplings[0][0].net
        if winograd is None:
            winograd = torch.device(device).type == "cpu" and self.inner == dtype and net.hidden >= WIDE
        kernels = {gate.kernel_size[0] if gate.dilation == (1,) else None for gate in net.gates}
        self.kernel = kernels.pop() if winograd and kernels <= set(OUTPUTS) else None  # of winograd's convolutions
        count = len(norms[0])
        scales = [torch.stack([torch.exp(-flow[k].logs) for flow in norms]) for k in range(count)]
        shifts = [-torch.stack([flow[k].bias for flow in norms]) * scales[k] for k in range(count)]
        none = torch.ones_like(scales[0]), torch.zeros_like(shifts[0])
        before = [*zip(scales[1:], shifts[1:], strict=True), none]  # the affine that leads into each step
        self.steps = [
            _Step(
                [flow[k] for flow in couplings],
                [flow[k] for flow in mixes],
                *before[k],
                dtype,
                self.inner,
                transform=self.kernel is not None,
            )
            for k in reversed(range(count))
        ]
        self.scale, self.shift = scales[0].to(dtype).unsqueeze(3), shifts[0].to(dtype).unsqueeze(3)
        self.constant = torch.stack(  # log |det| of mixing and affines, a frame
            [
                -sum(mix.weight.double().slogdet()[1] * len(norm.logs) / self.groups + norm.logs.double().sum()
                     for mix, norm in zip(*pair, strict=True))
                for pair in zip(mixes, norms, strict=True)
            ]
        ).unsqueeze(1)  # fmt: skip
        self._buffers: _Buffers | None = None

    def fold(self, x: Tensor) -> Tensor:
        """(batch, sources, bins, frames) -> (sources, channels, batch, frames / squeeze)."""
        batch, sources, bins, frames = x.shape
        x = x.reshape(batch, sources, bins, frames // self.squeeze, self.squeeze).permute(1, 4, 2, 0, 3)
        x = x.reshape(sources, 2, -1, self.groups // 2, batch, frames // self.squeeze).transpose(2, 3)
        return x.reshape(sources, -1, batch, frames // self.squeeze)

    def unfold(self, x: Tensor) -> Tensor:
        """(sources, channels, batch, frames / squeeze) -> (batch, sources, bins, frames)."""
        sources, _, batch, frames = x.shape
        x = x.view(sources, 2, self.groups // 2, -1, batch, frames).transpose(2, 3)
        x = x.reshape(sources, self.squeeze, self.bins, batch, frames).permute(3, 0, 2, 4, 1)
        return x.reshape(batch, sources, self.bins, frames * self.squeeze)

    @torch.no_grad()
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = G(z) and log |det dx/dz|; folded -> folded, and (sources, batch).

        What `pull_back` needs stays in the buffers of this object until the next call.
        """
        buffers = self._of(z)
        logdet = z.new_zeros(z.shape[0], z.shape[2])
        x = z
        for index, step in enumerate(self.steps):
            kept = buffers.kept[0 if self.recompute else index]
            logdet += step.decode(x, kept, buffers)
            x = _mix(step.mix, kept.y, buffers.x)
        if self.recompute:
            buffers.last.copy_(x)
        logdet += self.constant * z.shape[3]
        return torch.addcmul(self.shift, self.scale, x), logdet

    @torch.no_grad()
    def pull_back(self, gradient: Tensor, logdet_weight: float = 0.0) -> Tensor:
        """dL/dz of L = f(x) + logdet_weight * sum(log |det dx/dz|), from df/dx at the last `decode`; folded."""
        buffers = self._of(gradient)
        g = torch.mul(gradient, self.scale, out=buffers.x)
        x = buffers.last if self.recompute else None
        for index, step in reversed(list(enumerate(self.steps))):
            kept = buffers.kept[0 if self.recompute else index]
            if self.recompute:
                x = step.undo(x, kept, buffers)
            g_y = _mix(step.mix.transpose(1, 2), g, buffers.out_wide)
            step.pull_back(g_y, g, kept, buffers, logdet_weight)
        return g.clone()

    def _of(self, like: Tensor) -> "_Buffers":
        if self._buffers is None or self._buffers.shape != like.shape:
            self._buffers = None  # let the old ones go before there are new ones
            self._buffers = _Buffers(self, like)
        return self._buffers


class _Step:
    """One step of S flows: the affine before it (a, b), the coupling and the mixing matrix, as stacked tensors."""

    def __init__(
        self, couplings: list[AffineCoupling], mixes: list[InvertibleConv], a: Tensor, b: Tensor,
        dtype: torch.dtype, inner: torch.dtype, *, transform: bool,
    ):  # fmt: skip
        nets = [coupling.net for coupling in couplings]
        hidden, half = nets[0].hidden, a.shape[1] // 2
        self.sigmoid_scale = couplings[0].sigmoid_scale
        layers = range(len(nets[0].gates))
        self.dilations = [nets[0].gates[layer].dilation[0] for layer in layers]

        def stacked(take) -> Tensor:
            return torch.stack([take(net) for net in nets])

        start = stacked(lambda net: net.start.weight[:, :, 0])
        start_bias = stacked(lambda net: net.start.bias[:, None]) + start @ b[:, :half]
        start = start * a[:, :half].transpose(1, 2)
        # tanh(a) = 2 sigmoid(2 a) - 1: one call for both halves, and several times faster
        double = torch.ones(2 * hidden, device=a.device, dtype=a.dtype)
        double[:hidden] = 2
        gates = [stacked(lambda net, i=layer: double[:, None, None] * net.gates[i].weight) for layer in layers]
        back = [stacked(lambda net, i=layer: net.gates[i].weight.flip(2).transpose(0, 1)) for layer in layers]
        gate_biases = [stacked(lambda net, i=layer: double * net.gates[i].bias)[..., None, None] for layer in layers]
        if transform:
            gates, back = map(transformed, gates), map(transformed, back)
        residuals = [stacked(lambda net, i=layer: net.res_skips[i].weight[:hidden, :, 0]) for layer in layers[:-1]]
        residual_biases = [stacked(lambda net, i=layer: net.res_skips[i].bias[:hidden, None]) for layer in layers[:-1]]
        skip = stacked(lambda net: torch.cat([conv.weight[-hidden:, :, 0] for conv in net.res_skips], dim=1))
        skip_bias = stacked(lambda net: sum(conv.bias[-hidden:] for conv in net.res_skips)[:, None])
        # the signs are turned, so that the outputs are -m (with b added) and -logs, which is what is needed of them
        end = -stacked(lambda net: net.end.weight[:, :, 0])
        end_bias = -stacked(lambda net: net.end.bias[:, None]) + end @ skip_bias
        end_bias[:, :half] += b[:, half:]

        def typed(*tensors: Tensor) -> list[Tensor]:
            return [tensor.to(inner).contiguous() for tensor in tensors]

        self.start, self.skip, self.end = typed(start, skip, end)
        self.start_bias, self.end_bias = (bias.unsqueeze(3) for bias in typed(start_bias, end_bias))
        self.gates, self.back = typed(*gates), typed(*back)
        self.gate_biases, self.residuals = typed(*gate_biases), typed(*residuals)
        self.residual_biases = [bias.unsqueeze(3) for bias in typed(*residual_biases)]
        unmix = torch.stack([mix.weight.double() for mix in mixes])
        self.unmix, self.mix = unmix.to(dtype), torch.linalg.inv(unmix).to(dtype)
        self.a0, self.a1, self.b0 = (
            part.to(dtype).contiguous().unsqueeze(3) for part in (a[:, :half], a[:, half:], b[:, :half])
        )

    def decode(self, x: Tensor, kept: "_Kept", buffers: "_Buffers") -> Tensor:
        """Leave y in `kept`, with what its gradient takes; returns log |det dy/dx| (sources, batch)."""
        x0, x1 = x.chunk(2, dim=1)
        shift, log_e = self._net(x0, kept, buffers)
        y0, y1 = kept.y.chunk(2, dim=1)
        torch.addcmul(self.b0, self.a0, x0, out=y0)
        torch.exp(log_e, out=kept.e)
        torch.addcmul(shift, self.a1, x1, out=y1)
        y1 *= kept.e
        return log_e.sum(dim=(1, 3))

    def undo(self, x: Tensor, kept: "_Kept", buffers: "_Buffers") -> Tensor:
        """The step's input, in place of its output x, and in `kept` what `decode` left there."""
        _mix(self.unmix, x, kept.y)
        y0, y1 = kept.y.chunk(2, dim=1)
        x0, x1 = x.chunk(2, dim=1)
        torch.div(torch.sub(y0, self.b0, out=x0), self.a0, out=x0)
        shift, log_e = self._net(x0, kept, buffers)
        torch.exp(log_e, out=kept.e)
        torch.div(y1, kept.e, out=x1)
        x1 -= shift
        x1 /= self.a1
        return x

    def _net(self, x0: Tensor, kept: "_Kept", buffers: "_Buffers") -> tuple[Tensor, Tensor]:
        """(b1 - m, -logs), both (sources, half, batch, frames), of the net; its tanh and sigmoid go to `kept`."""
        h = _product(self.start, buffers.inside(x0), buffers.h)
        h += self.start_bias
        last = len(self.gates) - 1
        for layer, (weight, bias) in enumerate(zip(self.gates, self.gate_biases, strict=True)):
            both = buffers.gates(h, weight, bias, self.dilations[layer])
            t, s, gated = kept.t[:, layer], kept.s[:, layer], buffers.gated[:, layer]
            torch.sigmoid(both, out=kept.gates[:, layer])
            t.mul_(2).sub_(1)
            torch.mul(t, s, out=gated)
            if layer < last:
                _add_product(self.residuals[layer], gated, h)
                h += self.residual_biases[layer]
        _product(self.skip, buffers.gated.flatten(1, 2), buffers.skip)
        out = _product(self.end, buffers.skip, buffers.out)
        out += self.end_bias
        shift, log_e = buffers.outside(out).chunk(2, dim=1)
        if self.sigmoid_scale:  # log_e is -u there, and logs = log(1e-6 + sigmoid(u + 2))
            torch.sigmoid(2 - log_e, out=log_e).add_(1e-6).log_().neg_()
        return shift, log_e

    def pull_back(self, g_y: Tensor, g_x: Tensor, kept: "_Kept", buffers: "_Buffers", logdet_weight: float) -> None:
        """From the gradient with respect to y (overwritten) to that with respect to x, into `g_x`."""
        g_x0, g_x1 = g_x.chunk(2, dim=1)
        g_y0, g_y1 = g_y.chunk(2, dim=1)
        torch.mul(g_y0, self.a0, out=g_x0)
        g_shift = torch.mul(g_y1, kept.e, out=g_y0)
        torch.mul(g_shift, self.a1, out=g_x1)
        g_y1 *= kept.y.chunk(2, dim=1)[1]
        if logdet_weight:
            g_y1 += logdet_weight
        if self.sigmoid_scale:  # d(-logs)/du = -r (1 - r) / (r + 1e-6) with r = sigmoid(u + 2), and the output is -u
            r = kept.e.reciprocal().sub_(1e-6)
            g_y1 *= r.mul_(1 - r).mul_(kept.e)
        g_skip = _product(self.end.transpose(1, 2), buffers.inside(g_y), buffers.skip)
        g_gated = _product(self.skip.transpose(1, 2), g_skip, buffers.gated.flatten(1, 2))
        g_gated = g_gated.view_as(buffers.gated)
        hidden, g_h = buffers.h.shape[1], None
        for layer in reversed(range(len(self.gates))):
            g, t, s = g_gated[:, layer], kept.t[:, layer], kept.s[:, layer]
            if g_h is not None:
                _add_product(self.residuals[layer].transpose(1, 2), g_h, g)
            g *= s
            product = torch.mul(g, t, out=buffers.h)  # g t s
            torch.addcmul(g, product, t, value=-1, out=buffers.both[:, :hidden])  # g s (1 - t^2)
            torch.addcmul(product, product, s, value=-1, out=buffers.both[:, hidden:])  # g t s (1 - s)
            back = buffers.back(buffers.both, self.back[layer], None, self.dilations[layer])
            g_h = torch.add(back, 0 if g_h is None else g_h, out=buffers.g_h)
        if g_x.dtype == self.start.dtype:
            _add_product(self.start.transpose(1, 2), g_h, g_x0)
        else:
            g_x0 += torch.bmm(self.start.transpose(1, 2), g_h.flatten(2)).view_as(g_x0)


class _Kept:
    """What the gradient of one step takes from decoding it: y, e, and tanh and sigmoid of every layer."""

    def __init__(self, flows: StackedFlows, like: Tensor):
        sources, channels, *line = like.shape
        layers, hidden = len(flows.steps[0].gates), flows.steps[0].start.shape[1]
        self.y = torch.empty_like(like)
        self.e = like.new_empty(sources, channels // 2, *line)
        self.gates = like.new_empty(sources, layers, 2 * hidden, *line, dtype=flows.inner)
        self.t, self.s = self.gates.chunk(2, dim=2)


class _Buffers:
    """Everything that is written over and over, for one shape of (sources, channels, batch, frames)."""

    def __init__(self, flows: StackedFlows, like: Tensor):
        self.shape = like.shape
        sources, channels, *line = like.shape
        layers, hidden = len(flows.steps[0].gates), flows.steps[0].start.shape[1]
        self.kept = [_Kept(flows, like) for _ in range(1 if flows.recompute else len(flows.steps))]
        self.x, self.out_wide = torch.empty_like(like), torch.empty_like(like)
        self.last = torch.empty_like(like) if flows.recompute else None

        def inner(*sizes: int) -> Tensor:
            return like.new_empty(sources, *sizes, *line, dtype=flows.inner)

        self.same = flows.inner == flows.dtype
        self.out = self.out_wide if self.same else inner(channels)
        self.h, self.g_h, self.skip = inner(hidden), inner(hidden), inner(hidden)
        self.both, self.gated = inner(2 * hidden), inner(layers, hidden)
        self.gates = self.back = _convolution
        if flows.kernel is not None:
            self.gates = ShortConvolution(self.h, 2 * hidden, flows.kernel)
            self.back = ShortConvolution(self.both, hidden, flows.kernel)

    def inside(self, x: Tensor) -> Tensor:
        return x if self.same else x.to(self.h.dtype)

    def outside(self, out: Tensor) -> Tensor:
        return out if self.same else self.out_wide.copy_(out)


def _mix(matrix: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """(sources, g, g) times x with channels as g blocks."""
    groups = matrix.shape[1]
    torch.bmm(matrix, x.view(len(x), groups, -1), out=out.view(len(x), groups, -1))
    return out


def _product(matrix: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """out = matrix x, a 1x1 convolution: (sources, o, i), (sources, i, batch, frames) -> (sources, o, ...)."""
    torch.bmm(matrix, x.flatten(2), out=out.flatten(2))
    return out


def _add_product(matrix: Tensor, x: Tensor, to: Tensor) -> None:
    to.flatten(2).baddbmm_(matrix, x.flatten(2))


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Along frames, each source with its own weights; entries of the batch lie as rows of an image."""
    sources, _, batch, frames = x.shape
    image = functional.conv2d(
        x.reshape(1, -1, batch, frames),
        weight.flatten(0, 1).unsqueeze(2),
        None if bias is None else bias.flatten(),
        padding=(0, dilation * (weight.shape[-1] - 1) // 2),
        dilation=(1, dilation),
        groups=sources,
    )
    return image.view(sources, -1, batch, frames)


def _in_grouped_order(flow: Glow, device: torch.device | str, dtype: torch.dtype) -> list:
    """Copies of the flow's layers, channels in grouped order."""
    flow = copy.deepcopy(flow).to(device, dtype).requires_grad_(False)
    layers = list(flow.layers)
    mixes = [layer for layer in layers if isinstance(layer, InvertibleConv)]
    if mixes[0].plain:
        order = grouped_order(flow.bins * flow.squeeze, len(mixes[0].weight)).to(device)
        half = order[: len(order) // 2]
        for layer in layers:
            if isinstance(layer, ActNorm):
                layer.logs.data, layer.bias.data = layer.logs[order], layer.bias[order]
            elif isinstance(layer, AffineCoupling):
                net = layer.net
                net.start.weight.data = net.start.weight[:, half]
                both = torch.cat([half, half + len(half)])
                net.end.weight.data, net.end.bias.data = net.end.weight[both], net.end.bias[both]
    return layers
