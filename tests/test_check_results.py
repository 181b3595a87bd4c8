"""`make check-results` on a copy of the demo's results: each kind of change to what a page shows is named."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import check_results
import kept
import media
import nbformat
import pandas as pd
import pytest
from helpers import copy_project
from readme_table import renewed

from companion import codehash, load_profile
from companion.systems.remarks import remarks
from companion.tables import write_tables
from flowsep.files import FlowsepError

ROOT = Path(__file__).parent.parent
DEMO = "results/demo"
# so much of the demo that there is one of each kind; all of it would take a minute
CHAPTERS = ("03_glow", "05_separate_nmf", "11_ablations", "15_what_it_cannot_do")
SYSTEMS = ("flowsep", "hpss", "instglow", "nmf")

# (what is changed, the text to replace there and by what, what is said of it). `code` and `value` stand for that cell
# of the first row; with None the file or folder is gone.
KINDS = {
    "a picture replaced": [(f"{DEMO}/book/media/*.webp", "", "x", "FILE: is not what book/kept.json says")],
    "a picture or sound deleted": [
        (f"{DEMO}/book/media/*.webp", "", None, "FILE: is missing, but is in book/kept.json"),
        (f"{DEMO}/book/media/*.mp3", "", None, "FILE: is missing, but is in book/kept.json"),
    ],
    "a sound replaced": [(f"{DEMO}/book/media/*.mp3", "", "x", "FILE: is not what book/kept.json says")],
    "the book or a record gone": [
        (f"{DEMO}/book", "", None, "results/demo: book/kept.json: is missing"),
        ("results/kept.json", "", None, "results/kept.json: no such file"),
    ],
    "a score falsified": [
        (f"{DEMO}/scores/nmf.csv", "value", "9.99", "scores/nmf.csv: is not what book/kept.json says"),
        (f"{DEMO}/scores/hpss.csv", "", None, "scores/hpss.csv: is missing"),
    ],
    "a table edited": [
        (f"{DEMO}/table-sisec18.md", "solo", "none", "table-sisec18.md: is not the table of these scores"),
        (f"{DEMO}/table-paper.csv", "solo", "none", "table-paper.csv: is not the table of these scores"),
        (f"{DEMO}/tables.json", "0", "1", "tables.json: the tables are of other scores"),
    ],
    "a file of numbers edited": [
        (f"{DEMO}/likelihood.csv", "vocals", "drums", "demo: likelihood.csv: is not what"),
        (f"{DEMO}/ablation.csv", "vocals", "drums", "demo: ablation.csv: is not what"),
        (f"{DEMO}/training/bass/loss.csv", "0", "1", "demo: training/bass/loss.csv: is not what"),
        ("results/research/trials.csv", "0", "1", "research/trials.csv: is not what results/kept.json"),
        ("results/research/silence.csv", "", None, "results/research/silence.csv: is missing, but is in results/kept"),
        ("results/bench/*.json", "0", "1", "FILE: is not what results/kept.json says"),
        ("results/scale.csv", "musdb18", "musdb19", "results/scale.csv: is not what"),
        ("results/faults.json", "1", "2", "results/faults.json: is not what"),
        ("results/cluster.json", "1", "2", "results/cluster.json: is not what"),
        ("results/published.csv", "full", "solo", "results/published.csv: is not what"),
    ],
    "a notebook's code changed": [
        ("notebooks/05_separate.ipynb", "progress=False", "progress=True", "notebooks/05_separate.ipynb was kept with"),
        ("notebooks/11_ablations.ipynb", "aspect=1.6", "aspect=1.7", "notebooks/11_ablations.ipynb was kept with"),
    ],
    "a result typed": [
        (
            "README.md",
            "## Citation",
            "An SDR of 9.93.\n\n## Citation",
            "README.md: 'SDR of 9.93' reads as a typed result",
        ),
        ("book/rivals.md", "\n\n", "\n\nIt is 37 times as fast.\n\n", "book/rivals.md: '37 times' reads as a typed"),
        ("book/rivals.md", "\n\n", "\n\n| flow | 9.93 |\n\n", "book/rivals.md: '| 9.93' reads as a typed result"),
        ("notebooks/13_speed.ipynb", "A song is", "9.93dB: A song is", "13_speed.ipynb: '9.93dB' reads as a typed"),
        ("notebooks/13_speed.ipynb", "A song is", "37x, a song is", "13_speed.ipynb: '37x' reads as a typed result"),
    ],
    "a cell of the README's table edited": [
        (
            "README.md",
            "| HPSS (3 settings tried) | none | 0 |",
            "| HPSS (3 settings tried) | none | 1 |",
            "README.md: its table is not the committed one",
        ),
    ],
    "a kept chapter or a record edited": [
        (f"{DEMO}/book/03_glow.ipynb", "the", "teh", "book/03_glow.ipynb: is not what book/kept.json says"),
        (f"{DEMO}/book/11_ablations.ipynb", "", None, "book/11_ablations.ipynb: is missing"),
        (f"{DEMO}/book/kept.json", '"scores": "', '"scores": "0', "book/kept.json: `scores` is not the hash of"),
        (f"{DEMO}/book/kept.json", '"data.json": "', '"data.json": "0', "data.json: is not what book/kept.json says"),
        ("results/kept.json", '"scale.csv": "', '"scale.csv": "0', "scale.csv: is not what results/kept.json says"),
    ],
    "code behind the numbers changed": [
        ("companion/studies/ablation.py", "(True, False)", "(True,)", "demo: ablation.csv was kept with other code"),
        ("companion/studies/new_sources.py", "/ len(parts)", "", "demo: new_sources.csv was kept with other code"),
        ("companion/studies/leakage.py", "/ ", "* ", "demo: book/15_what_it_cannot_do.ipynb was kept with other code"),
        ("companion/systems/hpss.py", "200.0", "201.0", "demo: hpss was scored by other code"),
        (f"{DEMO}/scores/nmf.csv", "code", "0123456789ab", "nmf was scored by other code (0123456789ab"),
        (f"{DEMO}/new_sources.csv", "code", "0123456789ab", "flowsep was scored by other code (0123456789ab"),
    ],
    "another configuration, seed or data": [
        ("configs/demo.yaml", "components: 40", "components: 41", "scores: nmf: config_hash is "),
        (
            "configs/demo.yaml",
            "baselines: [flowsep, hpss, nmf]",
            "baselines: [flowsep, nmf]",
            "the profile's systems differ by hpss",
        ),
        ("configs/demo.yaml", "seed: 2022", "seed: 2023", "scores: nmf: seed is 2022, expected 2023"),
        ("configs/demo.yaml", "tracks: 2", "tracks: 3", "book/11_ablations.ipynb: ran with another `ablation`"),
        (f"{DEMO}/data.json", '"hash": "', '"hash": "0', "scores: nmf: data_hash is "),
        (f"{DEMO}/data.json", "Toyband", "Band", "data.json: is not what book/kept.json says"),
    ],
}
HARMLESS = [
    ("notebooks/05_separate.ipynb", "This notebook separates all", "Here we separate all"),  # text
    ("notebooks/05_separate.ipynb", "progress=False)", "progress=False)  # no bar"),
    ("notebooks/05_separate.ipynb", 'system = \\"instglow', 'system = \\"nmf'),  # the run sets this parameter
    ("book/rivals.md", "\n\n", "\n\nSDR at 44.1 kHz by 2.0.3 of 514 × frames, as in SiSEC 2018.\n\n"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The project with a part of the demo, tracked by git, around the working directory."""
    tree = copy_project(tmp_path_factory.mktemp("results") / "copy")
    demo, committed = tree / DEMO, ROOT / DEMO
    table = (
        tree / "results" / "musdb18-7s" / "table-sisec18.md"
    )  # which the README shows; the rest would be checked, too
    text = table.read_text()
    shutil.rmtree(table.parent)
    table.parent.mkdir()
    table.write_text(text)
    for name in ("companion", "flowsep"):  # whose code is hashed
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    chapters = [f"book/{name}.ipynb" for name in CHAPTERS]
    shown = set().union(*(media.names(nbformat.read(committed / name, as_version=4)) for name in chapters))
    numbers = [name for name in kept.numbers(committed) if name[:7] != "scores/" or Path(name).stem in SYSTEMS]
    files = [committed / name for name in (*numbers, *chapters, *(f"book/media/{name}" for name in shown))]
    for path in (*files, *(path for pattern in kept.SHARED for path in (ROOT / "results").glob(pattern))):
        place = tree / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    config = tree / "configs" / "demo.yaml"
    config.write_text(config.read_text().replace("  name: demo\n", "  name: demo\n  baselines: [flowsep, hpss, nmf]\n"))
    git(tree, "init", "--quiet")
    git(tree, "add", "--force", "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree)
        patch.setattr(codehash, "ROOT", tree)
        profile = load_profile("demo")
        given = {"conventions": profile.evaluation.conventions, "sources": profile.sources}
        write_tables(demo, None, notes=remarks(profile), **given)
        (tree / "README.md").write_text(renewed((tree / "README.md").read_text()))
        kept.write_record(demo / "book" / "kept.json", kept.record(demo, demo / "book"))
        kept.write_record(tree / "results" / "kept.json", kept.hashes(tree / "results", *kept.SHARED))
        check_results.main([], accept="work on the code may go on while these tests run")
        yield tree


def only_the_readme_s_table(tree: Path) -> None:
    """Of the real songs only the table in the README stays; all else would be checked, too."""
    table = tree / "results" / "musdb18-7s" / "table-sisec18.md"
    text = table.read_text()
    shutil.rmtree(table.parent)
    table.parent.mkdir()
    table.write_text(text)


def git(tree: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(tree), *arguments], check=True)


