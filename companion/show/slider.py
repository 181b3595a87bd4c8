"""A slider over pictures: how something changes from step to step, in Jupyter and in a built page, offline.

One static piece of HTML: a custom element around plain `<img>` tags that hold the pictures as base64. With scripts
(slider.js) it shows one picture at a time; without scripts it shows the first and the last.
"""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


QUALITY = 30  # of the WebP pictures: a grid of spectrograms takes a tenth of the bytes of its PNG


class PictureSlider:
    """Pictures of one size behind a slider with a play button, shown by Jupyter as the value of a cell.

    frames: matplotlib figures of one size, in the order of the steps.
    labels: one per picture, read out and written below it; any text, never read as markup.
    title: shown above; any text.
    systems: for each picture, a system of the next stem player on the page: player and slider then change together.
    first: index of the picture that is shown first.
    """

    def __init__(
        self,
        frames: "Sequence[Figure]",
        labels: Sequence[str],
        title: str = "",
        systems: Sequence[str] = (),
        first: int = 0,
    ):
        self.systems, self.first = [str(system) for system in systems], first
        self.labels, self.title = [str(label) for label in labels], str(title)
        self.frames = [_webp(frame) for frame in frames]
        self.size = tuple(round(inches * frames[0].dpi) for inches in frames[0].get_size_inches())

    def _repr_html_(self) -> str:
        title = escape(self.title)
        first = f' data-first="{self.first}"' if self.first else ""
        parts = [f'<flowsep-slider class="tex2jax_ignore mathjax_ignore" data-lm-suppress-shortcuts="true"{first}>']
        parts += [f"<p><strong>{title}</strong></p>"] if title else []
        parts += [self._figure(step) for step in range(len(self.frames))]
        return "\n".join([*parts, "</flowsep-slider>", f"<script>{script()}</script>"])

    def _figure(self, step: int) -> str:
        """One plain picture with its label; without scripts only the first and the last are visible."""
        label, (width, height) = escape(self.labels[step]), self.size
        hidden = "" if step in (0, len(self.frames) - 1) else " hidden"
        if self.systems:
            hidden += f' data-system="{escape(self.systems[step])}"'
        data = base64.b64encode(self.frames[step]).decode()
        return (
            f'<figure{hidden} data-label="{label}"><img src="data:image/webp;base64,{data}" decoding="sync" '
            f'width="{width}" height="{height}" style="max-width:100%;height:auto" alt="{label}">'
            f'<figcaption style="color:inherit;font:inherit;text-align:left">{label}</figcaption></figure>'
        )


def script() -> str:
    """slider.js."""
    return Path(__file__).with_name("slider.js").read_text("utf-8")


def _webp(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=figure.dpi, pil_kwargs={"quality": QUALITY, "method": 6})
    return buffer.getvalue()
