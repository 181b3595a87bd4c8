"""A transformer in the place of Glow, trained over levels of noise: what the refinement makes of it.

Each frame is a token: z_t = (x_t - m_t) exp(-a_t), where a causal transformer computes m_t and a_t from the frames
before. Blocks run forwards and backwards in turn. One parallel pass gives the density and its gradient,
which is all that refinement needs (Zhai et al. 2025, TarFlow, for images). The deviation of the noise is an input.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

BINS, WIDTH, HEADS, LAYERS = 1026, 160, 4, (2, 1)  # transformer layers of each block
STEPS, BATCH, LR, FRAMES = 1000, 8, 1e-3, 64  # FRAMES: as many as a crop has
LEAST, MOST = 0.2, 1.0  # deviation of the noise in training, drawn for each crop
TRIALS = {  # deviation in the first and in the last step of the refinement
    "transformer, noise 0.5": (0.5, 0.5),
    "transformer, noise from 1 down to 0.2": (1.0, 0.2),
}


class Block(nn.Module):
    """An affine autoregression over frames. Shape: (batch, frames, bins), (batch,) -> the same, log-det (batch,)."""

    def __init__(self, layers: int, backwards: bool):
        super().__init__()
        self.backwards = backwards
        self.start, self.level = nn.Linear(BINS, WIDTH), nn.Linear(1, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.end = nn.Linear(WIDTH, 2 * BINS)
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


class Transformer(nn.Module):
    """log p(x; s) of noisy features. Shape: (batch, bins, frames), (batch,) -> (batch,)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.scale = (nn.Parameter(torch.zeros(BINS, 1), requires_grad=False) for _ in range(2))
        self.blocks = nn.ModuleList(Block(layers, bool(k % 2)) for k, layers in enumerate(LAYERS))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        z, logdet = ((x - self.mean) / self.scale).transpose(1, 2), -self.scale.log().sum() * x.shape[-1]
        for block in self.blocks:
            z, change = block(z, noise)
            logdet = logdet + change
        return standard_normal_log_prob(z) + logdet


def fit(real: Real, source: str) -> tuple[Transformer, float]:
    """Train on the solo stems of one source as `flowsep.train.fit_prior` does, and the seconds that it took."""
    own = MemberOptions(**MEMBER).profile(real.profile, source, real.profile.seed)
    length = crop_samples(own.training, own.feature)
    segments = solo_segments(real.dataset, "train", source, own.feature)
    sampler = CropSampler(segments, length, batch=BATCH, gain_db=own.training.gain_db, seed=own.seed, source=source)

    def features(step: int) -> Tensor:
        crops = torch.from_numpy(sampler.batch(step)).float()
        return pad_features(magnitudes(crops, own.feature), BINS, multiple=1)

    torch.manual_seed(own.seed)
    began, network = time.monotonic(), Transformer()
    first = torch.cat([features(step) for step in range(8)])
    first = first + torch.randn_like(first) * math.sqrt(LEAST * MOST)
    network.mean.copy_(first.mean(dim=(0, 2)).unsqueeze(1))
    network.scale.copy_(first.std(dim=(0, 2)).unsqueeze(1))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], LR, betas=(0.9, 0.95))
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LR * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        x = features(step)
        noise = LEAST * (MOST / LEAST) ** torch.rand(len(x))
        loss = -network(x + noise.view(-1, 1, 1) * torch.randn_like(x), noise).mean() / x[0].numel()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 4.0)
        optimizer.step()
    return network.eval().requires_grad_(False), time.monotonic() - began


class Judges:
    """What `flowsep.refine.NoisyFlows` is to the refinement, with noise from `first` to `last` in `steps` steps."""

    exponent = MEMBER["feature"]["exponent"]

    def __init__(self, networks: Mapping[str, Transformer], first: float, last: float, steps: int):
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
            short = -noisy.shape[-1] % FRAMES
            pieces = nn.functional.pad(noisy, (0, short), mode="replicate").unflatten(-1, (-1, FRAMES))
            pieces = pieces.transpose(1, 2).flatten(0, 1)
            logp = network(pieces, deviation.expand(len(pieces))).sum()
            slopes += torch.autograd.grad(logp, noisy)
            total += logp.detach()
        return total, torch.stack(slopes, dim=1)


def transformer(research: Any) -> list[dict[str, Any]]:
    """SDR on the songs of `real`, from the same search as `CHOSEN` and with the same steps of refinement."""
    real, config = Real.of(Path(research.folder)), COMPRESSED()
    fitted = {source: fit(real, source) for source in real.profile.sources}
    networks, seconds = {name: network for name, (network, _) in fitted.items()}, sum(s for _, s in fitted.values())
    rows: list[dict[str, Any]] = []
    for label, (first, last) in TRIALS.items():
        separator = Separator(real.priors(CHOSEN), config)
        separator.flows.noisy = Judges(networks, first, last, config.refine)  # type: ignore[assignment]
        for song in real.songs:
            row = {"study": "transformer", "trial": label, "track": song.name, "training_seconds": round(seconds, 1)}
            scores = song.score(separator(song.mixture, song.sample_rate))
            rows += [row | {"stem": stem, "sdr": round(value, 4)} for stem, value in scores.items()]
    return rows
