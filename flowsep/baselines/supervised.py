"""What discriminative networks share: crops of mixtures with their stems, one trainer, separation in segments.

A network learns f(x) = (s_1, ..., s_n) from pairs of a mixture x = sum_i s_i and its stems. It is a subclass of
`Supervised` that says how it is built; its loss and its use differ where they must.
"""

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import pandas as pd
import soxr
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from ..files import FlowsepError
from ..prior import load_exactly, read_safetensors, save_safetensors
from ..separate import choose_device
from . import System

FORMAT = "flowsep-network-1"
WHILE_SEPARATING = ("segment_seconds", "overlap_seconds", "device")  # options that a fitted network leaves free

Stems = Sequence[Sequence[np.ndarray]]  # source -> song -> (channels, samples); without samples where it has none


class SupervisedOptions(BaseModel):
    """How a network is fitted and used; what is not said here is the profile's `training`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mixes: Literal["songs", "random"] = "songs"  # random: only sums of stems that do not belong together
    song_share: float = Field(0.25, ge=0, le=1)  # of the crops with mixes = songs, which stay as they are
    gains: tuple[PositiveFloat, PositiveFloat] = (0.25, 1.25)  # a stem of any other crop is scaled uniformly between
    sample_rate: PositiveInt = 44_100  # at which the network works
    channels: Literal[1, 2] = 2  # that it separates together
    steps: PositiveInt = 100_000  # of the optimiser
    batch: PositiveInt = 16
    crop_seconds: PositiveFloat = 6.0
    lr: PositiveFloat = 1e-3
    segment_seconds: PositiveFloat = 10.0  # longer songs are separated in segments
    overlap_seconds: float = Field(1.0, ge=0)  # by which these are cross-faded
    device: str = "auto"


class Supervised(System):
    """A network fitted to mixtures and their stems; a subclass gives `name`, `Options` and `build`."""

    Options = SupervisedOptions
    network: nn.Module | None = None  # fitted, or loaded on first use

    @property
    def supervision(self) -> str:
        """'mixtures', or 'random mixes' if no two stems of one song are ever summed up."""
        return "mixtures" if self.options.mixes == "songs" else "random mixes"

    def build(self) -> nn.Module:
        """The network with its random initial weights, of `self.options` and `self.sources`."""
        raise NotImplementedError

    def prepare(self, network: nn.Module, sampler: "MixtureSampler") -> None:
        """Set what the network knows of its data before it learns; here: nothing."""

    def loss(self, network: nn.Module, stems: Tensor) -> Tensor:
        """mean |f(x) - s| in the middle that f explains; (batch, sources, channels, samples) -> scalar."""
        estimates = network(stems.sum(dim=1))
        return (estimates - centre(stems, estimates.shape[-1])).abs().mean()

    def estimate(self, network: nn.Module, mixture: Tensor) -> Tensor:
        """(batch, channels, samples) -> (batch, sources, channels, samples), of any length."""
        return network(mixture)

    @property
    def crop(self) -> int:
        """Samples of a training crop."""
        return round(self.options.crop_seconds * self.options.sample_rate)

    @property
    def context(self) -> int:
        """Samples on both sides of a segment that the network wants to see as well."""
        return 0

    def fit(self, dataset, profile, folder, progress=False):
        """Train on `dataset`, and write `<folder>/<name>.safetensors` when all is done.

        The best weights by the loss on the held-out songs count, as for the priors. Until then the work lies in
        `<folder>/training/`, from where a killed run goes on (see `flowsep.train.optimise`), beside its `loss.csv`.
        Only stems are opened, each by itself: a mixture is the sum of those of the profile's sources.

        Raises FlowsepError: a missing library, no such source, NaN, or the work of other options.
        """
        from ..data import whole_stems
        from ..train import optimise, start_fabric

        options, work = self.options, Path(folder) / "training"
        own = {name: getattr(options, name) for name in ("steps", "batch", "crop_seconds", "lr", "device")}
        training = profile.training.model_copy(update={**own, "epochs": None})
        stems = {
            subset: [whole_stems(dataset, subset, s, options.sample_rate, options.channels) for s in self.sources]
            for subset in ("train", "valid")
        }
        sampler = MixtureSampler(
            stems["train"],
            self.crop,
            batch=options.batch,
            song_share=options.song_share if options.mixes == "songs" else 0.0,
            gains=options.gains,
            seed=profile.seed,
        )
        fabric = start_fabric(training)
        torch.manual_seed(profile.seed)
        network = self.build()
        self.prepare(network, sampler)
        network.to(fabric.device)

        def loss(network: nn.Module, step: int) -> Tensor:
            return self.loss(network, torch.from_numpy(sampler.batch(step)).to(fabric.device))

        def validate(network: nn.Module) -> float:
            total, items = 0.0, 0
            for batch in validation_batches(stems["valid"], self.crop, options.batch, options.mixes, profile.seed):
                total += self.loss(network, torch.from_numpy(batch).to(fabric.device)).item() * len(batch)
                items += len(batch)
            return total / items

        def keep(step: int, value: float, best: bool) -> None:
            if best:
                save_safetensors(work / "best.safetensors", network.state_dict(), {"step": step, "valid_loss": value})

        settings = {"system": self.name, "sources": list(self.sources), "seed": profile.seed, "data": dataset.hash}
        unused = {"epochs", "gain_db", "speed", "silence_db"}  # of the priors' crops
        settings |= {"training": training.model_dump(mode="json", exclude=unused)}
        settings |= {"options": options.model_dump(mode="json", exclude=set(WHILE_SEPARATING))}
        optimise(
            fabric,
            network,
            training,
            loss=loss,
            validate=validate,
            keep=keep,
            settings=settings,
            work=work,
            name=self.name,
            seed=profile.seed,
            key=f"systems.{self.name}.lr",
            progress=progress,
        )
        if not (work / "best.safetensors").is_file():
            raise FlowsepError(f"{self.name}: no step improved on the initial validation loss; train longer")
        best, tensors = read_safetensors(work / "best.safetensors")
        provenance = {"data": dataset.name, "data_hash": dataset.hash, "profile": profile.name, "config": profile.hash}
        provenance |= {**best, "parameters": parameters(network), "device": fabric.device.type}
        provenance |= {"training_seconds": round(pd.read_csv(work / "loss.csv").seconds.iloc[-1], 1)}
        save_safetensors(self._path(folder), tensors, {"format": FORMAT, **settings, "provenance": provenance})
        self.folder, self.network = Path(folder), None

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError where the network is missing, damaged or of other sources.

        A network of two channels hears one twice and its estimates are averaged; one of one channel hears two apart.
        """
        device = choose_device(self.options.device)
        if self.network is None:
            self._load()
        network, rate = self.network.to(device), self.options.sample_rate
        if not np.any(mixture):
            return {source: np.zeros_like(mixture, np.float32) for source in self.sources}
        audio = soxr.resample(np.asarray(mixture, np.float32).T, sample_rate, rate, "HQ").T
        heard = torch.from_numpy(_fit(audio, max(1, audio.shape[-1])))  # a few samples may resample to none
        channels = self.options.channels
        heard = heard.expand(1, 2, -1) if channels > len(heard) else heard.unflatten(0, (-1, channels))

        def estimate(part: Tensor) -> Tensor:
            return self.estimate(network, part.to(device)).float().cpu()

        with torch.inference_mode():
            found = in_segments(
                heard,
                estimate,
                segment=round(self.options.segment_seconds * rate),
                overlap=round(self.options.overlap_seconds * rate),
                context=self.context,
            )
        found = found.transpose(0, 1).flatten(1, 2)  # (sources, channels, samples)
        found = found if found.shape[1] == len(mixture) else found.mean(dim=1, keepdim=True)
        return {
            source: _fit(soxr.resample(part.numpy().T, rate, sample_rate, "HQ").T, mixture.shape[-1])
            for source, part in zip(self.sources, found, strict=True)
        }

    def checkpoints(self):
        """The file of the network."""
        return [self._path(self.folder)]

    def _load(self) -> None:
        path = self._path(self.folder)
        header, tensors = read_safetensors(path)
        if header.get("format") != FORMAT or header.get("system") != self.name:
            raise FlowsepError(f"{path}: not a network of {self.name}; fit it anew")
        if header.get("sources") != list(self.sources):
            found = ", ".join(map(str, header.get("sources", [])))
            raise FlowsepError(f"{path}: separates {found}, not {', '.join(self.sources)}; fit {self.name} anew")
        try:
            own = {name: getattr(self.options, name) for name in WHILE_SEPARATING}
            self.options = self.Options(**header["options"], **own)
        except (KeyError, TypeError, ValidationError) as error:
            raise FlowsepError(f"{path}: damaged header ({error})") from error
        network = self.build()
        load_exactly(network, tensors, path)
        self.network = network.eval()

    def _path(self, folder: str | Path | None) -> Path:
        if folder is None:
            raise FlowsepError(f"{self.name}: not fitted, and no folder of a fitted one given")
        return Path(folder) / f"{self.name}.safetensors"


