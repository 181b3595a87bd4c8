"""What is imported when: short commands do not wait for torch, and nothing heavy is imported before it is used."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import flowsep

HEAVY = {"librosa", "museval", "musdb", "matplotlib", "seaborn", "pandas", "sklearn", "scipy", "lightning_fabric"}
HEAVY |= {"IPython", "asteroid", "demucs", "openunmix"}
INIT = Path(flowsep.__file__)


def fresh(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a line of Python in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def without_torch(*arguments: str) -> subprocess.CompletedProcess:
    """The command line where an import of torch fails."""
    code = "import sys; sys.modules['torch'] = None; from flowsep.cli import main; sys.exit(main(sys.argv[1:]))"
    return fresh(code, *arguments)


def loaded_after(code: str) -> set[str]:
    run = fresh(f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))")
    assert run.returncode == 0, run.stderr
    return {name.partition(".")[0] for name in json.loads(run.stdout)}


def test_the_package_itself_imports_nothing():
    assert not loaded_after("import flowsep") & {*HEAVY, "torch", "numpy", "pydantic", "yaml", "soxr"}


def test_priors_and_separation_need_nothing_heavy_but_torch():
    later = ("fit_prior", "load_dataset", "load_system")
    loaded = loaded_after(f"from flowsep import {', '.join(name for name in flowsep.__all__ if name not in later)}")
    assert "torch" in loaded and not loaded & HEAVY


def test_scores_and_data_need_no_torch():
    loaded = loaded_after("from flowsep import cli, data, estimates, museval_json, results")
    assert not loaded & ({*HEAVY, "torch"} - {"pandas"})


def test_short_commands_run_without_torch(tiny_prior, tmp_path):
    prior = tiny_prior()
    prior.save(tmp_path / "vocals.safetensors")
    for command in ((), ("separate",), ("score",)):
        run = without_torch(*command, "--help")
        assert run.returncode == 0 and "usage: flowsep" in run.stdout
    run = without_torch("info", str(tmp_path / "vocals.safetensors"))
    assert json.loads(run.stdout)["parameters"] == sum(weight.numel() for weight in prior.parameters())


def test_separation_speaks_before_it_imports_torch(tiny_prior, tmp_path):
    tiny_prior().save(tmp_path / "vocals.safetensors")
    run = without_torch("separate", "song.mp3", "--priors", str(tmp_path), "--out", str(tmp_path / "out"))
    first, rest = run.stderr.split("\n", 1)
    assert first == f"flowsep: reading the priors of vocals in {tmp_path}"
    assert rest.rstrip().endswith("import of torch halted; None in sys.modules")


def test_every_public_name_has_a_home():
    tree = ast.parse(INIT.read_text(encoding="utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in typed.body for alias in node.names}
    assert seen == flowsep._HOMES and sorted(seen) == flowsep.__all__
    for name, module in seen.items():
        assert getattr(flowsep, name) is getattr(importlib.import_module(f"flowsep.{module}"), name)
    assert set(flowsep.__all__) <= set(dir(flowsep))
    with pytest.raises(AttributeError, match="module 'flowsep' has no attribute 'separat'"):
        _ = flowsep.separat


@pytest.mark.parametrize("first", ["import flowsep.separate", "from flowsep.separate import separate", ""])
def test_separate_is_the_function_whoever_imports_first(first):
    run = fresh(f"{first}\nimport flowsep; print(type(flowsep.separate).__name__)")
    assert run.stdout == "function\n", run.stderr
