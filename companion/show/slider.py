"""A slider over pictures: how something changes from step to step, in Jupyter and in a built page, offline.

One static piece of HTML: a custom element around plain `<img>` tags that hold the pictures as base64. With scripts
(slider.js) it shows one picture at a time; without, the first and the last stand there.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


QUALITY = 30  # of the WebP pictures that figures become: a grid of spectrograms takes a tenth of its PNG


class PictureSlider:
    """Pictures of one size behind a slider with a play button, shown by Jupyter as the value of a cell.

    frames: matplotlib figures, or the bytes of PNG or WebP files; two at least, in the order of the steps.
    labels: what each picture shows, read out and written below it; any text, never read as markup.
    title: shown above; any text.
    systems: the system that belongs to each picture of the next stem player on the page, which follows the slider, so
        that picture and sound change together; none by default.
    Raises ValueError, naming the picture, for too few pictures, another number of labels or systems, other bytes or
    other sizes.
    """

    def __init__(
        self, frames: "Sequence[bytes | Figure]", labels: Sequence[str], title: str = "", systems: Sequence[str] = ()
    ):
        if len(frames) < 2 or len(labels) != len(frames):
            raise ValueError(f"expected two pictures or more, a label each; found {len(frames)} and {len(labels)}")
        if systems and len(systems) != len(frames):
            raise ValueError(f"expected a system for each of the {len(frames)} pictures, found {len(systems)}")
        self.systems = [str(system) for system in systems]
        self.labels, self.title = [str(label) for label in labels], str(title)
        self.frames = [frame if isinstance(frame, bytes) else _webp(frame) for frame in frames]
        found = [_inspect(frame, label) for frame, label in zip(self.frames, self.labels, strict=True)]
        self.media = [media for media, _ in found]
        self.size = found[0][1]
        for label, (_, size) in zip(self.labels, found, strict=True):
            if size != self.size:
                raise ValueError(f"picture '{label}' has {size} pixels, the first {self.size}; make them of one size")

    def _repr_html_(self) -> str:
        title = escape(self.title)
        parts = ['<flowsep-slider class="tex2jax_ignore mathjax_ignore" data-lm-suppress-shortcuts="true">']
        parts += [f"<p><strong>{title}</strong></p>"] if title else []
        parts += [self._figure(step) for step in range(len(self.frames))]
        script = Path(__file__).with_name("slider.js").read_text("utf-8")
        return "\n".join([*parts, "</flowsep-slider>", f"<script>{script}</script>"])

    def _figure(self, step: int) -> str:
        """One plain picture with its label; without scripts only the first and the last are to be seen."""
        label, (width, height) = escape(self.labels[step]), self.size
        hidden = "" if step in (0, len(self.frames) - 1) else " hidden"
        if self.systems:
            hidden += f' data-system="{escape(self.systems[step])}"'
        data = base64.b64encode(self.frames[step]).decode()
        return (
            f'<figure{hidden} data-label="{label}"><img src="data:{self.media[step]};base64,{data}" decoding="sync" '
            f'width="{width}" height="{height}" style="max-width:100%;height:auto" alt="{label}">'
            f'<figcaption style="color:inherit;font:inherit;text-align:left">{label}</figcaption></figure>'
        )


def _webp(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=figure.dpi, pil_kwargs={"quality": QUALITY, "method": 6})
    return buffer.getvalue()


def _inspect(data: bytes, label: str) -> tuple[str, tuple[int, int]]:
    """(media type, (width, height)) of a picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as picture:
            return f"image/{picture.format.lower()}", picture.size
    except (OSError, SyntaxError) as error:  # UnidentifiedImageError is an OSError; PIL's PNG reader raises the other
        raise ValueError(f"picture '{label}' is neither a figure nor the bytes of a PNG or WebP file") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"picture '{label}' is too large ({error})") from error