@pytest.fixture
def check(tree, capsys):
    """Run the check; gives the faults, and holds the exit status and the last line against them."""

    def run(*names: str) -> list[str]:
        codehash._module.cache_clear()
        capsys.readouterr()
        status = check_results.main([*names])
        lines = capsys.readouterr().out.splitlines()
        whole = lines == ["the results of demo are of this code, and whole"]
        assert status == (0 if whole else 1) and lines
        return [] if whole else lines

    return run


@contextlib.contextmanager
def changed(path: Path, old: str, new: str | None) -> Iterator[None]:
    """A file with other content for a while, or a file or folder gone."""
    with tempfile.TemporaryDirectory() as folder:
        aside = path.rename(Path(folder) / path.name)
        try:
            if new is not None:
                content = aside.read_bytes()
                assert old.encode() in content, f"{path}: no longer has {old!r}"
                path.write_bytes(content.replace(old.encode(), new.encode(), 1))
            yield
        finally:
            path.unlink(missing_ok=True)
            aside.rename(path)


def test_what_was_kept_is_whole_and_there_are_thirteen_kinds_of_change(check):
    assert check() == [] and len(KINDS) == 13


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_each_kind_of_change_is_named(tree, check, changes):
    expected = []
    with contextlib.ExitStack() as until_here:
        for pattern, old, new, said in changes:
            path = sorted(tree.glob(pattern))[0]
            was = pd.read_csv(path, dtype=str)[old][0] if old in ("code", "value") else old
            until_here.enter_context(changed(path, was, new))
            expected.append(said.replace("FILE", path.name))
        lines = check()
    unsaid = [said for said in expected if not any(said in line for line in lines)]
    assert not unsaid, lines


