"""The door for arrays: audio of any type that numpy and torch have, as float32 (channels, samples)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .files import SAMPLE_RATES, FlowsepError, brief

CHANNELS = 64  # more than these, and the array holds (samples, channels)
LOUDEST = 100.0  # no mix is 40 dB beyond full scale: such floats are the values of integers


def as_channels(mixture: Any) -> Tensor:
    """Audio as float32 on the CPU: floats as they are, integers divided by their full scale, 2^15 for int16.

    Unsigned integers have their zero in the middle of their range. Strides, byte order, device and gradients of the
    input do not matter.

    Shape:
        (samples,) or (channels, samples) -> (channels, samples).
    Raises:
        FlowsepError: not an array of numbers, integers of 64 bits, which no audio has, empty, more than two axes,
            samples before channels, NaN, peaks above `LOUDEST`.
    """
    try:
        if isinstance(mixture, Tensor):
            mixture = mixture.detach().cpu()
            mixture = (mixture.float() if mixture.is_floating_point() else mixture).numpy()
        audio = np.asarray(mixture)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that are sparse or hold no data
        kind = type(mixture).__name__
        raise FlowsepError(f"mixture: expected an array of samples, found {kind} ({error})") from error
    shape, kind = audio.shape, audio.dtype.kind
    if kind not in "fiu" or (kind != "f" and audio.dtype.itemsize > 4):
        what = "floats with full scale 1, or integers of 8, 16 or 32 bits with theirs"
        raise FlowsepError(f"mixture: expected {what}, found {audio.dtype}")
    if audio.ndim not in (1, 2) or audio.size == 0:
        raise FlowsepError(f"mixture: expected (channels, samples) or (samples,), not empty, found shape {shape}")
    if audio.ndim == 2 and shape[0] > CHANNELS:
        hint = "if they are samples, pass the array transposed: mixture.T"
        raise FlowsepError(f"mixture: expected (channels, samples), found {shape[0]} channels in shape {shape}; {hint}")
    if kind != "f":
        full_scale = 2.0 ** (8 * audio.dtype.itemsize - 1)
        audio = (audio.astype(np.float64) - (full_scale if kind == "u" else 0)) / full_scale
    channels = torch.from_numpy(np.atleast_2d(np.require(audio, np.float32, ["C", "W"])))
    if not torch.isfinite(channels).all():
        raise FlowsepError("mixture: holds NaN or infinite samples; repair the file first")
    if (peak := float(channels.abs().max())) > LOUDEST:
        cure = "divide by 32768 what were 16-bit integers"
        raise FlowsepError(f"mixture: expected floats with full scale 1, found a peak of {peak:,.4g}; {cure}")
    return channels


def like(stem: np.ndarray, mixture: Any) -> Any:
    """A stem (channels, samples) with the mixture's shape, type and device; float32 where the mixture has integers."""
    if isinstance(mixture, Tensor):
        kind = mixture.dtype if mixture.is_floating_point() else torch.float32
        return torch.from_numpy(stem).reshape(mixture.shape).to(mixture.device, kind)
    own = getattr(mixture, "dtype", stem.dtype)
    return stem.reshape(np.shape(mixture)).astype(own if own.kind == "f" else stem.dtype, copy=False)


def check_rate(sample_rate: float) -> None:
    """FlowsepError unless this is a sample rate in Hz."""
    low, high = SAMPLE_RATES
    if np.ndim(sample_rate) or np.asarray(sample_rate).dtype.kind not in "fiu" or not low <= sample_rate <= high:
        raise FlowsepError(f"sample_rate: expected {low:,} to {high:,} Hz, found {brief(sample_rate)}")
