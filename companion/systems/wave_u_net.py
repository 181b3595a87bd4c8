"""Wave-U-Net: a U-Net on the waveform without any padding (Stoller, Ewert, Dixon 2018); no library keeps one."""

import math
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from .segments import centre
from .supervised import Supervised, SupervisedOptions

DOWN, UP = 15, 5  # taps of the convolutions


class WaveUNetOptions(SupervisedOptions):
    """Sizes; the defaults are the published ones, where 147,443 samples in give 16,389 out."""

    levels: int = Field(12, ge=1, le=24)
    filters: PositiveInt = 24  # more at each level than at the one above


class WaveUNet(Supervised):
    """`WaveUNetwork`, fitted to the middle of each crop, of which it sees all surroundings.

    Crops and segments are scaled to one level, which the paper does not do: a short training gets further so.
    """

    name = "wave_u_net"
    level = 0.3  # far from where tanh bends
    Options = WaveUNetOptions
    defaults: ClassVar = {"lr": 1e-4, "crop_seconds": 3.34}  # as published: 147,443 samples
    curve_label = f"mean squared error (of mixtures whose standard deviation is {level})"

    def build(self):
        """Random weights of the sizes in the options."""
        return WaveUNetwork(len(self.sources), self.options.channels, self.options.levels, self.options.filters)

    def loss(self, network, stems):
        """mean (f(x) - s)^2 over the samples that f explains, as in the paper."""
        estimates = network(stems.sum(dim=1))
        return (estimates - centre(stems, estimates.shape[-1])).square().mean()

    def estimate(self, network, mixture):
        """The mixture with as much silence on both sides as the network needs."""
        samples = mixture.shape[-1]
        given, _ = lengths(bottom_for_output(samples, self.options.levels), self.options.levels)
        padded = functional.pad(mixture, (self.context, given - samples - self.context))
        return network(padded)[..., :samples]

    @property
    def crop(self):
        """The shortest input that the network takes, but for those shorter than `crop_seconds`."""
        levels = self.options.levels
        bottom = math.ceil((super().crop + DOWN - 2) / 2**levels) - (2 * DOWN - 3)
        return lengths(max(bottom, UP + 1), levels)[0]

    @property
    def context(self):
        """By what an input is longer than its output, on one side."""
        given, made = lengths(UP, self.options.levels)
        return (given - made) // 2


def lengths(bottom: int, levels: int) -> tuple[int, int]:
    """(input, output) samples = ((b + 27) 2^L - 13, (b - 5) 2^L + 5), b of them after the lowest convolution.

    For kernels of 15 and 5: a level down maps n to (n - 14 + 1) / 2, a level up maps n to (2 n - 1) - 4.
    """
    return (bottom + 2 * DOWN - 3) * 2**levels - (DOWN - 2), (bottom - UP) * 2**levels + UP


def bottom_for_output(samples: int, levels: int) -> int:
    """The smallest `bottom` whose output is at least as long."""
    return max(0, math.ceil((samples - UP) / 2**levels)) + UP


class WaveUNetwork(nn.Module):
    """(batch, channels, a length of `lengths`) -> (batch, sources, channels, the shorter length), which sum to x.

    Down: convolution to `filters` more channels, every other sample; up: linear interpolation, the same level's
    features before the decimation beside it, convolution. The last source is what the others leave of the mixture.
    """

    def __init__(self, sources: int, channels: int, levels: int, filters: int):
        super().__init__()
        widths = [channels, *(filters * level for level in range(1, levels + 1))]
        self.shape = sources - 1, channels
        self.down = nn.ModuleList(nn.Conv1d(a, b, DOWN) for a, b in pairwise(widths))
        self.bottom = nn.Conv1d(widths[-1], widths[-1] + filters, DOWN)
        below = [*widths[2:], widths[-1] + filters]
        self.up = nn.ModuleList(nn.Conv1d(a + b, b, UP) for a, b in zip(below, widths[1:], strict=True))
        self.out = nn.Conv1d(filters + channels, (sources - 1) * channels, 1)
        for layer in (*self.down, self.bottom, *self.up, self.out):  # as in the published code's framework
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, mixture: Tensor) -> Tensor:
        """See the class."""
        x, kept = mixture, []
        for layer in self.down:
            x = functional.leaky_relu(layer(x), 0.2)
            kept.append(x)
            x = x[..., ::2]
        x = functional.leaky_relu(self.bottom(x), 0.2)
        for layer, beside in zip(reversed(self.up), reversed(kept), strict=True):
            x = functional.interpolate(x, size=2 * x.shape[-1] - 1, mode="linear", align_corners=True)
            x = torch.cat([centre(beside, x.shape[-1]), x], dim=1)
            x = functional.leaky_relu(layer(x), 0.2)
        heard = centre(mixture, x.shape[-1])
        stems = self.out(torch.cat([heard, x], dim=1)).tanh().unflatten(1, self.shape)
        return torch.cat([stems, heard.unsqueeze(1) - stems.sum(dim=1, keepdim=True)], dim=1)
