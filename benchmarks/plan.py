"""Predict what a whole experiment takes on 1, 8 and 64 workers: `python -m benchmarks.plan` (`make plan`).

The jobs and what each waits for are those that Snakemake lists for the profile `musdb18`, in a dry run on a stand-in of
MUSDB18-HQ that holds empty files. A job takes its steps, or its seconds of music, times their operations, which are
counted, over the operations a second that a training step of this project reached in a bench (`results/bench/`, a GPU's
if there is one); or what the bench, the demo's systems and its chapters took where they tell. A worker does one job at
a time, as fast as the device of the bench did. Written to `results/scale.csv`.
"""

import argparse
import heapq
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from companion.profile import Profile, find_root, load_profile
from companion.provenance import git_state
from companion.systems import load_system
from companion.systems.gan_prior import GanPrior
from companion.systems.supervised import Supervised
from companion.tables import costs, load_scores
from companion.tables.speed import figures, read_bench
from flowsep.config import FeatureConfig
from flowsep.files import FlowsepError, atomic_path

from .harness import Context
from .operations import gan_second, gan_step, network_second, network_step, prior_step
from .training import size

PROFILE = "musdb18"
SONGS = {"train": 100, "test": 50}
SONG = 240.0  # seconds: the ten hours of MUSDB18's 150 songs
WORKERS = (1, 2, 4, 8, 16, 32, 64)
SHARDS = (1, SONGS["test"])  # of the test songs of a system
TOPICS = ("training", "separation", "evaluation", "startup")  # of a bench that will do
DEMO = "demo"  # whose rows and chapters tell what the bench does not


@dataclass(frozen=True)
class Job:
    """A job of the graph: its rule, the values of its wildcards, its outputs, and the jobs that it waits for."""

    rule: str
    wildcards: Mapping[str, str]
    outputs: tuple[str, ...]
    needs: frozenset[int]

    @property
    def name(self) -> str:
        """Rule and wildcards, as one reads them."""
        return " ".join([self.rule, *self.wildcards.values()])


def stand_in(root: Path) -> Path:
    """The tree of MUSDB18-HQ with empty files: enough to list them."""
    for subset, count in SONGS.items():
        for number in range(count):
            folder = root / subset / f"{subset} {number:03d}"
            folder.mkdir(parents=True)
            for name in ("mixture", "vocals", "bass", "drums", "other"):
                (folder / f"{name}.wav").touch()
    return root


