"""The smoke profile through a real Slurm on one machine, beside the same run without it: `make test-cluster`.

Slurm (Debian's slurm-wlm and munge) runs as root out of a temporary folder, with a configuration, ports and a key of
its own, at 127.0.0.1 alone. Jobs are submitted as profiles/slurm/ has it, so the node calls itself larger than this
machine is, and its two GPUs are no devices at all. The training of the first source is cancelled as soon as it has left
a state; the graph ends with that error and is started again. What had been finished must not run twice, the training
must go on from its state, and all scores, tables and weights must be those of a run without Slurm, but for `COSTS`.
What was found goes to results/cluster.json.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from json import dumps
from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

from companion import load_profile
from companion.provenance import git_state
from companion.scores.evaluate import SPENT
from flowsep.files import FlowsepError, write_text

ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "tests"))

from helpers import copy_project  # noqa: E402, which lies in the folder of the line above

PACKAGES = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm"}
PROFILE = "smoke"
# columns that say what a run cost and when it ran, the hash of files in which that is written, and what somebody may
# commit meanwhile (the column `code` is the hash of what ran)
COSTS = {*SPENT, "training_seconds", "training_memory_mib", "rtf", "time", "checkpoint"} - {"audio_seconds"}
COSTS |= {"git_commit", "git_dirty"}
PATIENCE = 4 * 3600  # seconds, for whatever is waited for, however busy the machine is

SLURM_CONF = """\
ClusterName=flowsep
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=5
MinJobAge=86400
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=256000 Gres=gpu:2 State=UNKNOWN
PartitionName={PROFILE} Nodes={host} Default=NO MaxTime=INFINITE State=UP
"""
GRES_CONF = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def main() -> None:
    find_programs()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # an exception, so that nothing is left running
    began, state = time.monotonic(), git_state()
    with tempfile.TemporaryDirectory(prefix="flowsep-slurm-") as name:
        folder, environment = Path(name), clean_environment()
        folder.chmod(0o755)  # munged wants its socket where all may come
        there, here = copy_project(folder / "cluster"), copy_project(folder / "local")
        with (there / "configs" / f"{PROFILE}.yaml").open("a") as file:
            file.write("  shards: 2\n")  # of each system's test songs, which must be no other scores
        environment |= {"FLOWSEP_DATA": str(folder / "data"), "FLOWSEP_PARTITION": PROFILE, "OMP_NUM_THREADS": "1"}
        with slurm(folder / "slurm", environment) as inside:
            report = through_slurm(there, inside)
            report["slurm"] = ask(["sbatch", "--version"], inside).split()[-1]
        say("the same profile without Slurm")
        with running(["--cores", "2"], here, environment) as local:
            finish(local, here)
        report |= compare(there / "results" / PROFILE, here / "results" / PROFILE)
    packages = ("snakemake", "snakemake-executor-plugin-slurm", "snakemake-executor-plugin-slurm-jobstep")
    report |= {name: version(name) for name in packages} | state
    report |= {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": round((time.monotonic() - began) / 60),
    }
    write_text(ROOT / "results" / "cluster.json", dumps({"profile": PROFILE} | report, indent=2) + "\n")
    say(
        f"{report['submitted']} jobs submitted, {report['cancelled']} cancelled, {report['lost']} results lost; "
        f"{report['scores']} scores, {report['tables']} table rows and {report['weights']} arrays of weights equal"
    )


def say(text: str) -> None:
    print(f"test-cluster: {text}", flush=True)


def find_programs() -> None:
    """Install what is missing of Slurm, as root on Debian, or say what it is."""
    if os.geteuid() != 0:
        raise FlowsepError("the daemons of Slurm start as root only; run make test-cluster as root, in a container")
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if missing and not shutil.which("apt-get"):
        raise FlowsepError(f"needs Debian's packages {', '.join(missing)}, or their like")
    if missing:
        say(f"installing {', '.join(missing)}")
        quiet = {"stdout": subprocess.DEVNULL, "check": True}
        subprocess.run(["apt-get", "update", "-q"], **quiet)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
        subprocess.run(install, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, **quiet)


def clean_environment() -> dict[str, str]:
    """This process's environment without what another Slurm or Snakemake profile has left there."""
    foreign = ("SLURM", "SBATCH", "SRUN", "SQUEUE", "SNAKEMAKE", "FLOWSEP")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return environment | {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}


