"""The project's own rules: who imports whom, what is pinned, notebooks stripped, every profile readable."""

import ast
import email.message
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import house
import nbformat
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from papermill import inspect_notebook

from companion import load_profile
from companion.profile import find_root
from companion.systems import load_system
from flowsep import FlowsepError

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for package in ("flowsep", "companion", "tools", "benchmarks", "research")
    for path in sorted((ROOT / package).rglob("*.py"))
}


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_the_rules_of_the_house_are_kept(rule):
    assert not rule(SOURCES), rule.__doc__


LATE = "def f():\n    "
BROKEN_RULES = [
    (house.foreign, "flowsep/audio.py", "import pandas"),
    (house.foreign, "flowsep/audio.py", LATE + "from companion.data import tracks"),
    (house.foreign, "flowsep/fast/net.py", "from benchmarks import harness"),
    (house.foreign, "flowsep/train.py", "from lightning_fabric import Fabric"),
    (house.siblings, "flowsep/glow.py", "from .config import GlowConfig"),
    (house.siblings, "flowsep/spectrogram.py", LATE + "import flowsep.glow"),
    (house.siblings, "flowsep/files.py", "from . import FlowsepError"),
    (house.siblings, "companion/band/singer.py", "from ..profile import Profile"),
    (house.siblings, "companion/show/style.py", LATE + "from companion.scores import sdr"),
    (house.siblings, "companion/show/style.py", "from companion import load_dataset"),
    (house.upward, "companion/data/tracks.py", LATE + "from ..systems import System"),
    (house.upward, "companion/systems/nmf.py", "from ..scores.metrics import sdr"),
    (house.upward, "companion/scores/score.py", "from .. import tables"),
    (house.upward, "companion/profile.py", "from companion import load_dataset"),
    (house.upward, "companion/provenance.py", "from .scores.metrics import sdr"),
    (house.upward, "companion/live.py", LATE + "from .studies import ablation"),
    (house.upward, "companion/studies/ablation.py", "from ..graph import steps"),
    (house.upward, "companion/attic.py", ""),
    (house.models_behind_tables, "companion/tables/render.py", "from flowsep.prior import Prior"),
    (house.models_behind_tables, "companion/tables/render.py", LATE + "from ..systems import System"),
    (house.circles, "flowsep/files.py", "from . import config"),
    (house.circles, "companion/systems/__init__.py", "from .nmf import NMF"),
    (house.too_long, "flowsep/attic.py", ""),
    *((house.too_long, f"{path}.py", "\n" * 10_600) for path in ("flowsep/cli", "flowsep/fast/net", "companion/live")),
    (house.other_orders, "flowsep/glow.py", "def grouped_order(channels): ..."),
    (house.other_orders, "companion/systems/priors.py", "ORDER = 'grouped'"),
    (house.other_orders, "flowsep/search.py", LATE + "from .fast import layout"),
    (house.empty_names, "flowsep/glow.py", "found = 1"),
    (house.empty_names, "tools/media.py", "def f(its): ..."),
    (house.empty_names, "research/songs.py", "print(x.found)"),
    (house.empty_names, "benchmarks/plan.py", "f(found=1)"),
]


@pytest.mark.parametrize(("rule", "path", "line"), BROKEN_RULES)
def test_a_broken_rule_is_named(rule, path, line):
    sources = {**SOURCES, path: f"{SOURCES.get(path, '')}\n{line}\n"}
    assert {*rule(sources)} - {*rule(SOURCES)}


def test_every_rule_can_be_broken_and_each_limit_of_lines():
    assert {rule for rule, *_ in BROKEN_RULES} == {*house.RULES}
    files = {"READ": "flowsep/glow.py", "DOORS": "flowsep/cli.py", "flowsep/fast": "flowsep/fast/net.py"}
    for name, path in (files | {"flowsep and companion": "companion/live.py"}).items():
        kept, broken = ("\n" * (house.LINES[name] + more) for more in (0, 1))
        assert not any(told.startswith(f"{name}: ") for told in house.too_long({path: kept}))
        assert any(told.startswith(f"{name}: ") for told in house.too_long({path: broken}))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("flowsep/train.py", LATE + "from lightning_fabric import Fabric"),
        ("flowsep/train.py", "if TYPE_CHECKING:\n    from lightning_fabric import Fabric"),
        ("flowsep/files.py", "import json, numpy.linalg"),
        ("companion/band/singer.py", "from . import composer_of_scales\nfrom flowsep.files import brief"),
        ("companion/scores/score.py", "from ..systems import System\nfrom ..data.tracks import Track"),
        ("companion/systems/__init__.py", LATE + "from .nmf import NMF"),
        ("companion/__main__.py", "from .graph import steps"),
        ("flowsep/checkpoint.py", LATE + "from .fast.layout import grouped_order"),
    ],
)
def test_what_the_rules_allow(path, line):
    sources = {**SOURCES, path: f"{SOURCES[path]}\n{line}\n"}
    for rule in {*house.RULES} - {house.too_long}:
        assert rule(sources) == rule(SOURCES)


