"""The floor: operations and bytes counted from the shapes of the layers, over what this machine does in a second.

A flow spends its operations in the convolutions of its couplings. A 1x1 convolution is a matrix product, one of kernel
k is k of them, and the gradient of its input is one more of the same size. So the least time of an iteration is the
time of these products alone, each in the fastest of the ways to ask torch for it, with nothing between them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from flowsep.config import GlowConfig

from .harness import Clock, Context, Figure, figure, interleave, threads

PASSES = {"decode": 1, "decode, gradient of the latents": 2, "encode, full gradient": 3}  # times the layers' products
TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}  # arithmetic -> what tensors hold
SECONDS = 8.0  # of the paper's mixtures
FRAME_RATE = 22050 / 256  # frames a second


class Layer(NamedTuple):
    """One kind of convolution in a flow: its channels, its kernel, and how many there are."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    count: int


def convolutions(model: GlowConfig) -> tuple[Layer, ...]:
    """All convolutions of one pass through the flow."""
    half, hidden, each = model.squeeze * model.bins // 2, model.hidden, model.steps * model.layers
    layers = (
        Layer("start", half, hidden, 1, model.steps),
        Layer("gates", hidden, 2 * hidden, model.kernel, each),
        Layer("residual and skip", hidden, 2 * hidden, 1, each - model.steps),
        Layer("last skip", hidden, hidden, 1, model.steps),
        Layer("end", hidden, 2 * half, 1, model.steps),
    )
    return tuple(layer for layer in layers if layer.count)


def operations(model: GlowConfig, frames: int) -> dict[str, int]:
    """Floating-point operations of one pass over `frames` frames, by part; a multiplication and an addition are two.

    2 inputs outputs kernel columns each convolution and 2 groups channels columns each 1x1 mixing, where columns are
    frames / squeeze. Backwards, as much again for the gradients of the inputs, and of the weights (`PASSES`).
    """
    columns = frames // model.squeeze
    operations = {x.name: 2 * x.count * x.inputs * x.outputs * x.kernel * columns for x in convolutions(model)}
    return operations | {"mixing": 2 * model.steps * model.groups * model.squeeze * model.bins * columns}


def least_bytes(model: GlowConfig, frames: int, *, size: int = 4) -> int:
    """Bytes that an iteration of the separator cannot but move, a source: `size` bytes a number.

    The weights are read once forwards and once backwards; of the latents, Adam reads value, gradient and two moments
    and writes value and moments, decoding reads them and writes the magnitude. All else could stay in the cache.
    """
    weights = sum(x.count * x.inputs * x.outputs * x.kernel for x in convolutions(model))
    return size * (2 * weights + 9 * model.bins * frames)


def layer_bytes(layer: Layer, columns: int, *, size: int = 4) -> int:
    """Bytes of one convolution whose input, weights and output each pass through memory once."""
    return size * ((layer.inputs + layer.outputs) * columns + layer.inputs * layer.outputs * layer.kernel)


@contextmanager
def arithmetic(name: str) -> Iterator[torch.dtype]:
    """The type to hold numbers in; 'fp32' and 'tf32' differ in what a GPU makes of a product of 32-bit numbers."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = name == "tf32"
        yield TYPES[name]
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def formulations(
    layer: Layer, columns: int, sources: int, batch: int, dtype: torch.dtype, device: str
) -> dict[str, Callable[[Tensor], object]]:
    """Ways to compute one layer of all sources, each in the order of axes that suits it: weights -> outputs.

    Weights: (sources, outputs, inputs, kernel), random, so that each way may take them to lie as suits it.
    'convolution': one source after the other; 'grouped': all sources as the groups of one; 'matrix': one batched
    product, of the windows of the input if the kernel is wider than 1; 'shifts': one product for each place in the
    kernel, added up.
    """
    _, inputs, outputs, kernel, _ = layer
    padding = (kernel - 1) // 2

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    x, together = randn(sources, batch, inputs, columns), randn(batch, sources * inputs, columns)
    row = randn(sources, inputs, batch * (columns + 2 * padding))  # the chunks of a source side by side, padded
    width = row.shape[-1] - 2 * padding

    def windows() -> Tensor:
        return torch.cat([row[..., place : place + width] for place in range(kernel)], dim=1) if padding else row

    def shifts(weights: Tensor) -> Tensor:
        taps = weights.view(sources, kernel, outputs, inputs)
        total = torch.bmm(taps[:, 0], row[..., :width])
        for place in range(1, kernel):
            total.baddbmm_(taps[:, place], row[..., place : place + width])
        return total

    ways = {
        "convolution": lambda w: [functional.conv1d(x[i], w[i], padding=padding) for i in range(sources)],
        "grouped": lambda w: functional.conv1d(together, w.flatten(0, 1), padding=padding, groups=sources),
        "matrix": lambda w: torch.bmm(w.view(sources, outputs, -1), windows()),
    }
    return ways | ({"shifts": shifts} if padding else {})


class Floor(NamedTuple):
    """`run` computes the convolutions of one iteration and nothing else; `rates`: of each layer, direction and way."""

    run: Callable[[], None]
    rates: list[tuple[Layer, str, str, list[float]]]  # layer, direction, formulation, operations a second


def convolution_floor(
    model: GlowConfig, frames: int, sources: int, batch: int, dtype: torch.dtype, device: str, clock: Clock, *,
    repeats: int = 3, least: float = 0.02,
) -> Floor:  # fmt: skip
    """Time each way of each layer, forwards and as the gradient of its input, and keep the fastest."""
    columns = frames // model.squeeze
    jobs, rates = [], []
    for layer in convolutions(model):
        weights = 0.05 * torch.randn(
            layer.count, sources, layer.outputs, layer.inputs, layer.kernel, device=device, dtype=dtype
        )
        turned = layer._replace(inputs=layer.outputs, outputs=layer.inputs)
        work = 2 * sources * batch * columns * layer.inputs * layer.outputs * layer.kernel
        for direction, each in (("forwards", layer), ("gradient", turned)):
            used = weights.view(layer.count, sources, each.outputs, each.inputs, each.kernel)
            ways = formulations(each, columns, sources, batch, dtype, device)
            seconds = interleave(
                {name: lambda way=way, used=used: way(used[0]) for name, way in ways.items()},
                repeats, clock, least=least,
            )  # fmt: skip
            rates += [(layer, direction, name, [work / s for s in times]) for name, times in seconds.items()]
            best = min(seconds, key=lambda name: sorted(seconds[name])[repeats // 2])
            jobs.append((ways[best], used))

    def run() -> None:
        for way, used in jobs:
            for weights in used:
                way(weights)

    return Floor(run, rates)


@torch.no_grad()
def run(context: Context) -> list[Figure]:
    """Counts, and rates at the flow's shapes, of large matrix products, of copying and of the gates."""
    model, frames, sources = size(context)
    rows = counts(model, frames, sources)
    for count in context.thread_counts:
        with threads(count):
            rows += bandwidth(context, count)
            for name in types(context):
                rows += rates(context, name, count)
    return rows


