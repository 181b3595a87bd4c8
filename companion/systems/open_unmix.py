"""Open-Unmix: one recurrent network per source, then a multichannel Wiener filter (Stöter et al. 2019)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from flowsep.spectrogram import stft
from flowsep.weights import MAX_OVERLAP

from . import library
from .supervised import Supervised, SupervisedOptions


class OpenUnmixOptions(SupervisedOptions):
    """Sizes; the defaults come from the published model umxhq."""

    hidden: int = Field(512, ge=2, multiple_of=2)
    layers: int = Field(3, ge=1, le=64)
    n_fft: int = Field(4096, ge=2, le=2**16)
    hop: PositiveInt = 1024
    bandwidth: PositiveFloat = 16_000.0  # Hz: the networks hear nothing above, but estimate it
    wiener: int = Field(1, ge=0)  # iterations of expectation maximisation; 0: the mixture's phase

    @model_validator(mode="after")
    def _overlap(self):
        if self.n_fft > MAX_OVERLAP * self.hop:
            raise ValueError(f"n_fft {self.n_fft} with hop {self.hop}: {MAX_OVERLAP} windows over a sample at most")
        return self


class OpenUnmix(Supervised):
    """`|s_i| = f_i(|x|)` by `openunmix.model.OpenUnmix`, put together by its `Separator`."""

    name = "open_unmix"
    Options = OpenUnmixOptions
    curve_label = "mean squared error of magnitudes (full scale² = 1)"

    def build(self):
        """One network per source, side by side: they share nothing but the batches."""
        options = self.options
        model, utils = umx("model"), umx("utils")
        heard = min(options.bandwidth, options.sample_rate / 2)
        sizes = {
            "nb_bins": options.n_fft // 2 + 1,
            "nb_channels": options.channels,
            "hidden_size": options.hidden,
            "nb_layers": options.layers,
            "max_bin": utils.bandwidth_to_max_bin(options.sample_rate, options.n_fft, heard),
        }
        return SideBySide(model.OpenUnmix(**sizes) for _ in self.sources)

    def prepare(self, network, sampler):
        """Input statistics of each bin over some mixtures; deviations below 1e-4 of the largest count as that."""
        mixtures = torch.cat([torch.from_numpy(sampler.batch(step)).sum(dim=1) for step in range(8)])
        magnitudes = self._magnitudes(mixtures).transpose(0, 2).flatten(1)  # (bins, all else)
        mean, deviation = magnitudes.mean(dim=1), magnitudes.std(dim=1)
        deviation = deviation.clamp_min(1e-4 * deviation.max())
        for model in network.models:
            model.input_mean.data.copy_(-mean[: model.nb_bins])
            model.input_scale.data.copy_(1 / deviation[: model.nb_bins])

    def loss(self, network, stems):
        """mean (f_i(|x|) - |s_i|)^2 over sources, bins and frames, as in the reference's training."""
        return functional.mse_loss(network(self._magnitudes(stems.sum(dim=1))), self._magnitudes(stems))

    def estimate(self, network, mixture):
        """The library's `Separator`; what is too short for its transform is followed by silence."""
        options, samples = self.options, mixture.shape[-1]
        separator = umx("model").Separator(
            dict(zip(map(str, range(len(self.sources))), network.models, strict=True)),
            niter=options.wiener if len(self.sources) > 1 else 0,  # it refuses to filter a single source
            sample_rate=float(options.sample_rate),
            n_fft=options.n_fft,
            n_hop=options.hop,
            nb_channels=options.channels,
        )
        padded = functional.pad(mixture, (0, max(0, options.n_fft - samples)))
        return separator.to(mixture.device).eval()(padded)[..., :samples]

    def _magnitudes(self, audio: Tensor) -> Tensor:
        return stft(audio, self.options.n_fft, self.options.hop).abs()


class RandomMixesOpenUnmix(OpenUnmix):
    """The same network when songs are not known: fitted to sums of stems that do not belong together."""

    name = "open_unmix_random"
    defaults: ClassVar = {"mixes": "random"}


class SideBySide(nn.Module):
    """(batch, channels, bins, frames) -> (batch, sources, channels, bins, frames) by one network per source."""

    def __init__(self, models: Iterator[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, magnitudes: Tensor) -> Tensor:
        """See the class."""
        return torch.stack([model(magnitudes) for model in self.models], dim=1)


def umx(name: str) -> ModuleType:
    """A module of openunmix, imported without torchaudio.

    The library imports torchaudio at its top, but uses it only to read files and to resample, which flowsep does
    itself. Its wheels are tied to a version of torch, and one of another version may crash: so an empty module stands
    in for it during the import, unless the real one has been imported already, and goes away again.
    """
    with _empty_module("torchaudio"):
        return library(f"openunmix.{name}")


@contextmanager
def _empty_module(name: str) -> Iterator[None]:
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]