def dry_run(profile: str, shards: int) -> str:
    """What Snakemake says that it would do for the book of `profile`, from nothing, with so many shards."""
    root = find_root(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as place:
        settings = yaml.safe_load((root / "configs" / f"{profile}.yaml").read_text(encoding="utf-8"))
        settings["profile"] |= {"shards": shards, "name": "planned"}  # no file of which exists
        settings["profile"]["data"]["kind"] = "musdb18hq"
        config = Path(place) / "planned.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--configfile", str(config), "--cores", "1", "--dry-run"]
        done = subprocess.run(
            [*command, "--nolock", "--nocolor", "--forceall", "book"], cwd=root, capture_output=True, text=True,
            env=os.environ | {"MUSDB_PATH": str(stand_in(Path(place) / "songs"))},
        )  # fmt: skip
    if done.returncode:
        raise FlowsepError(f"{profile}: Snakemake made no plan: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout + done.stderr


def read_jobs(text: str) -> list[Job]:
    """The jobs of a dry run, each after those that it needs: it needs whose outputs are among its inputs.

    Raises FlowsepError where there are none, or fewer than Snakemake counted.
    """
    blocks = []
    for block in re.split(r"^(?:local)?rule ", text, flags=re.MULTILINE)[1:]:
        rule = block.partition(":")[0]
        told = dict(re.findall(r"^    (\w+): (.*)$", block, flags=re.MULTILINE))
        # a folder or file of a job is named as it is, without a comma
        inputs, outputs = (tuple(filter(None, told.get(key, "").split(", "))) for key in ("input", "output"))
        wildcards = dict(pair.split("=", 1) for pair in filter(None, told.get("wildcards", "").split(", ")))
        blocks.append((rule, wildcards, inputs, outputs))
    counted = re.search(r"^total +(\d+)$", text, flags=re.MULTILINE)
    if not blocks or counted is None or int(counted[1]) != len(blocks):
        expected = counted[1] if counted else "none"
        raise FlowsepError(f"dry run: {len(blocks)} jobs read, {expected} counted by Snakemake; its words have changed")
    maker = {output: number for number, (*_, outputs) in enumerate(blocks) for output in outputs}
    needs = [frozenset(maker[name] for name in inputs if name in maker) for _, _, inputs, _ in blocks]
    order, place = [], {}
    while len(order) < len(blocks):
        ready = [number for number in range(len(blocks)) if number not in place and needs[number] <= place.keys()]
        if not ready:
            raise FlowsepError("dry run: jobs that wait for each other")
        for number in ready:
            place[number] = len(order)
            order.append(number)
    jobs = []
    for number in order:
        rule, wildcards, _, outputs = blocks[number]
        jobs.append(Job(rule, wildcards, outputs, frozenset(place[other] for other in needs[number])))
    return jobs


def longest(needs: list[frozenset[int]], seconds: list[float]) -> tuple[list[int], list[float]]:
    """The jobs of the longest path, and for each job what the longest path from its start on takes.

    needs: by job, the earlier jobs that it waits for.
    """
    after: list[list[int]] = [[] for _ in needs]
    for job, needed in enumerate(needs):
        for other in needed:
            after[other].append(job)
    rest = [0.0] * len(needs)
    for job in reversed(range(len(needs))):
        rest[job] = seconds[job] + max((rest[other] for other in after[job]), default=0.0)
    path, choice = [], list(range(len(needs)))
    while choice:
        path.append(max(choice, key=rest.__getitem__))
        choice = after[path[-1]]
    return path, rest


def makespan(needs: list[frozenset[int]], seconds: list[float], workers: int) -> float:
    """Seconds until all jobs are done by so many workers, each of which takes the ready job with the longest path."""
    _, rest = longest(needs, seconds)
    waits = [len(needed) for needed in needs]
    ready = [(-rest[job], job) for job in range(len(needs)) if not waits[job]]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, job = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[job], job))
        now, done = heapq.heappop(running)
        for job, needed in enumerate(needs):
            if done in needed:
                waits[job] -= 1
                if not waits[job]:
                    heapq.heappush(ready, (-rest[job], job))
    return now


def limits(needs: list[frozenset[int]], seconds: list[float], count: int) -> list[tuple[int, float]]:
    """What limits, one after the other: the slowest job of the longest path and that path's seconds, if those before it
    in this list took no time."""
    seconds, slow = [*seconds], []
    for _ in range(count):
        path, rest = longest(needs, seconds)
        slowest = max(path, key=seconds.__getitem__)
        slow.append((slowest, rest[path[0]]))
        seconds[slowest] = 0.0
    return slow


