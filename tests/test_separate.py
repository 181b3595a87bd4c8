"""The page Separate in a browser: Python's stems, nothing sent, odd files, a recording, a phone, and from disk."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import separate_page
import soundfile as sf
from axe_playwright_python.sync_playwright import Axe
from browser import launch, open_page, served
from helpers import RATE, make_stems
from new_priors import FOLDER, rounded
from playwright.sync_api import expect

from benchmarks import harness, targets
from benchmarks import page as bench
from companion.band.toyband import STEMS, ensure_band
from companion.scores import sdr
from flowsep import Separator, load_priors
from flowsep.search import config_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # each loads the runtime of 14 MB, or long sounds

ROOT = Path(__file__).parent.parent
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Separate</title><main><h1>Separate</h1><flowsep-separate></flowsep-separate></main>
<script src="_separate/page.js"></script>"""
ITERATIONS = 3
PATIENCE = 300_000  # ms, beside other jobs
FOUR = ("vocals", "bass", "drums", "other")
MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # it beeps each second


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    separate_page.place(folder, ROOT)
    (folder / "separate.html").write_text(PAGE)
    path = folder / separate_page.FOLDER / "facts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"iterations": ITERATIONS}))
    return folder


@pytest.fixture(scope="module")
def chromium():
    with launch(*MICROPHONE) as browser:
        yield browser


@pytest.fixture
def page(site, chromium):
    """The page over http, as any static host serves it; `asked` holds (method, address) of each request."""
    with served(site) as home:
        context = chromium.new_context(viewport={"width": 390, "height": 844})
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.asked, page.home, page.errors = [], home, []
        context.on("request", lambda request: page.asked.append((request.method, request.url)))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"{home}separate.html")
        page.get_by_role("button", name="Separate").wait_for()
        yield page
        context.close()


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """(mixture, {source: stem}) of four seconds of the composed band, in 16 bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWSEP_DATA", str(tmp_path_factory.mktemp("band")))
        folder = next((ensure_band(seed=7, seconds=4, train=0, test=1) / "test").iterdir())
        stems = {name: sf.read(folder / f"{name}.wav", dtype="float32")[0].T for name in STEMS}
    return sum(stems.values()), stems


def wav(audio, rate=RATE, subtype="FLOAT"):
    """Bytes of a file that the browser decodes without a change."""
    buffer = io.BytesIO()
    sf.write(buffer, audio.T, rate, subtype, format="WAV")
    return buffer.getvalue()


def give(page, content, name="song.wav"):
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "audio/wav", "buffer": content})


def choose(page, *sources):
    """Tick these priors and no others."""
    for box in page.get_by_role("checkbox").all():
        box.set_checked(box.get_attribute("value") in sources)


def stems_of(page):
    """{name: (channels, samples)} of the player."""
    page.locator("flowsep-player").wait_for()
    tags = page.locator("flowsep-player audio").evaluate_all("all => all.map(one => [one.dataset.stem, one.src])")
    return {name: sf.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))[0].T for name, source in tags}


def ratio(reference, estimate):
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - estimate).sum())


def asked(page, kind):
    return [address.rpartition("/")[2] for _, address in page.asked if address.endswith(kind)]


@pytest.mark.parametrize("chosen", [FOUR, (*FOUR, "guitar", "piano"), ("drums", "piano"), ("bass",)], ids=len)
def test_the_pages_stems_are_pythons(page, song, chosen):
    """Whichever priors are ticked: with the page's weights of 8 bits, and with the 16 bits that they were made from."""
    mixture, truth = song
    assert asked(page, ".bin") == asked(page, ".wasm") == asked(page, ".onnx") == asked(page, ".flac") == []
    give(page, wav(mixture))
    choose(page, *chosen)
    page.get_by_role("button", name="Separate").click()
    stems = stems_of(page)
    assert sorted(asked(page, ".bin")) == sorted(f"{source}.bin" for source in chosen)
    kept = load_priors() | load_priors(FOLDER)
    sixteen = {source: kept[source] for source in chosen}
    assert [*stems] == [*sixteen, "mixture"]
    for priors, least in (({source: rounded(prior) for source, prior in sixteen.items()}, 60), (sixteen, 30)):
        expected = Separator(priors, config_for(priors, iterations=ITERATIONS, refine=0, stereo=0))(mixture, RATE)
        for name, stem in expected.items():
            assert ratio(stem, stems[name]) > least, name
            if name in truth:
                assert sdr(truth[name], stems[name]) == pytest.approx(sdr(truth[name], stem), abs=0.1), name
    np.testing.assert_allclose(sum(stems[name] for name in chosen), mixture, atol=1e-6)
    own = [(method, address) for method, address in page.asked if not address.startswith(("data:", "blob:"))]
    assert all(method == "GET" and address.startswith(page.home) for method, address in own)
    assert page.errors == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    faults = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")] == []


def test_the_text_has_the_size_of_the_files(site):
    about = json.loads((site / separate_page.FOLDER / "facts.json").read_text())
    assert f"| {about['megabytes']['prior']} MB per prior |" in (ROOT / "book" / "separate.md").read_text("utf-8")
    assert about["megabytes"]["prior"] < 2 and about["ticked"] == [*FOUR]


