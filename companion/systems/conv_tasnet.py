"""Conv-TasNet: masks on a learnt transform, found by dilated convolutions (Luo, Mesgarani 2019), for stereo music.

The masking network is asteroid's. The encoder and decoder take all channels at once, as in Défossez et al. 2019;
asteroid's own take one.
"""

from typing import ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from . import library
from .supervised import Supervised, SupervisedOptions


class ConvTasNetOptions(SupervisedOptions):
    """Sizes, in the letters of the paper; the defaults come from Défossez et al. 2019, for music."""

    filters: PositiveInt = 256  # N, of the encoder
    kernel: int = Field(20, ge=2, multiple_of=2)  # L, samples of a filter, which overlap by half
    bottleneck: PositiveInt = 256  # B
    hidden: PositiveInt = 512  # H
    skip: int = Field(0, ge=0)  # Sc; 0: no skip connections
    blocks: int = Field(10, ge=1, le=24)  # X, with dilations 1, 2, 4, ...
    repeats: int = Field(4, ge=1, le=64)  # R


class ConvTasNet(Supervised):
    """`s_i = D(m_i(E x) * E x)`: E a convolution and rectifier, D a transposed convolution, m_i asteroid's masks."""

    name = "conv_tasnet"
    Options = ConvTasNetOptions
    defaults: ClassVar = {"lr": 3e-4}  # as in Défossez et al. 2019

    def build(self):
        """Rectified masks and global layer normalisation."""
        options = self.options
        masker = library("asteroid.masknn").TDConvNet(
            options.filters,
            len(self.sources),
            n_blocks=options.blocks,
            n_repeats=options.repeats,
            bn_chan=options.bottleneck,
            hid_chan=options.hidden,
            skip_chan=options.skip,
            norm_type="gLN",
            mask_act="relu",
        )
        return MaskedWaveform(masker, options.channels, options.filters, options.kernel)


class MaskedWaveform(nn.Module):
    """Encoder, masker, decoder: (batch, channels, samples) -> (batch, sources, channels, samples)."""

    def __init__(self, masker: nn.Module, channels: int, filters: int, kernel: int):
        super().__init__()
        self.hop = kernel // 2
        self.encoder = nn.Conv1d(channels, filters, kernel, self.hop, bias=False)
        self.masker = masker
        self.decoder = nn.ConvTranspose1d(filters, channels, kernel, self.hop, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """The mixture is padded so that every sample lies within two filters."""
        samples = mixture.shape[-1]
        padded = functional.pad(mixture, (self.hop, self.hop + -samples % self.hop))
        features = self.encoder(padded).relu()
        masked = self.masker(features) * features.unsqueeze(1)
        audio = self.decoder(masked.flatten(0, 1)).unflatten(0, masked.shape[:2])
        return audio[..., self.hop : self.hop + samples]
