"""The flow's source-only rival: a GAN of spectrograms for each source, the mixture searched for in their latents.

Reference: Narayanaswamy, Thiagarajan, Anirudh, Spanias 2020, "Unsupervised Audio Source Separation using Generative
Priors".
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from flowsep.files import FlowsepError, locked
from flowsep.machine import choose_device
from flowsep.separator import separate_with_masks
from flowsep.weights import load_exactly, read_safetensors

from ..codehash import code_of_class
from . import System
from .specgan import FORMAT, LOG_FLOOR, Generator, SpecGANOptions, fit_gan


class GanOptions(BaseModel):
    """The priors, and the search in their latents; weights, rate and iterations come from the published code."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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
    curve_label = "critic's distance E D(x) − E D(G(z))"
    generators: list[Generator] | None = None  # loaded on first use

    def fit(self, dataset, profile, folder):
        """Train one GAN a source on its solo stems alone: `<folder>/<source>.safetensors`, `training/<source>/`."""
        for source in self.parts():
            self.fit_part(source, dataset, profile, folder)

    def parts(self):
        """Each source by itself."""
        return self.sources

    def fit_part(self, source, dataset, profile, folder):
        """Train the GAN of one source."""
        from flowsep.train import EDGE

        from ..data.crops import CropSampler, validation_crops

        options, training, folder = self.options.prior, profile.training, Path(folder)
        length = (options.side + 2 * EDGE - 1) * options.feature.hop
        segments = self._segments(dataset, source)
        sampler = CropSampler(
            segments["train"], length, batch=options.batch, gain_db=training.gain_db,
            silence_db=training.silence_db, seed=profile.seed, source=source,
        )  # fmt: skip
        with locked(folder / "training" / source):
            fit_gan(
                sampler,
                validation_crops(segments["valid"], length, training.silence_db),
                source=source,
                options=options,
                checkpoint=self._path(folder, source),
                work=folder / "training" / source,
                every=min(training.validate_every, max(1, options.steps // 20)),  # a curve has twenty points
                seed=profile.seed,
                device=self.options.device,
                micro_batch=training.micro_batch,
                provenance={
                    "data": dataset.name,
                    "data_hash": dataset.hash,
                    "profile": profile.name,
                    "code": code_of_class(type(self)),
                },
            )
        self.folder, self.generators = folder, None

    def material(self, dataset, profile):
        """{source: {"train" | "valid": its solo recordings}}, at the rate of the prior."""
        return {source: self._segments(dataset, source) for source in self.sources}

    def _segments(self, dataset: Any, source: str) -> dict[str, Any]:
        from ..data.segments import solo_segments

        feature = self.options.prior.feature
        return {split: solo_segments(dataset, split, source, feature) for split in ("train", "valid")}

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError where a prior is missing, damaged or of other sizes."""
        if self.generators is None:
            self.generators = [self._load(source) for source in self.sources]
        feature = self.options.prior.feature
        return separate_with_masks(mixture, sample_rate, self._explain, names=self.sources, feature=feature)

    def checkpoints(self):
        """The generators' files."""
        return [self._path(self.folder, source) for source in self.sources]

    def curves(self):
        """One curve per source: what the critic still tells real from made by."""
        paths = {s: self._path(self.folder, s).parent / "training" / s / "loss.csv" for s in self.sources}
        return {source: path for source, path in paths.items() if path.is_file()}

    def _explain(self, magnitude: Tensor) -> dict[str, Tensor]:
        """(bins + 1, frames) -> {source: the same}: images side by side, the top bin as the one below."""
        side, frames = self.options.prior.side, magnitude.shape[-1]
        images = pad(magnitude[:side], (0, -frames % side)).unflatten(1, (-1, side)).movedim(1, 0)
        place = choose_device(self.options.device)
        estimates = [
            search(part.to(place), self.generators, self.options)  # type: ignore[arg-type]  # loaded
            for part in images.split(self.options.together)
        ]
        whole = torch.cat(estimates).permute(1, 2, 0, 3).flatten(2)[..., :frames].cpu()
        return dict(zip(self.sources, torch.cat([whole, whole[:, -1:]], dim=1), strict=True))

    def _load(self, source: str) -> Generator:
        path = self._path(self.folder, source)
        header, tensors = read_safetensors(path)
        if header.get("format") != FORMAT:
            raise FlowsepError(f"{path}: not a SpecGAN prior; fit gan_prior anew")
        fitted, sizes = header.get("options"), ("sample_rate", "depth", "channels", "latent")
        if not isinstance(fitted, dict) or set(sizes) - set(fitted):
            raise FlowsepError(f"{path}: damaged header, no options of a SpecGAN; fit gan_prior anew")
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
