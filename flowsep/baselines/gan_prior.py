"""The flow's source-only rival: a GAN of spectrograms for each source, the mixture searched for in their latents.

References: Donahue, McAuley, Puckette 2019 (SpecGAN); Gulrajani et al. 2017 (WGAN-GP); Narayanaswamy, Thiagarajan,
Anirudh, Spanias 2020, "Unsupervised Audio Source Separation using Generative Priors" (the search).
"""

import math
import time
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu, pad, relu

from ..config import FeatureConfig
from ..files import FlowsepError
from ..prior import load_exactly, read_safetensors, save_safetensors
from ..separate import choose_device, separate_with_masks
from . import System

FORMAT = "flowsep-specgan-1"
LOG_FLOOR = 1e-6  # added to magnitudes before their logarithm
DEVIATIONS = 3.0  # of a bin from its mean, at which images are clipped
SEED = 4  # frames and bins of the image that the first layer makes


class SpecGANOptions(BaseModel):
    """Sizes of a prior and its training; the defaults are SpecGAN's: 128 bins x 128 frames, 1 s at 16 kHz."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class GanOptions(BaseModel):
    """The priors, and the search in their latents; weights, rate and iterations are those of the published code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prior: SpecGANOptions = SpecGANOptions()
    iterations: PositiveInt = 1000
    lr: PositiveFloat = 0.05
    bound: PositiveFloat = 1.0  # latents stay within +-bound, where the prior has its support
    levels: PositiveInt = 3  # resolutions, each half the one before
    spectral: float = Field(0.3, ge=0)
    ratio: float = Field(0.8, ge=0)
    inclusion: float = Field(0.1, ge=0)
    exclusion: float = Field(0.4, ge=0)
    together: PositiveInt = 32  # seconds-long segments of a song that are searched for at once, as memory allows
    device: str = "auto"


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
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """min_G max_D E[D(x)] - E[D(G(z))] - penalty (|grad D| - 1)^2 over images x of one source, z uniform in [-1, 1].

    Each `every` steps the state and the curve go to `work`: `state.safetensors`, and `loss.csv` with the columns step,
    split, distance and seconds, where distance is E[D(x)] - E[D(G(z))] on training and on held-out songs. A run that
    was killed goes on from there and ends with the same weights, because everything random depends on (seed, step).
    The last generator goes to `checkpoint`: the distance of a critic that trains along tells no best one.

    Args:
        sampler: `batch(k)` gives the k-th batch of crops (batch, samples) of `options.feature`'s rate.
        validation: (crops, samples) of held-out recordings.
    Raises:
        FlowsepError: a loss that became NaN or infinite, a state of other settings.
    """
    import pandas as pd

    from ..files import atomic_path
    from ..train import magnitudes, resume, save_state

    torch.manual_seed(seed)
    place = choose_device(device)
    network = nn.ModuleDict({"generator": Generator(options), "critic": Critic(options)}).to(place)
    generator, critic = network["generator"], network["critic"]
    # one optimiser for both: Adam leaves alone whatever has no gradient, and each step gives one to one of them only
    optimizer = torch.optim.Adam(network.parameters(), lr=options.lr, betas=(0.5, 0.9))

    def features(crops: np.ndarray) -> Tensor:
        return magnitudes(torch.from_numpy(crops).to(place), options.feature)[:, : options.side]

    def move(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    settings = {"source": source, "seed": seed, "options": options.model_dump(mode="json")}
    state, done, rows = work / "state.safetensors", 0, []
    if state.is_file():
        done, _, rows = resume(state, settings, network, optimizer, work)
    else:
        generator.measure(torch.cat([features(sampler.batch(k)) for k in range(max(1, 512 // options.batch))]))
    held_out = generator.image(features(validation))
    before, began = rows[-1]["seconds"] if rows else 0.0, time.monotonic()
    distances: list[Tensor] = []
    for step in range(done, options.steps):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)

        def draw(count: int, rng: torch.Generator = rng) -> Tensor:
            return (2 * torch.rand(count, options.latent, generator=rng) - 1).to(place)

        for turn in range(options.critic_steps):
            real = generator.image(features(sampler.batch(step * options.critic_steps + turn)))
            with torch.no_grad():
                fake = generator(draw(len(real)))
            distance = critic(real).mean() - critic(fake).mean()
            share = torch.rand(len(real), 1, 1, generator=rng).to(place)
            move(options.penalty * gradient_penalty(critic, real, fake, share) - distance)
            distances.append(distance.detach())
        critic.requires_grad_(False)
        move(-critic(generator(draw(options.batch))).mean())
        critic.requires_grad_(True)
        done = step + 1
        if done % every == 0 or done == options.steps:
            with torch.no_grad():
                fakes = torch.cat([critic(generator(part)) for part in draw(len(held_out)).split(options.batch)])
                reals = torch.cat([critic(part) for part in held_out.split(options.batch)])
            found = {"train": torch.stack(distances).mean().item(), "valid": (reals.mean() - fakes.mean()).item()}
            distances.clear()
            if not all(map(math.isfinite, found.values())):
                raise FlowsepError(f"gan_prior: {source}: the loss is {found} by step {done}; lower `prior.lr`")
            seconds = before + time.monotonic() - began
            rows += [{"step": done, "split": k, "distance": value, "seconds": seconds} for k, value in found.items()]
            with atomic_path(work / "loss.csv") as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
            save_state(state, settings, done, found["valid"], network, optimizer)
    save_safetensors(checkpoint, generator.state_dict(), {"format": FORMAT, **settings, "provenance": provenance})


def project(latents: Tensor, bound: float) -> Tensor:
    """P(z) = min(max(z, -bound), bound): the nearest point of the box that the prior was trained on."""
    return latents.clamp(-bound, bound)


def search(mixture: Tensor, generators: Sequence[Generator], options: GanOptions) -> Tensor:
    """z <- P(z - Adam's step on the loss of `mixture_loss`), from z = 0; then G_i(z_i), as linear magnitudes.

    Shape: (segments, bins, frames) -> (segments, sources, bins, frames).
    """

    def decoded() -> Tensor:
        parts = zip(generators, latents.unbind(dim=1), strict=True)
        return torch.stack([generator.magnitude(z) for generator, z in parts], dim=1)

    shape = (len(mixture), len(generators), options.prior.latent)
    latents = torch.zeros(shape, device=mixture.device, requires_grad=True)
    optimizer = torch.optim.Adam([latents], lr=options.lr)
    for _ in range(options.iterations):
        loss = mixture_loss(mixture, decoded(), options).sum()  # each segment has latents and a term of its own
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            latents.copy_(project(latents, options.bound))
    if not torch.isfinite(loss):
        raise FlowsepError(f"gan_prior: the search diverged (loss {loss.item()}); lower `lr`")
    with torch.no_grad():
        return decoded()


def mixture_loss(mixture: Tensor, sources: Tensor, options: GanOptions) -> Tensor:
    """L = a spectral + b ratio - c E(x, y) + d mean_(i<j) E(y_i, y_j), y = sum_i y_i, on u(x) = log(1 + |x|^2).

    - spectral: sum |u(x) - u(y)|, over bins and frames and `levels` resolutions;
    - ratio: sum over frames of sum_f log(1 + |x|) / sum_f log(1 + |y|);
    - E, `exclusion`, is small where edges of both are not in the same places: sources shun each other's (exclusion),
      and the estimate shares the mixture's (inclusion).

    Shape: mixture (segments, bins, frames), sources (segments, sources, bins, frames) -> (segments,).
    """
    total = sources.sum(dim=1)
    x, y, parts = (torch.log1p(magnitude.square()) for magnitude in (mixture, total, sources))
    near, far = _levels(x, options.levels), _levels(y, options.levels)
    spectral = sum((a - b).abs().sum(dim=(1, 2)) for a, b in zip(near, far, strict=True))
    quotient = (mixture.log1p().sum(dim=1) + LOG_FLOOR) / (total.log1p().sum(dim=1) + LOG_FLOOR)
    loss = options.spectral * spectral + options.ratio * quotient.sum(dim=1)
    loss = loss - options.inclusion * exclusion(x, y, options.levels)
    together = combinations(parts.unbind(dim=1), 2) if options.exclusion else ()  # the dearest term
    pairs = [exclusion(a, b, options.levels) for a, b in together]
    return loss + options.exclusion * torch.stack(pairs).mean(dim=0) if pairs else loss


def exclusion(a: Tensor, b: Tensor, levels: int) -> Tensor:
    """E = mean over levels and both axes of mean(tanh(da / 2)^2 tanh(s db / 2)^2)^(1/4), d a difference of neighbours.

    s = 2 mean |da| / mean |db| brings both to one scale. Shape: (segments, bins, frames) twice -> (segments,).
    Reference: Zhang, Ng, Chen 2018, "Single Image Reflection Separation with Perceptual Losses".
    """
    terms = []
    for first, second in zip(_levels(a, levels), _levels(b, levels), strict=True):
        for axis in (1, 2):
            da, db = first.diff(dim=axis), second.diff(dim=axis)
            scale = 2 * _mean(da.abs()) / _mean(db.abs()).clamp_min(LOG_FLOOR)
            overlap = (da / 2).tanh().square() * (scale * db / 2).tanh().square()
            terms.append((_mean(overlap) + 1e-12) ** 0.25)  # the root of zero has no gradient
    return torch.stack(terms).mean(dim=0).flatten()


def _mean(image: Tensor) -> Tensor:
    return image.mean(dim=(1, 2), keepdim=True)


def _levels(image: Tensor, levels: int) -> list[Tensor]:
    """The image, and means over 2 x 2, 4 x 4 ... of its points."""
    pyramid = [image]
    while len(pyramid) < levels:
        pyramid.append(avg_pool2d(pyramid[-1].unsqueeze(1), 2).squeeze(1))
    return pyramid


class GanPrior(System):
    """Ratio masks of `G_i(z_i)` with the z_i that `search` finds: projected gradient descent, a second at a time.

    Three things differ from the published code, `sourcesepganprior`. Its projection clips tensors of the graph that no
    step writes back, so that its latents go where they like; here every step ends within the box, as the paper's
    projected descent asks. Its generators make waveforms; here, as in the comparison of InstGlow's authors, they make
    spectrograms, whose magnitudes add up to the mixture's. And its estimates are what the generators say; here they
    share out the mixture.
    """

    name = "gan_prior"
    supervision = "solo"
    Options = GanOptions
    generators: list[Generator] | None = None  # loaded on first use

    def fit(self, dataset, profile, folder):
        """Train one GAN a source on its solo stems alone: `<folder>/<source>.safetensors`, `training/<source>/`."""
        from ..data import CropSampler, solo_segments, validation_crops
        from ..train import EDGE

        options, training, folder = self.options.prior, profile.training, Path(folder)
        length = (options.side + 2 * EDGE - 1) * options.feature.hop
        for source in self.sources:
            segments = {split: solo_segments(dataset, split, source, options.feature) for split in ("train", "valid")}
            sampler = CropSampler(
                segments["train"], length, batch=options.batch, gain_db=training.gain_db, speed=training.speed,
                silence_db=training.silence_db, seed=profile.seed, source=source,
            )  # fmt: skip
            fit_gan(
                sampler,
                validation_crops(segments["valid"], length, training.silence_db),
                source=source,
                options=options,
                checkpoint=self._path(folder, source),
                work=folder / "training" / source,
                every=training.validate_every,
                seed=profile.seed,
                device=self.options.device,
                provenance={"data": dataset.name, "data_hash": dataset.hash, "profile": profile.name},
            )
        self.folder, self.generators = folder, None

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError where a prior is missing, damaged or of other sizes."""
        if self.generators is None:
            self.generators = [self._load(source) for source in self.sources]
        feature = self.options.prior.feature
        return separate_with_masks(mixture, sample_rate, self._explain, names=self.sources, feature=feature)

    def checkpoints(self):
        """The generators' files."""
        return [self._path(self.folder, source) for source in self.sources]

    def _explain(self, magnitude: Tensor) -> dict[str, Tensor]:
        """(bins + 1, frames) -> {source: the same}: images side by side, the top bin as the one below."""
        side, frames = self.options.prior.side, magnitude.shape[-1]
        images = pad(magnitude[:side], (0, -frames % side)).unflatten(1, (-1, side)).movedim(1, 0)
        place = choose_device(self.options.device)
        found = [search(part.to(place), self.generators, self.options) for part in images.split(self.options.together)]
        whole = torch.cat(found).permute(1, 2, 0, 3).flatten(2)[..., :frames].cpu()
        return dict(zip(self.sources, torch.cat([whole, whole[:, -1:]], dim=1), strict=True))

    def _load(self, source: str) -> Generator:
        path = self._path(self.folder, source)
        header, tensors = read_safetensors(path)
        if header.get("format") != FORMAT:
            raise FlowsepError(f"{path}: not a SpecGAN prior; fit gan_prior anew")
        fitted, sizes = header["options"], ("sample_rate", "depth", "channels", "latent")
        for key in sizes:
            if fitted[key] != getattr(self.options.prior, key):
                now = getattr(self.options.prior, key)
                raise FlowsepError(f"{path}: fitted with prior.{key} = {fitted[key]}, now {now}; fit gan_prior anew")
        generator = Generator(self.options.prior)
        load_exactly(generator, tensors, path)
        return generator.to(choose_device(self.options.device)).eval().requires_grad_(False)

    def _path(self, folder: str | Path | None, source: str) -> Path:
        if folder is None:
            raise FlowsepError("gan_prior: not fitted, and no folder of a fitted one given")
        return Path(folder) / f"{source}.safetensors"
