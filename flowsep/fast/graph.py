"""One iteration of the search as an ONNX graph, for programs without Python: `flowsep export`.

Between two calls of its callback `search.search` decodes all priors, takes the loss and its gradient, runs this through
the flows and makes Adam's step. The graph does the same by the formulas of `stacked` and `net`, and writes out what
`search.misfit` leaves to autograd: with s = sum_i G_i(z_i), b = audible sqrt(s^2 + d^2), e = 1e-8 and q = t / (b + e),

    dKL/ds = audible s / sqrt(s^2 + d^2) (1 - t q / ((b + e) (q + e))) / N   for the N elements of the target t.

Matrices lie in the file in 16 bits, or in 8 with one scale per row; all arithmetic is in float32.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import SeparationConfig
from ..files import FlowsepError, atomic_path
from ..glow import AffineCoupling
from . import net as nets
from .layout import grouped_order
from .symbols import Graph, Symbol

if TYPE_CHECKING:
    from ..prior import Prior

OPSET, IR = 18, 9  # versions of operators and of the file
BETA, EPSILON = 0.999, 1e-8  # Adam's second beta and epsilon: torch's defaults
FLOOR, DIM, LENGTH = 1e-8, 1e-3, 1000  # `search.FLOOR`, `search.DIM` and `search.LENGTH`
END = 2**31 - 1  # of a slice that takes the rest


def export_graph(priors: Mapping[str, "Prior"], config: SeparationConfig, path: str | Path, *, bits: int = 16) -> None:
    """Write the graph for these priors and settings to an ONNX file, whole or not at all.

    Inputs: `target` (bins, frames), the padded magnitudes; `chosen` (sources,), which priors explain it, by number;
    `z`, `first`, `second` (sources, channels, frames / squeeze), the latents and Adam's moments, zeros at the start;
    `step`, from 1 on; `alpha`, the weight of the priors; and `weights_float32` and the like (priors, numbers), which
    may be left out for the weights of these priors, or hold other priors of the same shape. Outputs: `estimates`
    (sources, bins, frames), `misfit` and `loss`, which belong to the given latents, and `next_z`, `next_first`,
    `next_second`. The property "flowsep" of the file holds `facts` as JSON.

    Args:
        priors: name -> prior; all of one shape.
        bits: of each weight of the coupling nets: 16, as `Prior.save(half=True)` rounds, or 8 with one scale per row,
            as `symbols.in_eight_bits` rounds.
    Raises:
        FlowsepError: priors of different shapes or features, or no package onnx.
    """
    try:
        from onnx import checker, helper
    except ImportError as error:
        raise FlowsepError("the package onnx is missing; pip install 'flowsep[export]'") from error
    kinds = {name: (prior.model.model_dump(exclude={"dropout"}), prior.feature) for name, prior in priors.items()}
    first = next(iter(priors))
    if other := next((name for name in priors if kinds[name] != kinds[first]), None):
        raise FlowsepError(
            f"priors: '{other}' and '{first}' differ in sizes or feature; a graph holds priors of one kind"
        )
    graph = Graph(bits)
    _iteration(graph, [*priors.values()], config)
    model = helper.make_model(graph.proto(), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    helper.set_model_props(model, {"flowsep": json.dumps(facts(priors, config))})
    checker.check_model(model, full_check=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def facts(priors: Mapping[str, "Prior"], config: SeparationConfig) -> dict[str, Any]:
    """What a program needs to know of a graph besides its inputs: sources, feature, sizes and settings."""
    first = next(iter(priors.values()))
    sizes = first.model.model_dump(include={"bins", "squeeze"})
    settings = config.model_dump(include={"iterations", "alpha", "mask_power"})
    return {"sources": [*priors], **first.feature.model_dump(), **sizes, **settings}


def _iteration(graph: Graph, priors: Sequence["Prior"], config: SeparationConfig) -> None:
    first, z, in_x = priors[0], graph["z"], config.space == "x"
    bins, squeeze, groups = first.model.bins, first.model.squeeze, first.model.groups
    channels = bins * squeeze
    order = grouped_order(channels, groups)
    layers = [[*prior.glow.layers] for prior in priors]
    steps = [_Step(graph, [flow[3 * k : 3 * k + 3] for flow in layers], order) for k in range(first.model.steps)][::-1]

    target = graph["target"].reshape(bins, -1, squeeze).transpose(2, 0, 1).reshape(channels, -1).take(order, 0)
    target = target + graph["step"] * FLOOR  # added anew at every iteration
    x = z
    for step in steps:
        x = step.decode(x)
    compressed, exponent = x, first.feature.exponent
    if exponent != 1:
        x = graph("Pow", graph("Relu", x), graph.constant(1 / exponent))
    plain = x.take(order.argsort(), 1).reshape(0, squeeze, bins, -1)
    graph.outputs["estimates"] = plain.transpose(0, 2, 3, 1).reshape(0, bins, -1)

    total = x.sum(0)
    there = (torch.arange(bins) < first.feature.n_fft // 2 + 1).float().repeat(squeeze)[order].unsqueeze(1)
    if floor := config.modulus_floor:
        modulus = graph("Sqrt", total * total + floor**2)
        slope = total / modulus
    else:
        modulus, slope = graph("Abs", total), graph("Sign", total)
    bounded = modulus * there + FLOOR  # b + e
    ratio = target / bounded
    size = graph.cast(graph("Size", target))
    divergence = target * graph("Log", ratio + FLOOR) - target + modulus * there
    misfit = graph.outputs["misfit"] = divergence.sum() / size
    # of the gradient; with a modulus floor scaled as for LENGTH frames
    unit = graph.constant(1 / (bins * LENGTH)) if floor else graph("Reciprocal", size)
    weight = graph["alpha"] * unit
    g = slope * there * (-(target * ratio / (bounded * (ratio + FLOOR))) + 1.0) * unit
    regulariser = (z * z).sum() * 0.5
    if in_x:
        volumes = torch.stack([_volume(flow, channels // groups) for flow in layers])
        logdet = graph.row(volumes).sum() * (size / float(channels))
        for step in steps:
            logdet = logdet - step.logs.sum()
        regulariser = regulariser + logdet
    regulariser = regulariser / size
    if in_x:
        sources = graph.cast(graph("Size", graph["chosen"]))
        regulariser = regulariser + sources * (0.5 * math.log(2 * math.pi))
    graph.outputs["loss"] = misfit + graph["alpha"] * regulariser

    if exponent != 1:
        slope = graph("Pow", graph("Max", compressed, graph.constant(DIM)), graph.constant(1 / exponent - 1))
        g = g * slope * (1 / exponent)
    for step in reversed(steps):
        g = step.vjp(g, weight if in_x else None)
    g = g + z * weight

    # Adam; what depends on the step alone is computed in double precision, as in torch
    count, one = graph.cast(graph["step"], "DOUBLE"), torch.ones((), dtype=torch.float64)
    passed = graph("Floor", (count - one) / (one * config.lr_every))
    rate = graph("Pow", one * config.lr_decay, passed) * (one * config.lr)
    rate = rate / (-graph("Pow", one * config.momentum, count) + one)
    whole = graph("Sqrt", -graph("Pow", one * BETA, count) + one)
    mean = graph["first"] * config.momentum + g * (1 - config.momentum)
    square = graph["second"] * BETA + g * g * (1 - BETA)
    graph.outputs["next_z"] = z - mean / (graph("Sqrt", square) / graph.cast(whole) + EPSILON) * graph.cast(rate)
    graph.outputs |= {"next_first": mean, "next_second": square}


def _volume(flow: Sequence[Any], blocks: int) -> Tensor:
    """Log |det| per frame of all mixing matrices and affines, in the direction z -> x."""
    norms, mixes = flow[::3], flow[1::3]
    mixed = [mixing.weight.half().double().slogdet()[1] * blocks for mixing in mixes]
    return -(torch.stack(mixed).sum() + sum(norm.logs.half().double().sum() for norm in norms)).float().detach()


class _Step:
    """Coupling, mixing and affine of all chosen priors; `decode` keeps what `vjp` needs."""

    def __init__(self, graph: Graph, layers: Sequence[Sequence[Any]], order: Tensor):
        self.graph = graph
        norms, mixes, couplings = zip(*layers, strict=True)
        coupling: AffineCoupling = couplings[0]
        self.sigmoid_scale, gates = coupling.sigmoid_scale, coupling.net.gates
        self.kernel, self.dilations = gates[0].kernel_size[0], [gate.dilation[0] for gate in gates]
        inverse = torch.stack([torch.linalg.inv(mixing.weight.detach().half().double()) for mixing in mixes]).float()
        self.inverse, self.groups, self.channels = graph.row(inverse), inverse.shape[-1], len(order)
        self.scale = (-graph.weight(torch.stack([norm.logs.detach()[order] for norm in norms]))).exp()
        self.shift = graph.weight(torch.stack([norm.bias.detach()[order] for norm in norms]))

        net = nets.gather(couplings, order[: len(order) // 2])
        self.start, self.end = graph.matrix(net.start), graph.matrix(net.end)
        self.start_bias, self.end_bias = graph.weight(net.start_bias), graph.weight(net.end_bias)
        self.skip = graph.matrix(net.skip).transpose(0, 2, 1, 3).reshape(0, net.skip.shape[2], -1)
        self.skip_bias = graph.weight(net.skip_bias).sum(1)
        self.residual = [graph.matrix(each) for each in net.residual.unbind(1)]
        self.residual_bias = [graph.weight(each) for each in net.residual_bias.unbind(1)]
        self.gates_bias = [graph.weight(each) for each in net.gates_bias.unbind(1)]
        self.gates, self.flipped = [], []
        for gate in net.gates.transpose(3, 4).unbind(1):  # (priors, 2 hidden, kernel, hidden)
            stored = graph.matrix(gate.flatten(2))
            taps = stored.reshape(0, 0, self.kernel, -1).take(torch.arange(self.kernel).flip(0), 2)
            self.gates.append(stored)
            self.flipped.append(taps.transpose(0, 3, 2, 1).reshape(0, gate.shape[3], -1))

    def decode(self, x: Symbol) -> Symbol:
        graph, self.gated = self.graph, []
        x0, x1 = x.parts(2)
        h, last = self.start @ x0 + self.start_bias, len(self.gates) - 1
        for layer, (gate, bias) in enumerate(zip(self.gates, self.gates_bias, strict=True)):
            a, b = (gate @ self._taps(h, layer) + bias).parts(2)
            t, s = graph("Tanh", a), graph("Sigmoid", b)
            self.gated.append((t, s, t * s))
            if layer < last:
                h = h + self.residual[layer] @ self.gated[layer][2] + self.residual_bias[layer]
        total = self.skip @ graph.joined(*(gated for *_, gated in self.gated)) + self.skip_bias
        shift, self.logs = (self.end @ total + self.end_bias).parts(2)
        if self.sigmoid_scale:
            self.sigmoid = graph("Sigmoid", self.logs + 2.0)
            self.logs = graph("Log", self.sigmoid + 1e-6)
        self.e = (-self.logs).exp()
        self.y1 = (x1 - shift) * self.e
        return (self._mix(self.inverse, graph.joined(x0, self.y1)) - self.shift) * self.scale

    def vjp(self, g: Symbol, logdet_weight: Symbol | None) -> Symbol:
        graph = self.graph
        g_y0, g_y1 = self._mix(self.inverse.mT, g * self.scale).parts(2)
        g_x1 = g_y1 * self.e
        g_log_e = self.y1 * g_y1
        if logdet_weight is not None:
            g_log_e = g_log_e + logdet_weight
        if self.sigmoid_scale:
            g_log_e = g_log_e * self.sigmoid * (-self.sigmoid + 1.0) / (self.sigmoid + 1e-6)
        g_gated = (self.skip.mT @ (self.end.mT @ -graph.joined(g_x1, g_log_e))).parts(len(self.gates))
        g_h: Symbol | None = None
        for layer in reversed(range(len(self.gates))):
            g, (t, s, gated) = g_gated[layer], self.gated[layer]
            if g_h is not None:
                g = g + self.residual[layer].mT @ g_h
            g_both = graph.joined(g * s * (-(t * t) + 1.0), g * gated * (-s + 1.0))
            back = self.flipped[layer] @ self._taps(g_both, layer)
            g_h = back if g_h is None else g_h + back
        assert g_h is not None
        return graph.joined(g_y0 + self.start.mT @ g_h, g_x1)

    def _mix(self, matrix: Symbol, x: Symbol) -> Symbol:
        return (matrix @ x.reshape(0, self.groups, -1)).reshape(0, self.channels, -1)

    def _taps(self, h: Symbol, layer: int) -> Symbol:
        """Rows of what each tap of a kernel sees of h, zeros around it: see `net._taps`."""
        dilation = self.dilations[layer]
        around = dilation * (self.kernel // 2)
        padded = self.graph("Pad", h, [0, 0, around, 0, 0, around])
        spans = [(dilation * tap, dilation * tap - 2 * around or END) for tap in range(self.kernel)]
        return self.graph.joined(*(self.graph("Slice", padded, [a], [b], [2]) for a, b in spans))
