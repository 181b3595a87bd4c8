"""Predict what a whole experiment takes on 1, 8 and 64 workers: `python tools/plan.py` (`make plan`).

The jobs and what each waits for are those that Snakemake lists for the profile `musdb18`, in a dry run on a stand-in of
its data set that holds empty files. What a job takes is the profile's steps and songs times the figures of a bench
(`results/bench/`, topic `scale`), of a GPU's if there is one, and what the demo's systems and chapters took. A worker
does one job at a time, as fast as the device of the bench did. Written to `results/scale.csv`.
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

import pandas as pd
import yaml

from flowsep.baselines import load_system
from flowsep.baselines.supervised import Supervised
from flowsep.bench import figures, find_benches
from flowsep.config import Profile, find_root, load_profile
from flowsep.evaluate import git_state
from flowsep.files import FlowsepError, atomic_path
from flowsep.results import costs, load_scores

PROFILE = "musdb18"
SONGS = {"train": 100, "test": 50}
SONG = 240.0  # seconds: the ten hours of MUSDB18's 150 songs
WORKERS = (1, 2, 4, 8, 16, 32, 64)
SHARDS = (1, SONGS["test"])  # of the test songs of a system
SAME = {"open_unmix_random": "open_unmix"}  # the same network, measured once
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
    """The tree of MUSDB18 with an empty file for every song: enough to list them."""
    for subset, count in SONGS.items():
        (root / subset).mkdir(parents=True)
        for number in range(count):
            (root / subset / f"{subset} {number:03d}.stem.mp4").touch()
    return root


def dry_run(profile: str, shards: int) -> str:
    """What Snakemake says that it would do for the book of `profile`, from nothing, with so many shards."""
    root = find_root(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as place:
        settings = yaml.safe_load((root / "configs" / f"{profile}.yaml").read_text(encoding="utf-8"))
        settings["profile"] |= {"shards": shards, "name": "planned"}  # no file of which exists
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
    found = []
    for block in re.split(r"^(?:local)?rule ", text, flags=re.MULTILINE)[1:]:
        rule = block.partition(":")[0]
        told = dict(re.findall(r"^    (\w+): (.*)$", block, flags=re.MULTILINE))
        # a folder or file of a job is named as it is, without a comma
        inputs, outputs = (tuple(filter(None, told.get(key, "").split(", "))) for key in ("input", "output"))
        wildcards = dict(pair.split("=", 1) for pair in filter(None, told.get("wildcards", "").split(", ")))
        found.append((rule, wildcards, inputs, outputs))
    counted = re.search(r"^total +(\d+)$", text, flags=re.MULTILINE)
    if not found or counted is None or int(counted[1]) != len(found):
        expected = counted[1] if counted else "none"
        raise FlowsepError(f"dry run: {len(found)} jobs read, {expected} counted by Snakemake; its words have changed")
    maker = {output: number for number, (*_, outputs) in enumerate(found) for output in outputs}
    needs = [frozenset(maker[name] for name in inputs if name in maker) for _, _, inputs, _ in found]
    order, place = [], {}
    while len(order) < len(found):
        ready = [number for number in range(len(found)) if number not in place and needs[number] <= place.keys()]
        if not ready:
            raise FlowsepError("dry run: jobs that wait for each other")
        for number in ready:
            place[number] = len(order)
            order.append(number)
    jobs = []
    for number in order:
        rule, wildcards, _, outputs = found[number]
        jobs.append(Job(rule, wildcards, outputs, frozenset(place[other] for other in needs[number])))
    return jobs


def longest(needs: list[frozenset[int]], seconds: list[float]) -> tuple[list[int], list[float]]:
    """The jobs of the longest path, and for each job what the longest path from its start on takes.

    needs: by job, the earlier jobs that it waits for.
    """
    after: list[list[int]] = [[] for _ in needs]
    for job, its in enumerate(needs):
        for other in its:
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
    waits = [len(its) for its in needs]
    ready = [(-rest[job], job) for job in range(len(needs)) if not waits[job]]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, job = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[job], job))
        now, done = heapq.heappop(running)
        for job, its in enumerate(needs):
            if done in its:
                waits[job] -= 1
                if not waits[job]:
                    heapq.heappush(ready, (-rest[job], job))
    return now


def limits(needs: list[frozenset[int]], seconds: list[float], count: int) -> list[tuple[int, float]]:
    """What limits, one after the other: the slowest job of the longest path and that path's seconds, if those before it
    in this list took no time."""
    seconds, found = [*seconds], []
    for _ in range(count):
        path, rest = longest(needs, seconds)
        slowest = max(path, key=seconds.__getitem__)
        found.append((slowest, rest[path[0]]))
        seconds[slowest] = 0.0
    return found


class Figures:
    """What one step, one second of music or one chapter takes, and by which file."""

    def __init__(self, profile: Profile, root: Path):
        self.profile = profile
        self.device, self.bench, self.topics = _bench(root / "results" / "bench")
        self.rows = figures({"topics": self.topics})
        demo = root / "results" / DEMO
        self.spent = costs(load_scores(demo)).set_index("system")
        self.chapters = {
            path.stem: json.loads(path.read_text(encoding="utf-8"))["metadata"]["papermill"]["duration"]
            for path in sorted((demo / "book").glob("*.ipynb"))
        }
        short = [seconds for name, seconds in self.chapters.items() if not re.match("04_|05_|10_|11_", name)]
        self.chapter = pd.Series(short).median()
        self.start = self._of("startup.wait", command="flowsep separate")
        self.decode = self._of("scale.decode")
        song = self.rows[self.rows.name == "evaluation.song"]
        length = float(re.search(r"([\d.]+) s$", song.what.iloc[0])[1])
        self.scoring = song.value.sum() / length  # both conventions and reading, a second of music
        self.used: dict[str, tuple[float, str, str]] = {}

    def _of(self, name: str, **settings: Any) -> float:
        rows = self.rows[self.rows.name == name]
        for key, value in settings.items():
            rows = rows[rows[key] == value]
        if rows.empty:
            raise FlowsepError(f"{self.bench}: no figure {name} {settings or ''}; measure it: make bench")
        return float(rows.value.iloc[0])

    def step(self, system: str, sound: float) -> float:
        """Seconds of one step that sees `sound` seconds: a line through the two that were measured, or the one."""
        rows = self.rows[(self.rows.name == "scale.step") & (self.rows.system == SAME.get(system, system))].sort_values(
            "sound"
        )
        if rows.empty:
            raise FlowsepError(f"{self.bench}: no step of {system}; measure it: python -m benchmarks --only scale")
        first, last = rows.iloc[0], rows.iloc[-1]
        slope = (last.value - first.value) / (last.sound - first.sound) if len(rows) > 1 else last.value / last.sound
        seconds = float(last.value + max(slope, 0.0) * (sound - last.sound))
        self.used[f"step of {system}"] = (seconds, "s", f"bench scale.step, for {sound:.0f} s of sound")
        return seconds

    def separation(self, system: str) -> float:
        """Seconds of computing a second of music."""
        rows = self.rows[(self.rows.name == "scale.separate") & (self.rows.system == SAME.get(system, system))]
        if system == "instglow":
            fast = "bf16" if self.device_kind == "cuda" else "fp32"
            rows = self.rows[(self.rows.name == "separation.rtf_150") & (self.rows.system == "flowsep")]
            rows = rows[(rows.arithmetic == fast) & (rows.batch == rows.batch.max())].sort_values("threads")
            value, basis = float(rows.value.iloc[0]), "bench separation.rtf_150"
        elif len(rows):
            value, basis = float(rows.value.iloc[0]), "bench scale.separate"
        else:
            value, basis = float(self.spent.loc[system, "RTF"]), f"rows of {DEMO}"
        self.used[f"separation by {system}"] = (value, "s/s", basis)
        return value

    @property
    def device_kind(self) -> str:
        return "cuda" if "cuda" in self.topics["scale"]["provenance"] else "cpu"

    def seconds(self, job: Job) -> float:
        """What a job takes. Raises FlowsepError for a rule that is not known here."""
        train, test = SONGS["train"] * SONG, SONGS["test"] * SONG
        profile = self.profile
        if job.rule == "data":
            return self._chapter(job) + 100 * SONG * (1 + len(profile.sources)) * self.decode  # levels of 100 songs
        if job.rule == "cache":
            formats = {(profile.feature.sample_rate, 1)}
            for name in profile.systems:
                options = self._options(name)
                if name == "gan_prior":
                    formats.add((options.prior.sample_rate, 1))
                elif isinstance(self._system(name), Supervised):
                    formats.add((options.sample_rate, options.channels))
            songs = len(formats) * train + test
            return self.start + len(profile.sources) * songs * self.decode
        if job.rule == "prior":
            return self.start + self._prior_steps() * self.step("prior", self._sound(profile.training))
        if job.rule == "fit":
            return self.start + self._fit(job.wildcards["system"])
        if job.rule == "shard" or (job.rule == "separate" and profile.shards == 1):
            music = test
            if job.rule == "shard":
                number = int(job.wildcards["number"])
                first, last = (SONGS["test"] * k // profile.shards for k in (number, number + 1))
                music = (last - first) * SONG
            reading = (1 + len(profile.sources)) * self.decode
            each = self.separation(job.wildcards["system"]) + self.scoring + reading
            return self.start + music * each + (self._chapter(job) if job.rule == "separate" else 0.0)
        if any("/notebooks/" in output for output in job.outputs) or job.rule == "book":
            return self._chapter(job)
        raise FlowsepError(f"rule '{job.rule}': no way to tell what it takes; add it to tools/plan.py")

    def _chapter(self, job: Job) -> float:
        """As long as in the demo, without what is counted by itself; the median chapter where none was kept."""
        name = next((Path(output).stem for output in job.outputs if "/notebooks/" in output), "")
        return float(self.chapters.get(name, self.chapter) if not re.match("01_|05_", name) else self.chapter)

    def _system(self, name: str) -> Any:
        return load_system(name, self.profile.systems[name], sources=self.profile.sources)

    def _options(self, name: str) -> Any:
        return self._system(name).options

    @staticmethod
    def _sound(training: Any) -> float:
        return training.batch * training.crop_seconds

    def _prior_steps(self) -> int:
        training, pieces = self.profile.training, self.profile.data.pieces
        if not training.epochs:
            return training.steps
        count = SONGS["train"] * SONG / (sum(pieces.seconds) / 2) * (1 - pieces.valid_share)  # a stem never silent
        return training.epochs * math.ceil(count / training.batch)

    def _fit(self, name: str) -> float:
        system, options = self._system(name), self._options(name)
        if isinstance(system, Supervised):
            sound = options.batch * system.crop / options.sample_rate
            return options.steps * self.step(name, sound)
        if name == "gan_prior":
            prior = options.prior
            image = prior.side * prior.feature.hop / prior.sample_rate
            return prior.steps * self.step(name, prior.batch * image)
        seconds = float(self.spent.loc[name, "training (s)"])
        self.used[f"fitting {name}"] = (seconds, "s", f"rows of {DEMO}")
        return seconds


def _bench(folder: Path) -> tuple[str, str, dict[str, Any]]:
    """(device, file, topics) of the first bench of a GPU that has the topic `scale`, or else of a CPU."""
    found = []
    for path in sorted(folder.glob("*.json")):
        bench = json.loads(path.read_text(encoding="utf-8"))
        if bench["topics"].get("scale", {}).get("status") == "done":
            found.append((bench["kind"] != "cuda", path.name, bench))
    if not found:
        raise FlowsepError(f"{folder}: no bench with the topic scale; run python -m benchmarks --only scale")
    _, name, bench = min(found, key=lambda one: one[:2])
    assert bench["device"] in find_benches(folder)
    return bench["device"], name, bench["topics"]


def plan(root: Path, shards: int) -> list[dict[str, Any]]:
    """All rows of one number of shards."""
    profile = load_profile(root / "configs" / f"{PROFILE}.yaml").model_copy(update={"shards": shards})
    told, jobs = Figures(profile, root), read_jobs(dry_run(PROFILE, shards))
    seconds, needs = [told.seconds(job) for job in jobs], [job.needs for job in jobs]
    if unknown := [job.name for job, its in zip(jobs, seconds, strict=True) if not math.isfinite(its)]:
        raise FlowsepError(f"{told.bench}: {unknown[0]}: a figure of it has no value; measure the topic scale again")
    path, rest = longest(needs, seconds)
    rows: list[dict[str, Any]] = []

    def row(quantity: str, name: str, value: float, unit: str, **more: Any) -> None:
        rows.append({"quantity": quantity, "name": name, "value": float(f"{value:.6g}"), "unit": unit} | more)

    for rule, count in sorted(Counter(job.rule for job in jobs).items()):
        row("jobs", rule, count, "")
    row("jobs", "all", len(jobs), "")
    for rule in sorted({job.rule for job in jobs}):
        row("work", rule, sum(its for job, its in zip(jobs, seconds, strict=True) if job.rule == rule), "s")
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
    about = told.topics["scale"]["provenance"]
    origin = {"profile": PROFILE, "shards": shards, "device": told.device, "bench": told.bench}
    origin |= {"bench_commit": about["git_commit"], "bench_date": about["date"], **git_state()}
    return [origin | one for one in rows]


def main() -> None:
    root = find_root(Path(__file__).parent)
    rows = [row for shards in SHARDS for row in plan(root, shards)]
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
