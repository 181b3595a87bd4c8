"""Demucs v2: a U-Net on the waveform with a recurrent layer at its bottom (Défossez, Usunier, Bottou, Bach 2019)."""

from pydantic import PositiveInt

from .supervised import Supervised, SupervisedOptions, library


class DemucsOptions(SupervisedOptions):
    """Sizes; the defaults are the published ones, at which the network has 266 million parameters."""

    width: PositiveInt = 64  # channels of the first layer, doubled by each further one
    depth: PositiveInt = 6


class DemucsV2(Supervised):
    """`demucs.demucs.Demucs` without what its later versions added; estimates have the mixture's length and scale."""

    name = "demucs_v2"
    Options = DemucsOptions

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
            normalize=False,
        )