@contextlib.contextmanager
def slurm(folder: Path, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A controller and a node out of `folder`; yields the environment that finds them, and stops them at the end."""
    for part in ("state", "spool", "bin"):
        (folder / part).mkdir(parents=True)
    key, configuration, shim = folder / "munge.key", folder / "slurm.conf", folder / "bin" / "srun"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(SLURM_CONF.format(host=host, ports=free_ports(), folder=folder, PROFILE=PROFILE))
    (folder / "gres.conf").write_text(GRES_CONF)
    # the plugin starts a job's step without SLURM_CONF, which the srun of a usual cluster has no need of
    shim.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    shim.chmod(0o755)
    inside = {**environment, "SLURM_CONF": str(configuration), "PATH": f"{shim.parent}:{environment['PATH']}"}
    files = {name: folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
    munged = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in files.items()]
    daemons = (["munged", "-F", f"--key-file={key}", *munged], ["slurmctld", "-D", "-i"], ["slurmd", "-D"])
    with contextlib.ExitStack() as stack:
        try:
            for name, *options in daemons:
                log = stack.enter_context((folder / f"{name}.log").open("w"))
                daemon = subprocess.Popen([shutil.which(name), *options], env=inside, stdout=log, stderr=log)
                stack.callback(stop, daemon)
                if name == "munged":
                    wait_for(files["socket"].exists, "the socket of munged", daemon)
            stack.callback(cancel_all, inside)
            wait_for(lambda: ask(["sinfo", "-h", "-o", "%T"], inside, ok=(0, 1)) == "idle", "the node", daemon)
        except FlowsepError:
            print(*(path.read_text() for path in sorted(folder.glob("*.log"))), sep="\n", file=sys.stderr)
            raise
        yield inside


def free_ports() -> list[int]:
    """Two ports of 127.0.0.1 that nobody uses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def stop(process: subprocess.Popen, how: int = signal.SIGTERM) -> None:
    process.send_signal(how)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cancel_all(environment: Mapping[str, str]) -> None:
    """End all jobs and wait for their processes, which would outlive the daemons."""
    ask(["scancel", "--user=root"], environment, ok=(0, 1))
    with contextlib.suppress(FlowsepError):
        wait_for(lambda: not ask(["squeue", "-h"], environment, ok=(0, 1)), "the last jobs", patience=60)


def ask(command: list[str], environment: Mapping[str, str], *, ok: tuple[int, ...] = (0,)) -> str:
    """What a command prints. Raises FlowsepError where it fails with a code that is not `ok`."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode not in ok:
        raise FlowsepError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def wait_for(
    ready: Callable[[], object], what: str, process: subprocess.Popen | None = None, *, patience: float = PATIENCE
) -> None:
    """Return once `ready()` holds. Raises FlowsepError when `process` has ended before, or after `patience` seconds."""
    end = time.monotonic() + patience
    while not ready():
        if process is not None and process.poll() is not None:
            raise FlowsepError(f"{what}: not there when {process.args[0]} ended ({process.returncode})")
        if time.monotonic() > end:
            raise FlowsepError(f"{what}: not there after {patience:.0f} s")
        time.sleep(0.02)


@contextlib.contextmanager
def running(options: list[str], tree: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """Snakemake at work on the tables of `tree`, its words in `tree`/log.txt; it is ended with the block."""
    command = ["snakemake", "--configfile", f"configs/{PROFILE}.yaml", *options, "--", "results"]
    with (tree / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            stop(process, signal.SIGINT)  # on which Snakemake ends its jobs; on others it waits for them


def finish(process: subprocess.Popen, tree: Path, *, fails: bool = False) -> str:
    """Wait for Snakemake and return its words. Raises FlowsepError with them where it ended in the wrong way."""
    process.wait(PATIENCE)
    told = (tree / "log.txt").read_text()
    if (process.returncode != 0) != fails:
        logs = [path.read_text() for path in sorted((tree / ".snakemake" / "slurm_logs").rglob("*.log"))]
        print(told, *logs, sep="\n", file=sys.stderr)
        raise FlowsepError(f"snakemake in {tree.name} ended with {process.returncode}; its words are above")
    return told


def through_slurm(tree: Path, environment: Mapping[str, str]) -> dict[str, object]:
    """Run, cancel, run again; returns what was counted."""
    profile = load_profile(ROOT / "configs" / f"{PROFILE}.yaml")
    source = profile.sources[0]
    work, results = tree / "results" / PROFILE / "training" / source, tree / "results" / PROFILE
    # a second between two looks instead of forty, as befits such jobs; no second try of the job that is cancelled here
    options = [
        "--workflow-profile",
        "profiles/slurm",
        "--retries",
        "0",
        "--slurm-init-seconds-before-status-checks",
        "1",
    ]
    say("the graph through Slurm")
    with running(options, tree, environment) as process:
        wait_for((work / "state.safetensors").exists, f"the state of {source}", process)
        (victim,) = (job for job in jobs(environment) if job["what"] == f"rule_prior_wildcards_{source}")
        ask(["scancel", victim["id"]], environment)
        say(f"job {victim['id']}, the training of {source}, cancelled")
        told = finish(process, tree, fails=True)
    before = pd.read_csv(work / "loss.csv")
    first = jobs(environment)
    states = {job["id"]: job["state"] for job in first}
    if states.pop(victim["id"]) != "CANCELLED" or set(states.values()) != {"COMPLETED"}:
        raise FlowsepError(f"job {victim['id']} should have been cancelled and all others completed: {first}")
    if (results / "priors" / f"{source}.safetensors").exists() or "rule prior" not in told:
        raise FlowsepError(f"Snakemake took the cancelled training of {source} for a finished one")
    say(f"{len(states)} jobs completed beside it; the graph again")
    with running(options, tree, environment) as process:
        finish(process, tree)
    second = [job for job in jobs(environment) if job not in first]
    lost = {job["what"] for job in first if job["state"] == "COMPLETED"} & {job["what"] for job in second}
    after = pd.read_csv(work / "loss.csv")
    if not after[: len(before)].equals(before):  # the seconds are among its columns, which no second training repeats
        raise FlowsepError(f"the training of {source} began anew")
    with running([*options, "--dry-run"], tree, environment) as process:
        if "Nothing to be done" not in finish(process, tree):
            raise FlowsepError(
                "after all has been made, Snakemake wants to make more: " + (tree / "log.txt").read_text()
            )
    counts = Counter(job["state"] for job in [*first, *second])
    if lost or set(counts) != {"COMPLETED", "CANCELLED"}:
        raise FlowsepError(f"run twice although completed: {sorted(lost)}; states: {dict(counts)}")
    return {
        "submitted": counts.total(),
        "completed": counts["COMPLETED"],
        "cancelled": counts["CANCELLED"],
        "cancelled_at_step": int(before["step"].max()),
        "of_steps": int(after["step"].max()),
        "lost": len(lost),
    }


def jobs(environment: Mapping[str, str]) -> list[dict[str, str]]:
    """All jobs so far, with the rule and wildcards that the plugin writes as their comment."""
    rows = ask(["squeue", "-h", "--states=all", "-o", "%i|%T|%k"], environment).splitlines()
    return [dict(zip(("id", "state", "what"), row.split("|", 2), strict=True)) for row in rows]


def compare(one: Path, other: Path) -> dict[str, int]:
    """How many scores, rows of tables and arrays of weights are equal. Raises FlowsepError where one is not."""
    counts = {}
    for name, pattern in (("scores", "scores/*.csv"), ("tables", "table-*.csv"), ("weights", "priors/*.safetensors")):
        paths = sorted(path.relative_to(one) for path in one.glob(pattern))
        if not paths or paths != sorted(path.relative_to(other) for path in other.glob(pattern)):
            raise FlowsepError(f"{pattern}: other files through Slurm than without: {', '.join(map(str, paths))}")
        counts[name] = sum(compare_files(one / path, other / path) for path in paths)
    return counts


def compare_files(one: Path, other: Path) -> int:
    """The number of rows, or arrays, of two equal files."""
    if one.suffix == ".csv":
        tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in (one, other)]
        left, right = (table[[name for name in table if name not in COSTS]] for table in tables)
        if not left.equals(right):
            found = left.compare(right) if left.shape == right.shape else f"{left.shape} and {right.shape}"
            raise FlowsepError(f"{one.name}: through Slurm and without it differ:\n{found}")
        return len(left)
    left, right = load_file(one), load_file(other)
    if left.keys() != right.keys() or any((left[name] != right[name]).any() for name in left):
        raise FlowsepError(f"{one.name}: other weights through Slurm than without")
    return len(left)


if __name__ == "__main__":
    try:
        main()
    except FlowsepError as error:
        sys.exit(f"test-cluster: {error}")
