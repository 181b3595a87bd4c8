"""Between sounds and the magnitudes that a prior models, for pictures and players."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from flowsep import FeatureConfig


def magnitude(audio: np.ndarray, sample_rate: int, feature: "FeatureConfig") -> np.ndarray:
    """|STFT| of the mean of the channels, (bins, frames), with windows as long in seconds as in `feature`.

    audio: (channels, samples) at `sample_rate` Hz, which is not resampled: bins above half of `feature.sample_rate` are
    cut off, and levels are scaled to that rate.
    """
    import torch

    from flowsep.spectrogram import stft

    times = round(sample_rate / feature.sample_rate)
    spectrum = stft(torch.from_numpy(audio.mean(axis=0)), times * feature.n_fft, times * feature.hop)
    return (spectrum.abs()[: feature.n_fft // 2 + 1] / times).numpy()


def invert(magnitude: np.ndarray, hop: int, *, seed: int, samples: int | None = None) -> np.ndarray:
    """Audio of about this |STFT|, with the phase of Griffin and Lim's iteration (1984, 32 steps from a random start).

    magnitude: (..., bins, frames), of windows of 2 (bins - 1) samples. samples: length of the audio, hop (frames - 1)
    by default. Returns (..., samples).
    """
    import librosa

    return librosa.griffinlim(magnitude, n_iter=32, hop_length=hop, length=samples, random_state=seed)
