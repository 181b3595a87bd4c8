"""log p(x) of a flow, with its gradient written out: what a training step computes.

`glow` teaches what the flow is. This is the same function in the layout of the engine, `net` included, and twice as
fast as autograd on the layers at the demo's sizes:

- ActNorm and the mixing of the groups are y_j = W (b_j + s_j x_j), where j counts the channels within a group. The
  gradients of W, b and s follow from the small matrices G_j = sum_n g_y_j x_j^T and the sums D_j = sum_n g_y_j alone.
- The coupling is z1 = m + u, u = exp(logs) y1. Its gradients need no more than u and exp(logs): g_m = g_z1,
  g_logs = u g_z1 + (the gradient of the log-determinant), g_y1 = exp(logs) g_z1.
- With `recompute` only the last z is kept: on the way back the coupling net is evaluated again, on the half that it
  left alone, and undoes the coupling, until x is reached. Four units of work instead of three (Gomez, Ren, Urtasun,
  Grosse 2017).

A gradient of the result with respect to y is written g_y; n counts frames.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..glow import Glow
from . import net as nets
from .layout import fold, grouped_order, mix

NORMALISED = {"start": 1, "gates": 2, "residual": 1, "skip": 1}  # weights with weight norm, and how many axes a row has


class Likelihood(nn.Module):
    """log p(x) = log N(f(x); 0, I) + log|det df/dx| in nats, f the function of a `Glow`.

    It holds a copy of the weights, stacked over the steps. All convolutions but the last ones of the couplings
    have weight norm, w = g v / |v| for each output channel (Salimans and Kingma 2016). `put_back` makes the flow
    compute what has been learnt. Under autocast the coupling nets compute in its lower precision, and all that must be
    inverted in the precision of x.

    Args:
        glow: the flow.
        recompute: keep no activations, but compute them again from z on the way back.
    Shape:
        (batch, bins, frames) -> (batch,); frames a multiple of the squeeze.
    """

    def __init__(self, glow: Glow, *, recompute: bool = False):
        super().__init__()
        norms, mixes, couplings = (glow.layers[part::3] for part in range(3))
        self.recompute, self.squeeze, self.groups = recompute, glow.squeeze, len(mixes[0].weight)
        self.sigmoid_scale, self.dropout = couplings[0].sigmoid_scale, couplings[0].net.dropout.p
        self.dilations = tuple(gate.dilation[0] for gate in couplings[0].net.gates)
        self.register_buffer("order", grouped_order(glow.bins * glow.squeeze, self.groups), persistent=False)
        self.logs = nn.Parameter(torch.stack([norm.logs.detach() for norm in norms])[:, self.order])
        self.bias = nn.Parameter(torch.stack([norm.bias.detach() for norm in norms])[:, self.order])
        self.mixing = nn.Parameter(torch.stack([mixing.weight.detach() for mixing in mixes]))
        for name, weight in nets.gather(couplings, self.half)._asdict().items():
            if not weight.numel():  # a net of one layer has no residual
                self.register_buffer(name, weight, persistent=False)
                continue
            self.register_parameter(name, nn.Parameter(weight))
            if axes := NORMALISED.get(name):
                length = weight.flatten(-axes).norm(dim=-1, keepdim=True)
                self.register_parameter(f"{name}_norm", nn.Parameter(length))

    @property
    def half(self) -> Any:
        """The order of the channels within a half."""
        return self.order[: len(self.order) // 2]  # type: ignore[arg-type]  # a buffer

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dropout = self.dropout if self.training else 0.0
        plan = _Plan(
            dilations=self.dilations,
            sigmoid_scale=self.sigmoid_scale,
            dropout=dropout,
            seed=int(torch.randint(2**62, ())) if dropout else 0,  # drawn by the processor: nobody waits for a device
            precision=torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype,
            recompute=self.recompute,
        )
        with torch.autocast(kind, enabled=False):
            line = fold(x.unsqueeze(1), self.squeeze, self.groups)
            volume = torch.linalg.slogdet(self.mixing.double())[1].sum().to(x.dtype) * (line.shape[1] // self.groups)
            volume = (volume + self.logs.sum()) * line.shape[3]
            return _LogLikelihood.apply(line, plan, self.logs, self.bias, self.mixing, *self._net()) + volume

    @torch.no_grad()
    def put_back(self, glow: Glow) -> None:
        """Copy the weights into `glow`, a flow of the sizes that this was made with."""
        norms, mixes, couplings = (glow.layers[part::3] for part in range(3))
        back = self.order.argsort()
        for number, (norm, mixing) in enumerate(zip(norms, mixes, strict=True)):
            norm.logs.copy_(self.logs[number, back])
            norm.bias.copy_(self.bias[number, back])
            mixing.weight.copy_(self.mixing[number])
        nets.scatter(self._net(), couplings, self.half)

    def _net(self) -> nets.Net:
        """The weights themselves: g v / |v| where they are normalised."""
        weights = {name: getattr(self, name) for name in nets.Net._fields}
        for name, axes in NORMALISED.items():
            if not weights[name].numel():
                continue
            rows = weights[name].flatten(-axes)
            flat = torch._weight_norm(rows.flatten(0, -2), getattr(self, f"{name}_norm").flatten(0, -2), 0)
            weights[name] = flat.view_as(weights[name])
        return nets.Net(**weights)


class _Plan(NamedTuple):
    """What the computation depends on beside the weights."""

    dilations: tuple[int, ...]
    sigmoid_scale: bool
    dropout: float
    seed: int  # of dropout
    precision: torch.dtype  # of the coupling nets
    recompute: bool


class _LogLikelihood(torch.autograd.Function):
    """log N(z; 0, I) + the log-determinants of the couplings, (batch,), of a folded x and the weights of all steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: _Plan, *weights: Tensor) -> Tensor:
        steps = [
            _Step(plan, number, *(weight[number : number + 1] for weight in weights))
            for number in range(len(weights[0]))
        ]
        ctx.lines, ctx.kept, logdet = [x], [], x.new_zeros(x.shape[2])
        for step in steps:
            z = step.mix(ctx.lines[-1])
            y0, y1 = z.chunk(2, dim=1)
            shift, scale, change, kept = step.shift_and_scale(y0)
            u = y1 * scale
            logdet += change
            torch.add(u, shift, out=y1)  # in place: y becomes z
            if plan.recompute:
                ctx.lines, step.net = [z], None
            else:
                ctx.lines.append(z)
                ctx.kept.append((scale, u, kept))
        ctx.steps = steps
        return logdet - 0.5 * (_by_entry(z.square()) + z[:, :, 0].numel() * math.log(2 * math.pi))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        g_logdet = gradient.view(1, 1, -1, 1)
        z = ctx.lines[-1]
        g, grads = z * -g_logdet, []
        for number, step in reversed(list(enumerate(ctx.steps))):
            y0 = z[:, : z.shape[1] // 2]
            if step.plan.recompute:
                shift, scale, _, kept = step.shift_and_scale(y0)
                u = z[:, z.shape[1] // 2 :] - shift
                z = step.unmix(torch.cat([y0, u / scale], dim=1))
            else:
                (scale, u, kept), z = ctx.kept[number], ctx.lines[number]
            g_z0, g_z1 = g.chunk(2, dim=1)
            g_logs = torch.addcmul(g_logdet, u, g_z1)
            if step.plan.sigmoid_scale:  # scale = 1e-6 + p, p = sigmoid(o): g_o = p (1 - p) / scale g_logs
                p = scale - 1e-6
                g_logs *= p * (1 - p) / scale
            g_net = step.net_backward(torch.cat([g_z1, g_logs], dim=1), kept, g_z0, y0)
            g_z1 *= scale
            if step.plan.recompute:
                step.net = None
            g, g_flow = step.mix_backward(z, g, wanted=number > 0 or ctx.needs_input_grad[0])
            grads.append((*g_flow, *g_net))
        stacked = (torch.cat(each) for each in zip(*reversed(grads), strict=True))
        return g, None, *(each.to(gradient.dtype) for each in stacked)


class _Step:
    """One step of the flow: ActNorm, mixing, coupling, each with its gradient; weights (1, ...).

    `shift_and_scale` prepares the coupling net, which may be forgotten in between.
    """

    def __init__(self, plan: _Plan, number: int, logs: Tensor, bias: Tensor, mixing: Tensor, *net: Tensor):
        self.plan, self.logs, self.mixing = plan, logs.unsqueeze(3), mixing
        self.bias, self.number = bias.unsqueeze(3), number
        self.weights, self.net = nets.Net(*net), None  # type: nets.Net, Any

    def mix(self, x: Tensor) -> Tensor:
        """y = W (b + s x)."""
        return mix(self.mixing, torch.addcmul(self.bias, x, torch.exp(self.logs)))

    def unmix(self, y: Tensor) -> Tensor:
        """x = (W^-1 y - b) / s; `inv_ex` does not wait to see whether W has an inverse."""
        return (mix(torch.linalg.inv_ex(self.mixing).inverse, y) - self.bias) * torch.exp(-self.logs)

    def mix_backward(self, x: Tensor, g: Tensor, *, wanted: bool) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """g_x where it is `wanted`, and the gradients of logs, bias and mixing."""
        mixing, groups = self.mixing[0], self.mixing.shape[1]
        s, b = (weight.view(groups, -1).T for weight in (torch.exp(self.logs), self.bias))  # row j: of all groups
        by_channel = g.view(groups, -1, g[0, 0].numel()).transpose(0, 1)
        products = torch.bmm(by_channel, x.view(groups, -1, x[0, 0].numel()).permute(1, 2, 0))
        sums = by_channel.sum(dim=2)
        g_mixing = (products * s.unsqueeze(1)).sum(dim=0) + sums.T @ b
        g_logs = (((products * mixing).sum(dim=1)) * s).T.reshape(1, -1, 1)
        g_bias = (sums @ mixing).T.reshape(1, -1, 1)
        g_x = mix(self.mixing.mT, g) * torch.exp(self.logs) if wanted else None
        return g_x, (g_logs, g_bias, g_mixing.unsqueeze(0))

    def shift_and_scale(self, y0: Tensor) -> tuple[Tensor, Tensor, Tensor, nets.Kept]:
        """m, exp(logs) and sum(logs), which the coupling net makes of the first half, and what its gradient needs."""
        self.net = nets.prepare(self.weights, self.plan.dilations, self.plan.precision)
        out, kept = nets.forward(self.net, y0.to(self.plan.precision), self._masks(y0))
        shift, logs = out.to(y0.dtype).chunk(2, dim=1)
        if self.plan.sigmoid_scale:
            scale = 1e-6 + torch.sigmoid(logs + 2)
            return shift, scale, _by_entry(torch.log(scale)), kept
        return shift, torch.exp(logs), _by_entry(logs), kept

    def net_backward(self, g_out: Tensor, kept: nets.Kept, g_y0: Tensor, y0: Tensor) -> nets.Net:
        """Add the gradient of the coupling net's input to `g_y0`; returns the gradients of the weights."""
        precision = self.plan.precision
        return nets.backward(self.net, kept, g_out.to(precision), g_y0, self._masks(y0), y0.to(precision))

    def _masks(self, y0: Tensor) -> Tensor | None:
        """Of dropout: 0 with its probability p, else 1 / (1 - p); the same at every call for one step of one batch."""
        if not self.plan.dropout:
            return None
        generator = torch.Generator(y0.device).manual_seed(self.plan.seed + self.number)
        shape = (1, *self.weights.gates.shape[1:3], *y0.shape[2:])
        kept = torch.rand(shape, generator=generator, device=y0.device) >= self.plan.dropout
        return kept.to(self.plan.precision).div_(1 - self.plan.dropout)


def _by_entry(x: Tensor) -> Tensor:
    """Sums over the channels and frames of each batch entry."""
    return x.sum(dim=(0, 1, 3))
