"""The live form in a real JupyterLab, as `make live` starts it, under a real mouse: uploads, paths, players, saves."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile as sf
import yaml
from browser import launch
from helpers import copy_project, make_stems, write_hq_tree
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
SOURCES = ("vocals", "bass")
PATIENCE = 120_000  # ms, for a server, a kernel or 100 MB beside other jobs


@pytest.fixture
def tree(tmp_path, tiny_prior):
    """A copy of the project in which the live notebook has a profile with one short song, and two tiny priors."""
    tree = copy_project(tmp_path / "tree")
    profile = {"name": "tiny", "data": {"kind": "musdb18hq", "root": str(write_hq_tree(tmp_path / "songs"))}}
    (tree / "configs" / "tiny.yaml").write_text(yaml.safe_dump({"profile": profile}))
    for source in SOURCES:
        tiny_prior(len(source), source).save(tree / "results" / "tiny" / "priors" / f"{source}.safetensors")
    path = tree / "notebooks" / "live.ipynb"
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = 'profile, priors = "tiny", ""'
    nbformat.write(notebook, path)
    return tree


def address(server: subprocess.Popen, home: Path) -> dict:
    """What the server tells about itself, such as its URL and token, once it listens."""
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        assert server.poll() is None and time.monotonic() < deadline, (home / "server.log").read_text()
        for path in (home / "runtime").glob("jpserver-*.json"):
            with contextlib.suppress(json.JSONDecodeError):  # being written
                return json.loads(path.read_text())
        time.sleep(0.1)


@contextlib.contextmanager
def lab(tree: Path, home: Path, limit: int | None = None) -> Iterator[Page]:
    """The page of the live notebook, all cells run, on the server of `make live`; `limit` lowers its upload limit."""
    options = "--allow-root --no-browser"
    plan = ["make", "-n", "--no-print-directory", "live", f"OPTIONS={options}"]
    made = subprocess.run(plan, cwd=ROOT, capture_output=True, text=True, check=True)
    command = made.stdout.partition("tools/env.sh\n")[2]
    assert "FLOWSEP_UPLOAD_MB=300 " in command and "301_000_000" in command
    if limit is not None:
        command = command.replace("UPLOAD_MB=300", f"UPLOAD_MB={limit}").replace("301_000_000", f"{limit + 1}_000_000")
    home.mkdir(exist_ok=True)
    own = {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("RUNTIME", "CONFIG", "DATA")}
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            ["bash", "-c", command],
            cwd=tree,
            env={**os.environ, **own, "HOME": str(home)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        known = address(server, home)
        with launch() as browser:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(PATIENCE)
            page.goto(f"{known['url']}lab/tree/live.ipynb?token={known['token']}")
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            yield page
    finally:
        for end in (signal.SIGTERM, signal.SIGKILL):  # upon the first it ends its kernels, too
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(server.pid, end)
                server.wait(20)


def shows(page: Page, text: str) -> None:
    """Wait for a line of the form with this text."""
    lines = page.locator(".jp-OutputArea .widget-label")
    try:
        expect(lines.filter(has_text=text)).to_be_visible(timeout=PATIENCE)
    except AssertionError as error:
        raise AssertionError(f"no line with {text!r} in {lines.all_inner_texts()}") from error


def press(page: Page, name: str) -> None:
    page.locator(".jp-OutputArea button", has_text=name).click()


def enter(page: Page, name: str, value: str) -> None:
    field = page.get_by_label(name, exact=True)
    if name == "Iterations":  # a slider, with its number beside it
        field = page.locator(".jp-OutputArea .widget-slider .widget-readout")
    field.fill(value)
    field.press("Enter")


def upload(page: Page, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        press(page, "Upload a song")
    chooser.value.set_files(path)


def separate(page: Page, name: str) -> None:
    """Separate, and wait for the player with this title."""
    press(page, "Separate")
    shows(page, f"{name}: ")
    shows(page, "s of music")
    expect(page.locator("flowsep-player")).to_have_attribute("data-title", name, timeout=PATIENCE)


def test_a_song_of_100_mb_a_path_at_96_khz_and_a_failed_save(tree, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    song = "Long & <b>loud<b> $x^2$.wav"
    sf.write(tmp_path / song, np.zeros((24_999_989, 2), np.int16), 44100)
    assert (tmp_path / song).stat().st_size == 100_000_000
    sf.write(home / "high.flac", sum(make_stems(3, 3 * 96 / 44.1).values()).T, 96000)
    with lab(tree, home) as page:
        shows(page, "Separates: song 0, 0:00, 44.1 kHz, stereo, ")
        shows(page, "Uploads may have up to 300 MB.")
        upload(page, tmp_path / song)
        shows(page, f"Separates: {song}, 9:27, 44.1 kHz, stereo, 100.0 MB")
        enter(page, "Seconds", "2")
        enter(page, "Iterations", "3")
        separate(page, song)
        saved = tree / "results" / "tiny" / "live"
        press(page, "Save")
        shows(page, f"saved in {saved}")
        assert {path.name for path in saved.glob("*/*")} == {f"{source}.flac" for source in SOURCES}
        shutil.rmtree(saved)
        saved.touch()  # a file where the folder should be
        separate(page, song)  # what is saved cannot be saved twice
        press(page, "Save")
        shows(page, f"not saved: {saved}")

        enter(page, "Path of a song", "~/none.flac")
        shows(page, f"Separates nothing: {home}/none.flac: no such file")
        enter(page, "Path of a song", "~/high.flac")
        shows(page, "Separates: high.flac, 0:03, 96 kHz, stereo, ")
        separate(page, "high.flac")
        page.locator("flowsep-player").get_by_role("button", name="Play").click()
        page.wait_for_function("document.querySelector('flowsep-player').currentTime > 0.3")


def test_an_upload_over_the_limit_is_told_and_the_next_one_arrives(tree, tmp_path):
    for name, seconds in (("long.wav", 30), ("short.wav", 1)):
        sf.write(tmp_path / name, np.zeros((44100 * seconds, 2), np.int16), 44100)
    with lab(tree, tmp_path / "home", limit=1) as page:
        shows(page, "Uploads may have up to 1 MB.")
        upload(page, tmp_path / "long.wav")
        shows(page, "The page connected anew. Uploads of more than 1 MB end the connection and are lost")
        shows(page, "Separates: song 0, ")
        upload(page, tmp_path / "short.wav")
        shows(page, "Separates: short.wav, 0:01, ")
