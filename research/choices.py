"""`python -m research.choices`: what a profile's systems are set to, chosen on its validation songs.

Each system gets three trials: a setting, and two that change one thing of it. All other options are the profile's. They
are trained for a share of its steps and scored on all validation songs; no test song is opened. `flowsep` gets three
more, of the length of its search, with priors that were trained before. The rows go to results/<profile>/choices.csv,
a killed run goes on.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import companion
from companion.data.tracks import Dataset
from companion.profile import Profile
from companion.provenance import run_provenance
from companion.scores.evaluate import evaluate_system
from companion.systems import System, load_system
from companion.tables import aggregate
from flowsep.files import FlowsepError, atomic_path, cache_folder, locked

Changes = Mapping[str, Any]
PRIOR = {"feature": {"sample_rate": 11025, "n_fft": 2048, "hop": 512}, "model": {"bins": 1026}}


def one_set(**training: Any) -> Changes:
    """`flowsep` with one set of priors."""
    return {"members": [{**PRIOR, "training": {"steps": 900, "crop_seconds": 3, **training}}]}


TRIALS: dict[str, tuple[Changes, ...]] = {
    "nmf": ({"components": 40}, {"components": 20}, {"components": 80}),
    "hpss": ({"crossover_hz": 200}, {"crossover_hz": 120}, {"crossover_hz": 300}),
    "gan_prior": (
        {"prior": {"lr": 0.001}, "iterations": 40},
        {"prior": {"lr": 0.0003}, "iterations": 40},
        {"prior": {"lr": 0.001}, "iterations": 100},
    ),
    "instglow": ({"lr": 0.01, "iterations": 150}, {"lr": 0.005, "iterations": 150}, {"lr": 0.01, "iterations": 300}),
    "flowsep": (
        *(one_set(noise=noise) for noise in (0.3, 0.15, 0.6)),
        *({**one_set(noise=0.6), "iterations": iterations} for iterations in (9, 18, 36)),
    ),
    "open_unmix_random": ({"lr": 0.003, "hidden": 128}, {"lr": 0.001, "hidden": 128}, {"lr": 0.003, "hidden": 256}),
    "open_unmix": ({"lr": 0.003, "hidden": 128}, {"lr": 0.001, "hidden": 128}, {"lr": 0.003, "hidden": 256}),
    "conv_tasnet": (
        {"lr": 0.002, "sample_rate": 8000, "kernel": 128},
        {"lr": 0.001, "sample_rate": 8000, "kernel": 128},
        {"lr": 0.002, "sample_rate": 16000, "kernel": 256},
    ),
    "demucs_v2": (
        {"lr": 0.002, "sample_rate": 8000},
        {"lr": 0.001, "sample_rate": 8000},
        {"lr": 0.002, "sample_rate": 16000},
    ),
    "wave_u_net": (
        {"lr": 0.0015, "sample_rate": 8000},
        {"lr": 0.0005, "sample_rate": 8000},
        {"lr": 0.0015, "sample_rate": 16000},
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m research.choices", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="musdb18-7s")
    parser.add_argument(
        "--only", metavar="SYSTEM", nargs="+", choices=TRIALS, default=list(TRIALS), help="default: all"
    )
    parser.add_argument("--share", type=float, default=0.25, help="of the profile's training steps (default 0.25)")
    given = parser.parse_args()
    try:
        profile = companion.load_profile(given.profile)
        dataset = companion.load_dataset(profile.data, profile.seed)
        for name in given.only:
            for changes in TRIALS[name]:
                trial(profile, dataset, name, changes, given.share)
    except FlowsepError as error:
        print(f"choices: {error}", file=sys.stderr)
        return 2
    return 0


def trial(profile: Profile, dataset: Dataset, name: str, changes: Changes, share: float) -> None:
    """Train and score one setting, unless the file has it, and add its row."""
    path = profile.folder / "choices.csv"
    key = {"data_hash": dataset.hash, "system": name, "changes": json.dumps(changes, sort_keys=True), "share": share}
    if has_row(path, key):
        return
    options, shorter = shortened(name, merged(profile.systems[name], changes), profile, share)
    row = measured(shorter.model_copy(update={"systems": {name: options}}), dataset, name, "valid")
    add_row(path, key | row)
    print(f"{name} {key['changes']}: {row['mean']:.2f}", flush=True)


def measured(profile: Profile, dataset: Dataset, name: str, subset: str) -> dict[str, Any]:
    """Fit a system and score it on the songs of a subset: median SDR by source, costs, provenance."""
    return scored(fitted(profile, dataset, name), profile, dataset, name, dataset.subset(subset))


def fitted(profile: Profile, dataset: Dataset, name: str) -> System:
    """A system of a profile, fitted in the cache folder."""
    # the searches that are tried for a flow share their priors
    options = profile.systems[name]
    priors = profile.model_copy(
        update={"systems": {name: {"members": options["members"]} if "members" in options else options}}
    )
    which = f"{dataset.hash}-{priors.hash_of('' if name == 'instglow' else name)}"
    folder = cache_folder() / "choices" / profile.name / which
    places = {"priors": folder / "priors", "folder": folder}
    system = load_system(name, profile.systems[name], sources=profile.sources, **places)
    system.fit(dataset, profile, folder)
    return system


def scored(system: System, profile: Profile, dataset: Dataset, name: str, songs: Sequence[Any]) -> dict[str, Any]:
    """The median SDR by source over songs, beside what the system learnt from."""
    facts = run_provenance(profile, system, dataset, name=name)
    settings = {"sources": profile.sources, "provenance": facts, "conventions": ("sisec18",), "metrics": ("SDR",)}
    frame = evaluate_system(system, songs, **settings)
    medians = aggregate(frame, "sisec18").set_index("stem")["median"].round(4)
    each = frame.drop_duplicates("track")
    row = {"scored": len(songs), "mean": round(medians.mean(), 4), **medians}
    row |= {column: facts[column] for column in ("training_seconds", "code", "git_commit", "git_dirty")}
    return row | {"rtf": round(each.seconds.sum() / each.audio_seconds.sum(), 3)}


def has_row(path: Path, key: Changes) -> bool:
    """Whether a file has a row with these values."""
    return path.is_file() and bool((pd.read_csv(path)[list(key)] == pd.Series(key)).all(axis=1).any())


def add_row(path: Path, row: Changes) -> None:
    """Add a row to a file, which other processes may be adding to."""
    with locked(path):
        rows = pd.concat([pd.read_csv(path) if path.is_file() else None, pd.DataFrame([row])])
        with atomic_path(path) as temporary:
            rows.to_csv(temporary, index=False, lineterminator="\n")


def merged(options: Changes, changes: Changes) -> dict[str, Any]:
    """Options with some of them changed, those within `prior` one by one."""
    both = dict(options)
    for key, value in changes.items():
        both[key] = merged(both[key], value) if isinstance(value, Mapping) and key in both else value
    return both


def shortened(name: str, options: dict[str, Any], profile: Profile, share: float) -> tuple[dict[str, Any], Profile]:
    """Options and profile with a share of the training steps."""

    def less(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {**settings, "steps": max(1, round(share * settings["steps"]))}

    if name == "instglow":
        training = profile.training.model_copy(update=less({"steps": profile.training.steps}))
        return options, profile.model_copy(update={"training": training})
    if "members" in options:
        members = [{**member, "training": less(member["training"])} for member in options["members"]]
        return {**options, "members": members}, profile
    if "prior" in options:
        return {**options, "prior": less(options["prior"])}, profile
    return (less(options) if "steps" in options else options), profile


if __name__ == "__main__":
    sys.exit(main())
