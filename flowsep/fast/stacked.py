"""Several flows of one shape side by side, decoding and its gradient in one set of products: the fast path.

Taught in `notebooks/13_speed.ipynb`. It computes what `Glow.inverse` and autograd compute, up to rounding, in half the
time, because for frozen priors much can be done once and the rest written down. In the direction z -> x a step is

    (y0, y1) = (x0, (x1 - m(x0)) e),  e = exp(-logs(x0));   y -> W^-1 y;   affine: x -> a x + b  per channel,

and its gradient, from the end to the start, with g the gradient of the loss with respect to what a symbol names:

    g_y = W^-T (a g);   g_m = -e g_y1;   g_logs = -(y1 g_y1 + c);   g_x1 = e g_y1;   g_x0 = g_y0 + net^T(g_m, g_logs)

where c is the weight of the log-determinant in the loss, and net^T is `net.backward`. Computed once: the inverses W^-1,
and each affine, which is folded into the step after it.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple  # noqa: F401  # Any: in type comments

import torch
from torch import Tensor

from ..glow import AffineCoupling, Glow, InvertibleConv
from . import net as nets
from .layout import fold, grouped_order, mix, unfold


class StackedFlows:
    """x = G(z) for S flows of one shape, and dL/dz from dL/dx; weights are copied, the flows stay as they were.

    Args:
        flows: of one architecture.
        device, dtype: of latents and magnitudes.
        inner: type inside the coupling nets, where nearly all operations are; default `dtype`.
        recompute: keep no activations: `vjp` reconstructs them from the output, step by step, because a flow can be run
            backwards. Depth then costs no memory, and the gradient a third more operations.
    Shape:
        folded tensors are (sources, channels, batch, frames / squeeze), see `layout`; `fold` and `unfold` lead there
        from (batch, sources, bins, frames) and back.
    """

    def __init__(
        self,
        flows: Sequence[Glow],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        inner: torch.dtype | None = None,
        recompute: bool = False,
    ):
        first = flows[0]
        self.squeeze, self.groups, self.recompute = first.squeeze, len(first.layers[1].weight), recompute
        order = grouped_order(first.bins * first.squeeze, self.groups)
        layers = [[*copy.deepcopy(flow).double().cpu().requires_grad_(False).layers] for flow in flows]
        norms, mixes, couplings = ([flow[part::3] for flow in layers] for part in range(3))
        count = len(norms[0])
        scales = [torch.stack([torch.exp(-flow[k].logs)[order] for flow in norms]) for k in range(count)]
        shifts = [-torch.stack([flow[k].bias[order] for flow in norms]) * scales[k] for k in range(count)]
        none = torch.ones_like(scales[0]), torch.zeros_like(shifts[0])
        before = [*zip(scales[1:], shifts[1:], strict=True), none]  # the affine that leads into each step
        half, types = order[: len(order) // 2], (device, dtype, inner or dtype)  # type: Tensor, Any
        self.steps = [
            _step([flow[k] for flow in couplings], [flow[k] for flow in mixes], *before[k], half, *types)
            for k in reversed(range(count))
        ]
        self.scale, self.shift = (x.to(device, dtype).unsqueeze(3) for x in (scales[0], shifts[0]))
        # log |det| per frame of all mixing matrices and affines
        volumes = [
            -sum(m.weight.slogdet()[1] * len(n.logs) / self.groups + n.logs.sum() for m, n in zip(*pair, strict=True))
            for pair in zip(mixes, norms, strict=True)
        ]
        self.volume = torch.stack(volumes).unsqueeze(1).to(device, dtype)

    def fold(self, x: Tensor) -> Tensor:
        """(batch, sources, bins, frames) -> (sources, channels, batch, frames / squeeze)."""
        return fold(x, self.squeeze, self.groups)

    def unfold(self, x: Tensor) -> Tensor:
        """(sources, channels, batch, frames / squeeze) -> (batch, sources, bins, frames)."""
        return unfold(x, self.squeeze, self.groups)

    @torch.no_grad()
    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """x = G(z) and log |det dx/dz|; folded -> folded, and (sources, batch).

        What `vjp` needs stays in this object until then.
        """
        logdet, self._kept = self.volume * z.shape[3], []
        x = z
        for step in self.steps:
            shift, log_e, kept = step.net_of(x[:, : x.shape[1] // 2])
            e, (x0, x1) = torch.exp(log_e), x.chunk(2, dim=1)
            y = torch.empty_like(x)
            y0, y1 = y.chunk(2, dim=1)
            torch.addcmul(step.b0, step.a0, x0, out=y0)
            torch.addcmul(shift, step.a1, x1, out=y1).mul_(e)
            logdet = logdet + log_e.sum(dim=(1, 3))
            if not self.recompute:
                self._kept.append((y1, e, kept))
            x = mix(step.mix, y)
        self._last = x
        return torch.addcmul(self.shift, self.scale, x), logdet

    @torch.no_grad()
    def vjp(self, gradient: Tensor, logdet_weight: float = 0.0) -> Tensor:
        """dL/dz of L = f(x) + logdet_weight * sum(log |det dx/dz|), from df/dx at the last `decode`; folded."""
        g, x = gradient * self.scale, self._last
        for number, step in reversed(list(enumerate(self.steps))):
            if self.recompute:
                x, y1, e, kept = step.undo(x)
            else:
                y1, e, kept = self._kept[number]
            g_y = mix(step.mix.mT, g)
            (g_y0, g_y1), (g_x0, g_x1) = g_y.chunk(2, dim=1), g.chunk(2, dim=1)
            torch.mul(g_y0, step.a0, out=g_x0)
            g_shift = torch.mul(g_y1, e, out=g_y0)
            torch.mul(g_shift, step.a1, out=g_x1)
            g_log_e = g_y1.mul_(y1)
            if logdet_weight:
                g_log_e += logdet_weight
            if step.sigmoid_scale:  # d(-logs)/du = -r (1 - r) / (r + 1e-6), r = sigmoid(u + 2), and the output is -u
                r = e.reciprocal().sub_(1e-6)
                g_log_e *= r.mul_(1 - r).mul_(e)
            nets.backward(step.net, kept, g_y.to(step.inner), g_x0)
        return g


class _Step(NamedTuple):
    """One step of S flows: the affine before it (a, b), the coupling nets and the mixing matrix."""

    net: nets.Prepared  # whose outputs are b1 - m and -logs
    unmix: Tensor
    mix: Tensor
    a0: Tensor  # of the first half of the channels, (sources, channels / 2, 1, 1)
    a1: Tensor
    b0: Tensor
    sigmoid_scale: bool
    inner: torch.dtype

    def net_of(self, x0: Tensor) -> tuple[Tensor, Tensor, nets.Kept]:
        """b1 - m and -logs, and what the gradient needs."""
        out, kept = nets.forward(self.net, x0.to(self.inner))
        shift, log_e = out.to(x0.dtype).chunk(2, dim=1)
        if self.sigmoid_scale:  # log_e is -u there, and logs = log(1e-6 + sigmoid(u + 2))
            log_e = -torch.log(1e-6 + torch.sigmoid(2 - log_e))
        return shift, log_e, kept._replace(inputs=[], total=None)  # type: ignore[arg-type]  # not needed

    def undo(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, nets.Kept]:
        """The step's input from its output, and what `decode` keeps."""
        y0, y1 = mix(self.unmix, x).chunk(2, dim=1)
        x0 = (y0 - self.b0) / self.a0
        shift, log_e, kept = self.net_of(x0)
        e = torch.exp(log_e)
        return torch.cat([x0, (y1 / e - shift) / self.a1], dim=1), y1, e, kept