def test_what_changes_no_number_is_left_alone(tree, check):
    with contextlib.ExitStack() as until_here:
        for name, old, new in HARMLESS:
            until_here.enter_context(changed(tree / name, old, new))
        assert check() == []


def test_only_committed_results_have_to_be_kept(tree, check):
    """A bench of one's own, and a profile that was run here, count once git knows them."""
    bench, scores = tree / "results" / "bench" / "mine.json", tree / "results" / "quick" / "scores"
    bench.write_text("{}")
    shutil.copytree(tree / DEMO / "scores", scores)
    try:
        assert check() == []
        git(tree, "add", "--force", str(bench), str(scores))
        lines = check()
    finally:
        git(tree, "rm", "-r", "-f", "--quiet", str(bench), str(scores))
    assert any("bench/mine.json: is not what results/kept.json says" in line for line in lines)
    assert any("results/quick: book/kept.json: is missing" in line for line in lines)
    assert check("demo") == []


def test_other_code_with_the_same_numbers_can_be_accepted(tree, check):
    with changed(tree / "companion" / "studies" / "ablation.py", "(True, False)", "[True, False]"):
        assert [line for line in check() if "ablation.csv was kept with other code" in line]
        assert check_results.main([], accept="the same rows") == 0
        assert pd.read_csv(tree / "results" / "accepted.csv").system.iloc[-1] == "ablation.csv"
    assert check() == []


def test_nothing_is_not_whole(tmp_path, monkeypatch, capsys):
    tree = copy_project(tmp_path / "copy")
    only_the_readme_s_table(tree)
    monkeypatch.chdir(tree)
    assert check_results.main([]) == 1
    assert "results: no profile has scores that are committed" in capsys.readouterr().out


def test_chapters_are_not_replaced_by_none(tree):
    with pytest.raises(FlowsepError, match="no executed chapters; make book PROFILE=demo"):
        kept.keep(tree / DEMO, {}, {})
    assert (tree / DEMO / "book" / "kept.json").is_file()