class MixtureSampler:
    """Batch k: (batch, sources, channels, samples) of stems g_i s_i, whose sum over sources is the mixture.

    With the probability `song_share` an item is a crop of one song as it is. Otherwise each of its stems is drawn by
    itself, a song and a moment of it, scaled by a uniform gain, and its two channels are swapped every other time
    (Uhlich et al. 2017). A batch depends on (seed, step) alone, so that a resumed training sees what an uninterrupted
    one does.

    Args:
        stems: source -> song -> (channels, samples); a song shorter than a crop is followed by silence.
        length: samples of a crop.
    """

    def __init__(
        self,
        stems: Stems,
        length: int,
        *,
        batch: int,
        song_share: float = 0.0,
        gains: tuple[float, float] = (1.0, 1.0),
        seed: int = 0,
    ):
        self.stems, self.length, self.size, self.seed = stems, length, batch, seed
        self.song_share, self.gains = song_share, gains
        self.channels = len(stems[0][0])
        samples = np.array([[song.shape[1] for song in songs] for songs in stems])
        self.starts = np.where(samples > 0, np.maximum(samples - length, 0) + 1, 0)  # (sources, songs): all moments
        self.song_starts = self.starts.max(axis=0)

    def batch(self, step: int) -> np.ndarray:
        """The stems of one step, float32."""
        rng = np.random.default_rng([self.seed, step])
        batch = np.zeros((self.size, len(self.stems), self.channels, self.length), np.float32)
        for item in batch:
            if rng.random() < self.song_share:
                song, start = _draw(rng, self.song_starts)
                place(item, self.stems, song, start)
                continue
            for stem, songs, starts in zip(item, self.stems, self.starts, strict=True):
                song, start = _draw(rng, starts)
                place(stem[None], [songs], song, start)
                stem *= np.float32(rng.uniform(*self.gains))
                if rng.random() < 0.5:
                    stem[:] = stem[::-1].copy()
        return batch


