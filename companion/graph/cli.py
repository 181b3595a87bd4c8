"""The command line of the experiment: `python -m companion data | cache | fit | shard | give-up | score`."""

import argparse
from pathlib import Path
from typing import Any

from flowsep.cli import CURE, names, run_command, summary, tell
from flowsep.files import FlowsepError, printable, safe_name, whole_folder, writable

ROWS = "its rows will say so, and the next run tries again"


def main(argv: list[str] | None = None) -> int:
    """Run one command of `python -m companion` and return the exit status of `flowsep.cli.run_command`."""
    return run_command(_parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m companion", description="The experiment behind the book.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    profile: dict[str, Any] = {"default": "quick", "help": "name in configs/, or path of a YAML file"}

    command = commands.add_parser("score", help="score estimates on disk, of any systems, against the true stems")
    command.add_argument("estimates", type=Path, metavar="DIR", help="<system>/<track>/<stem>.wav, or of one system")
    against = command.add_mutually_exclusive_group(required=True)
    against.add_argument("--profile", help="its test songs: name in configs/, or path of a YAML file")
    against.add_argument("--references", type=Path, metavar="DIR", help="<track>/<stem>.wav")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="scores go to DIR/scores/<system>.csv")
    command.add_argument("--sources", type=names, metavar="A,B,...", help="stems to score; default: all of the profile")
    command.add_argument(
        "--metrics", type=names, metavar="A,B,...", help="of SDR, SI-SDR; museval's slow SIR, ISR, SAR"
    )
    command.add_argument("--jobs", type=int, metavar="N", help="songs at once; default: processors, at most 4")
    command.add_argument("--force", action="store_true", help="overwrite scores that are there already")
    command.set_defaults(run=_score)

    command = commands.add_parser("data", help="make or check a profile's data, and list it")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--profile", **profile)
    which.add_argument("--musdb-sample", type=Path, metavar="FOLDER", help="download 7 s of each MUSDB18 song")
    command.set_defaults(run=_data)

    command = commands.add_parser("cache", help="decode and resample the training material of all systems of a profile")
    command.add_argument("--profile", **profile)
    command.set_defaults(run=_cache)

    command = commands.add_parser("fit", help="fit one system of a profile, or a part of it")
    command.add_argument("system", metavar="SYSTEM")
    command.add_argument("--profile", **profile)
    command.add_argument("--part", metavar="P", help="such as 0-vocals of flowsep; default: all parts")
    command.set_defaults(run=_fit)

    command = commands.add_parser("shard", help="separate and score one shard of a profile's test songs")
    command.add_argument("system", metavar="SYSTEM")
    command.add_argument("number", type=int, metavar="K", help="from 0 to the profile's `shards`, less one")
    command.add_argument("--profile", **profile)
    command.set_defaults(run=_shard)

    command = commands.add_parser(
        "give-up", help="after a separation failed: its rows will say why, until the next run"
    )
    command.add_argument("system", metavar="SYSTEM")
    command.add_argument("--profile", **profile)
    command.add_argument("--log", required=True, type=Path, metavar="FILE", help="of the job that failed")
    command.set_defaults(run=_give_up)
    return parser


def _score(arguments: argparse.Namespace) -> int:
    if arguments.jobs is not None and arguments.jobs < 1:
        raise FlowsepError(f"--jobs {arguments.jobs}: expected 1 or more")
    import pandas as pd

    from ..data.tracks import load_dataset, load_references
    from ..profile import load_profile
    from ..scores.estimates import find_systems, score_estimates
    from ..scores.evaluate import write_scores
    from ..tables import table_markdown

    profile = load_profile(arguments.profile or {"name": "references"})
    if arguments.metrics:
        rules = profile.evaluation.model_dump() | {"metrics": arguments.metrics}
        profile = load_profile(profile.model_dump() | {"evaluation": rules})
    dataset = load_dataset(profile.data, profile.seed) if arguments.profile else load_references(arguments.references)
    sources = profile.sources if arguments.profile else None
    sources = tuple(arguments.sources or ()) or sources
    tracks = dataset.subset("test")
    if unknown := [s for s in arguments.sources or () if not any(track.files_of(s) for track in tracks)]:
        known = ", ".join(tracks[0].sources)
        raise FlowsepError(f"--sources: no test song has '{unknown[0]}'; the first one has {known}")
    systems = find_systems(arguments.estimates, dataset)
    targets = {name: arguments.out / "scores" / f"{safe_name(name)}.csv" for name in systems}
    if (arguments.out / "scores").is_symlink():
        raise FlowsepError(f"{arguments.out / 'scores'}: is a link, which may lead out of --out; choose another --out")
    if there := [target for target in targets.values() if target.exists() and not arguments.force]:
        raise FlowsepError(f"{there[0]}: exists already; --force overwrites it")
    with writable(arguments.out, CURE):  # before hours of scoring
        (arguments.out / "scores").mkdir(parents=True, exist_ok=True)
    settings = {"sources": sources, "evaluation": profile.evaluation, "profile": profile.name, "jobs": arguments.jobs}
    frames = score_estimates(systems, dataset, **settings)
    for name, frame in frames.items():
        write_scores(frame, targets[name])
        failures = frame.loc[frame["status"] == "failed", ["track", "reason"]].drop_duplicates()
        for failure in failures.itertuples(index=False):
            tell(f"failed: {name}: {failure.track}: {failure.reason}")
    scores = pd.concat(frames.values())
    for convention in profile.evaluation.conventions:
        print(table_markdown(scores, convention=convention, sources=sources or scores["stem"].unique()))
    failed = [name for name, frame in frames.items() if (frame["status"] == "failed").any()]
    return summary(failed, len(frames), "systems have estimates that could not be scored")


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
    return summary(failed, len(dataset.tracks), "tracks cannot be used")


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

    system = fit_system(*_opened(arguments.profile), arguments.system, arguments.part, go_on=True)
    if system.unavailable:
        tell(f"{arguments.system}: {system.unavailable}; {ROWS}")
    return 0


def _shard(arguments: argparse.Namespace) -> int:
    from .steps import score_shard

    print(score_shard(*_opened(arguments.profile), arguments.system, arguments.number))
    return 0


def _give_up(arguments: argparse.Namespace) -> int:
    from ..profile import load_profile
    from .steps import give_up

    tell(f"{arguments.system}: {give_up(load_profile(arguments.profile), arguments.system, arguments.log)}; {ROWS}")
    return 0


def _musdb_sample(target: Path) -> int:
    """Download seven seconds of each MUSDB18 song with musdb: enough to try a profile, too little to report."""
    import zipfile

    import musdb

    if (target / "train").exists():
        raise FlowsepError(f"{target / 'train'}: is there already; name another folder, or use it: MUSDB_PATH={target}")
    with writable(target.parent, "name another folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(target, CURE) as folder:
        try:
            tracks = len(musdb.DB(root=str(folder), download=True))
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            cure = "it needs the internet, and ffmpeg to read it"
            raise FlowsepError(f"{target}: the sample of MUSDB18 was not downloaded ({error}); {cure}") from error
    print(f"{tracks} songs; use them with MUSDB_PATH={target.resolve()}")
    return 0
