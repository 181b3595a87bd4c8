"""A transformer in the place of Glow: what the refinement makes of it.

Each frame is a token: z_t = (x_t - m_t) exp(-a_t), where a causal transformer computes m_t and a_t from the frames
before. Blocks run forwards and backwards in turn. One parallel pass gives the density and its gradient,
which is all that refinement needs (Zhai et al. 2025, TarFlow, for images). The deviation of the noise is an input.
A frame is all its bins, or its 128 principal components: the noise drowns the others, so they stay Gaussian.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from companion.data.crops import CropSampler
from companion.data.segments import solo_segments
from companion.systems.our_flow import MemberOptions
from flowsep.glow import standard_normal_log_prob
from flowsep.separator import Separator
from flowsep.spectrogram import pad_features
from flowsep.train import crop_samples, magnitudes

from .real import CHOSEN, COMPRESSED, MEMBER, Real

BINS, WIDTH, HEADS = 1026, 160, 4
BATCH, FRAMES, SEEDS = 8, 64, 3  # FRAMES: about as many as a crop has


@dataclass(frozen=True)
class Kind:
    """A density of noisy features: how many values of each frame the transformer reads, and how it is trained."""

    directions: int = BINS  # fewer than BINS: of the largest variance; the others stay Gaussian
    layers: tuple[int, ...] = (2, 1)  # of each block
    steps: int = 1000
    lr: float = 1e-3
    least: float = 0.2  # deviation of the noise in training, drawn for each crop
    most: float = 1.0
    semitones: tuple[int, ...] = ()  # by which copies of the solos are transposed, like a tape: tempo and pitch


BINWISE = Kind()
TRANSPOSED = Kind(semitones=(-4, -2, 2, 4))
PRINCIPAL = Kind(directions=128, layers=(1, 1), steps=400, lr=3e-3, least=0.5, most=0.5)
GAUSSIAN = Kind(directions=0, layers=(), steps=0, least=0.5, most=0.5)


class Block(nn.Module):
    """An affine autoregression over frames. Shape: (batch, frames, n), (batch,) -> the same, log-det (batch,)."""

    def __init__(self, directions: int, layers: int, backwards: bool):
        super().__init__()
        self.backwards = backwards
        self.start, self.level = nn.Linear(directions, WIDTH), nn.Linear(1, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.end = nn.Linear(WIDTH, 2 * directions)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flip(1) if self.backwards else x
        frames = torch.arange(x.shape[1])
        distance = (frames[:, None] - frames).float()
        slopes = 2.0 ** (-2.0 * torch.arange(1, HEADS + 1))  # heads look differently far back; no other position
        mask = (-slopes[:, None, None] * distance).masked_fill(distance < 0, -math.inf).repeat(len(x), 1, 1)
        before = nn.functional.pad(self.start(x)[:, :-1], (0, 0, 1, 0))
        h = self.layers(before + self.level(noise.log().view(-1, 1, 1)), mask)
        shift, logs = self.end(h).chunk(2, dim=-1)
        logs = 2 * torch.tanh(logs / 2)
        z = (x - shift) * torch.exp(-logs)
        return (z.flip(1) if self.backwards else z), -logs.sum(dim=(1, 2))


class Density(nn.Module):
    """log p(x; s) of noisy features, after a linear map that makes the frames of `features` white on average.

    With `directions` < bins the map is to principal components, else it scales each bin.
    Shape: (batch, bins, frames), (batch,) -> (batch,).
    """

    def __init__(self, kind: Kind, features: Tensor):
        super().__init__()
        self.directions = kind.directions
        frames = features.transpose(1, 2).flatten(0, 1).double()
        mean, covariance = frames.mean(dim=0), torch.cov(frames.T) + kind.least * kind.most * torch.eye(BINS)
        power, axes = covariance.diagonal(), torch.eye(BINS, dtype=frames.dtype)
        if kind.directions < BINS:
            power, axes = (part.flip(-1) for part in torch.linalg.eigh(covariance))
        self.mean = nn.Parameter(mean.float(), requires_grad=False)
        self.white = nn.Parameter((axes / power.sqrt()).float(), requires_grad=False)
        self.logdet = -power.log().sum().item() / 2
        blocks = (Block(kind.directions, layers, bool(k % 2)) for k, layers in enumerate(kind.layers))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        z = (x.transpose(1, 2) - self.mean) @ self.white
        z, rest = z.split((self.directions, BINS - self.directions), dim=-1)
        logdet = z.new_full((len(z),), self.logdet * x.shape[-1])
        for block in self.blocks:
            z, change = block(z, noise)
            logdet = logdet + change
        return standard_normal_log_prob(z) + standard_normal_log_prob(rest) + logdet


def fit(real: Real, source: str, kind: Kind, seed: int) -> tuple[Density, float]:
    """Train on the solo stems of one source as `flowsep.train.fit_prior` does, and the seconds that it took."""
    own = MemberOptions(**MEMBER).profile(real.profile, source, real.profile.seed + seed)
    length = crop_samples(own.training, own.feature)
    segments = [np.asarray(segment) for segment in solo_segments(real.dataset, "train", source, own.feature)]
    segments += [
        soxr.resample(segment, 2 ** (semitones / 12), 1.0, "HQ") for semitones in kind.semitones for segment in segments
    ]
    sampler = CropSampler(segments, length, batch=BATCH, gain_db=own.training.gain_db, seed=own.seed, source=source)

    def features(step: int) -> Tensor:
        crops = torch.from_numpy(sampler.batch(step)).float()
        return pad_features(magnitudes(crops, own.feature), BINS, multiple=1)

    torch.manual_seed(own.seed)
    began = time.monotonic()
    network = Density(kind, torch.cat([features(kind.steps + step) for step in range(60)]))
    if kind.steps:
        optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], kind.lr, betas=(0.9, 0.95))
    for step in range(kind.steps):
        rate = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / kind.steps))
        optimizer.param_groups[0]["lr"] = kind.lr * rate
        x = features(step)
        noise = kind.least * (kind.most / kind.least) ** torch.rand(len(x))
        loss = -network(x + noise.view(-1, 1, 1) * torch.randn_like(x), noise).mean() / x[0].numel()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 4.0)
        optimizer.step()
    return network.eval().requires_grad_(False), time.monotonic() - began


class Judges:
    """What `flowsep.refine.NoisyFlows` is to the refinement, with noise from `first` to `last` in `steps` steps."""

    exponent = MEMBER["feature"]["exponent"]

    def __init__(self, networks: Mapping[str, Density], first: float, last: float, steps: int):
        self.networks, self.noises = networks, torch.logspace(math.log10(first), math.log10(last), steps)
        self.step = 0

    @torch.enable_grad()
    def slope(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """As in `NoisyFlows`; songs are judged in pieces of `FRAMES`."""
        deviation = self.noises[self.step % len(self.noises)]
        self.step += 1
        total, slopes = features.new_zeros(()), []
        for network, x, n in zip(self.networks.values(), features.unbind(1), noise, strict=True):
            noisy = (x + deviation * n).detach().requires_grad_()
            *whole, last = noisy.split(FRAMES, dim=-1)
            pieces = [torch.cat(whole), last] if whole else [last]
            logp = torch.stack([network(piece, deviation.expand(len(piece))).sum() for piece in pieces]).sum()
            slopes += torch.autograd.grad(logp, noisy)
            total += logp.detach()
        return total, torch.stack(slopes, dim=1)


def transformer(research: Any) -> list[dict[str, Any]]:
    """Of all bins, with three seeds, and with noise that falls during the refinement."""
    real, rows = Real.of(Path(research.folder)), []
    for seed in range(SEEDS):
        fitted = fit_all(real, BINWISE, seed)
        rows += separated(real, fitted, f"transformer, noise 0.5, seed {seed}", seed)
        if not seed:
            rows += separated(real, fitted, "transformer, noise from 1 down to 0.2", seed, first=1.0, last=0.2)
    return rows


def components(research: Any) -> list[dict[str, Any]]:
    """Of 128 principal components, with three seeds, and of none: a Gaussian with the covariance of the frames."""
    real = Real.of(Path(research.folder))
    rows = separated(real, fit_all(real, GAUSSIAN, 0), "Gaussian, seed 0", 0)
    for seed in range(SEEDS):
        rows += separated(real, fit_all(real, PRINCIPAL, seed), f"128 components, seed {seed}", seed)
    return rows


def transposed(research: Any) -> list[dict[str, Any]]:
    """Of all bins, with copies of the solos in other keys and tempi."""
    real, rows = Real.of(Path(research.folder)), []
    for seed in range(SEEDS):
        rows += separated(real, fit_all(real, TRANSPOSED, seed), f"transformer, transposed solos, seed {seed}", seed)
    return rows


def fit_all(real: Real, kind: Kind, seed: int) -> dict[str, tuple[Density, float]]:
    return {source: fit(real, source, kind, seed) for source in real.profile.sources}


def separated(
    real: Real,
    fitted: Mapping[str, tuple[Density, float]],
    label: str,
    seed: int,
    *,
    first: float = 0.5,
    last: float = 0.5,
) -> list[dict[str, Any]]:
    """SDR on the songs of `real`, from the search with the Glow of the same seed and with as many refining steps."""
    config, rows = COMPRESSED(), []
    cost = round(sum(seconds for _, seconds in fitted.values()), 1)
    separator = Separator(real.priors(CHOSEN + (f", seed {seed}" if seed else "")), config)
    judges = Judges({name: network for name, (network, _) in fitted.items()}, first, last, config.refine)
    separator.flows.noisy = judges  # type: ignore[assignment]
    for song in real.songs:
        row = {"study": "transformer", "trial": label, "track": song.name, "training_seconds": cost}
        scores = song.score(separator(song.mixture, song.sample_rate))
        rows += [row | {"stem": stem, "sdr": round(value, 4)} for stem, value in scores.items()]
    return rows
