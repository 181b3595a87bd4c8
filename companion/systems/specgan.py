"""A GAN of log-magnitude spectrograms, one second an image: its networks and their training.

References: Donahue, McAuley, Puckette 2019 (SpecGAN); Gulrajani et al. 2017 (WGAN-GP).
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from flowsep.config import FeatureConfig, TrainingConfig
from flowsep.prior import parameters
from flowsep.resume import Ahead, start_fabric
from flowsep.train import IDENTITY, Task, magnitudes, optimise
from flowsep.weights import save_safetensors

FORMAT = "flowsep-specgan-1"
LOG_FLOOR = 1e-6  # added to magnitudes before their logarithm
DEVIATIONS = 3.0  # of a bin from its mean, at which images are clipped
SEED = 4  # frames and bins of the image that the first layer makes


class SpecGANOptions(BaseModel):
    """Sizes of a prior and its training; the defaults are SpecGAN's: 128 bins x 128 frames, 1 s at 16 kHz."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    sample_rate: PositiveInt = 16_000
    depth: PositiveInt = 5  # doublings from a 4 x 4 image on; the window has twice as many samples as the image bins
    channels: PositiveInt = 64  # of the layer next to the image; twice as many at each halving
    latent: PositiveInt = 100
    steps: PositiveInt = 20_000  # of the generator
    critic_steps: PositiveInt = 5  # of the critic before each of them
    batch: PositiveInt = 64
    lr: PositiveFloat = 1e-4
    penalty: float = Field(10.0, ge=0)  # weight of the critic's gradient penalty

    @property
    def side(self) -> int:
        """Bins and frames of an image."""
        return SEED * 2**self.depth

    @property
    def feature(self) -> FeatureConfig:
        """The STFT of an image: half-overlapping windows with one bin more than it, at half the sample rate."""
        return FeatureConfig(sample_rate=self.sample_rate, n_fft=2 * self.side, hop=self.side)


class Generator(nn.Module):
    """G: [-1, 1]^latent -> (-1, 1)^(bins x frames), one linear layer and `depth` transposed convolutions (DCGAN's).

    An image is `clip((log(|X| + 1e-6) - mean) / (3 std), -1, 1)`, mean and std of each bin over the training material.
    """

    def __init__(self, options: SpecGANOptions):
        super().__init__()
        widths = _widths(options)
        self.first = nn.Linear(options.latent, widths[0] * SEED**2)
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, 5, stride=2, padding=2, output_padding=1)
            for wide, narrow in pairwise(widths)
        )
        self.register_buffer("mean", torch.zeros(options.side, 1))
        self.register_buffer("std", torch.ones(options.side, 1))

    def forward(self, z: Tensor) -> Tensor:
        """Shape: (batch, latent) -> (batch, bins, frames)."""
        x = relu(self.first(z)).unflatten(1, (-1, SEED, SEED))
        for layer in self.layers[:-1]:
            x = relu(layer(x))
        return self.layers[-1](x).squeeze(1).tanh()

    def magnitude(self, z: Tensor) -> Tensor:
        """|X| = exp(3 std G(z) + mean), the linear magnitude that an image stands for."""
        return (DEVIATIONS * self.std * self(z) + self.mean).exp()

    def image(self, magnitude: Tensor) -> Tensor:
        """The image of a magnitude (batch, bins, frames)."""
        deviation = ((magnitude + LOG_FLOOR).log() - self.mean) / self.std
        return (deviation / DEVIATIONS).clamp(-1, 1)

    def measure(self, magnitude: Tensor) -> None:
        """Take mean and std of the bins from training magnitudes (batch, bins, frames)."""
        level = (magnitude + LOG_FLOOR).log()
        self.mean.copy_(level.mean(dim=(0, 2)).unsqueeze(1))
        self.std.copy_(level.std(dim=(0, 2)).clamp_min(1e-3).unsqueeze(1))


class Critic(nn.Module):
    """D: image -> real number, the generator's mirror image with leaky rectifiers. Shape: (batch, b, f) -> (batch,)."""

    def __init__(self, options: SpecGANOptions):
        super().__init__()
        widths = _widths(options)[::-1]
        self.layers = nn.ModuleList(
            nn.Conv2d(narrow, wide, 5, stride=2, padding=2) for narrow, wide in pairwise(widths)
        )
        self.last = nn.Linear(widths[-1] * SEED**2, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = image.unsqueeze(1)
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.2)
        return self.last(x.flatten(1)).squeeze(1)