def test_a_prior_that_is_ticked_later_is_loaded_then(page, site):
    give(page, wav(make_stems(2, 0.5)["vocals"]))
    choose(page, "vocals", "bass")
    page.get_by_role("button", name="Separate").click()
    assert [*stems_of(page)] == ["vocals", "bass", "mixture"]
    before = len(page.asked)
    choose(page, "guitar", "bass")
    page.get_by_role("button", name="Separate").click()
    page.locator("flowsep-player audio[data-stem=guitar]").wait_for(state="attached")
    assert [*stems_of(page)] == ["bass", "guitar", "mixture"]
    late = [address.rpartition("/")[2] for _, address in page.asked[before:] if address.startswith(page.home)]
    assert late == ["guitar.bin"]
    (site / separate_page.FOLDER / "piano.bin").rename(site / "away")
    try:
        choose(page, "piano")
        page.get_by_role("button", name="Separate").click()
        expect(page.locator(".status")).to_contain_text("piano.bin could not be loaded (404)")
    finally:
        (site / "away").rename(site / separate_page.FOLDER / "piano.bin")


def test_a_search_stops_and_goes_on(page, site):
    """A search of more iterations than anybody waits for; its weight moves meanwhile."""
    about = json.loads((site / separate_page.FOLDER / "facts.json").read_text()) | {"iterations": 100_000}
    page.route("**/facts.json", lambda route: route.fulfill(json=about))
    page.reload()
    give(page, wav(make_stems(3, 0.5)["drums"]))
    choose(page, "drums", "bass")
    page.get_by_role("button", name="Separate").click()
    status, misfit = page.locator(".status").first, page.locator(".misfit")
    for _ in range(2):
        expect(status).to_have_text("Searching. Press a play button to hear the present state.")
        page.get_by_role("button", name="Play bass").first.click()
        page.get_by_role("button", name="Stop bass").wait_for()
        page.get_by_label("Weight of the priors").fill("12")
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(status).to_have_text("Stopped. Go on, or keep these stems.")
        assert [*stems_of(page)] == ["bass", "drums", "mixture"]
        reached = misfit.text_content()
        page.get_by_role("button", name="Go on").click()
        expect(misfit).not_to_have_text(reached)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Start over").click()
    page.get_by_role("button", name="Separate").click()
    page.get_by_role("button", name="Stop", exact=True).click()  # before the first estimate
    expect(status).to_have_text("Stopped. Go on, or keep these stems.")
    assert page.errors == []


def test_a_recording_is_taken_apart(page):
    """Chromium's microphone of tests beeps; the second press ends the recording."""
    page.get_by_role("button", name="Record ten seconds").click()
    page.get_by_role("button", name="Recording; press to end").wait_for()
    page.wait_for_timeout(2500)
    page.get_by_role("button", name="Recording; press to end").click()
    expect(page.locator(".name")).to_contain_text("Your recording: ")
    choose(page, "drums", "piano")
    page.get_by_role("button", name="Separate").click()
    stems = stems_of(page)
    assert [*stems] == ["drums", "piano", "mixture"] and np.abs(stems["mixture"]).max() > 0.01
    assert page.errors == []


def test_the_bench_of_the_page_has_all_its_figures(chromium):
    rows = bench.figures(harness.Context(quick=True), chromium)
    assert all(row["value"] > 0 for row in rows)
    wanted = {target.figure for target in targets.TARGETS if target.figure.startswith("page.")}
    assert wanted <= {row["name"] for row in rows}
    told = separate_page.measured({"an abacus": {"topics": {"page": {"figures": rows}}}})
    assert told.startswith("On an abacus, with ten seconds of music") and told.count("MiB") == 1
    assert "python -m benchmarks --only page" in separate_page.measured({})


def test_odd_files_get_a_sentence(page):
    name, status = page.locator(".name"), page.locator(".status")
    slow = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 8000)).astype(np.float32)
    give(page, wav(slow, 8000))
    expect(name).to_have_text("song.wav: 1.0 s, mono.")
    give(page, wav(np.tile(slow, 600), 8000, "PCM_U8"), "long.wav")
    expect(name).to_have_text("long.wav: ten seconds from 4:55 on, of 10:00, mono.")
    page.get_by_label("Excerpt from").fill("60")
    expect(name).to_contain_text("from 1:00 on")
    give(page, wav(np.tile(slow, (6, 1)), 8000), "six.wav")
    expect(name).to_have_text("six.wav: 1.0 s, the first two of 6 channels.")
    give(page, b"no audio at all", "letter.txt")
    expect(status).to_contain_text("“letter.txt” is no audio that this browser can decode")
    give(page, wav(slow[:, :800], 8000))
    expect(status).to_contain_text("shorter than 0.3 s")
    give(page, wav(0 * slow, 8000))
    expect(status).to_have_text("This sound is silent; choose another one.")
    expect(page.get_by_role("button", name="Separate")).to_be_disabled()
    assert page.errors == []


def test_from_disk_it_names_the_command(site, chromium):
    with open_page(site / "separate.html", browser=chromium) as page:
        expect(page.locator("flowsep-separate")).to_contain_text("python -m http.server --directory book/_build/html")
        assert page.console_errors == []


def test_a_graphics_processor_that_fails_leaves_the_search_to_webassembly(page, site):
    worker = site / separate_page.FOLDER / "worker.mjs"
    adapter = "Object.defineProperty(self.navigator, 'gpu', { value: { requestAdapter: async () => ({}) } });\n"
    worker.write_text(adapter + worker.read_text())  # imports come first wherever they stand
    give(page, wav(make_stems(2, 0.5)["vocals"]))
    page.get_by_label("drums").uncheck()
    page.get_by_role("button", name="Separate").click()
    assert [*stems_of(page)] == ["vocals", "bass", "other", "mixture"]
    expect(page.locator(".misfit")).to_contain_text("by WebAssembly")
    assert page.locator("flowsep-separate").evaluate("one => one._note").startswith("WebGPU did not run the search")