def size(context: Context) -> tuple[GlowConfig, int, int]:
    """(model, frames, sources): the paper's 12 steps of 128 channels, 8 s, 4 sources; tiny if quick."""
    if context.quick:
        return GlowConfig(steps=2, hidden=8, layers=2, dropout=0.0), 16, 2
    return GlowConfig(dropout=0.0), round(SECONDS * FRAME_RATE / 2) * 2, 4


def types(context: Context) -> tuple[str, ...]:
    return ("fp32", "tf32", "bf16") if context.device == "cuda" else ("fp32", "bf16")


def counts(model: GlowConfig, frames: int, sources: int) -> list[Figure]:
    """What an iteration of all sources has to do, counted and not measured."""
    parts = {name: sources * 2 * value / 1e9 for name, value in operations(model, frames).items()}
    what = "operations of one iteration of the separator, all sources, decoding and gradient of the latents"
    rows = [figure("floor.operations", what, value, "GFLOP", part=name) for name, value in parts.items()]
    weights = sum(layer.count * layer.inputs * layer.outputs * layer.kernel for layer in convolutions(model))
    rows.append(figure("floor.weights", "weights of the convolutions of one prior", weights / 1e6, "million"))
    what = "bytes that one iteration cannot but move: weights twice, latents and Adam's moments"
    return [*rows, figure("floor.bytes", what, sources * least_bytes(model, frames) / 1e6, "MB")]


def bandwidth(context: Context, count: int) -> list[Figure]:
    """Copying between arrays too large for any cache; bytes read plus bytes written."""
    numbers = 2**16 if context.quick else 2**28 if context.device == "cuda" else 2**26
    a = torch.randn(numbers, device=context.device)
    b = torch.empty_like(a)
    seconds = interleave({"copy": lambda: b.copy_(a)}, context.repeats, context.clock, warmup=2)["copy"]
    what = f"copying {4 * numbers / 2**20:g} MiB, bytes read plus bytes written"
    return [figure("floor.copy", what, [8 * numbers / s / 1e9 for s in seconds], "GB/s", threads=count)]


def rates(context: Context, name: str, count: int) -> list[Figure]:
    """Operations a second in one arithmetic: the layers, a large product, and the gates' tanh and sigmoid."""
    model, frames, sources = size(context)
    columns, told = frames // model.squeeze, {"arithmetic": name, "threads": count}
    least = 0.001 if context.quick else 0.02
    with arithmetic(name) as dtype:
        floor = convolution_floor(
            model, frames, sources, 1, dtype, context.device, context.clock, repeats=context.repeats, least=least
        )
        rows = [
            figure(
                "floor.layer", "convolution of all sources at the flow's shape", [x / 1e9 for x in speeds], "GFLOP/s",
                layer=layer.name, direction=direction, way=way, **told,
                intensity=round(operations_a_byte(layer, columns, dtype.itemsize), 2),
            )
            for layer, direction, way, speeds in floor.rates
        ]  # fmt: skip
        side = 64 if context.quick else 8192 if context.device == "cuda" else 2048
        a, b = (torch.randn(side, side, device=context.device, dtype=dtype) for _ in range(2))
        gates = torch.randn(sources, 2 * model.hidden, columns, device=context.device, dtype=dtype)
        upper, lower = gates.chunk(2, dim=1)
        seconds = interleave(
            {"matrix": lambda: a @ b, "gates": lambda: torch.tanh(upper) * torch.sigmoid(lower)},
            context.repeats, context.clock, least=least,
        )  # fmt: skip
    what = f"product of two {side} x {side} matrices"
    products = [2 * side**3 / s / 1e9 for s in seconds["matrix"]]
    rows.append(figure("floor.matrix", what, products, "GFLOP/s", **told))
    gated = [upper.numel() / s / 1e9 for s in seconds["gates"]]
    return [*rows, figure("floor.gates", "tanh(a) sigmoid(b) of one layer", gated, "billion/s", **told)]


def operations_a_byte(layer: Layer, columns: int, item: int) -> float:
    return 2 * layer.inputs * layer.outputs * layer.kernel * columns / layer_bytes(layer, columns, size=item)
