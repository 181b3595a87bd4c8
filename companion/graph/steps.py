"""The steps of the Snakefile: fill the cache, fit one system, score it on the test songs or on a shard of them.

All results go to the profile's folder: `scores/<system>.csv`, excerpts in `audio/<system>/<track>/<stem>.flac`,
`systems/`, `shards/` and, if the profile asks for SIR, ISR and SAR, `museval/<system>/test/<track>.json`.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowsep.checkpoint import find_priors, load_prior
from flowsep.files import FlowsepError, locked, printable, safe_name, writable, write_text
from flowsep.machine import choose_device, runs_on

from ..codehash import code_of_class
from ..data.excerpts import keep_excerpt
from ..data.segments import solo_segments
from ..data.tracks import Dataset, Track
from ..profile import Profile
from ..provenance import run_provenance
from ..scores.evaluate import evaluate_system, read_scores, unavailable_rows, write_scores
from ..scores.museval_json import write_museval
from ..systems import System, load_system
from ..systems.our_flow import OurFlow
from ..systems.priors import HEARD, load_trained
from .logs import last_words

SCORES = "scores.csv"  # of a shard
FAILED = "failed.json"  # of a system that could not be separated
# columns in which the rows of all shards must agree
IDENTITY = ("checkpoint", "config_hash", "data_hash", "seed", "code", "versions")


def prepare_cache(profile: Profile, dataset: Dataset) -> Path:
    """Decode and resample the training material of all systems into the cache folder, and write `cache.json`.

    One job does it before any training, so that no two jobs write the same file.
    """
    for source in profile.sources:
        for subset, songs in (("train", None), ("valid", None), ("test", HEARD)):
            solo_segments(dataset, subset, source, profile.feature, songs=songs)
    for name in profile.systems:
        _system(profile, name).material(dataset, profile)
    path = profile.folder / "cache.json"
    facts = {"data": dataset.name, "data_hash": dataset.hash, "sources": profile.sources, "systems": [*profile.systems]}
    write_text(path, json.dumps(facts, indent=1) + "\n")
    return path


def fit_system(
    profile: Profile, dataset: Dataset, name: str, part: str | None = None, *, go_on: bool = False
) -> System:
    """Fit a system of the profile, or one of its `parts()`, unless that was done before.

    `systems/<name>/fitted/<part>.json` holds the hashes of settings, data and code that it was done with. A notebook
    trains the priors of `instglow`. With `go_on` a failure goes to that file, too, and becomes the system's
    `unavailable`, so that its rows say so beside the rows of the others; so does what `give_up` noted. See
    `forget_failures`.

    Raises FlowsepError for an unknown system or part, and as `System.fit` does.
    """
    system, learnt = _system(profile, name), profile.folder / "systems" / name
    if (learnt / FAILED).is_file():
        system.unavailable = json.loads((learnt / FAILED).read_text("utf-8"))["failed"]
        return system
    names = {safe_name(each): each for each in system.parts()}
    if part is not None and part not in names:
        raise FlowsepError(f"system '{name}': no part '{part}' to fit; its parts: {', '.join(names) or 'none'}")
    if not system.parts() and name != "instglow":
        system.fit(dataset, profile, learnt)  # a download, if anything
    for each in names if part is None else (part,):
        marker = learnt / "fitted" / f"{each}.json"
        facts = {"config": profile.hash_of(name), "data_hash": dataset.hash, "code": code_of_class(type(system))}
        done = json.loads(marker.read_text("utf-8")) if marker.is_file() else {}
        if {**done, "failed": ""} != facts | {"failed": ""} or (go_on and "failed" in done):
            try:
                _check_device(profile, system)
                system.fit_part(names[each], dataset, profile, learnt)
                done = facts
            except (FlowsepError, RuntimeError) as error:  # out of memory, or a diverged training
                if not go_on:
                    raise
                done = facts | {"failed": f"not fitted: {error}"}
            write_text(marker, json.dumps(done) + "\n")
        system.unavailable = system.unavailable or done.get("failed", "")
    return system


def give_up(profile: Profile, name: str, log: Path) -> str:
    """Note, for `fit_system`, that a system could not be separated, and return why: the last line of the job's log.

    The log is kept as `<log>.failed.<suffix>`, since the job runs once more, for rows that say so.
    """
    _, lines = last_words(log)
    last = lines[-1].strip().removeprefix("FlowsepError: ") if lines else "its process ended without a word"
    reason = f"not separated: {last}"
    write_text(profile.folder / "systems" / name / FAILED, json.dumps({"failed": reason}) + "\n")
    if log.is_file():
        log.replace(log.with_suffix(f".failed{log.suffix}"))
    return reason


def forget_failures(folder: Path) -> None:
    """Remove what a profile's folder holds of systems that failed, so that a new run tries them again."""
    for marker in (*folder.glob("systems/*/fitted/*.json"), *folder.glob(f"systems/*/{FAILED}")):
        if "failed" in json.loads(marker.read_text("utf-8")):
            system = marker.relative_to(folder).parts[1]
            marker.unlink()
            (folder / "scores" / f"{system}.csv").unlink(missing_ok=True)
            shutil.rmtree(folder / "shards" / system, ignore_errors=True)


