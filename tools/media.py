"""Pictures and sounds of executed notebooks, apart from their text.

A notebook that ran holds them as base64: a chapter takes megabytes, most of it PNG pictures of spectrograms, and the
same few seconds of music stand in a dozen chapters. `take` lifts them out under the hash of their bytes, pictures as
WebP, and leaves `media:<name>` in their places; `place` and `whole` put them back, for a page and for a file to run on.
"""

import base64
import binascii
import hashlib
import html
import io
import re
from collections.abc import Mapping

from nbformat import NotebookNode
from PIL import Image

KINDS = {"audio/mpeg": "mp3", "audio/flac": "flac", "image/png": "png", "image/webp": "webp"}
MEDIA = {suffix: kind for kind, suffix in KINDS.items()}
DATA = re.compile(rf"data:({'|'.join(KINDS)});base64,([A-Za-z0-9+/=]{{64,}})")
NAME = re.compile(r"media:([0-9a-f]{16})\.(mp3|flac|png|webp)")
QUALITY = 85  # of pictures with noise in them, spectrograms; lines and letters are kept without loss
NOISY = 120_000  # bytes of a PNG from which on it counts as one


def take(notebook: NotebookNode) -> dict[str, bytes]:
    """Replace the pictures and sounds in the outputs of `notebook` by `media:<name>`; returns {name: bytes}.

    A PNG output becomes an `<img>` with the text that the notebook gives it (`alt` in the metadata of the output), or
    else with the title of its section.
    """
    media: dict[str, bytes] = {}

    def keep(data: bytes, suffix: str) -> str:
        name = f"{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
        media[name] = data
        return f"media:{name}"

    def inline(found: re.Match) -> str:
        try:
            return keep(base64.b64decode(found[2], validate=True), KINDS[found[1]])
        except binascii.Error:  # some text that only looks like it
            return found[0]

    section = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles = re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE)
            section = titles[-1] if titles else section
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if png := data.pop("image/png", None):
                picture = base64.b64decode(png)
                alt = output.metadata.pop("image/png", {}).get("alt") or f"Figure of the section “{section}”."
                with Image.open(io.BytesIO(picture)) as opened:
                    width, height = opened.size
                source = keep(_webp(picture), "webp")
                shape = f'width="{width}" height="{height}" style="max-width:100%;height:auto"'
                data["text/html"] = f'<img src="{source}" {shape} alt="{html.escape(alt)}" loading="lazy">'
            elif "text/html" in data:
                data["text/html"] = DATA.sub(inline, data["text/html"])
    return media


def place(notebook: NotebookNode, media: Mapping[str, bytes], folder: str) -> dict[str, bytes]:
    """Pictures as files of `folder`, as seen from the page, sounds inline; returns the files, {name: bytes}.

    Sounds stay in the page, since a browser reads none from a file beside a page that was opened from disk.
    """
    files: dict[str, bytes] = {}

    def put(found: re.Match) -> str:
        name = f"{found[1]}.{found[2]}"
        if not MEDIA[found[2]].startswith("image/"):
            return _data(name, media[name])
        files[name] = media[name]
        return f"{folder}/{name}"

    _each_page(notebook, put)
    return files


def whole(notebook: NotebookNode, media: Mapping[str, bytes]) -> None:
    """Everything inline again, so that the notebook shows all of it wherever it is opened."""
    _each_page(notebook, lambda found: _data(f"{found[1]}.{found[2]}", media[f"{found[1]}.{found[2]}"]))


def names(notebook: NotebookNode) -> set[str]:
    """The names that the notebook's outputs ask for."""
    found: set[str] = set()

    def note(match: re.Match) -> str:
        found.add(f"{match[1]}.{match[2]}")
        return match[0]

    _each_page(notebook, note)
    return found


def _each_page(notebook: NotebookNode, change) -> None:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = NAME.sub(change, data["text/html"])


def _data(name: str, data: bytes) -> str:
    return f"data:{MEDIA[name.rpartition('.')[2]]};base64,{base64.b64encode(data).decode()}"


def _webp(png: bytes) -> bytes:
    """A PNG picture as WebP, a third to a tenth of its size."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.save(buffer, "WEBP", lossless=len(png) < NOISY, quality=QUALITY, method=4)
    return buffer.getvalue()
