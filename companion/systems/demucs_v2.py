"""Demucs v2: a U-Net on the waveform with a recurrent layer at its bottom (Défossez, Usunier, Bottou, Bach 2019)."""

from typing import ClassVar

from pydantic import Field, PositiveInt

from . import library
from .supervised import Supervised, SupervisedOptions


class DemucsOptions(SupervisedOptions):
    """Sizes; the defaults are the published ones, at which the network has 266 million parameters."""

    width: PositiveInt = 64  # channels of the first layer, doubled by each further one
    depth: int = Field(6, ge=1, le=12)


class DemucsV2(Supervised):
    """`f(x) = sigma(x) g(x / sigma(x))`, g of `demucs.demucs.Demucs` without what its later versions added.

    sigma is the standard deviation of the mixture. Version 2 scales its songs by theirs before the network sees them,
    in training as in use, and measures the loss at that scale; here crops and segments are scaled.
    """

    name = "demucs_v2"
    level = 1.0  # type: float | None
    Options = DemucsOptions
    defaults: ClassVar = {"lr": 3e-4}  # as published
    curve_label = "mean absolute error (standard deviations of the mixture)"

    def build(self):
        """The library's class in the setting of version 2, which still resamples to twice the rate inside."""
        options = self.options
        return library("demucs.demucs").Demucs(
            list(self.sources),
            audio_channels=options.channels,
            channels=options.width,
            depth=options.depth,
            samplerate=options.sample_rate,
            lstm_layers=2,
            gelu=False,
            norm_starts=999,  # no layer is normalised
            dconv_mode=0,  # nor has a residual branch
            context=1,
            normalize=False,  # of each input; see the class
        )
