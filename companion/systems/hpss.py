"""Separation that learns from nothing: median filters tell hits from tones, a crossover tells the bass."""

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat

from flowsep.config import FeatureConfig
from flowsep.files import FlowsepError
from flowsep.separator import separate_with_masks

from . import System

FEATURE = FeatureConfig(sample_rate=22050, n_fft=2048, hop=512)  # what librosa's lengths of median filters are made for
MEDIAN = 31  # bins and frames, librosa's
BLOCK = 512  # frames filtered together: the filters and masks of librosa take ten times the memory of what they hear


class HPSSOptions(BaseModel):
    """Where the bass ends."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    crossover_hz: PositiveFloat = 200.0  # a bass has its fundamentals below, and few voices theirs


class HarmonicPercussive(System):
    """`M_P = P^2 / (P^2 + H^2)`, `M_H = 1 - M_P`, P and H the medians of |x| along frequency and along time.

    The percussive part is the drums. Of the harmonic part everything below `crossover_hz` is the bass, and what is
    left belongs to the other sources in equal shares: no rule without training knows a voice from a guitar, and equal
    shares favour neither. With bass and drums alone the bass is all of the harmonic part; without bass there is no
    crossover. Sources without drums are refused rather than guessed at.

    Reference: Fitzgerald 2010, by `librosa.decompose.hpss`; its masks serve as in `flowsep.separate`.
    """

    name = "hpss"
    supervision = "none"
    Options = HPSSOptions

    def __init__(self, options, sources, priors=None, folder=None):
        super().__init__(options, sources, priors, folder)
        if "drums" not in self.sources:
            sources = ", ".join(self.sources)
            raise FlowsepError(
                f"hpss: separates drums from tones, but the sources are {sources}; take it off `systems`"
            )

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; the stems sum to the mixture."""
        return separate_with_masks(mixture, sample_rate, self._explain, names=self.sources, feature=FEATURE)

    def _explain(self, magnitude: torch.Tensor) -> dict[str, torch.Tensor]:
        harmonic, percussive = map(torch.from_numpy, _medians(magnitude.numpy()))
        hertz = torch.arange(len(magnitude)).unsqueeze(1) * FEATURE.sample_rate / FEATURE.n_fft
        tonal = [source for source in self.sources if source not in ("drums", "bass")]
        low = hertz < self.options.crossover_hz if "bass" in self.sources and tonal else torch.tensor(not tonal)
        shares = dict.fromkeys(tonal, harmonic * ~low / max(len(tonal), 1))
        shares |= {"bass": harmonic * low, "drums": percussive}
        return {source: shares[source] for source in self.sources}


def _medians(magnitude: np.ndarray) -> list[np.ndarray]:
    """The harmonic and the percussive part of (bins, frames), block by block, each with the frames that medians see."""
    from librosa.decompose import hpss

    parts = []
    for start in range(0, magnitude.shape[1], BLOCK):
        left = max(start - MEDIAN, 0)
        both = hpss(magnitude[:, left : start + BLOCK + MEDIAN], kernel_size=MEDIAN)
        parts.append([part[:, start - left :][:, :BLOCK] for part in both])
    return [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]
