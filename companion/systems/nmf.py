"""Non-negative matrix factorisation with a dictionary of spectra a source: the classic of source-only separation."""

import time
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from flowsep.config import FeatureConfig
from flowsep.files import FlowsepError, brief
from flowsep.machine import peak_memory
from flowsep.separator import separate_with_masks
from flowsep.weights import MAX_OVERLAP, read_safetensors, save_safetensors

from . import System

FORMAT = "flowsep-nmf-1"  # key of the header, whose value is the feature that the spectra are of
SILENCE_DB = -50.0  # frames below teach nothing


class NMFOptions(BaseModel):
    """Sizes of the dictionaries, and how long they and the activations are iterated.

    On the embedded band half or twice as many of any of them changes the mean SDR by 0.3 dB at most, and mostly for
    the worse; sklearn's mini-batches lose 0.6 dB.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    components: PositiveInt = 40  # spectra a source; more explain the other sources too
    frames: PositiveInt = 6000  # training frames a source
    iterations: PositiveInt = 100  # of the dictionary
    activations: PositiveInt = 50  # iterations of the activations of a mixture


class SourceNMF(System):
    """`|S_i| ~ W_i H_i` learnt for each source alone; then `|x| ~ sum_i W_i H_i` over the activations W, with H fixed.

    Multiplicative updates of the Kullback-Leibler divergence; estimates are Wiener masks on the mixture.
    References: Lee, Seung 1999; Smaragdis, Raj, Shashanka 2007 (supervised dictionaries).
    """

    name = "nmf"
    supervision = "solo"
    Options = NMFOptions
    dictionaries: dict[str, np.ndarray] | None = None
    feature: FeatureConfig

    def fit(self, dataset, profile, folder):
        """Learn the dictionaries from random frames of the solo stems and write `<folder>/nmf.safetensors`."""
        from sklearn.decomposition import NMF

        learnt, seconds = {}, 0.0
        for source, segments in self.material(dataset, profile).items():
            began = time.monotonic()
            spectra = random_spectra(segments, self.options.frames, profile.feature, profile.seed)
            if not len(spectra):
                raise FlowsepError(f"nmf: '{source}' is silent in all training tracks; there is nothing to learn")
            model = NMF(
                self.options.components, init="random", solver="mu", beta_loss="kullback-leibler",
                max_iter=self.options.iterations, tol=0, random_state=profile.seed,
            ).fit(spectra)  # fmt: skip
            learnt[source] = model.components_ / model.components_.sum(axis=1, keepdims=True).clip(min=1e-12)
            seconds += time.monotonic() - began
        costs = {"parameters": sum(spectra.size for spectra in learnt.values())}
        costs |= {"training_seconds": round(seconds, 3), "training_memory_mib": peak_memory()}
        header = {"format": FORMAT, "feature": profile.feature.model_dump(), "provenance": costs}
        tensors = {source: torch.from_numpy(spectra) for source, spectra in learnt.items()}
        save_safetensors(self._path(folder), tensors, header)
        self.folder, self.feature, self.dictionaries = Path(folder), profile.feature, learnt

    def material(self, dataset, profile):
        """{source: its solo recordings}."""
        from ..data.segments import solo_segments

        return {source: solo_segments(dataset, "train", source, profile.feature) for source in self.sources}

    def separate(self, mixture, sample_rate, references=None):
        """See `System.separate`; FlowsepError where the dictionaries are missing, damaged or of other sources."""
        if self.dictionaries is None:
            self._load()
        return separate_with_masks(mixture, sample_rate, self._explain, names=self.sources, feature=self.feature)

    def checkpoints(self):
        """The dictionaries' file."""
        return [self._path(self.folder)]

    def _explain(self, magnitude: torch.Tensor) -> dict[str, torch.Tensor]:
        """(bins, frames) -> {source: (bins, frames)}: what each dictionary contributes to the mixture."""
        from sklearn.decomposition import non_negative_factorization

        together = np.concatenate([self.dictionaries[source] for source in self.sources])
        activations, _, _ = non_negative_factorization(
            np.ascontiguousarray(magnitude.numpy().T), H=together, n_components=len(together), update_H=False,
            solver="mu", beta_loss="kullback-leibler", max_iter=self.options.activations, tol=0,
        )  # fmt: skip
        ends = np.cumsum([len(self.dictionaries[source]) for source in self.sources])[:-1]
        parts = zip(self.sources, np.split(activations, ends, axis=1), strict=True)
        return {source: torch.from_numpy((part @ self.dictionaries[source]).T) for source, part in parts}

    def _load(self) -> None:
        path = self._path(self.folder)
        header, tensors = read_safetensors(path)
        if header.get("format") != FORMAT:
            raise FlowsepError(f"{path}: not a file of NMF dictionaries; fit nmf anew")
        if missing := set(self.sources) - set(tensors):
            raise FlowsepError(f"{path}: no dictionary of '{min(missing)}'; fit nmf anew")
        try:
            self.feature = FeatureConfig.model_validate(header.get("feature"))
        except ValidationError as error:
            raise FlowsepError(f"{path}: damaged header ({brief(error)}); fit nmf anew") from error
        bins, hop = self.feature.n_fft // 2 + 1, self.feature.hop
        fits = [tensors[source].ndim == 2 and tensors[source].shape[1] == bins for source in self.sources]
        if not all(fits) or self.feature.n_fft > MAX_OVERLAP * hop:
            raise FlowsepError(f"{path}: its spectra and n_fft {2 * bins - 2}, hop {hop} do not belong together")
        self.dictionaries = {source: tensors[source].numpy() for source in self.sources}

    def _path(self, folder: str | Path | None) -> Path:
        if folder is None:
            raise FlowsepError("nmf: not fitted, and no folder of a fitted one given")
        return Path(folder) / f"{self.name}.safetensors"


def random_spectra(segments, count: int, feature: FeatureConfig, seed: int) -> np.ndarray:
    """Up to `count` magnitude spectra (count, bins) of audible frames, drawn uniformly from segments (samples,)."""
    rng = np.random.default_rng(seed)
    usable = [segment for segment in segments if len(segment) >= feature.n_fft]
    if not usable:
        return np.empty((0, feature.n_fft // 2 + 1), np.float32)
    room = np.array([len(segment) - feature.n_fft + 1 for segment in usable])
    drawn = np.sort(rng.integers(0, room.sum(), 4 * count))  # four times as many, since stems are silent in parts
    which = np.searchsorted(np.cumsum(room), drawn, side="right")
    starts = drawn - (np.cumsum(room) - room)[which]
    frames = np.stack([usable[i][start : start + feature.n_fft] for i, start in zip(which, starts, strict=True)])
    audible = np.flatnonzero(np.sqrt(np.mean(frames**2, axis=1)) > 10 ** (SILENCE_DB / 20))
    chosen = rng.permutation(audible)[:count]
    window = torch.hann_window(feature.n_fft).numpy()
    return np.abs(np.fft.rfft(frames[chosen] * window)).astype(np.float32)
