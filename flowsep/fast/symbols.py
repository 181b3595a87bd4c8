"""Formulas as an ONNX graph: what is written with operators of Python becomes its nodes."""

from collections.abc import Sequence
from functools import partialmethod
from typing import Any

import torch
from torch import Tensor


def in_eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(q, scale) with weight = scale q up to rounding; q in -127 ... 127, one scale for each row.

    Shape: (..., rows, columns) -> the same in int8, (..., rows, 1).
    """
    scale = (weight.abs().amax(dim=-1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight / scale).round().to(torch.int8), scale


class Symbol:
    """A tensor of the graph by its name; an operator appends a node."""

    def __init__(self, graph: "Graph", name: str):
        self.graph, self.name = graph, name

    def _of(self, operator: str, *others: Any) -> "Symbol":
        return self.graph(operator, self, *others)

    __add__ = partialmethod(_of, "Add")
    __sub__ = partialmethod(_of, "Sub")
    __mul__ = partialmethod(_of, "Mul")
    __truediv__ = partialmethod(_of, "Div")
    __matmul__ = partialmethod(_of, "MatMul")
    __neg__ = partialmethod(_of, "Neg")
    exp = partialmethod(_of, "Exp")

    def reshape(self, *shape: int) -> "Symbol":
        return self._of("Reshape", shape)  # 0 keeps an axis

    def transpose(self, *axes: int) -> "Symbol":
        return self.graph("Transpose", self, perm=axes)

    def sum(self, *axes: int) -> "Symbol":
        """Without axes over all elements, to a scalar."""
        return self.graph("ReduceSum", self, *([axes] if axes else []), keepdims=0)

    def take(self, which: Any, axis: int) -> "Symbol":
        return self.graph("Gather", self, which, axis=axis)

    def parts(self, number: int) -> list["Symbol"]:
        """Equal parts of the channels."""
        return self.graph.several("Split", [self], number, axis=1, num_outputs=number)

    @property
    def mT(self) -> "Symbol":  # noqa: N802  # as torch has it
        return self.transpose(0, 2, 1)


class Graph:
    """Nodes, one after the other, and the weights of all priors, which lie in one row per prior and type of number."""

    def __init__(self, bits: int):
        self.bits = bits
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.rows: dict[str, list[Tensor]] = {}  # type of number -> what its rows consist of, each (priors, numbers)
        self.outputs: dict[str, Symbol] = {}
        scalar, state = [], ["sources", "channels", "folded"]  # type: list[str], list[str]
        self.inputs = {"target": ["bins", "frames"], "chosen": ["sources"], "z": state, "first": state, "second": state}
        self.inputs |= {"step": scalar, "alpha": scalar}

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> Symbol:
        """The result of one node; numbers and tensors among its inputs become constants."""
        return self.several(operator, inputs, 1, **attributes)[0]

    def several(self, operator: str, inputs: Sequence[Any], number: int, **attributes: Any) -> list[Symbol]:
        from onnx import helper

        names = [x.name if isinstance(x, Symbol) else self.constant(x).name for x in inputs]
        results = [f"{operator.lower()}_{len(self.nodes)}_{k}" for k in range(number)]
        self.nodes.append(helper.make_node(operator, names, results, **attributes))
        return [Symbol(self, name) for name in results]

    def __getitem__(self, name: str) -> Symbol:
        return Symbol(self, name)

    def constant(self, value: Any) -> Symbol:
        return Symbol(self, self._store(torch.as_tensor(value), f"constant_{len(self.stored)}"))

    def _store(self, value: Tensor, name: str) -> str:
        from onnx import numpy_helper

        self.stored.append(numpy_helper.from_array(value.contiguous().numpy(), name))
        return name

    def cast(self, value: Any, kind: str = "FLOAT") -> Symbol:
        from onnx import TensorProto

        return self("Cast", value, to=getattr(TensorProto, kind))

    def row(self, value: Tensor) -> Symbol:
        """Of the chosen priors, in the type of its numbers: (priors, ...) -> (sources, ...)."""
        kind = str(value.dtype).removeprefix("torch.")
        rows = self.rows.setdefault(kind, [])
        rows.append(value.flatten(1) if value.ndim > 1 else value.unsqueeze(1))
        return Symbol(self, f"{kind}_{len(rows) - 1}").reshape(0, *value.shape[1:])

    def weight(self, value: Tensor) -> Symbol:
        """One weight for each prior, in 16 bits: (priors, ...) -> (sources, ...)."""
        return self.cast(self.row(value.half()))

    def matrix(self, value: Tensor) -> Symbol:
        """One matrix for each prior, in the bits of this graph: (priors, rows, columns) -> (sources, rows, columns)."""
        if self.bits != 8:
            return self.weight(value)
        rounded, scale = in_eight_bits(value.half().float())
        return self.cast(self.row(rounded)) * self.row(scale)

    def joined(self, *parts: Symbol) -> Symbol:
        return self("Concat", *parts, axis=1)

    def proto(self) -> Any:
        from onnx import TensorProto, helper

        def info(name: str, shape: Any) -> Any:
            kind = TensorProto.INT32 if name == "chosen" else TensorProto.FLOAT
            return helper.make_tensor_value_info(name, kind, shape)

        self.nodes += [helper.make_node("Identity", [result.name], [name]) for name, result in self.outputs.items()]
        shapes = {"estimates": ["sources", "bins", "frames"], "misfit": [], "loss": []}
        results = [info(name, shapes.get(name, self.inputs["z"])) for name in self.outputs]
        inputs = [info(name, shape) for name, shape in self.inputs.items()]
        first = []
        for kind, rows in self.rows.items():
            self._store(torch.cat(rows, 1), f"weights_{kind}")  # what an input has where a program gives no other
            inputs.append(helper.make_tensor_value_info(f"weights_{kind}", self.stored[-1].data_type, ["priors", None]))
            sizes = self.constant([each.shape[1] for each in rows])
            parts = [f"{kind}_{k}" for k in range(len(rows))]
            first += [
                helper.make_node("Gather", [f"weights_{kind}", "chosen"], [f"chosen_{kind}"], axis=0),
                helper.make_node("Split", [f"chosen_{kind}", sizes.name], parts, axis=1),
            ]
        return helper.make_graph([*first, *self.nodes], "flowsep", inputs, results, self.stored)
