"""The page Separate in headless Chromium, by WebAssembly, beside the same search in Python on one thread."""

import itertools
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import separate_page
import soundfile
from browser import launch, served
from helpers import RATE, make_stems
from playwright.sync_api import Browser

from companion.profile import find_root
from flowsep import Separator, load_priors
from flowsep.files import read_json
from flowsep.search import config_for

from .harness import Context, Figure, figure, threads
from .memory import peak_of

SECONDS, QUICK = 10.0, 0.5  # of the mixture
PATIENCE = 600_000  # ms
BARE = "<!doctype html><flowsep-separate></flowsep-separate><script src='_separate/page.js'></script>"
# the times of the answers, in seconds since the press, and the worker's own seconds of each iteration
WATCH = """one => { const start = performance.now(), answer = one._answer.bind(one); one.told = [];
    one._answer = (data) => { one.told.push([(performance.now() - start) / 1000, data.seconds ?? 0, !!data.stems]);
    answer(data); }; }"""


def press(browser: Browser, home: str, song: Path) -> dict[str, Any]:
    """One visit: bytes before and after the press, seconds to the first estimate and the stems, MiB of the renderer."""
    before = renderers()
    context = browser.new_context()
    page, loaded = context.new_page(), []  # type: Any, list[int]
    page.set_default_timeout(PATIENCE)
    page.on("response", lambda answer: loaded.append(int(answer.headers.get("content-length", 0))))
    page.goto(home)
    page.get_by_role("button", name="Separate").wait_for()
    page.locator("input[type=file]").set_input_files(song)  # from disk: a buffer would pass through the page's memory
    page.locator(".name", has_text=song.name).wait_for()
    early = sum(loaded)
    page.locator("flowsep-separate").evaluate(WATCH)
    page.get_by_role("button", name="Separate").click()
    page.locator("flowsep-player").wait_for()
    told = page.locator("flowsep-separate").evaluate("one => one.told")
    memory = max(peak_of(str(process)) for process in renderers() - before)
    context.close()
    steps = [(at, seconds) for at, seconds, _ in told if seconds]
    facts = {"early": early / 1e6, "late": (sum(loaded) - early) / 1e6, "first": steps[0][0], "memory": memory}
    return facts | {
        "iterations": [seconds for _, seconds in steps[1:]],
        "total": next(at for at, _, end in told if end),
    }


def renderers() -> set[int]:
    """The numbers of all processes that show pages of Chromium."""
    shown = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (place / "cmdline").read_bytes():
                shown.add(int(place.name))
        except OSError:  # it has ended meanwhile
            continue
    return shown


def python(priors: Mapping[str, Any], iterations: int, mixture: np.ndarray) -> list[float]:
    """Seconds of each iteration of the same search, on one thread, but the first."""
    times: list[float] = []
    with threads(1):
        Separator(priors, config_for(priors, iterations=iterations, refine=0, stereo=0))(
            mixture, RATE, lambda state: times.append(time.perf_counter())
        )
    return [b - a for a, b in itertools.pairwise(times)]


def run(context: Context) -> list[Figure]:
    """See `figures`."""
    with launch() as browser:
        return figures(context, browser)


def figures(context: Context, browser: Browser) -> list[Figure]:
    """Megabytes, seconds, memory, and the seconds of an iteration beside Python's; visits and searches in turn."""
    mixture: Any = sum(make_stems(1, QUICK if context.quick else SECONDS).values())
    shipped = load_priors()
    visits, beside = [], []
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        separate_page.place(site, find_root(Path(__file__).parent))
        (site / "index.html").write_text(BARE)
        song = site / "song.wav"
        soundfile.write(song, mixture.T, RATE, "FLOAT")
        about = read_json(site / separate_page.FOLDER / "facts.json")
        priors = {source: shipped[source] for source in about["ticked"]}
        with served(site) as home:
            for _ in range(context.repeats):
                visits.append(press(browser, home, song))
                beside.append(python(priors, about["iterations"], mixture))

    def of(key: str) -> list[float]:
        return [visit[key] for visit in visits]

    ours, theirs = ([float(np.median(each)) for each in times] for times in (of("iterations"), beside))  # type: ignore
    told = {"engine": "WebAssembly", "threads": 1, "sources": len(priors)}
    ten = f"{mixture.shape[1] / RATE:g} s of music"
    return [
        figure("page.bytes", "loaded before the press", of("early"), "MB"),
        figure("page.bytes", "loaded after the press: runtime, graph, priors, player", of("late"), "MB", **told),
        figure("page.bytes", "loaded for one prior more", about["megabytes"]["prior"], "MB", part="a further prior"),
        figure("page.first", f"from the press to the first estimate, {ten}", of("first"), "s", **told),
        figure("page.total", f"from the press to the stems, {ten}", of("total"), "s", **told),
        figure("page.memory", "most memory of the page's process", of("memory"), "MiB", **told),
        figure("page.iteration", f"one iteration, {ten}", ours, "s", **told),
        figure("page.iteration", f"one iteration, {ten}", theirs, "s", **(told | {"engine": "Python"})),
        figure(
            "page.share", "speed of an iteration", [b / a for a, b in zip(ours, theirs, strict=True)], "",
            reference="Python on one thread", **told,
        ),
    ]  # fmt: skip
