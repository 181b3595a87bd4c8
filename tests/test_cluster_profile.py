"""What profiles/slurm asks of a cluster: something for every rule, in the names that the environment gives.

`make test-cluster` runs the graph with it.
"""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yte
from helpers import copy_project

from companion.systems import SYSTEMS

ROOT = Path(__file__).parent.parent
SLURM = ROOT / "profiles" / "slurm" / "config.yaml"
RULES = ("prior", "fit", "shard", "separate")  # which compute with networks


def read() -> dict:
    with SLURM.open(encoding="utf-8") as file:
        return yte.process_yaml(file, require_use_yte=True)


def gpus(rule: str, system: str, *given: str) -> int:
    """How many a job asks for, by the expression that Snakemake evaluates."""
    asked = str(read()["set-resources"][rule]["gpu"])
    return eval(asked, {"wildcards": SimpleNamespace(system=system), "input": given})


@pytest.fixture
def plain(monkeypatch):
    """Nothing of FLOWSEP_* in the environment."""
    for name in [name for name in os.environ if name.startswith("FLOWSEP_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_every_rule_of_the_graph_has_its_resources_and_no_other(plain):
    _, *parts = re.split(r"^ *rule (\w+):", (ROOT / "Snakefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    rules = {name for name, body in zip(parts[::2], parts[1::2], strict=True) if "shell:" in body}
    assert {"prior", "tables", "book"} <= rules and "results" not in rules  # which is a name for others, no job
    profile = read()
    assert set(profile["set-resources"]) == rules
    for name, own in profile["set-resources"].items():
        asked = profile["default-resources"] | own
        assert set(asked) - {"gpu"} == {"cpus_per_task", "mem_mb", "runtime"}, name
        assert re.fullmatch(r"max\(threads, \d\)", asked["cpus_per_task"]), name  # never fewer than it computes with
        assert ("gpu" in asked) == (asked["mem_mb"] > 8000 and name not in ("data", "cache")), name


def test_names_and_gpus_come_from_the_environment(plain):
    assert not {"slurm_partition", "slurm_account"} & set(read()["default-resources"])  # Slurm takes its own then
    assert {gpus(name, system) for name in RULES for system in ("flowsep", "demucs_v2")} == {1}
    for name, value in {"PARTITION": "night", "ACCOUNT": "a b", "GPUS": "4"}.items():
        plain.setenv(f"FLOWSEP_{name}", value)
    profile = read()
    assert profile["default-resources"].items() >= {"slurm_partition": "night", "slurm_account": "a b"}.items()
    assert [gpus(name, "flowsep") for name in RULES] == [4, 4, 1, 1]
    assert [gpus(name, "demucs_v2") for name in RULES] == [4, 1, 1, 1]
    assert gpus("separate", "flowsep", "results/x/shards/flowsep/0of2") == 0  # it gathers what others did
    plain.setenv("FLOWSEP_GPUS", "0")
    assert {gpus(name, "flowsep") for name in (*RULES, "inside")} == {0}


def test_systems_without_a_network_ask_for_no_gpu(plain):
    """Those without a `device` among their options."""
    for system, place in SYSTEMS.items():
        module, _, name = place.partition(":")
        options = getattr(importlib.import_module(f"companion.systems.{module}"), name).Options
        expected = int("device" in options.model_fields)
        assert [gpus(rule, system) for rule in RULES[1:]] == [expected] * 3, system


@pytest.mark.slow
def test_what_snakemake_makes_of_it(plain, tmp_path):
    """A plan, for which no Slurm is needed: gathering the shards takes no GPU, all jobs go where they should."""
    plain.setenv("FLOWSEP_PARTITION", "night")
    tree = copy_project(tmp_path / "tree")
    with (tree / "configs" / "smoke.yaml").open("a") as file:
        file.write("  shards: 2\n")
    command = ["snakemake", "--workflow-profile", str(SLURM.parent), "--configfile", "configs/smoke.yaml", "--dry-run"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([*command, "results"], cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = re.findall(r"^rule (\w+):\n(?: .*\n)*? +resources: (.*)", done.stdout + done.stderr, flags=re.MULTILINE)
    asked = {rule: dict(part.split("=", 1) for part in text.split(", ")) for rule, text in jobs if rule != "results"}
    some = {rule for rule, text in jobs if "gpu=1" in text}  # of their systems
    assert set(asked) == {"data", "cache", "prior", "fit", "shard", "separate", "tables"}
    assert {job["slurm_partition"] for job in asked.values()} == {"night"}
    assert some == {"prior", "fit", "shard"}
    assert (asked["prior"]["cpus_per_task"], asked["tables"]["cpus_per_task"]) == ("8", "2")
    assert asked["cache"]["cpus_per_task"] == "8"
    assert (asked["prior"]["runtime"], asked["tables"]["runtime"]) == ("1440", "60")  # minutes
