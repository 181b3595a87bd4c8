"""The whole chain in the smoke profile: data, two tiny priors, separation, tables, the book, a reader's browser."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import check_results
import nbformat
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import launch, open_page
from helpers import copy_project
from pypdf import PdfReader

from companion import load_profile
from companion.tables import aggregate, load_scores
from flowsep import load_prior

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

GRAVE = ("serious", "critical")

pytestmark = pytest.mark.chain


def snakemake(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = ["snakemake", "--configfile", "configs/smoke.yaml", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess:
    """What `make book PROFILE=smoke` calls."""
    command = [sys.executable, "tools/run.py", "book", "--profile", "smoke", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy of the project (a folder with a blank and an umlaut in its name) with the book made, and what was said."""
    tree = copy_project(tmp_path_factory.mktemp("chain") / "flowsep kopie ü")
    done = run(tree)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return tree, done.stdout


@pytest.fixture(scope="module")
def tree(made):
    return made[0]


def test_a_run_says_what_it_does_and_where_the_book_lies(made, html):
    lines = made[1].splitlines()
    jobs = len(json.loads((made[0] / "results" / "smoke" / "logs" / "times.json").read_text()))
    assert f"({jobs} steps in" in lines[-2] and lines[-1].strip() == (html / "index.html").as_uri()
    assert len(lines) < 12 and sum("steps done: " in line for line in lines) >= 1  # one a minute


@pytest.fixture(scope="module")
def results(tree):
    return tree / "results" / "smoke"


@pytest.fixture(scope="module")
def html(tree):
    return tree / "book" / "_build" / "html"


@pytest.fixture(scope="module")
def chromium():
    with launch() as browser:
        yield browser


def test_every_system_scored_every_song_with_its_provenance(results):
    profile = load_profile("smoke")
    scores = load_scores(results)
    assert set(scores.system) == set(profile.systems)
    assert scores.track.nunique() == profile.data.test_tracks
    assert set(scores.status) <= {"ok", "silent"}
    assert (scores.config_hash == scores.system.map(profile.hash_of)).all() and (scores.seed == profile.seed).all()
    assert scores[scores.system == "instglow"].checkpoint.str.contains("vocals.safetensors:").all()
    assert (scores[scores.system == "instglow"].seconds > 0).all()


def test_the_tables_are_ordered_as_they_must_be(results):
    """However little was trained: the oracle is above the mixture in every source of every convention."""
    scores = load_scores(results)
    for convention in ("paper", "sisec18"):
        medians = aggregate(scores, convention).pivot(index="system", columns="stem", values="median")
        assert (medians.loc["ideal_ratio_mask"] > medians.loc["mixture"] + 1).all()
        table = pd.read_csv(results / f"table-{convention}.csv")
        assert set(table.system) == set(scores.system)
        assert "*measured here" in (results / f"table-{convention}.md").read_text()


def test_the_priors_carry_where_they_come_from(results):
    manifest = json.loads((results / "data.json").read_text())
    for source in load_profile("smoke").trained:
        prior = load_prior(results / "priors" / f"{source}.safetensors")
        assert prior.source == source and prior.provenance["data_hash"] == manifest["hash"]


def test_executed_notebooks_hold_no_error(results):
    paths = sorted((results / "notebooks").glob("*.ipynb"))
    profile = load_profile("smoke")  # the chapters, one training a source, one separation a system
    assert len(paths) == 15 + len(profile.trained) + len(profile.systems)
    for path in paths:
        for cell in nbformat.read(path, as_version=4).cells:
            assert all(output.output_type != "error" for output in cell.get("outputs", [])), path


def test_a_second_run_has_nothing_to_do(tree):
    done = snakemake(tree, "--dry-run", "book")
    assert "Nothing to be done" in done.stdout + done.stderr


def test_another_checkpoint_reruns_only_what_hangs_on_it(tree, results):
    path = results / "priors" / "vocals.safetensors"
    prior = load_prior(path)
    prior.provenance["note"] = "another checkpoint"  # Snakemake looks at the content too: touching alone is no change
    prior.save(path)
    done = snakemake(tree, "--dry-run", "book")
    jobs = (done.stdout + done.stderr).split("Job stats:")[1].split("\n\n")[0]
    planned = {line.split()[0]: int(line.split()[1]) for line in jobs.splitlines()[3:] if line.strip()}
    once = (
        "separate",
        "inside",
        "shown",
        "new_source",
        "ablations",
        "own_system",
        "tables",
        "listen",
        "failures",
        "book",
    )
    assert planned == dict.fromkeys(once, 1) | {"total": len(once)}


