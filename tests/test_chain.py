"""The whole chain in the smoke profile: data, two tiny priors, separation, tables, the book, a reader's browser."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import open_page, served
from chain import snakemake
from playwright.sync_api import expect

from companion import load_profile
from companion.tables import aggregate, load_scores, ranking, written
from flowsep import load_prior

GRAVE = ("serious", "critical")
PARTS_OF_RESULTS = """[...document.querySelectorAll("#search-results li > a")].map((result) => {
  const page = result.getAttribute("href").split("#")[0];
  const link = document.querySelector(`.bd-links a[href="${page}"]`);
  return link?.closest("ul").previousElementSibling?.textContent.trim() ?? "";
})"""

pytestmark = pytest.mark.chain


def test_a_run_says_what_it_does_and_where_the_book_lies(made, html):
    lines = made[1].splitlines()
    jobs = len(json.loads((made[0] / "results" / "smoke" / "logs" / "times.json").read_text()))
    assert f"({jobs} steps in" in lines[-2] and lines[-1].strip() == (html / "index.html").as_uri()
    assert len(lines) < 12 and sum("steps done: " in line for line in lines) >= 1  # one a minute


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
    for source in load_profile("smoke").sources:
        prior = load_prior(results / "priors" / f"{source}.safetensors")
        assert prior.source == source and prior.provenance["data_hash"] == manifest["hash"]


def test_executed_notebooks_hold_no_error(results):
    paths = sorted((results / "notebooks").glob("*.ipynb"))
    profile = load_profile("smoke")  # the chapters, one training a source, one separation a system
    assert len(paths) == 15 + len(profile.sources) + len(profile.systems)
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
        "ablations",
        "own_system",
        "tables",
        "listen",
        "failures",
        "book",
    )
    assert planned == dict.fromkeys(once, 1) | {"total": len(once)}


@pytest.mark.browser
def test_every_page_opens_offline_with_a_text_and_a_caption_for_each_picture(html, chromium):
    pages = [path for path in sorted(html.rglob("*.html")) if "_static" not in path.parts]
    assert len(pages) > 12
    for path in pages:
        with open_page(path, browser=chromium) as page:
            page.wait_for_load_state("load")
            assert page.console_errors == [], path.name
            assert page.requests == [], path.name
            assert page.locator("h1").count() >= 1 or path.stem in ("index", "genindex", "search"), path.name
            if path.parent.name == "chapters":
                texts = page.eval_on_selector_all("article img", "images => images.map(image => image.alt)")
                assert all(len(text) > 3 and "/" not in text[:3] for text in texts), path.name
                without = (
                    "images => images.filter(image => !image.closest('figure, flowsep-slider')).map(({alt}) => alt)"
                )
                bare = page.eval_on_selector_all("article img", without)
                assert bare == [], f"{path.name}: pictures without a caption; give their cells one"


@pytest.mark.browser
def test_nothing_on_a_page_shuts_readers_out(html, chromium):
    """Contrast, names of controls, headings, landmarks: axe-core finds nothing serious, the shadow roots included."""
    names = ("intro", "references", "chapters/03_glow", "chapters/separate_flows", "chapters/06_results")
    names += ("chapters/07_listen", "chapters/14_beyond_the_paper", "chapters/15_what_it_cannot_do", "chapters/status")
    for name in (*names, "chapters/09_the_flow_shown", "chapters/04_train_prior", "glossary", "api"):
        with open_page(html / f"{name}.html", browser=chromium) as page:
            page.wait_for_load_state("load")
            assert grave_faults(page, {"resultTypes": ["violations"]}) == {}, name
            page.add_style_tag(content="* { transition: none !important; }")
            page.evaluate("document.documentElement.dataset.theme = 'dark'")  # which changes colours alone
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
            assert grave_faults(page, {"runOnly": ["color-contrast"], "resultTypes": ["violations"]}) == {}, name


def grave_faults(page, options):
    faults = Axe().run(page, options=options).response["violations"]
    return {one["id"]: [node["html"][:200] for node in one["nodes"]] for one in faults if one["impact"] in GRAVE}


@pytest.mark.browser
def test_one_page_shows_each_prior_in_its_tab(html, chromium):
    """A click shows one run in all places of the page, which its address and the arrow keys do, too; paper has all."""
    with open_page(html / "chapters" / "04_train_prior.html", browser=chromium) as page:
        page.wait_for_selector(".flowsep-runs")
        bars, players = page.locator(".flowsep-runs"), page.locator("flowsep-player")
        names = bars.first.locator("button").all_inner_texts()
        assert len(names) == 2 and players.count() == len(names)
        assert [players.nth(k).is_visible() for k in range(len(names))] == [True] + [False] * (len(names) - 1)
        players.first.get_by_role("button", name="Play").first.click()
        bars.last.get_by_role("tab", name=names[1]).click()
        assert [players.nth(k).is_visible() for k in range(2)] == [False, True]
        assert not players.first.evaluate("element => element.playing")
        assert page.url.endswith(f"#{names[1]}")
        page.keyboard.press("ArrowRight")
        chosen = page.locator(".flowsep-runs [aria-selected=true]").all_inner_texts()
        assert chosen == [names[0]] * bars.count()
        page.emulate_media(media="print")
        assert all(players.nth(k).is_visible() for k in range(len(names)))
        assert players.first.bounding_box()["height"] < 40  # a sentence
        page.goto(f"{(html / 'chapters' / '04_train_prior.html').as_uri()}#{names[-1]}")
        assert page.locator(".flowsep-runs [aria-selected=true]").first.inner_text() == names[-1]


@pytest.mark.browser
def test_a_picture_opens_in_its_own_size(html, chromium):
    with open_page(html / "chapters" / "03_glow.html", width=390, browser=chromium) as page:
        picture, large = page.locator(".bd-article img").last, page.locator("dialog.flowsep-large img")
        picture.click()
        assert large.bounding_box()["width"] > 1.5 * picture.bounding_box()["width"]
        page.keyboard.press("Escape")
        expect(large).to_have_count(0)
        picture.press("Enter")
        assert large.get_attribute("alt") == picture.get_attribute("alt")
        large.click()
        expect(large).to_have_count(0)


@pytest.mark.browser
def test_the_results_can_be_sorted(html, chromium):
    with open_page(html / "chapters" / "06_results.html", browser=chromium) as page:
        table = page.locator("table.flowsep-scores").first
        table.get_by_role("button", name="vocals").click()
        assert table.locator("th[aria-sort=descending]").count() == 1
        page.set_viewport_size({"width": 718, "height": 1000})  # A4 within its margins
        page.emulate_media(media="print")
        assert not page.locator(".flowsep-filter").first.is_visible()
        mean = table.locator("tbody tr:not(:has(th[colspan]))").first.locator("td").last.bounding_box()
        assert mean["x"] + mean["width"] <= 718


@pytest.mark.browser
def test_the_search_finds_a_chapter(html, chromium):
    with open_page(html / "search.html", browser=chromium) as page:
        page.goto(f"{(html / 'search.html').as_uri()}?q=dequantisation")
        page.wait_for_selector("#search-results li, #search-results p.search-summary:not(:empty)")
        page.goto(f"{(html / 'search.html').as_uri()}?q=temperature")
        page.wait_for_selector("#search-results li a")
        assert page.locator("#search-results li a", has_text="The flow, seen and heard").count() >= 1
        page.goto(f"{(html / 'search.html').as_uri()}?q=InstGlow")
        expect(page.locator("#search-results .search-summary")).to_contain_text("found")
        parts = page.evaluate(PARTS_OF_RESULTS)
        later = [part.startswith(("Appendix", "Look it up")) for part in parts]
        assert len(parts) > 5 and later == sorted(later) and not later[0]


@pytest.mark.browser
def test_the_first_page_is_light(html, chromium):
    with open_page(html / "intro.html", browser=chromium) as page:
        asked = set()
        page.on("request", lambda request: asked.add(request.url))
        page.reload(wait_until="networkidle")
    files = [Path(unquote(urlsplit(url).path)) for url in asked if url.startswith("file:")]
    assert len(files) > 5 and sum(path.stat().st_size for path in files) < 1.5e6


def test_a_downloaded_notebook_holds_the_pictures_of_its_page(html, results):
    """Not links to them: what `.ipynb` at the top of a page gives must open by itself. Sounds are too large for it."""
    name = "05_separate_flowsep.ipynb"  # one tab of a page, whose last fold links it
    assert f'href="../_sources/chapters/{name}"' in (html / "chapters" / "separate_flows.html").read_text()
    whole = nbformat.read(html / "_sources" / "chapters" / name, as_version=4)
    text = (html / "_sources" / "chapters" / name).read_text()
    assert "_media" not in text and "data:image/webp;base64," in text
    assert "<flowsep-player" not in text and "The player is on the page in the book" in text
    assert len(whole.cells) == len(nbformat.read(results / "notebooks" / name, as_version=4).cells)


def test_the_first_song_is_heard_from_all_systems_best_first(results, html):
    page = (html / "chapters" / "07_listen.html").read_text()
    heard = list(dict.fromkeys(re.findall(r'data-system="([^"]*)"', page)))
    ranked = ranking(load_scores(results), "sisec18", load_profile("smoke").sources).system
    assert heard == ["references", *(written(name) for name in ranked if name != "mixture")]


@pytest.mark.browser
def test_a_player_loads_its_sounds_when_it_plays(html, chromium):
    """From disk by scripts beside the page, over http from the files themselves; each system when it is chosen."""
    name = "chapters/07_listen.html"
    with open_page(html / name, browser=chromium) as page:
        assert heard(page) == {".mp3.js"}
        assert page.console_errors == []
    with served(html) as address:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(f"{address}{name}")
        assert heard(page) == {".mp3"}
        context.close()


def heard(page) -> set[str]:
    """What kinds of files a page asks for when its first player plays."""
    asked = []
    page.on("request", lambda request: "_media" in request.url and asked.append(Path(urlsplit(request.url).path)))
    player = page.locator("flowsep-player").first
    first = player.evaluate("element => element.querySelectorAll(`audio[data-system='${element.systems[0]}']`).length")
    assert player.locator("audio").count() > first > 1
    player.get_by_role("button", name="Play").first.click()
    page.wait_for_function("document.querySelector('flowsep-player').currentTime > 0.3")
    assert player.evaluate("element => element.playing") and len({path.name for path in asked}) <= first
    return {"".join(path.suffixes) for path in asked}


@pytest.mark.browser
def test_pages_fit_a_phone_and_show_mathematics(html, chromium):
    with open_page(html / "chapters" / "03_glow.html", width=390, height=844, browser=chromium) as page:
        page.wait_for_selector("mjx-container")
        captions = page.eval_on_selector_all("figcaption", "all => all.map(each => getComputedStyle(each).fontWeight)")
        assert captions and set(captions) == {"400"}  # thinner letters fade into the page
        wide = []
        for path in sorted({*html.glob("*.html"), *html.glob("chapters/*.html")} - {html / "index.html"}):
            page.goto(path.as_uri())
            if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
                wide.append(path.name)
        assert wide == []
