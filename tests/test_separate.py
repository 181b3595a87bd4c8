"""The page Separate in a browser: Python's stems, nothing sent, odd files, a phone, and what file:// gets."""

import base64
import functools
import io
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import separate_page
import soundfile as sf
from axe_playwright_python.sync_playwright import Axe
from browser import open_page
from helpers import RATE, make_stems
from playwright.sync_api import expect

from flowsep import Separator, load_priors
from flowsep.search import config_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # each loads the runtime of 14 MB, or long sounds

ROOT = Path(__file__).parent.parent
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Separate</title><main><h1>Separate</h1><flowsep-separate></flowsep-separate></main>
<script src="_separate/page.js"></script>"""
ITERATIONS = 3
PATIENCE = 300_000  # ms, beside other jobs


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    separate_page.place(folder, ROOT)
    (folder / "separate.html").write_text(PAGE)
    path = folder / separate_page.FOLDER / "facts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"iterations": ITERATIONS}))
    return folder


@pytest.fixture
def page(site, chromium):
    """The page over http, as any static host serves it; `asked` holds (method, address) of each request."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.asked, page.home, page.errors = [], f"http://127.0.0.1:{server.server_port}/", []
    context.on("request", lambda request: page.asked.append((request.method, request.url)))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(f"{page.home}separate.html")
    page.get_by_role("button", name="Separate").wait_for()
    yield page
    context.close()
    server.shutdown()


def wav(audio, rate=RATE, subtype="FLOAT"):
    """Bytes of a file that the browser decodes without a change."""
    buffer = io.BytesIO()
    sf.write(buffer, audio.T, rate, subtype, format="WAV")
    return buffer.getvalue()


def give(page, content, name="song.wav"):
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "audio/wav", "buffer": content})


def stems_of(page):
    """{name: (channels, samples)} of the player."""
    page.locator("flowsep-player").wait_for()
    tags = page.locator("flowsep-player audio").evaluate_all("all => all.map(one => [one.dataset.stem, one.src])")
    return {name: sf.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))[0].T for name, source in tags}


def ratio(reference, estimate):
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - estimate).sum())


def test_the_pages_stems_are_pythons_and_nothing_is_sent(page, site):
    mixture = sum(make_stems(1, 2.0).values())
    before = [address for _, address in page.asked]
    assert not any(address.endswith((".wasm", ".onnx", ".flac")) for address in before)
    give(page, wav(mixture))
    page.get_by_role("button", name="Separate").click()
    stems = stems_of(page)
    priors = load_priors()
    priors = {name: priors[name] for name in json.loads((site / "_separate/facts.json").read_text())["sources"]}
    expected = Separator(priors, config_for(priors, iterations=ITERATIONS))(mixture, RATE)
    assert [*stems] == [*expected, "mixture"]
    for name, stem in expected.items():
        assert ratio(stem, stems[name]) > 40, name  # here the page's weights have 8 bits, Python's 16
    np.testing.assert_allclose(sum(stems[name] for name in expected), mixture, atol=1e-6)
    own = [(method, address) for method, address in page.asked if not address.startswith(("data:", "blob:"))]
    assert all(method == "GET" and address.startswith(page.home) for method, address in own)
    assert page.errors == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    faults = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")] == []


def test_odd_files_get_a_sentence(page):
    name, status = page.locator(".name"), page.locator(".status")
    slow = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 8000)).astype(np.float32)
    give(page, wav(slow, 8000))
    expect(name).to_have_text("song.wav: 1.0 s, mono.")
    give(page, wav(np.tile(slow, 600), 8000, "PCM_U8"), "long.wav")
    expect(name).to_have_text("long.wav: ten seconds from 4:55 on, of 10:00, mono.")
    page.get_by_label("Excerpt from").fill("60")
    expect(name).to_contain_text("from 1:00 on")
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