def validation_batches(stems: Stems, length: int, batch: int, mixes: str, seed: int) -> Iterator[np.ndarray]:
    """The held-out songs cut side by side, or as many random sums of their stems, the same ones at every call."""
    samples = [max(song.shape[1] for song in songs) for songs in zip(*stems, strict=True)]
    places = [(k, start) for k, n in enumerate(samples) for start in range(0, max(n - length, 0) + 1, length)]
    random = MixtureSampler(stems, length, batch=batch, seed=seed)
    for step, first in enumerate(range(0, len(places), batch)):
        if mixes == "random":
            yield random.batch(step)
            continue
        chosen = places[first : first + batch]
        crops = np.zeros((len(chosen), len(stems), random.channels, length), np.float32)
        for item, (song, start) in zip(crops, chosen, strict=True):
            place(item, stems, song, start)
        yield crops


def place(item: np.ndarray, stems: Stems, song: int, start: int) -> None:
    """Copy what all stems of a song hold from `start` on into (sources, channels, samples)."""
    for target, songs in zip(item, stems, strict=True):
        piece = songs[song][:, start : start + target.shape[-1]]
        target[:, : piece.shape[-1]] = piece


def in_segments(
    mixture: Tensor, estimate: Callable[[Tensor], Tensor], *, segment: int, overlap: int, context: int = 0
) -> Tensor:
    """`estimate` of equally long segments, linearly cross-faded where they overlap.

    Args:
        mixture: (batch, channels, samples).
        estimate: (batch, channels, samples) -> (batch, sources, channels, samples), of any length.
        segment: the longest, in samples.
        overlap: samples that two neighbours share, at most half a segment.
        context: samples of the mixture on both sides of a segment that `estimate` sees as well.
    """
    samples = mixture.shape[-1]
    overlap = min(overlap, segment // 2) if samples > segment else 0
    count = max(1, math.ceil((samples - overlap) / (segment - overlap)))
    length = math.ceil((samples + (count - 1) * overlap) / count)
    rise = (torch.arange(overlap) + 0.5) / max(overlap, 1)
    out = None
    for start in range(0, count * (length - overlap), length - overlap):
        stop = min(start + length, samples)
        left, right = max(start - context, 0), min(stop + context, samples)
        found = estimate(mixture[..., left:right])[..., start - left : stop - left].clone()
        if overlap and start > 0:
            found[..., :overlap] *= rise
        if overlap and stop < samples:
            found[..., -overlap:] *= 1 - rise
        out = found.new_zeros(*found.shape[:-1], samples) if out is None else out
        out[..., start:stop] += found
        if stop == samples:
            break
    return out


def centre(audio: Tensor, samples: int) -> Tensor:
    """The middle `samples` of (..., samples)."""
    start = (audio.shape[-1] - samples) // 2
    return audio[..., start : start + samples]


def parameters(network: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def library(module: str) -> ModuleType:
    """A module of an optional package; FlowsepError says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise FlowsepError(f"{package} cannot be imported ({error}); pip install flowsep[baselines]") from error


def _draw(rng: np.random.Generator, starts: np.ndarray) -> tuple[int, int]:
    """(song, start), every moment of every song as likely."""
    moment = rng.integers(starts.sum())
    song = int(np.searchsorted(np.cumsum(starts), moment, side="right"))
    return song, int(moment - starts[:song].sum())


def _fit(audio: np.ndarray, samples: int) -> np.ndarray:
    """`audio` cut, or followed by silence, to `samples`."""
    return np.pad(audio[:, :samples], ((0, 0), (0, max(samples - audio.shape[1], 0))))
