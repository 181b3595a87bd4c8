"""Predict what the experiments with MUSDB18 take on GPUs: `python -m benchmarks.plan` (`make plan`).

The jobs and what each waits for are those that Snakemake lists for a profile, in a dry run on a stand-in of MUSDB18-HQ
that holds empty files. A step of a training takes the longest of three: its operations, which are counted, at `SHARE`
of the peak that the GPU's data sheet names; a batch's way to the GPU, as the targets of `benchmarks.feeding` allow it;
and for a prior the launching of its many small kernels. A separation takes its operations likewise. What uses no GPU
takes what a CPU's bench, the demo's systems and its chapters took. A job has a GPU, or a core, to itself. Written to
`results/scale.csv`.
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
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from companion.profile import Profile, find_root, load_profile
from companion.provenance import git_state
from companion.systems import load_system
from companion.systems.gan_prior import GanPrior
from companion.systems.priors import HEARD
from companion.systems.supervised import Supervised
from companion.tables import costs, load_scores, written
from companion.tables.speed import figures, read_bench
from flowsep.files import FlowsepError, atomic_path

from . import floor
from .floor import FRAME_RATE
from .operations import gan_second, gan_step, network_second, network_step, prior_step
from .targets import TARGETS

PROFILES = ("musdb18", "musdb18-quick")
SONGS = {"train": 100, "test": 50}
DECODING = 1.0  # seconds of a core that a stem of a song takes, decoded and resampled
SONG = 240.0  # seconds: the ten hours of MUSDB18's 150 songs
GPUS = (1, 4, 8)
CORES = 8  # beside each GPU
TOPICS = ("evaluation", "startup")  # of a bench that will do
SHARE = 0.25  # of the peak, which layers of these sizes reach
LAUNCHING = 0.015  # seconds a prior's step: 2.5 times the 966 launches of an iteration of the search, 6 us each
ITERATION = 0.006  # seconds of those
# GiB that one crop keeps for the gradient in bf16, at the published sizes: counted on tensors without content
KEPT = {"conv_tasnet": 10.8, "demucs_v2": 0.63, "open_unmix": 0.19, "open_unmix_random": 0.19, "wave_u_net": 0.13}
FED = {target.settings["system"]: target.value for target in TARGETS if target.figure == "feeding.batch"}  # seconds
DEMO = "demo"  # whose rows and chapters tell what the bench does not


class Device(NamedTuple):
    """A GPU as its data sheet has it: TFLOP/s of dense products in bf16 and in TF32, GB of memory."""

    bf16: float
    tf32: float
    memory: float


DEVICES = {"H200": Device(989, 495, 141), "A100": Device(312, 156, 80), "RTX 4090": Device(165, 83, 24)}


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


def dry_run(profile: str) -> str:
    """What Snakemake says that it would do for the book of `profile`, from nothing."""
    root = find_root(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as place:
        settings = yaml.safe_load((root / "configs" / f"{profile}.yaml").read_text(encoding="utf-8"))
        settings["profile"] |= {"name": "planned"}  # no file of which exists
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


def makespan(needs: list[frozenset[int]], seconds: list[float], kinds: list[str], workers: Mapping[str, int]) -> float:
    """Seconds until all jobs are done, each by a worker of its kind, who takes the ready job with the longest path."""
    _, rest = longest(needs, seconds)
    waits = [len(needed) for needed in needs]
    ready: dict[str, list[tuple[float, int]]] = {kind: [] for kind in workers}
    free = dict(workers)
    running: list[tuple[float, int]] = []
    now, begun = 0.0, [job for job in range(len(needs)) if not waits[job]]
    while begun or running or any(ready.values()):
        for job in begun:
            heapq.heappush(ready[kinds[job]], (-rest[job], job))
        for kind, waiting in ready.items():
            while waiting and free[kind]:
                free[kind] -= 1
                _, job = heapq.heappop(waiting)
                heapq.heappush(running, (now + seconds[job], job))
        now, done = heapq.heappop(running)
        free[kinds[done]] += 1
        begun = []
        for job, needed in enumerate(needs):
            if done in needed:
                waits[job] -= 1
                if not waits[job]:
                    begun.append(job)
    return now


class Cost(NamedTuple):
    """What a job takes, what bounds it, and whether it needs a GPU ("gpu") or a core ("core")."""

    seconds: float
    bound: str
    kind: str


class Figures:
    """What each job takes on a `device`, which may be set anew: the operations are counted once."""

    device: Device

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
        self.start = self._of("startup.wait", command="flowsep separate")
        song = self.rows[self.rows.name == "evaluation.song"]
        length = float(re.search(r"([\d.]+) s$", song.what.iloc[0])[1])  # the bench says so in words alone
        self.scoring = float(song.value.sum()) / length  # of a second of music, by both conventions

    def _of(self, name: str, **settings: Any) -> float:
        """The figure with the fewest threads, of one mixture at a time."""
        rows = self.rows[self.rows.name == name]
        for key, value in settings.items():
            rows = rows[rows[key] == value]
        rows = rows.dropna(subset=["value"]).sort_values(["batch", "threads"])
        if rows.empty:
            raise FlowsepError(f"{self.name}: no figure {name} {settings or ''}; measure it: make bench")
        return float(rows.value.iloc[0])

    def step(self, name: str) -> tuple[float, str]:
        """(seconds, what bounds it) of one step of the training of a system, or of a "prior"."""
        system = self.systems.get(name)
        if name == "prior":
            work = prior_step(self.profile.model, self.profile.feature, self.profile.training)
            rate, fed, least = self.device.bf16, FED["prior"], LAUNCHING
        elif isinstance(system, GanPrior):
            # of short crops, though after each step of the critic another batch; its arithmetic is not in bf16
            work, rate, least = gan_step(system), self.device.tf32, 0.0
            fed = system.options.prior.critic_steps * FED["prior"]
        else:
            work, rate, fed, least = network_step(system), self.device.bf16, FED["network"], 0.0
        bounds = {"arithmetic": work / (1e3 * SHARE * rate), "feeding": fed, "launching": least}
        bound = max(bounds, key=bounds.__getitem__)
        if (fits := self.fits(name)) is not None and fits < system.options.batch:
            return bounds[bound], f"memory: {fits} of {system.options.batch} crops fit"
        return bounds[bound], bound

    def fits(self, name: str) -> int | None:
        """How many crops of a network fit into nine tenths of the memory; None where a batch is no question."""
        return int(0.9 * self.device.memory / 1.074 / KEPT[name]) if name in KEPT else None

    def separation(self, name: str) -> Cost:
        """A second of music; all of it counts as arithmetic, or as the work of a core."""
        system = self.systems[name]
        if name == "instglow":
            model, options = self.profile.model, system.options
            frames = round(options.chunk_seconds * FRAME_RATE)
            layers = len(self.profile.sources) * floor.PASSES["decode, gradient of the latents"]
            work = layers * sum(floor.operations(model, frames).values()) / 1e9
            each = max(work / (1e3 * SHARE * self.device.tf32), ITERATION)
            return Cost(options.iterations * each / options.chunk_seconds, "arithmetic", "gpu")
        if isinstance(system, GanPrior | Supervised):
            work = gan_second(system) if isinstance(system, GanPrior) else network_second(system)
            return Cost(work / (1e3 * SHARE * self.device.tf32), "arithmetic", "gpu")
        return Cost(float(self.spent.loc[written(name), "RTF"]), "a core", "core")

    def cost(self, job: Job) -> Cost:
        """What a job takes. Raises FlowsepError for a rule that is not known here."""
        name = job.wildcards.get("system", "")
        if job.rule == "prior" or (job.rule == "fit" and name in self.systems and self._steps(name)):
            key = "prior" if job.rule == "prior" else name
            seconds, bound = self.step(key)
            return Cost(self.start + self._steps(key) * seconds, bound, "gpu")
        if job.rule == "fit":
            return Cost(self.start + float(self.spent.loc[written(name), "training (s)"]), "a core", "core")
        if job.rule == "separate":
            each, bound, kind = self.separation(name)
            music = SONGS["test"] * SONG
            return Cost(self.start + self._chapter(job) + music * (each + self.scoring), bound, kind)
        if job.rule == "cache":  # a stem is decoded once for each rate
            stems = len(self.profile.sources) * (3 * SONGS["train"] + HEARD)
            return Cost(self.start + stems * DECODING / CORES, "a core", "core")
        if any("/notebooks/" in output for output in job.outputs) or job.rule == "book":
            return Cost(self._chapter(job), "a core", "core")
        raise FlowsepError(f"rule '{job.rule}': no way to tell what it takes; add it to benchmarks/plan.py")

    def _chapter(self, job: Job) -> float:
        """As long as in the demo; the median chapter where none was kept, or what takes long is counted by itself."""
        name = next((Path(output).stem for output in job.outputs if "/notebooks/" in output), "")
        return self.chapter if re.match("01_|05_", name) else float(self.chapters.get(name, self.chapter))

    def _steps(self, name: str) -> int:
        """Steps of a training; 0 for a system that takes none."""
        if name == "prior":
            training, pieces = self.profile.training, self.profile.data.pieces
            count = SONGS["train"] * SONG / (sum(pieces.seconds) / 2) * (1 - pieces.valid_share)  # never silent
            return training.epochs * math.ceil(count / training.batch)
        system = self.systems[name]
        if isinstance(system, GanPrior):
            return system.options.prior.steps
        return system.options.steps if isinstance(system, Supervised) else 0


def find_bench(folder: Path) -> tuple[str, dict[str, Any]]:
    """(file, bench) of the first device whose scoring and start were measured."""
    for path in sorted(folder.glob("*.json")):
        bench = read_bench(path)
        if all(bench["topics"].get(topic, {}).get("status") == "done" for topic in TOPICS):
            return path.name, bench
    raise FlowsepError(f"{folder}: no bench with the topics {', '.join(TOPICS)}; run make bench")


def plan(profile: str, jobs: list[Job], root: Path) -> list[dict[str, Any]]:
    """All rows of one profile."""
    rows: list[dict[str, Any]] = []
    needs, told = [job.needs for job in jobs], Figures(load_profile(root / "configs" / f"{profile}.yaml"), root)
    for device, told.device in DEVICES.items():
        spent = [told.cost(job) for job in jobs]
        seconds, kinds = [cost.seconds for cost in spent], [cost.kind for cost in spent]
        if unknown := [job.name for job, time in zip(jobs, seconds, strict=True) if not math.isfinite(time)]:
            raise FlowsepError(f"{unknown[0]}: a figure of it has no value in {told.name} or the rows of {DEMO}")
        path, rest = longest(needs, seconds)

        def row(quantity: str, name: str, value: float, device: str = device, **more: Any) -> None:
            rows.append({"device": device, "quantity": quantity, "name": name, "value": float(f"{value:.6g}")} | more)

        for place, (job, cost) in enumerate(zip(jobs, spent, strict=True)):
            row("job", job.name, cost.seconds, bound=cost.bound, kind=cost.kind, on_path=place in path)
        row("path", "all", rest[path[0]])
        for gpus in GPUS:
            row("wall", "all", makespan(needs, seconds, kinds, {"gpu": gpus, "core": CORES * gpus}), gpus=gpus)
        for name in KEPT.keys() & told.systems.keys():
            row("memory", name, KEPT[name] * told.systems[name].options.batch, bound=f"{told.fits(name)} crops fit")
    return [{"profile": profile, "bench": told.name, **git_state()} | one for one in rows]


def main() -> None:
    root = find_root(Path(__file__).parent)
    rows = [row for name in PROFILES for row in plan(name, read_jobs(dry_run(name)), root)]
    frame = pd.DataFrame(rows).assign(date=datetime.now(UTC).isoformat(timespec="seconds"))
    frame["gpus"] = frame["gpus"].astype("Int64")
    with atomic_path(root / "results" / "scale.csv") as temporary:
        frame.to_csv(temporary, index=False)
    hours = frame[frame.quantity == "wall"].assign(hours=frame.value / 3600)
    print(hours.pivot_table("hours", ["profile", "device"], "gpus").round(1).to_string())


if __name__ == "__main__":
    argparse.ArgumentParser(prog="plan", description=__doc__.split(":")[0]).parse_args()
    try:
        main()
    except FlowsepError as error:
        sys.exit(f"plan: {error}")
