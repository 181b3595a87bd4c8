"""Training the prior of one source of a data set, as a profile says."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowsep.checkpoint import load_prior
from flowsep.config import HOW_ONLY
from flowsep.files import FlowsepError, changes, write_text
from flowsep.machine import choose_device
from flowsep.prior import Prior
from flowsep.train import crop_samples, fit_prior

from ..codehash import code_hash
from ..profile import Profile, load_profile

HEARD = 20  # test songs whose solo stems the chapters on priors show


def train_source(dataset: Any, source: str, profile: Profile, folder: str | Path, *, progress: bool = True) -> Prior:
    """`fit_prior` on the solo stems of one source of a data set, all settings from the profile.

    With `training.epochs` there are epochs * ceil(segments / batch) steps, and every pass draws each segment once.
    Writes `<folder>/priors/<source>.safetensors` and its training to `<folder>/training/<source>/`. Only stems of
    `source` are opened: this is source-only supervision. With `training.devices` above 1 as many processes are
    started, which open the data set anew, each takes its share of every batch, and the first one writes. A training
    that was killed goes on, one that has ended is not repeated, and another one is set aside: data, code, settings and
    seed decide which it is.
    """
    from ..data.crops import CropSampler, validation_crops
    from ..data.segments import solo_segments  # sound files, which fitting alone does without

    folder, training, feature = Path(folder), profile.training, profile.feature
    if training.devices > 1 and "WORLD_SIZE" not in os.environ:
        _train_in_processes(dataset, source, profile, folder, progress)
        return load_prior(folder / "priors" / f"{source}.safetensors")
    choose_device(training.device)  # before hours of decoding
    length = crop_samples(training, feature)
    segments = {subset: solo_segments(dataset, subset, source, feature) for subset in ("train", "valid")}
    if training.epochs:
        steps = training.epochs * math.ceil(len(segments["train"]) / training.batch)
        training = training.model_copy(update={"steps": steps})
    provenance = {"data": dataset.name, "data_hash": dataset.hash, "profile": profile.name, "config": profile.hash}
    provenance |= {"code": code_hash("companion.systems.priors:train_source")}
    provenance |= {f"{subset}_segments": len(recordings) for subset, recordings in segments.items()}
    sampler = CropSampler(
        segments["train"],
        length,
        batch=training.batch,
        in_turn=training.epochs is not None,
        gain_db=training.gain_db,
        silence_db=training.silence_db,
        seed=profile.seed,
        source=source,
    )
    return fit_prior(
        sampler,
        validation_crops(segments["valid"], length, training.silence_db),
        source=source,
        model=profile.model,
        feature=feature,
        training=training,
        checkpoint=folder / "priors" / f"{source}.safetensors",
        work=folder / "training" / source,
        seed=profile.seed,
        provenance=provenance,
        progress=progress,
    )


def load_trained(profile: Profile, dataset: Any, sources: Iterable[str] = ()) -> dict[str, Prior]:
    """{source: prior} from the profile's folder, by default of its `sources`, each trained as the profile says.

    Raises FlowsepError for a missing prior, or one of other settings, seed or data, whose numbers would be taken for
    this profile's.
    """
    priors = {}
    for source in sources or profile.sources:
        path = profile.folder / "priors" / f"{source}.safetensors"
        if not path.exists():
            raise FlowsepError(f"{path}: no such prior; train it with notebooks/04_train_prior.ipynb")
        prior, training = load_prior(path), profile.training
        left_out = {*HOW_ONLY, "steps"} if training.epochs else set(HOW_ONLY)  # steps then hang on the segments
        asked_for = {"source": source, "seed": profile.seed, "data_hash": dataset.hash}
        asked_for |= {"training": training.model_dump(mode="json", exclude=left_out)}
        settings = {"model": profile.model.model_dump(), "feature": profile.feature.model_dump()}
        told = prior.provenance | {"source": prior.source}
        told |= {"model": prior.model.model_dump(), "feature": prior.feature.model_dump()}
        if changed := list(changes(told, asked_for | settings)):
            cure = "train it with notebooks/04_train_prior.ipynb, or score it in a row of its own, by -p checkpoints"
            raise FlowsepError(f"{path}: not a prior of profile {profile.name}: {'; '.join(changed)}; {cure}")
        priors[source] = prior
    return priors


def _train_in_processes(dataset: Any, source: str, profile: Profile, folder: Path, progress: bool) -> None:
    """`train_source` by torchrun, which also works from a notebook, whose process can neither fork nor be imported."""
    with tempfile.TemporaryDirectory() as place:
        settings = Path(place) / "profile.yaml"
        write_text(settings, json.dumps({"profile": profile.model_dump(mode="json")}))
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "-m", "--nproc-per-node"]
        command = [
            *torchrun,
            str(profile.training.devices),
            "companion.systems.priors",
            str(settings),
            source,
            str(folder),
        ]
        with subprocess.Popen([*command, dataset.hash], stderr=None if progress else subprocess.PIPE, text=True) as run:
            try:
                _, told = run.communicate()
            except BaseException:  # an interrupt above all: torchrun passes it on to its processes
                run.terminate()
                raise
    if run.returncode:
        reason = next((line for line in (told or "").splitlines() if "Error: " in line), "see above")
        raise FlowsepError(f"{source}: training in {profile.training.devices} processes failed: {reason}")


def _process(profile: str, source: str, folder: str | None = None, data_hash: str | None = None) -> None:
    """One of the processes that torchrun starts."""
    from ..data.tracks import load_dataset

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    settings = load_profile(profile)
    dataset = load_dataset(settings.data, settings.seed)
    if data_hash and dataset.hash != data_hash:
        raise FlowsepError(f"{dataset.name}: opened anew it is another data set ({dataset.hash}, not {data_hash})")
    train_source(dataset, source, settings, folder or settings.folder, progress=os.environ["RANK"] == "0")


def held_out_clips(dataset: Any, source: str, profile: Profile, *, songs: int = HEARD, most: int = 200) -> np.ndarray:
    """Solo clips that no prior has seen, of the test songs and cut as for training: float32 (clips, samples).

    Of the first `songs` that have the source, and thinned out evenly to `most`, so that any data set is as quick.
    """
    from ..data.crops import validation_crops
    from ..data.segments import solo_segments  # sound files, which fitting alone does without

    segments = solo_segments(dataset, "test", source, profile.feature, songs=songs)
    length = crop_samples(profile.training, profile.feature)
    clips = validation_crops(segments, length, profile.training.silence_db)
    return clips[np.linspace(0, len(clips) - 1, min(most, len(clips))).round().astype(int)]


if __name__ == "__main__":
    _process(*sys.argv[1:])