def _widths(options: SpecGANOptions) -> list[int]:
    """Channels from the 4 x 4 image to the whole one."""
    return [options.channels * 2**k for k in reversed(range(options.depth))] + [1]


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """mean (|grad D(x)| - 1)^2 at x = share real + (1 - share) fake; share (batch, 1, 1). Gulrajani et al. 2017."""
    between = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def fit_gan(
    sampler: Any,
    validation: np.ndarray,
    *,
    source: str,
    options: SpecGANOptions,
    checkpoint: Path,
    work: Path,
    every: int,
    seed: int = 0,
    device: str = "auto",
    micro_batch: Any = "auto",
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """min_G max_D E[D(x)] - E[D(G(z))] - penalty (|grad D| - 1)^2 over images x of one source, z uniform in [-1, 1].

    Each `every` steps the state and the curve go to `work`, see `flowsep.train.optimise`; their value is
    E[D(x)] - E[D(G(z))] on training and on held-out songs. The last generator goes to `checkpoint`, with what it cost:
    the distance of a critic that trains along says nothing of which one is best.

    Args:
        sampler: `batch(k)` gives the k-th batch of crops (batch, samples) of `options.feature`'s rate.
        validation: (crops, samples) of held-out recordings.
    Raises:
        FlowsepError: a loss that became NaN or infinite.
    """
    training = TrainingConfig(steps=options.steps, batch=options.batch, lr=options.lr, validate_every=every)
    training = training.model_copy(update={"precision": "32-true", "device": device, "micro_batch": micro_batch})
    fabric = start_fabric(training)
    torch.manual_seed(seed)
    batches = Ahead(sampler.batch, options.steps * options.critic_steps, fabric)
    task = _GanTask(source, options, sampler, batches, validation, fabric.device)
    settings = {"source": source, "seed": seed, "options": options.model_dump(mode="json")}
    settings |= {key: (provenance or {}).get(key) for key in IDENTITY}
    with batches:
        costs = optimise(task, training, work, settings, fabric, seed=seed, progress=False)
    origin = {**(provenance or {}), "parameters": parameters(task.generator), **costs}
    header = {"format": FORMAT, **settings, "provenance": origin}
    save_safetensors(checkpoint, task.generator.state_dict(), header)


class _GanTask(Task):
    """`critic_steps` steps of the critic, then one of the generator; one optimiser for both.

    Adam leaves alone whatever has no gradient, and each step gives one to one of them only.
    """

    key, betas = "prior.lr", (0.5, 0.9)

    def __init__(
        self,
        source: str,
        options: SpecGANOptions,
        sampler: Any,
        batches: Ahead,
        validation: np.ndarray,
        device: torch.device,
    ):
        network = nn.ModuleDict({"generator": Generator(options), "critic": Critic(options)}).to(device)
        super().__init__(f"gan_prior: {source}", network)
        self.generator, self.critic = network["generator"], network["critic"]
        self.options, self.batches, self.device = options, batches, device
        first = [self._features(torch.from_numpy(sampler.batch(k))) for k in range(max(1, 512 // options.batch))]
        self.generator.measure(torch.cat(first))
        self.held_out = self.generator.image(self._features(torch.from_numpy(validation)))

    def update(self, fabric, network, optimizer, step, clip):
        """See `Task.update`; the value is the critic's distance."""

        def move(batch: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
            optimizer.zero_grad()
            for part, share in self.parts(batch):
                fabric.backward(share * loss(part))
            optimizer.step()

        distances: list[Tensor] = []
        for turn in range(self.options.critic_steps):
            real = self.batch(step * self.options.critic_steps + turn)
            move(real, lambda part: self._critic_loss(part, distances))
        self.critic.requires_grad_(False)
        move(self._draw(self.options.batch), lambda latents: -self.critic(self.generator(latents)).mean())
        self.critic.requires_grad_(True)
        return torch.stack(distances).mean()

    def batch(self, turn):
        """The images of one turn of the critic."""
        return self.generator.image(self._features(self.batches(turn)))

    def loss(self, network, batch):
        """The critic's, which needs more memory than the generator's."""
        return self._critic_loss(batch, [])

    def _critic_loss(self, real: Tensor, distances: list[Tensor]) -> Tensor:
        with torch.no_grad():
            fake = self.generator(self._draw(len(real)))
        distance = self.critic(real).mean() - self.critic(fake).mean()
        distances.append(distance.detach())
        share = torch.rand(len(real), 1, 1).to(self.device, non_blocking=True)
        return self.options.penalty * gradient_penalty(self.critic, real, fake, share) - distance

    def validate(self, network):
        fakes = [self.critic(self.generator(part)) for part, _ in self.parts(self._draw(len(self.held_out)))]
        fakes, reals = torch.cat(fakes), torch.cat([self.critic(part) for part, _ in self.parts(self.held_out)])
        return (reals.mean() - fakes.mean()).item()

    def keep(self, step, value, best):
        """Nothing: the state holds the last generator."""

    def _draw(self, count: int) -> Tensor:
        return (2 * torch.rand(count, self.options.latent) - 1).to(self.device, non_blocking=True)

    def _features(self, crops: Tensor) -> Tensor:
        audio = crops.to(self.device, non_blocking=True)
        return magnitudes(audio, self.options.feature)[:, : self.options.side]