def score_system(
    profile: Profile,
    dataset: Dataset,
    name: str,
    *,
    checkpoints: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Fit a system if it learns, separate and score all test songs, write the rows and return them.

    Shards that `score_shard` wrote are used again if `IDENTITY` is the same. A system whose published weights cannot be
    downloaded prints one line and gets rows that say so.

    Args:
        profile: the experiment.
        dataset: its songs.
        name: a system of the profile.
        checkpoints: a folder of other priors, which the search of this system uses; see `score_checkpoints`.
        progress: show a bar.
    Raises:
        FlowsepError: an unknown system, missing priors, or all tracks failed.
    """
    system, settings = _fitted(profile, dataset, name, checkpoints)
    variant, frames = settings["provenance"]["variant"], []
    label = f"{name}@{safe_name(variant)}" if variant else name
    with locked(profile.folder / "shards" / label):  # a second run would empty these folders
        for number in range(profile.shards):
            place = _shard_folder(profile, label, number)
            done = read_scores(place / SCORES) if profile.shards > 1 and (place / SCORES).is_file() else None
            if done is None or not _same(done, settings["provenance"]):
                done = _score_shard(profile, dataset, system, settings, place, number, progress)
            frames.append(done)
        for kind, target in (("audio", profile.folder / "audio" / label), ("museval", _museval(profile, label))):
            fresh = profile.folder / "shards" / label / kind
            shutil.rmtree(fresh, ignore_errors=True)  # left by a killed run
            with writable(target, "make room and run it again"):
                for number in range(profile.shards):
                    part = _shard_folder(profile, label, number) / kind
                    for file in filter(Path.is_file, part.rglob("*")):
                        copy = fresh / file.relative_to(part)
                        copy.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(file, copy)
                shutil.rmtree(target, ignore_errors=True)  # an earlier run, perhaps of other songs
                if fresh.is_dir():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    fresh.rename(target)
        (profile.folder / "audio" / label).mkdir(parents=True, exist_ok=True)  # the Snakefile expects it, even empty
        filled = [rows for rows in frames if len(rows)]  # some are empty if there are more shards than songs
        frame = pd.concat(filled, ignore_index=True)
        write_scores(frame, profile.folder / "scores" / f"{label}.csv")
    if system.unavailable:
        print(system.unavailable)
    elif (frame.status == "failed").all():
        songs = frame.track.nunique()
        raise FlowsepError(f"{name}: all {songs} tracks failed; the first: {frame.reason.iloc[0]}")
    return frame


def score_checkpoints(profile: Profile, dataset: Dataset, folder: str | Path) -> str:
    """Score the priors of a folder on all test songs, unless that was done before, and return the label of their rows.

    The search is the one that they were trained for: the profile's `flowsep` if all of them saw noise, else `instglow`,
    the paper's. The name of the folder becomes the `variant` of the rows, which go to `scores/<system>@<variant>.csv`;
    where other priors of a folder of that name were scored before, the variant ends in a hash of these. Prints a line
    for each song.

    Raises FlowsepError as `score_system` does, and for a folder without priors.
    """
    folder = str(folder)  # papermill reads -p checkpoints 2022 as a number
    noisy = all(load_prior(path).noise for path in find_priors(folder).values())
    name = "flowsep" if noisy and "flowsep" in profile.systems else "instglow"
    _, settings = _fitted(profile, dataset, name, folder)
    label = f"{name}@{safe_name(settings['provenance']['variant'])}"
    scores = profile.folder / "scores" / f"{label}.csv"
    if not scores.is_file() or not _same(read_scores(scores), settings["provenance"]):
        score_system(profile, dataset, name, checkpoints=folder, progress=False)
    return label


def score_shard(profile: Profile, dataset: Dataset, name: str, number: int) -> Path:
    """Separate and score shard `number` (from 0) of the test songs, in `shards/<system>/<number>of<shards>/`.

    Raises FlowsepError for an unknown shard, and as `score_system` does.
    """
    if not 0 <= number < profile.shards:
        raise FlowsepError(f"profile {profile.name}: no shard {number}; shards: {profile.shards}, counted from 0")
    system, settings = _fitted(profile, dataset, name, None)
    place = _shard_folder(profile, name, number)
    _score_shard(profile, dataset, system, settings, place, number, progress=False)
    return place


def _system(profile: Profile, name: str, priors: str | Path | None = None) -> System:
    if name not in profile.systems:
        raise FlowsepError(f"profile {profile.name}: no system '{name}'; its systems: {', '.join(profile.systems)}")
    places = {"priors": priors or profile.folder / "priors", "folder": profile.folder / "systems" / name}
    options = profile.systems[name]
    if priors and name == "flowsep":  # a folder holds one set of priors: the paper's system with the search of ours
        search = {key: value for key, value in options.items() if key != "members"}
        return load_system("instglow", {**OurFlow.defaults, **search}, sources=profile.sources, **places)
    return load_system(name, options, sources=profile.sources, **places)


def _fitted(
    profile: Profile, dataset: Dataset, name: str, checkpoints: str | Path | None
) -> tuple[System, dict[str, Any]]:
    """A fitted system, and the settings of `evaluate_system`."""
    system = _system(profile, name, checkpoints) if checkpoints else fit_system(profile, dataset, name)
    if name == "instglow" and not checkpoints and not system.unavailable:
        load_trained(profile, dataset)  # other priors are refused, which a row would take for the profile's
    provenance = run_provenance(profile, system, dataset, name=name)
    if checkpoints:
        provenance["variant"] = _variant(profile, name, Path(checkpoints), provenance["checkpoint"])
    settings = {"sources": profile.sources, "provenance": provenance, "conventions": profile.evaluation.conventions}
    return system, settings | {"metrics": profile.evaluation.metrics}


def _check_device(profile: Profile, system: System) -> None:
    """FlowsepError where a network would take the CPU unasked, in a profile whose `training.device` is a GPU."""
    if getattr(system.options, "device", "") == "auto":
        choose_device(profile.training.device)


def _score_shard(
    profile: Profile,
    dataset: Dataset,
    system: System,
    settings: Mapping[str, Any],
    place: Path,
    number: int,
    progress: bool,
) -> pd.DataFrame:
    """Score the songs of one shard into `place`: excerpts, museval's frames if asked for, and last the rows."""
    with locked(place):
        shutil.rmtree(place, ignore_errors=True)
        tracks = dataset.subset("test")
        heard = {track.name for track in tracks[: profile.listen_tracks]}
        first, last = (len(tracks) * k // profile.shards for k in (number, number + 1))
        own = tracks[first:last]

        def keep(track: Track, estimates: Mapping[str, np.ndarray]) -> None:
            if track.name in heard:
                keep_excerpt(profile, track, estimates, place / "audio")

        def scored(track: Track, rows: list[dict[str, Any]]) -> None:
            write_museval(place / "museval" / f"{safe_name(track.name)}.json", rows)
            if variant := settings["provenance"]["variant"]:  # of other checkpoints, in a chapter that waits for them
                count = f"song {own.index(track) + 1} of {len(own)}"
                print(printable(f"{settings['provenance']['system']} [{variant}], {count}: {track.name}"), flush=True)

        if system.unavailable:
            frame = unavailable_rows(system.unavailable, own, **settings)
        else:
            if not settings["provenance"]["variant"]:  # other checkpoints may be scored anywhere
                _check_device(profile, system)
            if device := getattr(system.options, "device", None):
                line = runs_on(choose_device(device), getattr(system.options, "precision", "32-true"))
                print(f"{system.name}: {line}", flush=True)
            frame = evaluate_system(system, own, **settings, on_estimates=keep, on_scores=scored, progress=progress)
        write_scores(frame, place / SCORES)
    return frame


def _same(rows: pd.DataFrame, provenance: Mapping[str, Any]) -> bool:
    return all((rows[key] == provenance[key]).all() for key in IDENTITY)


def _variant(profile: Profile, name: str, checkpoints: Path, hashes: str) -> str:
    """The name of a folder of priors, with a hash where the rows of other priors have that name already."""
    variant = checkpoints.resolve().name
    scored = profile.folder / "scores" / f"{name}@{safe_name(variant)}.csv"
    if scored.is_file() and set(read_scores(scored).checkpoint) != {hashes}:
        return f"{variant}-{hashlib.sha256(hashes.encode()).hexdigest()[:6]}"
    return variant


def _shard_folder(profile: Profile, label: str, number: int) -> Path:
    return profile.folder / "shards" / label / f"{number}of{profile.shards}"


def _museval(profile: Profile, label: str) -> Path:
    return profile.folder / "museval" / label / "test"