def test_a_failing_notebook_fails_the_run_and_is_kept_as_a_log(tree, results):
    """An unknown source: no half chapter appears, and the traceback can be read."""
    out = results / "logs" / "wrong.ipynb"
    command = [
        "papermill",
        "notebooks/04_train_prior.ipynb",
        str(out),
        "-f",
        "configs/smoke.yaml",
        "-p",
        "source",
        "harp",
    ]
    done = subprocess.run(command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "source 'harp' is not in profile smoke: vocals, accompaniment, bass" in done.stderr
    chapter = results / "notebooks" / "wrong.ipynb"
    shutil.copy(out, chapter)
    built = subprocess.run(
        [sys.executable, "tools/build_book.py", "results/smoke"], cwd=tree, capture_output=True, text=True
    )
    chapter.unlink()
    assert built.returncode != 0 and "wrong.ipynb: not a finished chapter: FlowsepError" in built.stderr


def test_other_checkpoints_give_a_table_beside_the_old(tree, results, tmp_path):
    mine = tmp_path / "mine <b>"
    shutil.copytree(results / "priors", mine)
    before = {path: path.read_bytes() for path in [*results.glob("table-*"), results / "tables.json"]}
    for notebook in ("06_results", "07_listen"):
        command = ["papermill", f"notebooks/{notebook}.ipynb", str(tmp_path / f"{notebook}.ipynb")]
        command += ["-f", "configs/smoke.yaml", "-p", "checkpoints", str(mine)]
        done = subprocess.run(command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    try:
        cells = nbformat.read(tmp_path / "06_results.ipynb", as_version=4).cells
        shown = [output.data for cell in cells for output in cell.get("outputs", []) if "data" in output]
        page = "".join(data.get("text/html", "") + data.get("text/markdown", "") for data in shown)
        assert "instglow [mine &lt;b&gt;]" in page and "mine <b>" not in page
        assert "instglow@mine" in (tmp_path / "07_listen.ipynb").read_text()
        found = aggregate(load_scores(results), "sisec18")
        assert found[found.variant == "mine <b>"]["median"].notna().sum() == len(load_profile("smoke").sources)
    finally:  # the tests below open the book of the profile itself
        for path in results.glob("*/instglow@*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        build = [sys.executable, "tools/build_book.py", "results/smoke", "--keep"]
        done = subprocess.run(build, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True)
        for path, data in before.items():
            path.write_bytes(data)
    assert done.returncode == 1 and "the tables are not of the scores beside them" in done.stderr


@pytest.mark.browser
def test_every_page_opens_offline_without_a_console_error(html, chromium):
    pages = [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts]
    assert len(pages) > 12
    for path in pages:
        with open_page(path, browser=chromium) as page:
            page.wait_for_load_state("load")
            assert page.console_errors == [], path.name
            assert page.requests == [], path.name
            assert page.locator("h1").count() >= 1 or path.stem in ("index", "genindex", "search"), path.name


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_on_a_page_shuts_readers_out(html, chromium, dark):
    """Contrast, names of controls, headings, landmarks: axe-core finds nothing serious, the shadow roots included."""
    names = ("intro", "references", "chapters/03_glow", "chapters/05_separate_flowsep", "chapters/06_results")
    names += ("chapters/07_listen", "chapters/14_beyond_the_paper", "chapters/15_what_it_cannot_do", "chapters/status")
    for name in (*names, "chapters/09_the_flow_shown", "glossary"):
        with open_page(html / f"{name}.html", dark=dark, browser=chromium) as page:
            page.wait_for_load_state("load")
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            told = {one["id"]: [node["html"][:200] for node in one["nodes"]] for one in found if one["impact"] in GRAVE}
            assert told == {}, name


@pytest.mark.browser
def test_every_picture_has_a_text(html, chromium):
    for path in sorted((html / "chapters").glob("*.html")):
        with open_page(path, browser=chromium) as page:
            texts = page.eval_on_selector_all("article img", "images => images.map(image => image.alt)")
            assert all(len(text) > 3 and "/" not in text[:3] for text in texts), path.name


@pytest.mark.browser
def test_the_results_can_be_sorted(html, chromium):
    with open_page(html / "chapters" / "06_results.html", browser=chromium) as page:
        table = page.locator("table.flowsep-scores").first
        table.get_by_role("button", name="vocals").click()
        assert table.locator("th[aria-sort=descending]").count() == 1


@pytest.mark.browser
def test_the_search_finds_a_chapter(html, chromium):
    with open_page(html / "search.html", browser=chromium) as page:
        page.goto(f"{(html / 'search.html').as_uri()}?q=dequantisation")
        page.wait_for_selector("#search-results li, #search-results p.search-summary:not(:empty)")
        page.goto(f"{(html / 'search.html').as_uri()}?q=temperature")
        page.wait_for_selector("#search-results li a")
        assert page.locator("#search-results li a", has_text="The flow, seen and heard").count() >= 1


@pytest.mark.browser
def test_the_first_page_is_light(html, chromium):
    with open_page(html / "intro.html", browser=chromium) as page:
        asked = set()
        page.on("request", lambda request: asked.add(request.url))
        page.reload(wait_until="networkidle")
    files = [Path(unquote(urlsplit(url).path)) for url in asked if url.startswith("file:")]
    assert len(files) > 5 and sum(path.stat().st_size for path in files) < 1.5e6


def test_a_downloaded_notebook_holds_all_that_its_page_shows(html, results):
    """Not the page's links to pictures: what `.ipynb` at the top of a page gives must open by itself."""
    name = "05_separate_flowsep.ipynb"
    whole = nbformat.read(html / "_sources" / "chapters" / name, as_version=4)
    text = (html / "_sources" / "chapters" / name).read_text()
    assert "_media" not in text and "data:image/webp;base64," in text and "data:audio/mpeg;base64," in text
    assert len(whole.cells) == len(nbformat.read(results / "notebooks" / name, as_version=4).cells)


def test_the_book_comes_again_from_what_was_kept(tree, results, html, monkeypatch, capsys):
    """Without data, priors or training: the same pages, the tables' chapters run again, and as a PDF."""
    before = {path.relative_to(html).as_posix() for path in html.rglob("*") if path.is_file()}
    build = [sys.executable, "tools/build_book.py", "results/smoke"]
    run = {"cwd": tree, "env": ENVIRONMENT, "capture_output": True, "text": True}
    done = subprocess.run([*build, "--keep"], **run)
    assert done.returncode == 0, done.stderr[-3000:]
    away = [results / name for name in ("notebooks", "priors", "systems", "audio")]
    for path in away:
        path.rename(path.with_name(f"{path.name} away"))
    try:
        done = subprocess.run([*build, "--kept"], **run)
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        for path in away:
            path.with_name(f"{path.name} away").rename(path)
    monkeypatch.chdir(tree)
    stale_results_are_named(results, capsys)
    after = {path.relative_to(html).as_posix() for path in html.rglob("*") if path.is_file()}
    pages = [name for name in before ^ after if not name.startswith(("_media/", "_sources/chapters/status"))]
    assert pages == []
    done = subprocess.run([sys.executable, "tools/make_pdf.py", "book/_build/html", "book.pdf"], **run)
    assert done.returncode == 0, done.stderr[-3000:]
    book = PdfReader(tree / "book.pdf")
    titles = [item.title for item in book.outline]
    assert (
        titles[0] == "Music separation with generative flow" and "Results" in titles and len(titles) == len(set(titles))
    )
    links = [note.get_object() for page in book.pages for note in page.get("/Annots", [])]
    assert sum("/Dest" in link for link in links) > 20
    assert not any(str(link.get("/A", {}).get("/URI", "")).endswith(".html") for link in links)


def stale_results_are_named(results, capsys):
    """What was kept is whole; each change of a file behind the book is found, by name."""

    def check() -> list[str]:
        status = check_results.main(["smoke"])
        # while somebody works on the code, rows say so; that alone is as it should be here
        lines = [line for line in capsys.readouterr().out.splitlines() if "git_dirty is yes" not in line]
        assert status == 1 or lines[0].endswith("are of this code, and whole")
        return [line for line in lines if line.startswith("results/")]

    assert check() == []
    changes = {
        results / "likelihood.csv": ("vocals", "drums"),
        results / "table-sisec18.md": ("mixture", "mixtures"),
        results / "tables.json": ("0", "1"),  # of a hash
        results / "data.json": ("Toyband", "Band"),
        results / "book" / "03_glow.ipynb": ("the", "teh"),
    }
    for path, (old, new) in changes.items():
        text = path.read_text()
        path.write_text(text.replace(old, new, 1))
        lines = check()
        assert any(path.name in line for line in lines), (path.name, lines)
        path.write_text(text)
    rows = (results / "scores" / "nmf.csv").read_text()
    code = pd.read_csv(results / "scores" / "nmf.csv").code[0]
    (results / "scores" / "nmf.csv").write_text(rows.replace(code, "0123456789ab"))
    assert any("nmf was scored by other code (0123456789ab" in line for line in check())
    (results / "scores" / "nmf.csv").write_text(rows)
    assert check() == []


@pytest.mark.browser
def test_a_player_plays_in_the_built_page(html, chromium):
    with open_page(html / "chapters" / "07_listen.html", browser=chromium) as page:
        player = page.locator("flowsep-player").first
        player.get_by_role("button", name="Play").first.click()
        page.wait_for_function("document.querySelector('flowsep-player').currentTime > 0.3")
        assert player.evaluate("element => element.playing")
        assert page.console_errors == []


@pytest.mark.browser
def test_pages_fit_a_phone_and_show_mathematics(html, chromium):
    with open_page(html / "chapters" / "03_glow.html", width=390, height=844, browser=chromium) as page:
        page.wait_for_selector("mjx-container")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_failing_step_shows_its_last_lines_and_its_log(tree):
    bench = tree / "results" / "bench" / "mine.json"
    bench.parent.mkdir(exist_ok=True)
    bench.write_text("{}")
    done = run(tree)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "FAILED: speed" in lines and any("mine.json: not a bench of this project" in line for line in lines)
    assert "  (log: results/smoke/logs/13_speed.ipynb)" in lines
    for words in ("Traceback", "Error in rule", "RuleException"):
        assert words not in done.stdout + done.stderr
