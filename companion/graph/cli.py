"""The command line of the experiment: `python -m companion data | cache | fit | shard | score`."""

import argparse
from pathlib import Path
from typing import Any

from flowsep.cli import _summary, _tell, _whole_folder
from flowsep.files import FlowsepError, printable, safe_name, writable


def _score(arguments: argparse.Namespace) -> int:
    if arguments.jobs is not None and arguments.jobs < 1:
        raise FlowsepError(f"--jobs {arguments.jobs}: expected 1 or more")
    import pandas as pd

    from ..data.tracks import load_dataset, load_references
    from ..profile import load_profile
    from ..scores.estimates import find_systems, score_estimates
    from ..scores.evaluate import write_scores
    from ..tables.results import table_markdown

    profile = load_profile(arguments.profile or {"name": "references"})
    if arguments.metrics:
        rules = profile.evaluation.model_dump() | {"metrics": arguments.metrics.split(",")}
        profile = load_profile(profile.model_dump() | {"evaluation": rules})
    dataset = load_dataset(profile.data, profile.seed) if arguments.profile else load_references(arguments.references)
    sources = profile.sources if arguments.profile else None
    sources = tuple(arguments.sources.split(",")) if arguments.sources else sources
    systems = find_systems(arguments.estimates, dataset)
    targets = {name: arguments.out / "scores" / f"{safe_name(name)}.csv" for name in systems}
    if (arguments.out / "scores").is_symlink():
        raise FlowsepError(f"{arguments.out / 'scores'}: is a link, which may lead out of --out; choose another --out")
    if there := [target for target in targets.values() if target.exists() and not arguments.force]:
        raise FlowsepError(f"{there[0]}: is there already; --force overwrites it")
    settings = {"sources": sources, "evaluation": profile.evaluation, "profile": profile.name, "jobs": arguments.jobs}
    frames = score_estimates(systems, dataset, **settings)
    for name, frame in frames.items():
        write_scores(frame, targets[name])
        for reason in frame.loc[frame["status"] == "failed", "reason"].unique():
            _tell(f"failed: {name}: {reason}")
    scores = pd.concat(frames.values())
    for convention in profile.evaluation.conventions:
        print(table_markdown(scores, convention=convention, sources=sources or scores["stem"].unique()))
    failed = [name for name, frame in frames.items() if (frame["status"] == "failed").any()]
    return _summary(failed, len(frames), "systems have estimates that could not be scored")


def _data(arguments: argparse.Namespace) -> int:
    if arguments.musdb_sample:
        return _musdb_sample(arguments.musdb_sample)
    _, dataset = _opened(arguments.profile)
    held_out = dataset.subset("valid")
    failed, seconds = [], 0.0
    print(f"{dataset.name} {dataset.hash}: {dataset.root}")
    for track in dataset.tracks:
        try:
            facts = f"{track.duration:7.1f} s  {track.sample_rate} Hz  {', '.join(track.sources)}"
            seconds += track.duration
        except FlowsepError as error:
            facts = f"unusable: {error}"
            failed.append(track.name)
        print(printable(f"{'valid' if track in held_out else track.subset:5}  {track.name:32}  {facts}"))
    for name, reason in dataset.skipped.items():
        print(printable(f"skip   {name}: {reason}"))
    skipped = f", {len(dataset.skipped)} skipped" if dataset.skipped else ""
    print(f"{len(dataset.tracks)} tracks, {seconds / 60:.1f} minutes{skipped}")
    return _summary(failed, len(dataset.tracks), "tracks cannot be used")


def _opened(profile: str) -> tuple[Any, Any]:
    from ..data.tracks import load_dataset
    from ..profile import load_profile

    opened = load_profile(profile)
    return opened, load_dataset(opened.data, opened.seed)


def _cache(arguments: argparse.Namespace) -> int:
    from .steps import prepare_cache

    print(prepare_cache(*_opened(arguments.profile)))
    return 0


def _fit(arguments: argparse.Namespace) -> int:
    from .steps import fit_system

    fit_system(*_opened(arguments.profile), arguments.system, arguments.part)
    return 0


def _shard(arguments: argparse.Namespace) -> int:
    from .steps import score_shard

    print(score_shard(*_opened(arguments.profile), arguments.system, arguments.number, progress=False))
    return 0


def _musdb_sample(target: Path) -> int:
    """Seven seconds of each song of MUSDB18, by musdb's own download: enough to try a profile, too little to report."""
    import zipfile

    import musdb

    if (target / "train").exists():
        raise FlowsepError(f"{target / 'train'}: is there already; name another folder, or use it: MUSDB_PATH={target}")
    with writable(target.parent, "name another folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _whole_folder(target) as folder:
        try:
            tracks = len(musdb.DB(root=str(folder), download=True))
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            cure = "it needs the internet, and ffmpeg to read it"
            raise FlowsepError(f"{target}: the sample of MUSDB18 was not downloaded ({error}); {cure}") from error
    print(f"{tracks} songs; use them with MUSDB_PATH={target.resolve()}")
    return 0
