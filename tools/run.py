"""Run the notebooks of a profile that are not up to date: `python tools/run.py book --profile quick --cores 2`.

One line says what runs now, how much is done, and how long the rest takes, guessed by the last run of the same profile
and corrected by how much faster or slower this run has been so far. Snakemake runs in this process and gets a log
handler through the interface that it has for such plugins; `snakemake --configfile configs/quick.yaml book` does the
same with Snakemake's own messages.
"""

import argparse
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from companion.graph.logs import last_words
from companion.profile import find_root, load_profile, profile_path
from flowsep.files import FlowsepError, printable, read_json, write_text

INTERVAL = {True: 1.0, False: 60.0}  # seconds between two lines, on a terminal and in a file
LAST_LINES = 8  # of a log, that a failure shows
WORDS = {  # rule -> what it does; Snakemake's own `message:` would take the place of the facts that it prints of a job
    "data": "preparing the songs",
    "spectrograms": "chapter: spectrograms, phase and masks",
    "inverse": "chapter: one equation, many unknowns",
    "glow": "chapter: a flow in small",
    "cache": "decoding the training recordings",
    "prior": "training the prior: {source}",
    "inside": "chapter: what the priors know",
    "shown": "chapter: the flow, seen and heard",
    "fit": "training {system}: {part}",
    "shard": "separating with {system}, shard {number}",
    "separate": "separating and scoring with {system}",
    "ablations": "chapter: ablations",
    "own_system": "chapter: your own system",
    "new_source": "chapter: a new source",
    "tables": "tables",
    "listen": "chapter: listen",
    "failures": "chapter: what it cannot do",
    "real_song": "chapter: a real song",
    "speed": "chapter: speed",
    "beyond": "chapter: beyond the paper",
    "machines": "chapter: your machines",
    "book": "building the pages",
}
HEADER = re.compile(r'^\w*(Exception|Error) in (file ".*"|rule \w+.*), line \d+:\n')  # which Snakemake puts first
PLACE = re.compile(r'(\n  File ".*", line \d+, in .*)+\s*$')  # and last; of a fault of the Snakefile, it is the news


