"""The paper's training step as plainly as it can be written: what `paper` is to separation, this is to the prior.

Weights and settings are those of `paper.load`; weight norm at every use, the channels regrouped around every 1x1
convolution, log-determinants added one by one, torch's own Adam and clipping.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from .paper import coupling_net


def features(audio: Tensor, bins: int = 514, edge: int = 0) -> Tensor:
    """|STFT| of crops (batch, samples) -> (batch, bins, frames) with zero bins, `edge` frames less at both ends."""
    spectrum = torch.stft(audio, 1024, 256, window=torch.hann_window(1024, dtype=audio.dtype), return_complex=True)
    magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2)[..., edge : spectrum.shape[-1] - edge]
    return functional.pad(magnitude, (0, 0, 0, bins - magnitude.shape[1]))


def encode(weights: dict[str, Tensor], settings: dict, x: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """x (batch, bins, frames) -> (z, log |det dz/dx| (batch,))."""
    squeeze, split = settings["n_sqz"], settings.get("n_split", 4)
    batch, bins, frames = x.shape
    z = x.view(batch, bins, frames // squeeze, squeeze).permute(0, 3, 1, 2)
    z = z.contiguous().view(batch, bins * squeeze, frames // squeeze)
    logdet = x.new_zeros(batch)
    channels, frames = z.shape[1:]
    for step in range(settings["n_blocks_dec"]):
        norm = f"decoder.flows.{3 * step}"
        z = weights[f"{norm}.bias"] + torch.exp(weights[f"{norm}.logs"]) * z
        logdet = logdet + weights[f"{norm}.logs"].sum() * frames

        matrix = weights[f"decoder.flows.{3 * step + 1}.weight"]
        z = z.view(batch, 2, channels // split, split // 2, frames).permute(0, 1, 3, 2, 4)
        z = z.contiguous().view(batch, split, channels // split, frames)
        z = functional.conv2d(z, matrix.view(split, split, 1, 1))
        z = z.view(batch, 2, split // 2, channels // split, frames).permute(0, 1, 3, 2, 4)
        z = z.contiguous().view(batch, channels, frames)
        logdet = logdet + torch.logdet(matrix) * (channels // split) * frames

        z0, z1 = z[:, : channels // 2], z[:, channels // 2 :]
        out = coupling_net(weights, settings, f"decoder.flows.{3 * step + 2}", z0, dropout)
        shift, logs = out[:, : channels // 2], out[:, channels // 2 :]
        if settings.get("sigmoid_scale"):
            logs = torch.log(1e-6 + torch.sigmoid(logs + 2))
        z = torch.cat([z0, shift + torch.exp(logs) * z1], dim=1)
        logdet = logdet + logs.sum(dim=(1, 2))
    z = z.view(batch, squeeze, bins, frames).permute(0, 2, 3, 1)
    return z.contiguous().view(batch, bins, frames * squeeze), logdet


def loss(weights: dict[str, Tensor], settings: dict, x: Tensor, dropout: float = 0.0) -> Tensor:
    """Mean negative log-likelihood per element of magnitudes (batch, bins, frames)."""
    z, logdet = encode(weights, settings, x, dropout)
    return (0.5 * (z**2).sum() - logdet.sum()) / x.numel() + 0.5 * math.log(2 * math.pi)


def step(
    weights: dict[str, Tensor], settings: dict, optimizer: torch.optim.Optimizer, audio: Tensor, *, edge: int = 0
) -> float:
    """One step of training on crops (batch, samples), as the paper's code makes it; returns the loss."""
    value = loss(weights, settings, features(audio, edge=edge), settings.get("p_dropout_dec", 0.0))
    optimizer.zero_grad()
    value.backward()
    torch.nn.utils.clip_grad_norm_(weights.values(), 4)
    optimizer.step()
    return value.item()
