"""Pictures and sounds of executed notebooks, apart from their text.

An executed notebook holds them as base64: megabytes per chapter, most of them PNG pictures of spectrograms, and the
same few seconds of music in a dozen chapters. `take` replaces them by `media:<name>`, named by the hash of their bytes,
pictures as WebP; `place` puts them back for a page, `whole` for a notebook to download.
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
# a player, with its script; one that names the licence of its sounds is not touched
PLAYER = re.compile(r"<flowsep-player(?![^>]*data-licence)[^>]*>.*?</flowsep-player>\s*<script>.*?</script>", re.DOTALL)
QUALITY = 85  # of spectrograms, which are noisy; pictures of lines and letters are stored without loss
NOISY = 120_000  # bytes of a PNG from which on it counts as noisy


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

    def inline(match: re.Match) -> str:
        try:
            return keep(base64.b64decode(match[2], validate=True), KINDS[match[1]])
        except binascii.Error:  # other text of that form
            return match[0]

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


def mute(notebook: NotebookNode, note: str) -> None:
    """Replace each player in the outputs of `notebook` by a line of text, unless it names the licence of its sounds."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = PLAYER.sub(
                    f'<p class="flowsep-note">{html.escape(note, quote=False)}</p>', data["text/html"]
                )


def caption(notebook: NotebookNode) -> None:
    """Put each picture of a cell with a `caption` in its metadata into a figure; MyST-NB would caption tables, too."""
    for cell in notebook.cells:
        text = cell.metadata.get("caption", "")
        for output in cell.get("outputs", []) if text else []:
            page = output.get("data", {}).get("text/html", "")
            if page.startswith('<img src="media:'):
                told = f"<figcaption>{html.escape(text, quote=False)}</figcaption>"
                output.data["text/html"] = f'<figure class="flowsep-figure">{page}{told}</figure>'


def place(notebook: NotebookNode, media: Mapping[str, bytes], folder: str) -> dict[str, bytes]:
    """Pictures and sounds as files of `folder`, as seen from the page; returns the files, {name: bytes}."""
    files: dict[str, bytes] = {}

    def put(match: re.Match) -> str:
        name = f"{match[1]}.{match[2]}"
        files.update(with_script(name, media[name]))
        return f"{folder}/{name}"

    _each_page(notebook, put)
    return files


def with_script(name: str, data: bytes) -> dict[str, bytes]:
    """A file and, if it is a sound, a script that holds it, too: a page opened from disk cannot read the file."""
    if MEDIA[name.rpartition(".")[2]].startswith("image/"):
        return {name: data}
    text = f'(globalThis.flowsepSounds ??= {{}})["{name}"] = "{base64.b64encode(data).decode()}";'
    return {name: data, f"{name}.js": text.encode()}


def whole(notebook: NotebookNode, media: Mapping[str, bytes]) -> None:
    """Put everything back inline, so that the notebook is complete wherever it is opened."""
    _each_page(notebook, lambda match: _data(f"{match[1]}.{match[2]}", media[f"{match[1]}.{match[2]}"]))


def names(notebook: NotebookNode) -> set[str]:
    """The names of the media in the notebook's outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output.get("data", {}).get("text/html", "") for output in outputs]
    return {f"{name}.{suffix}" for page in pages for name, suffix in NAME.findall(page)}


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
