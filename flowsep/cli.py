"""The command line of the method: `flowsep separate | convert | info | export`.

Slow imports come after the checks that do without them.
"""

import argparse
import io
import json
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import FlowsepError, brief, printable, song_name, whole_folder, writable

if TYPE_CHECKING:
    from .separator import Separator

CURE = "choose another --out"


def main(argv: list[str] | None = None) -> int:
    """Run one command of `flowsep` and return the exit status of `run_command`."""
    return run_command(_parser().parse_args(argv))


def run_command(arguments: argparse.Namespace) -> int:
    """Call `arguments.run`.

    Exit status: 0 done, 1 some inputs failed, 2 wrong input, 130 interrupted, 143 terminated.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # so that what is half-written is cleared away, as after Ctrl-C
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    try:
        return arguments.run(arguments)
    except (FlowsepError, OSError) as error:  # OSError: of a file that may not be read, or a disk that fails
        tell(f"error: {error}")
        return 2
    except _TerminatedError:
        tell("terminated")
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        tell("interrupted")
        return 128 + signal.SIGINT


class _TerminatedError(KeyboardInterrupt):
    pass


def _terminate(*_: Any) -> None:
    raise _TerminatedError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flowsep", description="Music source separation with generative flows.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("separate", help="separate songs into stems with trained priors")
    command.add_argument("input", nargs="+", type=Path, metavar="INPUT", help="an audio file, or a folder of songs")
    command.add_argument(
        "--priors",
        type=Path,
        metavar="DIR",
        help="<source>.safetensors or <source>/ of the research code; default: those that come with the repository",
    )
    command.add_argument("--sources", type=names, metavar="A,B,...", help="which of these priors explain the song")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="stems go to DIR/<input>/<source>.wav")
    command.add_argument("--format", choices=("wav", "flac"), default="wav", help="32-bit float WAV or 24-bit FLAC")
    command.add_argument("--confidence", action="store_true", help="beside them a CSV file: how good is each second?")
    command.add_argument("--force", action="store_true", help="overwrite existing stems")
    options = command.add_argument_group("separation", "defaults: flowsep.search.config_for")
    options.add_argument("--paper", action="store_true", help="start from the paper's setting instead")
    options.add_argument("--iterations", type=int, metavar="N", help="optimiser steps")
    options.add_argument("--refine", type=int, metavar="N", help="steps of the refinement that follows; 0: none")
    options.add_argument("--alpha", type=float, metavar="A", help="weight of the priors; 0 is maximum likelihood")
    options.add_argument("--space", choices=("z", "x"), help="where the prior is evaluated")
    options.add_argument("--no-wiener", dest="wiener", action="store_false", default=None, help="no ratio mask")
    options.add_argument("--device", metavar="D", help="auto, cpu, cuda, cuda:1 ...")
    options.add_argument("--seed", type=int, metavar="S", help="of the initial latents")
    options.add_argument("--memory-limit", type=_size, metavar="M", help="of the process or GPU, such as 2GB or 500MiB")
    command.set_defaults(run=_separate)

    command = commands.add_parser("info", help="print the source, sizes and origin of a prior, or of all in a folder")
    command.add_argument("file", type=Path, metavar="FILE.safetensors | DIR")
    command.set_defaults(run=_info)

    command = commands.add_parser("convert", help="turn a checkpoint of the research code into a prior")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="with config.json and G_<epoch>.pth")
    command.add_argument("out", type=Path, metavar="OUT.safetensors")
    command.add_argument("--epoch", type=int, metavar="N", help="take G_<N>.pth instead of the newest")
    command.add_argument("--source", metavar="NAME", help="name of the source; default: the folder's")
    command.add_argument("--force", action="store_true", help="overwrite an existing prior")
    command.set_defaults(run=_convert)

    command = commands.add_parser("export", help="write the search's iteration for some priors as an ONNX graph")
    command.add_argument("priors", type=Path, metavar="DIR", help="<source>.safetensors or <source>/ of each source")
    command.add_argument("out", type=Path, metavar="OUT.onnx")
    command.add_argument("--bits", type=int, choices=(16, 8), default=16, help="of each weight")
    command.add_argument("--force", action="store_true", help="overwrite an existing graph")
    command.set_defaults(run=_export)
    return parser


def _separate(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from .checkpoint import find_priors, shipped_priors
    from .config import SeparationConfig

    keys = ("iterations", "refine", "alpha", "space", "wiener", "device", "seed")
    given = {key: value for key in keys if (value := getattr(arguments, key)) is not None}
    try:
        SeparationConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise FlowsepError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from error
    targets = {path: arguments.out / song_name(path) for given in arguments.input for path in _songs(given)}
    _refuse(targets, force=arguments.force)
    with writable(arguments.out, CURE):
        arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.priors or shipped_priors()
    paths = find_priors(folder)
    sources = arguments.sources or list(paths)
    if missing := [name for name in sources if name not in paths]:
        raise FlowsepError(f"--sources: {folder} has no prior of '{missing[0]}'; there: {', '.join(paths)}")
    tell(f"reading the priors of {', '.join(sources)} in {folder}")  # before torch, which takes seconds
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin while they wait starve on busy cores
    from .checkpoint import load_prior
    from .machine import runs_on
    from .search import config_for
    from .separator import Separator

    priors = {name: load_prior(paths[name]) for name in sources}
    config = SeparationConfig.paper(**given) if arguments.paper else config_for(priors, **given)
    separator, failed = Separator(priors, config, memory_limit=arguments.memory_limit), []
    tell(runs_on(separator.flows.device, config.precision))
    for path, target in targets.items():
        try:
            _separate_one(path, target, separator, arguments)
        except (FlowsepError, OSError, RuntimeError, MemoryError) as error:  # of torch: out of memory, say
            why = str(error) if isinstance(error, FlowsepError) else f"{type(error).__name__}: {brief(error)}"
            why += "; --memory-limit makes shorter chunks" if "memory" in why and "limit" not in why else ""
            tell(f"error: {why}" if str(path) in why else f"error: {path}: {why}")
            failed.append(str(path))
    return summary(failed, len(targets), "inputs failed")


def _songs(path: Path) -> list[Path]:
    """A file as it is; of a folder all audio files, or else the mixtures in its folders, as MUSDB18-HQ has them."""
    from .audio import SUFFIXES

    if not path.is_dir():
        return [path]
    globs = (path.glob("[!.]*"), path.glob("[!.]*/mixture.*"))
    songs, mixtures = ([f for f in sorted(g) if f.suffix.lower() in SUFFIXES and not f.is_dir()] for g in globs)
    if not (files := songs or mixtures):
        raise FlowsepError(f"{path}: no songs in this folder; expected files such as song.wav, or song/mixture.wav")
    return files


def _refuse(targets: Mapping[Path, Path], *, force: bool) -> None:
    """Refuse {input: output folder} if two inputs have one folder, or a folder already contains files."""
    homes = {os.path.realpath(path.parent): path for path in targets}
    for path, target in targets.items():
        if [*targets.values()].count(target) > 1:
            raise FlowsepError(f"{path}: another input has the same name, and both would be written to {target}")
        if target.is_symlink():
            raise FlowsepError(f"{target}: is a link, which may lead out of --out; remove it, or choose another --out")
        if song := homes.get(os.path.realpath(target)):  # whose true stems may lie there, as in MUSDB18-HQ
            raise FlowsepError(f"{target}: the input {song} lies there; choose another --out, so that nothing is lost")
        if target.exists() and not target.is_dir():
            raise FlowsepError(f"{target}: there is a file of that name; choose another --out")
        if not force and target.is_dir() and any(target.iterdir()):
            raise FlowsepError(f"{target}: already contains files; --force overwrites them")


def _separate_one(path: Path, target: Path, separator: "Separator", arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from .audio import audio_writer, stream_audio
    from .confidence import ConfidenceFile

    with ExitStack() as stack:
        song = stack.enter_context(stream_audio(path))
        folder = stack.enter_context(whole_folder(target, CURE))
        _refuse({path: target}, force=arguments.force)  # another run may have ended since
        bar = stack.enter_context(tqdm(desc=_line(path.name), unit="step", file=sys.stderr))
        ends, shape = arguments.format, (song.sample_rate, song.channels, song.samples)
        files = {s: stack.enter_context(audio_writer(folder / f"{s}.{ends}", *shape)) for s in separator.names}
        table = ConfidenceFile(folder / "confidence.csv", song.sample_rate) if arguments.confidence else None
        doubts = stack.enter_context(table) if table else None

        def advance(state: Mapping[str, Any]) -> None:
            bar.total = state["chunks"] and state["chunks"] * state["iterations"]
            bar.update(state["batch"])

        for _, stems in separator.stream(song.blocks, song.sample_rate, advance, samples=song.samples):
            if doubts:
                doubts.add(stems)
            for source, stem in stems.items():
                files[source].write(stem)
    for source, file in files.items():
        if file.clipped:
            tell(f"note: {path}: {file.clipped} samples of {source} were clipped; --format wav keeps them")
    print(_line(str(target)))


def names(text: str) -> list[str]:
    """The names in "a, b", each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _size(text: str) -> int:
    """Bytes of "2GB", "500 MiB" or "3000000"."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([kMGT])(i?)B?|B)?", text.strip(), re.IGNORECASE)
    if not size or not float(size[1]):
        raise argparse.ArgumentTypeError(f"expected a size such as 2GB or 500MiB, found '{text}'")
    power = "kmgt".index(size[2].lower()) + 1 if size[2] else 0
    return round(float(size[1]) * (1024 if size[3] else 1000) ** power)


def _info(arguments: argparse.Namespace) -> int:
    from .checkpoint import find_priors

    path, several = arguments.file, arguments.file.is_dir() and not (arguments.file / "config.json").is_file()
    facts = {source: _facts(prior) for source, prior in find_priors(path).items()} if several else _facts(path)
    print(printable(json.dumps(facts, indent=2, ensure_ascii=False)))
    return 0


def _facts(path: Path) -> dict[str, Any]:
    """What the file of a prior, or a folder of the research code, says of it."""
    from .prior import FORMAT
    from .weights import read_header

    keys = ("source", "model", "feature", "provenance")
    header, shapes = read_header(path) if path.is_file() else ({}, {})
    if header.get("format") != FORMAT or not set(keys) <= set(header):
        from .checkpoint import load_prior

        prior = load_prior(path)  # a folder of the research code, or an error that says what is wrong
        header = {key: getattr(prior, key).model_dump() for key in ("model", "feature")}
        header |= {"source": prior.source, "provenance": prior.provenance}
        shapes = {name: weight.shape for name, weight in prior.named_parameters()}
    size = {"source": header["source"], "parameters": sum(map(math.prod, shapes.values()))}
    return size | {key: header[key] for key in keys}


def _convert(arguments: argparse.Namespace) -> int:
    from .research_checkpoint import load_research_prior

    _check_out(arguments.out, ".safetensors", "a prior's", force=arguments.force)
    load_research_prior(arguments.folder, epoch=arguments.epoch, source=arguments.source).save(arguments.out)
    print(arguments.out)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    _check_out(arguments.out, ".onnx", "a graph's", force=arguments.force)
    from .checkpoint import load_priors
    from .fast.graph import export_graph
    from .search import config_for

    priors = load_priors(arguments.priors)
    export_graph(priors, config_for(priors), arguments.out, bits=arguments.bits)
    print(arguments.out)
    return 0


def _check_out(path: Path, suffix: str, whose: str, *, force: bool) -> None:
    if path.suffix != suffix:
        raise FlowsepError(f"{path}: {whose} file name ends in {suffix}")
    if path.exists() and not force:
        raise FlowsepError(f"{path}: exists already; --force overwrites it")


def summary(failed: list[str], of: int, what: str) -> int:
    """Print which of `of` inputs failed, if any, and return the exit status."""
    if failed:
        tell(f"{len(failed)} of {of} {what}: {', '.join(failed)}")
    return 1 if failed else 0


def tell(message: str) -> None:
    """Print a message to standard error, on one line, with escapes for terminal commands."""
    print(f"flowsep: {_line(message)}", file=sys.stderr)


def _line(text: str) -> str:
    return printable(text).replace("\n", "\\n")  # a name may hold a line end