def pinned() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_exactly():
    lock = {plain(name): version for name, version in pinned().items()}
    assert lock["torch"] == "2.13.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [item for extra in project["optional-dependencies"].values() for item in extra]
    for requirement in wanted:
        assert plain(re.split(r"[<>=]", requirement)[0]) in lock, requirement


def test_every_pinned_package_has_its_licence_told(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from licences import COPYLEFT, NOTES, page

    text = (ROOT / "LICENCES.md").read_text(encoding="utf-8")
    rows = [row.split(" | ") for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE)][1:]
    assert {name: version for name, version, *_ in rows} == pinned()
    for name, _, *told in rows:
        assert "".join(told).strip() and "UNKNOWN" not in told, f"{name}: no licence told"
        assert bool(COPYLEFT.search(" ".join(told))) == (name in NOTES) == (f"\n- {name}: " in text), name
    assert page() == text, "run python tools/licences.py"


def test_a_package_without_a_licence_is_named(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import licences

    monkeypatch.setattr(licences, "pinned", lambda: {"numpy": "0.0.1"})
    with pytest.raises(FlowsepError, match=r"numpy: .* is installed, requirements\.lock has 0\.0\.1; run make env"):
        licences.page()
    monkeypatch.setattr(licences, "pinned", lambda: {"numpy": pinned()["numpy"]})
    with pytest.raises(FlowsepError, match=r"certifi, docutils, .*copyleft by the metadata or by NOTES"):
        licences.page()
    monkeypatch.setattr(licences.metadata, "distribution", lambda name: Bare())
    with pytest.raises(FlowsepError, match="bare: neither its metadata nor its files name a licence"):
        licences.licence_of("bare", "1")


class Bare:
    """An installed package that says nothing of its licence."""

    version, files = "1", None
    metadata = email.message.Message()


def test_conda_and_pip_say_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert pip["pip"] == ["-r requirements.lock", "-e ."]
    script = (ROOT / "tools" / "env.sh").read_text()
    assert "python=3.11" in conda and "python3.11" in script
    for program in ("ffmpeg", "fluidsynth", "git"):
        assert program in conda and f"[{program}]" in script


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stripped_and_take_the_profile(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    parameters = set(inspect_notebook(str(path)))
    given = {"profile"} | {"04_train_prior": {"source"}, "05_separate": {"system"}}.get(path.stem, set())
    assert given <= parameters  # papermill itself only warns of a parameter that a notebook does not have
    defined = [node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.ClassDef)]
    assert not defined, "notebooks call the package and define no classes of their own"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_profiles_can_be_read(path):
    profile = load_profile(path)
    assert profile.name == path.stem
    assert load_profile(path.stem) == profile
    assert load_profile(yaml.safe_load(path.read_text())["profile"]) == profile


def test_relative_paths_begin_at_the_profiles_file(tmp_path, monkeypatch):
    """And where nothing lies there, as in all profiles that come with the project, at the project."""
    (tmp_path / "songs" / "train").mkdir(parents=True)
    (tmp_path / "mine.py").write_text(
        "from companion.systems import System\n\n\nclass Mine(System):\n    supervision = 'none'\n"
    )
    own = {"mine": {"class": "mine.py:Mine"}, "means": {"class": "notebooks/own_system.py:MeanSpectra"}}
    content = {"name": "x", "data": {"kind": "stems", "root": "songs"}, "systems": own}
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"profile": content}))
    monkeypatch.setenv("FLOWSEP_PROFILE_FOLDER", str(tmp_path))
    for profile in (load_profile(path), load_profile(content)):
        assert profile.data.root == str(tmp_path / "songs")
        assert profile.systems["means"] == own["means"]
        assert load_system("mine", profile.systems["mine"], sources=("a",)).name == "mine"
    demo = load_profile("demo")
    assert demo.systems["mean_spectra"] == own["means"] and demo.hash_of("mean_spectra") == "810929a31a64"


