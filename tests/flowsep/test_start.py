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


def without_torch(module: str, *arguments: str) -> subprocess.CompletedProcess:
    """A command line where an import of torch fails."""
    code = f"import sys; sys.modules['torch'] = None; from {module} import main; sys.exit(main(sys.argv[1:]))"
    return fresh(code, *arguments)


def loaded_after(code: str) -> set[str]:
    run = fresh(f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))")
    assert run.returncode == 0, run.stderr
    return {name.partition(".")[0] for name in json.loads(run.stdout)}


def test_the_package_itself_imports_nothing():
    assert not loaded_after("import flowsep") & {*HEAVY, "torch", "numpy", "pydantic", "yaml", "soxr"}


def test_priors_their_training_and_separation_need_nothing_heavy_but_torch():
    """Lightning Fabric is imported where a training starts."""
    loaded = loaded_after(f"from flowsep import {', '.join(flowsep.__all__)}")
    assert "torch" in loaded and not loaded & HEAVY


def test_without_lightning_training_says_what_is_missing():
    code = "import sys; sys.modules['lightning_fabric'] = None\nimport flowsep.config, flowsep.resume\n"
    run = fresh(code + "flowsep.resume.start_fabric(flowsep.config.TrainingConfig(device='cpu'))")
    assert run.stderr.splitlines()[-1].startswith("flowsep.files.FlowsepError: training needs Lightning Fabric (")


def test_command_lines_and_data_need_no_torch():
    loaded = loaded_after("import flowsep.cli, companion.graph.cli, companion.data.tracks")
    assert not loaded & {*HEAVY, "torch"}


def test_help_needs_no_torch():
    for module, *command in (["flowsep.cli"], ["flowsep.cli", "separate"], ["companion.graph.cli", "score"]):
        run = without_torch(module, *command, "--help")
        assert run.returncode == 0 and run.stdout.startswith("usage: ")


def test_separation_speaks_before_it_imports_torch(tiny_prior, tmp_path):
    tiny_prior().save(tmp_path / "vocals.safetensors")
    run = without_torch(
        "flowsep.cli", "separate", "song.mp3", "--priors", str(tmp_path), "--out", str(tmp_path / "out")
    )
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


def test_librosa_is_compiled_into_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("FLOWSEP_DATA", str(tmp_path / "new"))
    done = fresh("import os, companion; print(os.environ['NUMBA_CACHE_DIR'])")
    assert done.stdout.strip() == str(tmp_path / "new" / "numba"), done.stderr
