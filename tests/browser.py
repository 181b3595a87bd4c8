"""Headless Chromium without a network, for the tests that open pages as a reader would: from disk, offline."""

import contextlib
import functools
import shutil
import tempfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOCAL = ("file:", "data:", "blob:", "about:")


@contextlib.contextmanager
def launch(*flags: str) -> Iterator[Browser]:
    """A headless Chromium with a new, empty profile. Raises AssertionError where it is not installed.

    flags: besides `FLAGS`.
    """
    chromium = shutil.which("chromium")
    assert chromium, "browser tests need Chromium in the PATH: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *flags])
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder over http on this machine, as any static host serves it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


@contextlib.contextmanager
def open_page(
    path_or_html: str | Path,
    width: int = 1440,
    height: int = 900,
    dark: bool = False,
    java_script: bool = True,
    browser: Browser | None = None,
) -> Iterator[Page]:
    """Open a file (a Path) or a piece of HTML (a str, written to a temporary file) offline and with nothing remembered.

    The page yielded carries `console_errors`, the texts of console errors and uncaught exceptions, and `requests`, the
    addresses it asked for beyond the disk (anything but file:, data: and blob:); all of those are refused. Both lists
    grow as the page lives, and should stay empty. `browser`: one that `launch` gave, to save the second of a start.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(path_or_html, Path):
            path = path_or_html.resolve(strict=True)
        else:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "page.html"
            path.write_text(path_or_html, encoding="utf-8")
        browser = browser or stack.enter_context(launch())
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=java_script,
            offline=True,
        )
        stack.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.console_errors, page.requests = [], []
        page.on("console", lambda line: page.console_errors.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: page.console_errors.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(LOCAL) else page.requests.append(asked.url))
        page.on("websocket", lambda socket: page.requests.append(socket.url))
        page.goto(path.as_uri())
        yield page
