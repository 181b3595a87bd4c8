"""The weights that the authors of Demucs and of Open-Unmix published, in the networks of `demucs_v2` and `open_unmix`.

Nothing is fitted: four sources of MUSDB18, 44.1 kHz, stereo. openunmix 1.3.0 itself loads umxhq. demucs 4.1.0 lists
only the models of its versions 3 and 4, and unpickles those that are not on the Hugging Face hub; but its class still
reads a state dict of version 2 (`Demucs.load_state_dict` renames the layers), and version 2's file is where demucs
2.0.3 looked for it, under the address that 4.1.0 keeps as `ROOT_URL`.
"""

import http.client
import pickle
import re
import shutil
import textwrap
import urllib.request
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from flowsep.files import FlowsepError, atomic_path, sha256
from flowsep.prior import parameters

from . import System, library, total_costs
from .demucs_v2 import DemucsV2
from .open_unmix import OpenUnmix, SideBySide, umx
from .supervised import Supervised

SOURCES = ("drums", "bass", "other", "vocals")  # in Demucs' order
DEMUCS = "v3.0/demucs-e07c671f.th"  # trained on MUSDB18 alone; demucs 2.0.3 kept its files in a folder of that name
TIMEOUT = 10  # seconds without an answer


class PretrainedOptions(BaseModel):
    """How songs are cut; the segments are Demucs v2's, and shorter ones need less memory."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    segment_seconds: PositiveFloat = 40.0
    overlap_seconds: float = Field(10.0, ge=0)
    device: str = "auto"


class Pretrained(System):
    """A network with published weights; a subclass gives `name` and `load_network`.

    An accompaniment is the sum of all but the vocals; there is no estimate of any other source that the four lack.
    """

    kind = "measured, published weights"
    supervision = "mixtures"
    Options = PretrainedOptions
    network: Supervised | None = None
    files: tuple[Path, ...] = ()

    def load_network(self) -> tuple[Supervised, list[Path]]:
        """The network with its weights, and their files, downloaded if need be; FlowsepError where they cannot be."""
        raise NotImplementedError

    def parts(self):
        """None: what is downloaded, or prevents it, each process finds out by itself."""
        return ()

    def fit(self, dataset, profile, folder):
        """Download the weights. What prevents it is kept as `unavailable`, the reason of every row."""
        try:
            if not {*SOURCES, "accompaniment"} & set(self.sources):
                raise FlowsepError(f"{self.name}: separates {', '.join(SOURCES)}, not {', '.join(self.sources)}")
            self._load()
        except FlowsepError as error:
            self.unavailable = str(error)

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError where the weights cannot be had."""
        self._load()
        stems = self.network.separate(mixture, sample_rate)
        stems["accompaniment"] = sum(stems[source] for source in SOURCES if source != "vocals")
        return {source: stems[source] for source in self.sources if source in stems}

    def checkpoints(self):
        """The downloaded files."""
        return list(self.files)

    def costs(self):
        """Parameters, once there is a network; what its training took is not known."""
        known = {} if self.network is None else {"parameters": parameters(self.network.network)}
        return total_costs([known])

    def _load(self) -> None:
        if self.unavailable:
            raise FlowsepError(self.unavailable)
        if self.network is None:
            try:
                self.network, files = self.load_network()
            except FlowsepError as error:
                raise FlowsepError(f"{self.name}: {error}") from error
            self.files = tuple(files)


