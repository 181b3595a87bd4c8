"""What discriminative networks share: crops of mixtures with their stems, one trainer, separation in segments.

A network learns f(x) = (s_1, ..., s_n) from pairs of a mixture x = sum_i s_i and its stems. It is a subclass of
`Supervised` that says how it is built; its loss and its use differ where they must.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from flowsep.config import HOW_ONLY
from flowsep.files import SAMPLE_RATES, FlowsepError
from flowsep.machine import choose_device
from flowsep.prior import parameters
from flowsep.resume import Ahead, alone, start_fabric
from flowsep.train import Task, optimise
from flowsep.weights import check_weights, load_exactly, read_safetensors, save_safetensors

from ..codehash import code_of_class
from . import System
from .mixtures import MixtureSampler, validation_batches
from .segments import centre, separate_song

FORMAT = "flowsep-network-1"
WHILE_SEPARATING = ("segment_seconds", "overlap_seconds", "device")  # options that a fitted network leaves free


class SupervisedOptions(BaseModel):
    """How a network is fitted and used; what is not said here is the profile's `training`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mixes: Literal["songs", "random"] = "songs"  # random: only sums of stems that do not belong together
    song_share: float = Field(0.25, ge=0, le=1)  # of the crops with mixes = songs, which stay as they are
    gains: tuple[PositiveFloat, PositiveFloat] = (0.25, 1.25)  # a stem of any other crop is scaled uniformly between
    sample_rate: int = Field(44_100, ge=SAMPLE_RATES[0], le=SAMPLE_RATES[1])  # at which the network works
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
    curve_label = "mean absolute error (full scale = 1)"
    level: float | None = None  # standard deviation to which the mixtures that a network sees are scaled; None: not
    network: nn.Module | None = None  # fitted, or loaded on first use

    @property
    def supervision(self) -> str:
        """'mixtures', or 'random mixes' if no two stems of one song are ever summed up."""
        return "mixtures" if self.options.mixes == "songs" else "random mixes"

    def build(self) -> nn.Module:
        """The network with its random initial weights, of `self.options` and `self.sources`."""
        raise NotImplementedError

    def prepare(self, network: nn.Module, sampler: MixtureSampler) -> None:
        """Set what the network knows of its data before it learns; here: nothing."""

    def loss(self, network: nn.Module, stems: Tensor) -> Tensor:
        """mean |f(x) - s| in the middle that f explains; (batch, sources, channels, samples) -> scalar."""
        estimates = network(stems.sum(dim=1))
        return (estimates - centre(stems, estimates.shape[-1])).abs().mean()

    def estimate(self, network: nn.Module, mixture: Tensor) -> Tensor:
        """(batch, channels, samples) -> (batch, sources, channels, samples), of any length."""
        return network(mixture)

    def gain(self, mixture: Tensor) -> Tensor:
        """`level` / sqrt(var of the mean of the channels over time), at most as for -60 dB; 1 without a `level`.

        Shape: (batch, channels, samples) -> (batch, 1, 1).
        """
        if self.level is None:
            return mixture.new_ones(len(mixture), 1, 1)
        return self.level / mixture.mean(dim=1, keepdim=True).std(dim=-1, keepdim=True, correction=0).clamp_min(1e-3)

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
        Only stems are opened, each by itself: a mixture is the sum of the stems of the profile's sources.

        Raises FlowsepError: a missing library, no such source, or NaN.
        """
        options, work = self.options, Path(folder) / "training"
        own = {name: getattr(options, name) for name in ("steps", "batch", "crop_seconds", "lr", "device")}
        training = profile.training.model_copy(update={**own, "epochs": None})
        stems = self.material(dataset, profile)
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
        settings = {"system": self.name, "sources": list(self.sources), "seed": profile.seed, "data": dataset.hash}
        settings |= {"code": code_of_class(type(self))}
        unused = {"epochs", "gain_db", "silence_db", *HOW_ONLY}  # of the priors' crops
        settings |= {"training": training.model_dump(mode="json", exclude=unused)}
        settings |= {"options": options.model_dump(mode="json", exclude=set(WHILE_SEPARATING))}
        with alone(fabric, work), Ahead(sampler.batch, training.steps, fabric) as batches:
            task = _NetworkTask(self, network.to(fabric.device), batches, stems["valid"], work, profile.seed)
            costs = optimise(task, training, work, settings, fabric, seed=profile.seed, progress=progress)
            if not (work / "best.safetensors").is_file():
                raise FlowsepError(f"{self.name}: no step improved on the initial validation loss; train longer")
            best, tensors = read_safetensors(work / "best.safetensors")
            provenance = {"data": dataset.name, "data_hash": dataset.hash}
            provenance |= {"profile": profile.name, "config": profile.hash, **best}
            provenance |= {"parameters": parameters(network), **costs, "device": fabric.device.type}
            save_safetensors(self._path(folder), tensors, {"format": FORMAT, **settings, "provenance": provenance})
        self.folder, self.network = Path(folder), None

    def material(self, dataset, profile):
        """{"train" | "valid": the songs' stems, one list a source}, at the network's rate."""
        from ..data.segments import whole_stems

        rate, channels = self.options.sample_rate, self.options.channels
        return {
            subset: [whole_stems(dataset, subset, source, rate, channels) for source in self.sources]
            for subset in ("train", "valid")
        }

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError where the network is missing, damaged or of other sources."""
        if self.network is None:
            self._load()
        options, device = self.options, choose_device(self.options.device)
        network = self.network.to(device)
        if not np.any(mixture):
            return {source: np.zeros_like(mixture, np.float32) for source in self.sources}

        def estimate(part: Tensor) -> Tensor:
            gain = self.gain(part).to(device)
            return (self.estimate(network, part.to(device) * gain) / gain.unsqueeze(1)).float().cpu()

        stems = separate_song(
            mixture,
            sample_rate,
            estimate,
            rate=options.sample_rate,
            channels=options.channels,
            seconds=options.segment_seconds,
            overlap_seconds=options.overlap_seconds,
            context=self.context,
        )
        return dict(zip(self.sources, stems, strict=True))

    def checkpoints(self):
        """The file of the network."""
        return [self._path(self.folder)]

    def curves(self):
        """One curve: the loss on training crops and on the held-out songs."""
        path = self._path(self.folder).parent / "training" / "loss.csv"
        return {"": path} if path.is_file() else {}

    def _load(self) -> None:
        path = self._path(self.folder)
        header, tensors = read_safetensors(path)
        if header.get("format") != FORMAT or header.get("system") != self.name:
            raise FlowsepError(f"{path}: not a network of {self.name}; fit it anew")
        if header.get("sources") != list(self.sources):
            theirs = ", ".join(map(str, header.get("sources", [])))
            raise FlowsepError(f"{path}: separates {theirs}, not {', '.join(self.sources)}; fit {self.name} anew")
        try:
            own = {name: getattr(self.options, name) for name in WHILE_SEPARATING}
            self.options = self.Options(**header["options"], **own)
        except (KeyError, TypeError, ValidationError) as error:
            raise FlowsepError(f"{path}: damaged header ({error})") from error
        with torch.device("meta"):  # a network of any size takes no memory there, until it is seen to be the file's
            check_weights(self.build().state_dict(), tensors, path)
        network = self.build()
        load_exactly(network, tensors, path)
        self.network = network.eval()

    def _path(self, folder: str | Path | None) -> Path:
        if folder is None:
            raise FlowsepError(f"{self.name}: not fitted, and no folder of a fitted one given")
        return Path(folder) / f"{self.name}.safetensors"


class _NetworkTask(Task):
    """The loss of a `Supervised` system on mixtures that are scaled to one level."""

    def __init__(self, system: Supervised, network: nn.Module, batches: Ahead, held_out: Any, work: Path, seed: int):
        super().__init__(system.name, network)
        self.system, self.batches, self.held_out, self.work, self.seed = system, batches, held_out, work, seed
        self.key = f"systems.{system.name}.lr"
        self.device = next(network.parameters()).device

    def batch(self, step):
        return self._scaled(self.batches(step))

    def loss(self, network, batch):
        return self.system.loss(network, batch)

    def validate(self, network):
        total, items, options = 0.0, 0, self.system.options
        batches = validation_batches(self.held_out, self.system.crop, options.batch, options.mixes, self.seed)
        for batch in batches:
            for part, _ in self.parts(self._scaled(torch.from_numpy(batch).to(self.device))):
                total += self.loss(network, part).item() * len(part)
                items += len(part)
        return total / items

    def keep(self, step, value, best):
        if best:
            header = {"step": step, "valid_loss": value}
            save_safetensors(self.work / "best.safetensors", self.network.state_dict(), header)

    def _scaled(self, stems: Tensor) -> Tensor:
        return stems * self.system.gain(stems.sum(dim=1)).unsqueeze(1)