def _step(
    couplings: Sequence[AffineCoupling], mixes: Sequence[InvertibleConv], a: Tensor, b: Tensor, half: Tensor,
    device: torch.device | str, dtype: torch.dtype, inner: torch.dtype,
) -> _Step:  # fmt: skip
    net, middle = nets.gather(couplings, half), len(half)
    end_bias = -net.end_bias
    end_bias[:, :middle] += b[:, middle:]
    net = net._replace(
        start=net.start * a[:, :middle].mT,
        start_bias=net.start_bias + net.start @ b[:, :middle],
        end=-net.end,  # turned signs: the outputs are b1 - m and -logs
        end_bias=end_bias,
    )
    dilations = tuple(gate.dilation[0] for gate in couplings[0].net.gates)
    unmix = torch.stack([mixing.weight for mixing in mixes])
    a0, a1, b0 = (x.to(device, dtype).unsqueeze(3) for x in (a[:, :middle], a[:, middle:], b[:, :middle]))
    prepared = nets.prepare(nets.Net(*(weight.to(device) for weight in net)), dilations, inner)
    matrices = (unmix.to(device, dtype), torch.linalg.inv(unmix).to(device, dtype))
    return _Step(prepared, *matrices, a0, a1, b0, couplings[0].sigmoid_scale, inner)
