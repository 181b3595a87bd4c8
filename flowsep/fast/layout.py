"""How the engine lays out magnitudes: (sources, channels, batch, frames), groups of channels as blocks of memory.

The 1x1 convolution of a flow mixes channels (2, C / groups, groups / 2) in groups of C / groups. The research code
permutes them around each of these convolutions. The engine permutes once, on the way in and out: the permutation keeps
each half of the channels to itself, so the couplings may live inside it.
"""

import torch
from torch import Tensor


def grouped_order(channels: int, groups: int) -> Tensor:
    """i with grouped[k] = plain[i[k]]: channels (2, C / groups, groups / 2) read as (2, groups / 2, C / groups)."""
    return torch.arange(channels).view(2, channels // groups, groups // 2).transpose(1, 2).reshape(-1)


def fold(x: Tensor, squeeze: int, groups: int) -> Tensor:
    """(batch, sources, bins, frames) -> (sources, squeeze * bins, batch, frames / squeeze) in grouped order."""
    batch, sources, bins, frames = x.shape
    x = x.reshape(batch, sources, bins, frames // squeeze, squeeze).permute(1, 4, 2, 0, 3)
    x = x.reshape(sources, 2, -1, groups // 2, batch, frames // squeeze).transpose(2, 3)
    return x.reshape(sources, -1, batch, frames // squeeze).contiguous()


def unfold(x: Tensor, squeeze: int, groups: int) -> Tensor:
    """(sources, squeeze * bins, batch, frames) -> (batch, sources, bins, frames * squeeze): inverse of `fold`."""
    sources, channels, batch, frames = x.shape
    x = x.view(sources, 2, groups // 2, -1, batch, frames).transpose(2, 3)
    x = x.reshape(sources, squeeze, channels // squeeze, batch, frames).permute(3, 0, 2, 4, 1)
    return x.reshape(batch, sources, channels // squeeze, frames * squeeze)


def mix(matrix: Tensor, x: Tensor) -> Tensor:
    """W x with the channels of x as blocks: (sources, groups, groups), (sources, channels, ...) -> like x."""
    return torch.bmm(matrix, x.reshape(len(x), matrix.shape[2], -1)).view(x.shape)
