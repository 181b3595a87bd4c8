"""The engine's layout: there and back, and the one permutation that stands for those around each convolution."""

import pytest
import torch

from flowsep.fast.layout import fold, grouped_order, mix, unfold
from flowsep.glow import InvertibleConv


@pytest.mark.parametrize(("squeeze", "groups"), [(2, 4), (4, 8), (1, 2)])
def test_unfold_undoes_fold(squeeze, groups):
    x = torch.randn(3, 2, 16, 8, generator=torch.Generator().manual_seed(1))
    folded = fold(x, squeeze, groups)
    assert folded.shape == (2, 16 * squeeze, 3, 8 // squeeze) and folded.is_contiguous()
    assert torch.equal(unfold(folded, squeeze, groups), x)


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_in_grouped_order_the_convolution_mixes_blocks(groups):
    conv = InvertibleConv(16, groups)
    x = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(2))
    order = grouped_order(16, groups)
    mixed = mix(conv.weight.detach().unsqueeze(0), x[:, order].transpose(0, 1).unsqueeze(0))
    torch.testing.assert_close(mixed[0].transpose(0, 1), conv(x)[0][:, order].detach())


def test_fold_brings_the_squeezed_channels_into_grouped_order():
    """Channel offset * bins + bin of the paper is where `grouped_order` says."""
    x = torch.arange(6 * 4.0).view(1, 1, 6, 4)
    plain = x[0, 0].view(6, 2, 2).permute(2, 0, 1).reshape(12, 2)
    assert torch.equal(fold(x, 2, 4)[0, :, 0], plain[grouped_order(12, 4)])
