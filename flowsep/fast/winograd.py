"""Convolutions along frames with fewer multiplications (Winograd 1980; Lavin and Gray 2016): m outputs for m + r - 1.

r weights and m outputs directly take m r multiplications. As products of polynomials they take n = m + r - 1: the
product of a(p) and b(p), of degree n - 1, is known from its values at n points, and there it is a value times a value.
Transposed, that computes a correlation of n inputs x with r weights w,

    y_t = sum_k w_k x_(t+k)  =  (A^T [(G w) * (B^T x)])_t,    t = 0 ... m - 1,

where G and A evaluate polynomials of r and m coefficients at the points, the last of which is infinity, and B^T is the
transposed inverse of what evaluates n coefficients. With channels, * is a matrix product a point. For r = 5 and m = 4
that is 8 products instead of 20, and the transforms cost little beside them. Taught in `notebooks/13_speed.ipynb`.
"""

import torch
from torch import Tensor

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # and infinity: more of them, or farther out, cost digits
OUTPUTS = {3: 6, 5: 4}  # kernel -> m; either takes all points


def transforms(kernel: int) -> tuple[Tensor, Tensor, Tensor]:
    """(A^T, G, B^T), of m x n, n x r and n x n in double precision, the rows of B^T scaled to a largest entry of 1."""
    outputs, count = OUTPUTS[kernel], len(POINTS) + 1

    def evaluate(coefficients: int) -> Tensor:
        powers = torch.tensor(POINTS, dtype=torch.float64).unsqueeze(1) ** torch.arange(coefficients)
        leading = torch.eye(coefficients, dtype=torch.float64)[-1:]  # the value at infinity
        return torch.cat([powers, leading])

    inputs = torch.linalg.inv(evaluate(count)).T
    scale = inputs.abs().amax(dim=1, keepdim=True)
    return evaluate(outputs).T.contiguous(), evaluate(kernel) * scale, inputs / scale


def transformed(weight: Tensor) -> Tensor:
    """G w for stacked weights: (sources, outputs, inputs, kernel) -> (points * sources, outputs, inputs)."""
    _, weights, _ = transforms(weight.shape[-1])
    return torch.einsum("pk,soik->psoi", weights.to(weight), weight).flatten(0, 1).contiguous()


class ShortConvolution:
    """y = w * x + bias, zeros beyond the ends, for one shape of x; what it returns is overwritten by the next call.

    Args:
        like: (sources, inputs, batch, frames), which x will resemble.
        outputs, kernel: of the convolution; kernels of `OUTPUTS`, not dilated.
    """

    def __init__(self, like: Tensor, outputs: int, kernel: int):
        sources, inputs, batch, self.frames = like.shape
        out, _, into = (matrix.to(like) for matrix in transforms(kernel))
        self.step, points = out.shape
        self.ahead, self.out = (kernel - 1) // 2, out
        # n = m + r - 1 inputs lie in two neighbouring blocks of m
        self.into = into[:, : self.step].contiguous(), into[:, self.step :].contiguous()
        blocks = -(-self.frames // self.step) + 1  # one more, to look ahead into
        self.padded = like.new_zeros(sources, inputs, batch, self.step * blocks)
        self.values = like.new_empty(points, self.padded.numel() // self.step)
        self.products = like.new_empty(points * sources, outputs, batch * blocks)
        self.parts = like.new_empty(self.step, sources * outputs * batch * blocks)
        self.result = like.new_empty(sources, outputs, batch, blocks, self.step)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
        """x, `transformed` weights, bias (sources, outputs, 1, 1) -> (sources, outputs, batch, frames)."""
        assert dilation == 1, "not one of these convolutions"
        self.padded[..., self.ahead : self.ahead + self.frames] = x
        blocks = self.padded.view(-1, self.step).T
        torch.mm(self.into[0], blocks, out=self.values)
        ahead = self.into[1].shape[1]
        self.values[:, :-1].addmm_(self.into[1], blocks[:ahead, 1:])
        torch.bmm(weight, self.values.view(len(weight), weight.shape[2], -1), out=self.products)
        torch.mm(self.out, self.products.view(len(self.values), -1), out=self.parts)
        self.result.copy_(self.parts.view(self.step, *self.result.shape[:-1]).movedim(0, -1))
        found = self.result.flatten(3)[..., : self.frames]
        return found if bias is None else found.add_(bias)