class Board:
    """What a run has done and does, and the line that says so.

    Args:
        out: where lines go.
        last: {job: [seconds, cores]} of an earlier run.
        cores: how many jobs of one core run side by side.
        live: `out` is a terminal, whose last line is written over.
        clock: gives seconds.
    """

    def __init__(
        self,
        out: TextIO,
        last: dict[str, list[float]],
        cores: int,
        live: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.out, self.last, self.cores, self.live, self.clock = out, last, cores, live, clock
        self.begun = clock()
        self.planned: Counter[str] = Counter()  # rule -> jobs
        self.jobs: dict[int, tuple[str, str, float, int]] = {}  # id -> name, words, begin, cores, while they run
        self.times: dict[str, list[float]] = {}  # of the jobs that are done
        self.failed = False
        self._lock, self._shown = threading.Lock(), 0.0

    def plan(self, counts: dict[str, int]) -> None:
        self.planned = Counter({rule: count for rule, count in counts.items() if rule != "total"})

    def begin(self, number: int, name: str, words: str, cores: int) -> None:
        self.jobs[number] = (name, words, self.clock(), cores)
        if self.live:
            self.show()

    def finish(self, number: int) -> None:
        if job := self.jobs.pop(number, None):
            name, _, begin, cores = job
            self.times[name] = [round(self.clock() - begin, 1), cores]

    def left(self) -> float | None:
        """Seconds that the rest takes; None if no earlier run tells how long a planned rule takes."""
        done = Counter(_rule(name) for name in self.times)
        expected = 0.0
        for rule, count in self.planned.items():
            before = {name: seconds * cores for name, (seconds, cores) in self.last.items() if _rule(name) == rule}
            if not before:
                if count > done[rule]:
                    return None
            elif len(before) == count:
                expected += sum(cost for name, cost in before.items() if name not in self.times)
            else:
                expected += (count - done[rule]) * sum(before.values()) / len(before)
        known = [name for name in self.times if name in self.last]
        spent, guessed = (sum(t * n for t, n in (times[name] for name in known)) for times in (self.times, self.last))
        now = self.clock()
        running = sum((now - begin) * cores for _, _, begin, cores in self.jobs.values())
        pace = spent / guessed if guessed > 0 else 1.0
        return max(0.0, expected * pace - running) / self.cores

    def line(self) -> str:
        left = self.left()
        done, planned = len(self.times), self.planned.total()
        rest = f", about {minutes(left)} left" if left is not None else ""
        doing = "; ".join(dict.fromkeys(words for _, words, _, _ in self.jobs.values()))
        return f"{minutes(self.clock() - self.begun)}, {done} of {planned} steps done{rest}: {doing}"

    def show(self) -> None:
        """Write the line now."""
        with self._lock:
            self._shown = self.clock()
            if not self.live:
                print(self.line(), file=self.out, flush=True)
                return
            done, planned, width = len(self.times), self.planned.total(), shutil.get_terminal_size().columns
            bar = "█" * round(12 * done / planned) if planned else ""
            self.out.write(f"\r\x1b[K{f'{bar:░<12} {self.line()}'[: width - 1]}")
            self.out.flush()

    def tick(self) -> None:
        """Write the line if it is time for it."""
        if self.jobs and not self.failed and self.clock() - self._shown >= INTERVAL[self.live]:
            self.show()

    def say(self, text: str) -> None:
        """Write `text` as lines that stay."""
        with self._lock:
            self.out.write(("\r\x1b[K" if self.live else "") + printable(text) + "\n")
            self.out.flush()


def _rule(name: str) -> str:
    return name.partition(" ")[0]


def minutes(seconds: float) -> str:
    """Seconds as minutes and seconds: 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class _Handler(LogHandlerBase):
    """Snakemake's messages, turned into calls of the board."""

    board: Board
    quiet: bool
    writes_to_stream, writes_to_file, needs_rulegraph = True, False, False
    has_filter = has_formatter = True

    def emit(self, record: logging.LogRecord) -> None:
        board, facts = self.board, vars(record)
        match facts.get("event"):
            case LogEvent.RUN_INFO:
                board.plan(facts["stats"])
                if not self.quiet:
                    left = board.left()
                    board.say(f"{board.planned.total()} steps{f', about {minutes(left)}' if left else ''}")
            case LogEvent.JOB_INFO:
                rule, wildcards = facts["rule_name"], dict(facts["wildcards"])
                name = " ".join([rule, *map(str, wildcards.values())])
                board.begin(
                    facts["jobid"], name, printable(WORDS.get(rule, name).format(**wildcards)), facts["threads"]
                )
            case LogEvent.JOB_FINISHED:
                board.finish(facts["job_id"])
            case LogEvent.JOB_ERROR:
                board.failed = True
                board.say(f"FAILED: {facts['rule_name']}\n{why(facts['log'])}")
            case LogEvent.ERROR if facts.get("exception") == "RuleException":
                pass  # the command of a job that failed, which JOB_ERROR tells
            case None if "workflow specific profile" in record.getMessage():
                pass  # of every run here
            case LogEvent.ERROR | None if record.levelno >= logging.WARNING and not board.failed:
                board.say(reason(record.getMessage()))


def reason(message: str) -> str:
    """What Snakemake says of a failure, without the place in the Snakefile where a sentence for users was raised."""
    return HEADER.sub("", PLACE.sub("", message) if message.startswith("WorkflowError ") else message)


def why(logs: list[str]) -> str:
    """The last lines of a failed job's log, a notebook or a text, and where it lies."""
    told = [f"no log was written: {', '.join(logs) or 'none declared'}"]
    for log in logs:
        path, lines = last_words(log)
        if lines:
            told = [*lines[-LAST_LINES:], f"(log: {path})"]
            break
    return "\n".join(f"  {line}" for line in told)


def run(profile: str, target: str, cores: int, out: TextIO, quiet: bool = False) -> int:
    """Make a target of the Snakefile, `results` or `book`, with progress on `out`; returns the exit status.

    Args:
        profile: name in configs/, or path of a YAML file.
        target: a rule of the Snakefile.
        cores: to be used at a time.
        out: such as sys.stdout.
        quiet: write nothing but failures.
    Raises:
        FlowsepError: a profile that is missing or wrong.
    """
    from snakemake.cli import main
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    root, name = find_root(), load_profile(profile).name
    if root != Path.cwd():
        raise FlowsepError(f"{Path.cwd()}: not the project's folder; run this in {root}")
    times = root / "results" / name / "logs" / "times.json"
    board = Board(out, _last(times), cores, live=out.isatty() and not quiet)
    handler = type("LogHandler", (_Handler,), {"board": board, "quiet": quiet})
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_flowsep", SimpleNamespace(LogHandler=handler))
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            board.tick()

    watcher = threading.Thread(target=watch, daemon=True)
    if not quiet:
        watcher.start()
    try:
        main(["--configfile", str(profile_path(profile)), "--cores", str(cores), "--logger", "flowsep", "--", target])
        status = 1  # it always leaves by SystemExit
    except SystemExit as left:
        status = int(left.code or 0)
    finally:
        stop.set()
    if board.times:
        write_text(times, json.dumps(board.last | board.times, indent=1) + "\n")
    if status == 0 and not quiet:
        _end(board, root, name, target)
    markers = (root / "results" / name).glob("systems/*/fitted/*.json")
    if failed := sorted({path.parent.parent.name for path in markers if "failed" in read_json(path)}):
        board.say(f"FAILED: {', '.join(failed)}: the tables say why, and the next run tries again")
    return status or int(bool(failed))


def _last(times: Path) -> dict[str, list[float]]:
    """Times of the last run here."""
    return read_json(times) if times.is_file() else {}


def _end(board: Board, root: Path, name: str, target: str) -> None:
    took = f"{len(board.times)} steps in {minutes(board.clock() - board.begun)}" if board.times else "nothing to do"
    page = root / "book" / "_build" / "html" / "index.html"
    if target == "book":
        board.say(f"The book of the profile {name} is up to date ({took}). Open it in a browser:\n  {page.as_uri()}")
    else:
        board.say(f"The tables of the profile {name} are up to date ({took}): {root / 'results' / name}/table-*.md")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="run", description=__doc__.split(":")[0])
    parser.add_argument("target", choices=("results", "book"), help="the tables alone, or the whole book")
    parser.add_argument("--profile", default="quick", help="name in configs/, or path of a YAML file")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), metavar="N", help="jobs at a time")
    parser.add_argument("--quiet", action="store_true", help="print failures only")
    given = parser.parse_args()
    try:
        sys.exit(run(given.profile, given.target, given.cores, sys.stdout, given.quiet))
    except FlowsepError as error:
        sys.exit(f"run: {printable(str(error))}")