class Figures:
    """What each job takes, from one bench, the demo's rows and chapters, and counted operations."""

    def __init__(self, profile: Profile, root: Path):
        self.profile = profile
        self.name, self.bench = find_bench(root / "results" / "bench")
        self.rows = figures(self.bench)
        demo = root / "results" / DEMO
        self.spent = costs(load_scores(demo)).set_index("system")
        self.chapters = {
            path.stem: json.loads(path.read_text(encoding="utf-8"))["metadata"]["papermill"]["duration"]
            for path in sorted((demo / "book").glob("*.ipynb"))
        }
        short = [seconds for name, seconds in self.chapters.items() if not re.match("04_|05_|10_|11_", name)]
        self.chapter = float(np.median(short))
        self.systems = {
            name: load_system(name, options, sources=profile.sources) for name, options in profile.systems.items()
        }
        self.used: dict[str, tuple[float, str, str]] = {}
        model, training = size(Context(self.bench["kind"]))
        seconds = self._of("training.step", system="flowsep", arithmetic=self.arithmetic)
        self.rate = prior_step(model, FeatureConfig(), training) / seconds
        self._use("operations a second", self.rate, "GFLOP/s", "training.step, its operations counted")
        self.start = self._of("startup.wait", command="flowsep separate")
        self._use("start of a job", self.start, "s", "startup.wait")
        song = self.rows[self.rows.name == "evaluation.song"]
        length = float(re.search(r"([\d.]+) s$", song.what.iloc[0])[1])  # the bench says so in words alone
        self.scoring = float(song.value.sum()) / length  # by both conventions
        self.reading = float(song[song.part == "reading"].value.iloc[0]) / length / 8  # of one file of eight
        self._use("scoring a second of music", self.scoring, "s/s", "evaluation.song")
        trained = [name for name, system in self.systems.items() if isinstance(system, GanPrior | Supervised)]
        self.step = {name: self._step(name) for name in ("prior", *trained)}
        self.separation = {name: self._separation(name) for name in self.systems}

    @property
    def arithmetic(self) -> str:
        """In which the bench's device trains."""
        return "bf16" if self.bench["kind"] == "cuda" else "fp32"

    def _use(self, name: str, value: float, unit: str, basis: str) -> None:
        self.used[name] = (value, unit, basis)

    def _of(self, name: str, **settings: Any) -> float:
        """The figure with the fewest threads, of one mixture at a time."""
        rows = self.rows[self.rows.name == name]
        for key, value in settings.items():
            rows = rows[rows[key] == value]
        rows = rows.dropna(subset=["value"]).sort_values(["batch", "threads"])
        if rows.empty:
            raise FlowsepError(f"{self.name}: no figure {name} {settings or ''}; measure it: make bench")
        return float(rows.value.iloc[0])

    def _step(self, system: str) -> float:
        """Seconds of one step of training."""
        if system == "prior":
            work = prior_step(self.profile.model, self.profile.feature, self.profile.training)
        else:
            work = gan_step(self.systems[system]) if system == "gan_prior" else network_step(self.systems[system])
        self._use(f"step of {system}", work / self.rate, "s", f"{work:,.0f} GFLOP")
        return work / self.rate

    def _separation(self, name: str) -> float:
        """Seconds of computing a second of music."""
        system = self.systems[name]
        if name == "instglow":
            basis = "separation.rtf_150"
            value = self._of(basis, system="flowsep", arithmetic=self.arithmetic)
        elif name == "gan_prior" or isinstance(system, Supervised):
            work = gan_second(system) if name == "gan_prior" else network_second(system)
            value, basis = work / self.rate, f"{work:,.0f} GFLOP"
        else:
            value, basis = float(self.spent.loc[name, "RTF"]), f"rows of {DEMO}"
        self._use(f"a second of music by {name}", value, "s", basis)
        return value

    def seconds(self, job: Job, shards: int = 1) -> float:
        """What a job takes. Raises FlowsepError for a rule that is not known here."""
        train, test, sources = SONGS["train"] * SONG, SONGS["test"] * SONG, len(self.profile.sources)
        if job.rule == "data":  # measures the levels of a hundred songs
            return self._chapter(job) + 100 * SONG * (1 + sources) * self.reading
        if job.rule == "cache":
            formats = {(self.profile.feature.sample_rate, 1)}
            for system in self.systems.values():
                if isinstance(system, GanPrior):
                    formats.add((system.options.prior.sample_rate, 1))
                elif isinstance(system, Supervised):
                    formats.add((system.options.sample_rate, system.options.channels))
            return self.start + sources * (len(formats) * train + test) * self.reading
        if job.rule == "prior":
            return self.start + self._prior_steps() * self.step["prior"]
        if job.rule == "fit":
            return self.start + self._fit(job.wildcards["system"])
        if job.rule == "shard" or (job.rule == "separate" and shards == 1):
            music = test
            if job.rule == "shard":
                number = int(job.wildcards["number"])
                first, last = (SONGS["test"] * k // shards for k in (number, number + 1))
                music = (last - first) * SONG
            each = self.separation[job.wildcards["system"]] + self.scoring
            return self.start + music * each + (self._chapter(job) if job.rule == "separate" else 0.0)
        if any("/notebooks/" in output for output in job.outputs) or job.rule == "book":
            return self._chapter(job)
        raise FlowsepError(f"rule '{job.rule}': no way to tell what it takes; add it to benchmarks/plan.py")

    def _chapter(self, job: Job) -> float:
        """As long as in the demo; the median chapter where none was kept, or what takes long is counted by itself."""
        name = next((Path(output).stem for output in job.outputs if "/notebooks/" in output), "")
        return self.chapter if re.match("01_|05_", name) else float(self.chapters.get(name, self.chapter))

    def _prior_steps(self) -> int:
        training, pieces = self.profile.training, self.profile.data.pieces
        if not training.epochs:
            return training.steps
        count = SONGS["train"] * SONG / (sum(pieces.seconds) / 2) * (1 - pieces.valid_share)  # a stem never silent
        return training.epochs * math.ceil(count / training.batch)

    def _fit(self, name: str) -> float:
        system = self.systems[name]
        if name == "gan_prior":
            return system.options.prior.steps * self.step[name]
        if isinstance(system, Supervised):
            return system.options.steps * self.step[name]
        seconds = float(self.spent.loc[name, "training (s)"])
        self._use(f"fitting {name}", seconds, "s", f"rows of {DEMO}")
        return seconds


def find_bench(folder: Path) -> tuple[str, dict[str, Any]]:
    """(file, bench) of the first GPU whose training and separation were measured, or else of a CPU."""
    benches = []
    for path in sorted(folder.glob("*.json")):
        bench = read_bench(path)
        if all(bench["topics"].get(topic, {}).get("status") == "done" for topic in TOPICS):
            benches.append((bench["kind"] != "cuda", path.name, bench))
    if not benches:
        raise FlowsepError(f"{folder}: no bench with the topics {', '.join(TOPICS)}; run make bench")
    return min(benches, key=lambda one: one[:2])[1:]


def plan(told: Figures, shards: int) -> list[dict[str, Any]]:
    """All rows of one number of shards."""
    jobs = read_jobs(dry_run(PROFILE, shards))
    seconds, needs = [told.seconds(job, shards) for job in jobs], [job.needs for job in jobs]
    if unknown := [job.name for job, time in zip(jobs, seconds, strict=True) if not math.isfinite(time)]:
        raise FlowsepError(f"{unknown[0]}: a figure of it has no value in {told.name} or the rows of {DEMO}")
    path, rest = longest(needs, seconds)
    rows: list[dict[str, Any]] = []

    def row(quantity: str, name: str, value: float, unit: str, **more: Any) -> None:
        rows.append({"quantity": quantity, "name": name, "value": float(f"{value:.6g}"), "unit": unit} | more)

    for rule, count in sorted(Counter(job.rule for job in jobs).items()):
        row("jobs", rule, count, "")
    row("jobs", "all", len(jobs), "")
    for rule in sorted({job.rule for job in jobs}):
        row("work", rule, sum(time for job, time in zip(jobs, seconds, strict=True) if job.rule == rule), "s")
    row("work", "all", sum(seconds), "s")
    for place, job in enumerate(path):
        row("path", jobs[job].name, seconds[job], "s", place=place)
    for place, (job, length) in enumerate(limits(needs, seconds, 12)):
        row("limit", jobs[job].name, length, "s", place=place)
    row("path", "all", rest[path[0]], "s")
    for workers in WORKERS:
        row("wall", "all", makespan(needs, seconds, workers), "s", workers=workers)
    for name, (value, unit, basis) in sorted(told.used.items()):
        row("figure", name, value, unit, basis=basis)
    about = told.bench["topics"]["training"]["provenance"]
    origin = {"profile": PROFILE, "shards": shards, "device": told.bench["device"], "bench": told.name}
    origin |= {"bench_commit": about["git_commit"], "bench_date": about["date"], **git_state()}
    return [origin | one for one in rows]


def main() -> None:
    root = find_root(Path(__file__).parent)
    told = Figures(load_profile(root / "configs" / f"{PROFILE}.yaml"), root)
    rows = [row for shards in SHARDS for row in plan(told, shards)]
    frame = pd.DataFrame(rows).assign(date=datetime.now(UTC).isoformat(timespec="seconds"))
    for name in ("place", "workers"):
        frame[name] = frame[name].astype("Int64")
    with atomic_path(root / "results" / "scale.csv") as temporary:
        frame.to_csv(temporary, index=False)
    shown = frame[(frame.quantity == "wall") | ((frame.quantity == "path") & (frame.name == "all"))]
    print(shown[["shards", "quantity", "workers", "value"]].to_string(index=False))


if __name__ == "__main__":
    argparse.ArgumentParser(prog="plan", description=__doc__.split(":")[0]).parse_args()
    try:
        main()
    except FlowsepError as error:
        sys.exit(f"plan: {error}")
