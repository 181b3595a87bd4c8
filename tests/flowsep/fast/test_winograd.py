"""Convolutions by fewer multiplications against convolutions."""

import pytest
import torch
from torch.nn import functional

from flowsep.fast.winograd import OUTPUTS, ShortConvolution, transformed, transforms


@pytest.mark.parametrize("kernel", OUTPUTS)
def test_the_transforms_are_those_of_a_correlation(kernel):
    out, weights, into = transforms(kernel)
    generator = torch.Generator().manual_seed(kernel)
    w, x = (torch.randn(n, dtype=torch.float64, generator=generator) for n in (kernel, into.shape[1]))
    expected = torch.stack([(w * x[t : t + kernel]).sum() for t in range(OUTPUTS[kernel])])
    torch.testing.assert_close(out @ ((weights @ w) * (into @ x)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
@pytest.mark.parametrize("frames", [1, 4, 24, 31])
@pytest.mark.parametrize("kernel", OUTPUTS)
def test_it_is_the_convolution(kernel, frames, dtype, bound):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 5, 7, kernel, dtype=dtype, generator=generator)
    bias = torch.randn(2, 5, 1, 1, dtype=dtype, generator=generator)
    convolution = ShortConvolution(torch.empty(2, 7, 3, frames, dtype=dtype), 5, kernel)
    for _ in range(2):  # the second call finds what the first one left
        x = torch.randn(2, 7, 3, frames, dtype=dtype, generator=generator)
        for source in range(2):
            given = functional.conv1d(
                x[source].transpose(0, 1).double(), weight[source].double(), bias[source].flatten().double(),
                padding=kernel // 2,
            )  # fmt: skip
            found = convolution(x, transformed(weight), bias)[source].transpose(0, 1)
            assert (found - given).norm() <= bound * given.norm()
