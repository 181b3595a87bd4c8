"""One setting of the separator varied at a time, on validation songs: a grid from the profile -> one CSV file.

Shown in `notebooks/11_ablations.ipynb`. The file grows run by run, so that a killed grid resumes.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soxr
import torch

from flowsep.config import SeparationConfig
from flowsep.files import FlowsepError, atomic_path
from flowsep.prior import Prior
from flowsep.search import FLOOR, kl_divergence, named_ratio_masks, separate_magnitude
from flowsep.spectrogram import istft, stft

from ..data.excerpts import excerpt
from ..data.tracks import Dataset, Track
from ..profile import Profile
from ..scores.metrics import sdr

VARIED = ("space", "alpha", "lr", "momentum", "sigma", "seed", "priors")
# the chapter's studies; one that the profile leaves out has one run, with all other options as in `base`
DRAWN: dict[str, dict[str, list[Any]]] = {f"weight of the prior, {name} space": {"space": [name]} for name in "zx"}
DRAWN |= {name: {} for name in ("learning rate", "momentum", "initial noise", "number of sources")}
COLUMNS = (*VARIED, "track", "iteration", "masked", "stem", "sdr", "kl", "seconds", "hash")


def settings(profile: Profile) -> dict[str, list[dict[str, Any]]]:
    """{study: runs}: every combination of the study's values, all other options as in `base`.

    A study that the chapter draws and the profile leaves out has one run (`DRAWN`). A run holds all fields of
    `SeparationConfig`, and `priors`: how many of the profile's sources are mixed and separated. Raises FlowsepError for
    an unknown option or number of priors, ValueError for an invalid value.
    """
    if profile.ablation is None:
        raise FlowsepError(f"profile {profile.name}: no key 'ablation'; add it, with the settings to vary")
    start = base(profile)
    longest = max(profile.ablation.iterations)
    studies = {}
    for study, values in (DRAWN | profile.ablation.studies).items():
        if unknown := set(values) - set(VARIED):
            raise FlowsepError(f"ablation.studies.{study}: cannot vary '{min(unknown)}'; valid: {', '.join(VARIED)}")
        runs = []
        for chosen in itertools.product(*values.values()):
            change = dict(zip(values, chosen, strict=True))
            priors = change.pop("priors", len(profile.sources))
            if not (isinstance(priors, int) and 1 < priors <= len(profile.sources)):
                raise FlowsepError(
                    f"ablation.studies.{study}.priors: expected 2 to {len(profile.sources)}, found {priors}"
                )
            run = SeparationConfig.model_validate(start.model_dump() | change | {"iterations": longest})
            runs.append(run.model_dump() | {"priors": priors})
        studies[study] = runs
    return studies


def base(profile: Profile) -> SeparationConfig:
    """The setting that the studies vary: the profile's instglow with the changes of `ablation.base`."""
    return SeparationConfig.paper(**profile.systems.get("instglow", {}) | profile.ablation.base)


def run_ablation(profile: Profile, dataset: Dataset, priors: Mapping[str, Prior], path: str | Path) -> pd.DataFrame:
    """SDR of every stem for each run of `settings`, at each iteration of `ablation.iterations`, with masks and without.

    The mixture is the sum of the first `priors` sources, in the loudest excerpt of each validation song, mono at the
    priors' rate. One run gives the estimates of all iterations, both as they are (G_i with the mixture's phase) and as
    ratio masks. SDR: the excerpt as one frame, as in the paper's convention.

    Args:
        priors: source -> prior.
        path: the CSV file with the columns `COLUMNS`: kl is the mixture term of the loss, seconds the time up to that
            iteration. Rows of other priors, data or settings in it are dropped.
    """
    path, frame = Path(path), pd.DataFrame(columns=list(COLUMNS))
    weights = {name: _fingerprint(prior) for name, prior in priors.items()}
    runs, tracks = itertools.chain(*settings(profile).values()), dataset.subset("valid")[: profile.ablation.tracks]
    if not tracks:
        raise FlowsepError(
            f"{dataset.root}: no validation songs; data.pieces holds out pieces instead: remove that key"
        )
    wanted = {}
    for track, run in itertools.product(tracks, runs):
        used = [weights[name] for name in profile.sources[: run["priors"]]]
        identity = (dataset.hash, track.name, profile.ablation.seconds, profile.ablation.iterations, used, run)
        wanted[hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]] = track, run
    if path.is_file():
        frame = pd.read_csv(path, dtype={"hash": str, "track": str})
        frame = frame[frame["hash"].isin(wanted)]
    for key, (track, run) in wanted.items():
        if not (frame["hash"] == key).any():
            names = profile.sources[: run["priors"]]
            config = SeparationConfig(**{name: value for name, value in run.items() if name != "priors"})
            marks, seconds = profile.ablation.iterations, profile.ablation.seconds
            rows = follow(track, {name: priors[name] for name in names}, config, marks, seconds)
            varied = {name: run[name] for name in VARIED}
            frame = pd.concat([frame if len(frame) else None, pd.DataFrame(rows).assign(**varied, hash=key)])
            with atomic_path(path) as temporary:
                frame.to_csv(temporary, columns=list(COLUMNS), index=False, float_format="%.5g", lineterminator="\n")
    return frame.reset_index(drop=True)


def select(frame: pd.DataFrame, runs: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows of `run_ablation` that belong to one study of `settings`."""
    return frame.merge(pd.DataFrame(runs)[list(VARIED)].drop_duplicates(), on=list(VARIED))


def follow(
    track: Track, priors: Mapping[str, Prior], config: SeparationConfig, marks: Collection[int], seconds: float
) -> list[dict[str, Any]]:
    """The estimates of one separation at the iterations in `marks`, scored: rows as in `run_ablation`.

    The mixture is the sum of the priors' sources, in the loudest excerpt of `seconds`, mono at the priors' rate. The
    rows' `seconds` count the separator's time without the scoring between iterations.
    """
    feature = next(iter(priors.values())).feature
    start, stop = excerpt(track, tuple(priors), seconds)
    truth = {
        name: soxr.resample(track.stem(name)[:, start:stop].mean(axis=0), track.sample_rate, feature.sample_rate)
        for name in priors
    }
    mixture = torch.from_numpy(sum(truth.values()))
    spectrum = stft(mixture, feature.n_fft, feature.hop)
    magnitude = spectrum.abs()
    rows, scoring, began = [], 0.0, time.perf_counter()

    def watch(state: dict[str, Any]) -> None:
        nonlocal scoring
        if state["iteration"] + 1 not in marks:
            return
        estimates = {name: x.cpu() for name, x in state["estimates"].items()}
        arrived = time.perf_counter()
        kl = kl_divergence(magnitude, sum(estimates.values()).abs()).item()
        for masked in (True, False):
            gains = named_ratio_masks(estimates)
            if not masked:
                gains = {name: x / magnitude.clamp_min(FLOOR) for name, x in estimates.items()}
            for name, gain in gains.items():
                estimate = istft(gain * spectrum, len(mixture), feature.n_fft, feature.hop).numpy()
                value = sdr(truth[name], estimate) if np.any(truth[name]) else np.nan
                row = {"track": track.name, "iteration": state["iteration"] + 1, "masked": masked, "stem": name}
                rows.append(row | {"sdr": value, "kl": kl, "seconds": arrived - began - scoring})
        scoring += time.perf_counter() - arrived

    separate_magnitude(magnitude, priors, config, watch)
    return rows


def _fingerprint(prior: Prior) -> str:
    """SHA-256 of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(prior.glow.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()
