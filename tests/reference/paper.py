"""The paper's separator as plainly as it can be written: one prior after the other, weight norm at every use.

No module, no folding, no batching, channels where the research code has them: every line can be compared with the
paper by eye. It gives the outputs of the research code (`fixtures/`) up to what rounding does to such a search, so what
agrees with it in double precision computes what the paper computes.
"""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-8


def load(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """(weights, settings of the model) of a checkpoint folder with one `G_<epoch>.pth`."""
    settings = json.loads((folder / "config.json").read_text())["model"]
    (path,) = folder.glob("G_*.pth")
    return torch.load(path, weights_only=True)["model"], settings


def decode(weights: dict[str, Tensor], settings: dict, z: Tensor) -> tuple[Tensor, Tensor]:
    """z (batch, bins, frames) -> (magnitude, log |det dx/dz| (batch,))."""
    squeeze, split = settings["n_sqz"], settings.get("n_split", 4)
    batch, bins, frames = z.shape
    x = z.view(batch, bins, frames // squeeze, squeeze).permute(0, 3, 1, 2)
    x = x.contiguous().view(batch, bins * squeeze, frames // squeeze)
    logdet = z.new_zeros(batch)
    channels, frames = x.shape[1:]
    for step in reversed(range(settings["n_blocks_dec"])):
        coupling = f"decoder.flows.{3 * step + 2}"
        x0, x1 = x[:, : channels // 2], x[:, channels // 2 :]
        out = coupling_net(weights, settings, coupling, x0)
        shift, logs = out[:, : channels // 2], out[:, channels // 2 :]
        if settings.get("sigmoid_scale"):
            logs = torch.log(1e-6 + torch.sigmoid(logs + 2))
        x = torch.cat([x0, (x1 - shift) * torch.exp(-logs)], dim=1)
        logdet = logdet - logs.sum(dim=(1, 2))

        matrix = weights[f"decoder.flows.{3 * step + 1}.weight"]
        x = x.view(batch, 2, channels // split, split // 2, frames).permute(0, 1, 3, 2, 4)
        x = x.contiguous().view(batch, split, channels // split, frames)
        x = functional.conv2d(x, torch.inverse(matrix).view(split, split, 1, 1))
        x = x.view(batch, 2, split // 2, channels // split, frames).permute(0, 1, 3, 2, 4)
        x = x.contiguous().view(batch, channels, frames)
        logdet = logdet - torch.logdet(matrix) * (channels // split) * frames

        norm = f"decoder.flows.{3 * step}"
        x = (x - weights[f"{norm}.bias"]) * torch.exp(-weights[f"{norm}.logs"])
        logdet = logdet - weights[f"{norm}.logs"].sum() * frames
    x = x.view(batch, squeeze, bins, frames).permute(0, 2, 3, 1)
    return x.contiguous().view(batch, bins, frames * squeeze), logdet


def coupling_net(weights: dict[str, Tensor], settings: dict, name: str, x: Tensor, dropout: float = 0.0) -> Tensor:
    """(batch, channels / 2, frames) -> (batch, channels, frames): shifts, then log-scales; `dropout` while training."""

    def conv(part: str, x: Tensor, **options: int) -> Tensor:
        direction, length = weights[f"{name}.{part}.weight_v"], weights[f"{name}.{part}.weight_g"]
        return functional.conv1d(x, torch._weight_norm(direction, length, 0), weights[f"{name}.{part}.bias"], **options)

    hidden, layers = settings.get("hidden_channels_dec") or settings["hidden_channels"], settings["n_block_layers"]
    h = conv("start", x)
    total = torch.zeros_like(h)
    for layer in range(layers):
        dilation = settings["dilation_rate"] ** layer
        padding = (settings["kernel_size_dec"] * dilation - dilation) // 2
        gates = conv(f"wn.in_layers.{layer}", h, dilation=dilation, padding=padding)
        if dropout:
            gates = functional.dropout(gates, dropout)
        out = conv(f"wn.res_skip_layers.{layer}", torch.tanh(gates[:, :hidden]) * torch.sigmoid(gates[:, hidden:]))
        if layer < layers - 1:
            h = h + out[:, :hidden]
            total = total + out[:, hidden:]
        else:
            total = total + out
    return functional.conv1d(total, weights[f"{name}.end.weight"], weights[f"{name}.end.bias"])


def separate(
    magnitude: Tensor, priors: list, *, iterations: int, lr: float, lr_every: int = 800, alpha: float = 0.0,
    space: str = "z", wiener: bool = False,
) -> Tensor:  # fmt: skip
    """(514 bins, frames) of the mixture -> (sources, 514 bins, frames), from latents of zero."""
    mask = torch.ones_like(magnitude[None, :, :1])
    mask[:, 513:] = 0
    latents = [torch.zeros_like(magnitude)[None].requires_grad_() for _ in priors]
    optimizer = torch.optim.Adam(latents, lr=lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, lr_every, 0.2)
    mixture = magnitude[None]
    for _ in range(iterations):
        mixture = mixture + EPSILON
        decoded = [decode(*prior, z) for prior, z in zip(priors, latents, strict=True)]
        total = sum(x for x, _ in decoded).abs() * mask
        loss = (mixture * torch.log(mixture / (total + EPSILON) + EPSILON) - mixture + total).mean()
        regulariser = sum(0.5 * (z**2).mean() for z in latents)
        if space == "x":
            regulariser = regulariser + sum(logdet.sum() / mixture.numel() for _, logdet in decoded)
        if alpha:
            loss = loss + alpha * regulariser
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    estimates = torch.cat([x for x, _ in decoded]).detach()
    if wiener:
        estimates = estimates / (estimates.sum(dim=0).abs() + EPSILON) * mixture
    return estimates
