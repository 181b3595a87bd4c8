"""Short-time Fourier transform, its inverse, and the padding that a prior needs: one bin, and frames to fold.

Shown in `notebooks/02_spectrograms_and_phase.ipynb`.
"""

import torch
from torch import Tensor
from torch.nn import functional


def stft(audio: Tensor, n_fft: int = 1024, hop: int = 256) -> Tensor:
    """X[k, m] = sum_n w[n] x[n + m hop - n_fft/2] exp(-2 pi i k n / n_fft), w a periodic Hann window.

    The signal is reflected at both ends (zeros are appended first where it is too short to be reflected), as in the
    paper's feature.

    Args:
        audio: (..., samples), real, any level.
    Shape:
        (..., samples) -> (..., n_fft // 2 + 1 bins, frames), complex, frames = 1 + samples // hop.
    Raises:
        ValueError: no samples.
    """
    if audio.shape[-1] == 0:
        raise ValueError("audio has no samples; expected at least one")
    if audio.shape[-1] <= n_fft // 2:
        audio = functional.pad(audio, (0, n_fft // 2 + 1 - audio.shape[-1]))
    window = torch.hann_window(n_fft, dtype=audio.dtype, device=audio.device)
    flat = torch.stft(audio.reshape(-1, audio.shape[-1]), n_fft, hop, window=window, return_complex=True)
    return flat.reshape(*audio.shape[:-1], *flat.shape[-2:])


def istft(spectrum: Tensor, samples: int, n_fft: int = 1024, hop: int = 256) -> Tensor:
    """x[n] = sum_m w x_m[n] / sum_m w^2 by overlap-add of the inverse transforms: inverse of `stft`, cut to `samples`.

    Shape:
        (..., n_fft // 2 + 1 bins, frames), complex -> (..., samples), real.
    """
    window = torch.hann_window(n_fft, dtype=spectrum.real.dtype, device=spectrum.device)
    flat = spectrum.reshape(-1, *spectrum.shape[-2:])
    audio = torch.istft(flat, n_fft, hop, window=window, length=samples)
    return audio.reshape(*spectrum.shape[:-2], samples)


def pad_features(magnitude: Tensor, bins: int, multiple: int = 2) -> Tensor:
    """Append zero bins up to `bins` and zero frames up to a multiple of `multiple`, which the flow folds into one.

    Shape:
        (..., at most `bins`, frames) -> (..., bins, frames rounded up).
    Raises:
        ValueError: more bins than the prior has.
    """
    missing = bins - magnitude.shape[-2]
    if missing < 0:
        raise ValueError(f"magnitude has {magnitude.shape[-2]} bins; the prior has {bins}")
    return functional.pad(magnitude, (0, -magnitude.shape[-1] % multiple, 0, missing))