def test_another_system_leaves_the_hash_of_the_others_alone():
    one = load_profile({"name": "x", "systems": {"nmf": {"components": 3}}})
    two = load_profile({"name": "x", "systems": {"nmf": {"components": 3}, "mixture": {}}})
    other = load_profile({"name": "x", "systems": {"nmf": {"components": 4}, "mixture": {}}})
    assert one.hash != two.hash and one.hash_of("nmf") == two.hash_of("nmf") != other.hash_of("nmf")
    assert two.hash_of("mixture") == other.hash_of("mixture") != two.hash_of("nmf")
    fewer = load_profile({**two.model_dump(), "baselines": ["nmf"], "pretrained": True})
    assert fewer.hash_of("nmf") == two.hash_of("nmf")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profile: {name: x, modle: {}}", "unknown key 'modle' in Profile; did you mean 'model'"),
        ("profile: {name: x, model: {hiden: 3}}", "unknown key 'hiden' in GlowConfig; did you mean 'hidden'"),
        ("profile: {name: x, training: {zzz: 3}}", "unknown key 'zzz' in TrainingConfig; valid keys: steps"),
        ("profile: {name: x, model: {hidden: -3}}", r"model\.hidden: .*greater than 0, found -3"),
        ("profile: {name: x, data: {kind: tape}}", r"data\.kind: .*found 'tape'"),
        ("profile: {}", "name: Field required"),
        ("profile: {name: ../x}", "name: .*pattern"),
        ("name: x", "expected the single top-level key 'profile'"),
        ("profile: [", "not a readable YAML file"),
    ],
)
def test_bad_profiles_name_the_file_and_the_key(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(FlowsepError, match=message) as error:
        load_profile(path)
    assert "mine.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("own", "injected", "wrong"),
    [
        ('profile = "quick"\nsource = "vocals"', "# Parameters\nprofile = {}\nsoruce = 'bass'\n", "soruce"),
        ('profile = "quick"', "# Parameters\nprofile = {}\nsystem = 3\n", "system"),
        ('profile = "quick"', "# Parameters\nprofile = float('nan')\n", ""),
        ('profile = "quick"', "soruce = 3", ""),  # a cell that somebody typed
    ],
)
def test_a_notebook_refuses_a_parameter_that_it_does_not_have(monkeypatch, own, injected, wrong):
    """Papermill only warns, and the notebook would run with its default."""
    history = SimpleNamespace(input_hist_raw=["", own, injected, "import companion"])
    shell = SimpleNamespace(history_manager=history)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    if wrong:
        with pytest.raises(FlowsepError, match=f"-p {wrong}: this notebook has no such parameter; it has profile"):
            load_profile("smoke")
    else:
        assert load_profile("smoke").name == "smoke"


def test_a_copy_of_a_profile_needs_a_name_of_its_own(tmp_path):
    text = (ROOT / "configs" / "smoke.yaml").read_text()
    for name in ("smoke", "mine"):
        (tmp_path / f"{name}.yaml").write_text(text)
    assert load_profile(tmp_path / "smoke.yaml").name == "smoke"
    with pytest.raises(
        FlowsepError, match=r"mine.yaml: profile.name: 'smoke' is the profile .*smoke.yaml; give the copy"
    ):
        load_profile(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text(text.replace("name: smoke", "name: mine"))
    assert load_profile(tmp_path / "mine.yaml").name == "mine"


def test_the_pins_can_be_installed_on_debian_s_python():
    """Debian 12 has Python 3.11.2; a package that asks for a later patch release would stop `make env` there."""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if pin := re.match(r"([\w.-]+)==", line):
            needs = importlib.metadata.metadata(pin[1])["Requires-Python"]
            assert not needs or SpecifierSet(needs).contains("3.11.2"), f"{line}: needs Python {needs}"


def test_unknown_profiles_and_folders(tmp_path, monkeypatch):
    with pytest.raises(FlowsepError, match=r"no such profile; profiles there: .*demo"):
        load_profile("demoo")
    with pytest.raises(FlowsepError, match="no folder with configs/ and notebooks/"):
        find_root(tmp_path)
    monkeypatch.chdir(tmp_path)  # where papermill was called without --cwd
    monkeypatch.setattr("companion.profile.notebook", lambda: None)  # a test before may have left a shell
    for profile in (ROOT / "configs" / "singing.yaml", {"name": "x"}):  # scores may be written from anywhere
        assert load_profile(profile).name in ("singing", "x")
    monkeypatch.setattr("companion.profile.notebook", lambda: True)
    for profile in ("smoke", ROOT / "configs" / "smoke.yaml", {"name": "x"}):
        with pytest.raises(FlowsepError, match=re.escape(f"papermill: --cwd {ROOT})")):
            load_profile(profile)


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_loads_its_profile_first(path):
    """So that a wrong parameter or folder ends it in a second."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert "load_profile(profile)" in cells[1] or "load_profile(profile)" not in "".join(cells)


def test_the_code_names_no_place_of_its_own():
    """Neither a path of some machine nor a package registry belongs in a tracked file."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    forbidden = re.compile(r"/(home|root|work)/\w|pypi\.org|registry\.npmjs|deb\.debian\.org")
    for name in filter(None, tracked.split("\0")):
        if Path(name).suffix in {".py", ".md", ".yaml", ".yml", ".toml", ".ipynb", ".sh", ".js", ".lock", ""}:
            place = forbidden.search((ROOT / name).read_text(encoding="utf-8"))
            assert not place or name == "tests/test_project.py", f"{name}: {place[0]}"


def test_the_readme_shows_the_table_that_the_demo_wrote(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from readme_table import MARKED, renewed

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert MARKED.search(readme)
    assert renewed(readme) == readme, "run python tools/readme_table.py"


def test_the_committed_results_are_of_the_committed_code(monkeypatch, capsys):
    """Scores, tables, chapters and texts: what is stale is named by `make check-results`, and stops here too."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import check_results

    assert check_results.main([]) == 0, capsys.readouterr().out