class WholeSongDemucs(DemucsV2):
    """`f(x) = sigma g((x - mu) / sigma) + mu`, mu and sigma of the whole song, as version 2 is used."""

    level = None  # crops of it are not

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`."""
        mono = mixture.mean(axis=0, dtype=np.float64)
        mean, deviation = np.float32(mono.mean()), np.float32(max(mono.std(), 1e-5))
        stems = super().separate((mixture - mean) / deviation, sample_rate)
        return {source: audio * deviation + mean for source, audio in stems.items()}


class PretrainedDemucs(Pretrained):
    """Demucs v2, `demucs` of its release 2.0.3: 64 channels, trained on MUSDB18.

    The class of demucs 4.1.0 pads where version 2 trims: within the first and last 1,000 samples of a song estimates
    differ from version 2.0.3, which also averages over shifts of the song if asked to (ten in its publication).
    """

    name = "demucs_v2_pretrained"

    def load_network(self):
        """See `Pretrained`; the sizes are read off the weights."""
        path = fetch(library("demucs.pretrained").ROOT_URL + DEMUCS)
        state = read(path)
        try:
            depth = sum(re.fullmatch(r"encoder\.\d+\.0\.bias", key) is not None for key in state)
            sizes = {"width": len(state["encoder.0.0.bias"]), "depth": depth}
            system = WholeSongDemucs(DemucsV2.Options(**sizes, **self.options.model_dump()), SOURCES)
            network = system.build()
            network.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            what = textwrap.shorten(str(error), 150)
            raise FlowsepError(f"{path}: not the weights of Demucs v2 ({what})") from error
        system.network = network.eval()
        return system, [path]


class PretrainedOpenUnmix(Pretrained):
    """Open-Unmix, umxhq: trained on MUSDB18-HQ."""

    name = "open_unmix_pretrained"

    def load_network(self):
        """`openunmix.umxhq_spec`, made safe.

        It asks torch.hub for its files, whose default unpickles whatever a file holds, checks no hash, and goes on
        without weights that are missing. So a copy of that function runs here, for which `torch` is nothing but our
        own `fetch` and `read`: the library's files and sizes, and no other code sees a changed torch.
        """
        umx("model")
        openunmix = library("openunmix")
        files, states = [], []

        def load_state_dict_from_url(url: str, map_location: Any = None) -> dict[str, Tensor]:
            files.append(fetch(url))
            states.append(read(files[-1]))
            return states[-1]

        safe = SimpleNamespace(hub=SimpleNamespace(load_state_dict_from_url=load_state_dict_from_url))
        spec, scope = openunmix.umxhq_spec, vars(openunmix) | {"torch": safe}
        models = FunctionType(spec.__code__, scope, argdefs=spec.__defaults__)(targets=list(SOURCES))
        for model, state, path in zip(models.values(), states, files, strict=True):
            if missing := sorted(set(model.state_dict()) - set(state)):
                raise FlowsepError(f"{path}: not the weights of Open-Unmix: {missing[0]} is missing")
        system = OpenUnmix(OpenUnmix.Options(**self.options.model_dump()), SOURCES)
        system.network = SideBySide(models[source] for source in SOURCES).eval()
        return system, files


def fetch(url: str) -> Path:
    """The file of `url` in torch.hub's folder, where it is looked for first.

    Its name ends in the first digits of its SHA-256, which must be right. Raises FlowsepError without network.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        _check(path, name)
        return path
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, atomic_path(path) as temporary:
            with temporary.open("wb") as file:
                shutil.copyfileobj(answer, file)
            _check(temporary, name)
    except (OSError, http.client.HTTPException) as error:
        folder = str(path.parent).replace(str(Path.home()), "~", 1)
        cure = f"run once with network, or put {name} into {folder}"
        raise FlowsepError(f"its weights could not be downloaded ({str(error).strip('<>')}); {cure}") from error
    return path


def read(path: Path) -> dict[str, Tensor]:
    """A state dict of tensors and nothing else, which no file can make run code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise FlowsepError(f"{path}: not a plain state dict, or damaged; delete it and get it anew") from error


def _check(path: Path, name: str) -> None:
    digits, actual = name.rpartition("-")[2].partition(".")[0], sha256(path)
    if not actual.startswith(digits):
        raise FlowsepError(f"{name}: its SHA-256 begins with {actual[:8]}, not {digits}; delete it and get it anew")
