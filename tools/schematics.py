"""The drawings of the book: `python tools/schematics.py` writes them into book/_static/.

pipeline.svg and glow.svg, of the chapter on the method, are narrow, so that a telephone shows their words in full size,
and stand on a white ground of their own, so that a dark page changes nothing. mark.svg is the book's mark, favicon.png
the same for browser tabs, and card.png the picture of links to the book.
"""

from html import escape

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from companion.profile import find_root
from companion.show import source_color
from flowsep.files import write_text

INK, WIDTH = "#22262b", 440
BARS = {"vocals": 34, "bass": 50, "drums": 60, "other": 30}  # of the mark: heights on a square of 64
CARD = (1200, 630)  # pixels, as sites that show links want it


def main() -> None:
    """Write all drawings."""
    folder = find_root() / "book" / "_static"
    for name, picture in {"pipeline": pipeline(), "glow": glow(), "mark": mark()}.items():
        write_text(folder / f"{name}.svg", picture)
    favicon().savefig(folder / "favicon.png", transparent=True)
    card().savefig(folder / "card.png")


def mark() -> str:
    """The mark: a bar for each source, as in the waveform of a song that was taken apart."""
    shapes = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{width / 2:g}" fill="{source_color(source)}"/>'
        for source, (x, y, width, height) in bars().items()
    ]
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" width="64" height="64">'
    return "\n".join([head, "<title>Four bars, one for each source</title>", *shapes, "</svg>", ""])


def bars() -> dict[str, tuple[int, int, int, int]]:
    """{source: (left, top, width, height)} of the mark's bars."""
    return {source: (4 + 15 * k, 32 - tall // 2, 11, tall) for k, (source, tall) in enumerate(BARS.items())}


def favicon() -> Figure:
    """The mark alone, on no ground."""
    figure = Figure(figsize=(0.64, 0.64), dpi=100)
    _draw_mark(figure.add_axes((0, 0, 1, 1)))
    return figure


def card() -> Figure:
    """The mark beside the title."""
    figure = Figure(figsize=(CARD[0] / 100, CARD[1] / 100), dpi=100, facecolor="#fff")
    _draw_mark(figure.add_axes((0.07, 0.28, 0.231, 0.44)))
    title = "Music source separation\nwith generative flow"
    figure.text(0.36, 0.55, title, size=40, color=INK, va="center", linespacing=1.3)
    figure.text(0.36, 0.32, "The paper as a book that runs", size=18, color="#48566b")
    return figure


def _draw_mark(axes: Axes) -> None:
    axes.set(xlim=(0, 64), ylim=(64, 0))
    axes.axis("off")
    for source, (x, y, width, height) in bars().items():
        inside = FancyBboxPatch(
            (x + width / 2, y + width / 2),
            0,
            height - width,
            boxstyle=f"round,pad={width / 2},rounding_size={width / 2}",
            color=source_color(source),
            linewidth=0,
        )
        axes.add_patch(inside)


def pipeline() -> str:
    """The search, from the mixture to the stems."""
    parts = [
        box(140, 10, 160, 34, "mixture"),
        arrow((220, 44), (220, 80)),
        text(230, 66, "STFT", anchor="start"),
        box(140, 80, 160, 34, "spectrogram X"),
        '<rect x="8" y="140" width="396" height="250" rx="10" fill="#f3f4f6" stroke="none"/>',
        text(20, 382, "search: a fixed number of steps", anchor="start", size=13),
        arrow((300, 97), (362, 97), (362, 222)),
        text(370, 170, "|x|", anchor="start"),
        box(332, 222, 60, 36, "KL"),
        node(278, 240, "+"),
        arrow((293, 240), (332, 240)),
    ]
    for row, (source, index) in enumerate((("vocals", "1"), ("bass", "2"), ("drums", "K"))):
        y = 180 + 60 * row
        parts += [
            node(42, y, "z", index),
            arrow((58, y), (84, y)),
            box(84, y - 18, 96, 36, f"G{SUBSCRIPT[index]} {source}", fill=source_color(source)),
            arrow((180, y), (206, y)),
            text(219, y + 5, "ŝ" + SUBSCRIPT[index]),
            arrow((234, y), (262 if row == 1 else 267, 240 + 11 * (row - 1))),
        ]
    parts += [
        arrow((362, 258), (362, 352), (42, 352), (42, 318), dashed=True),
        text(202, 344, "gradient, a step of Adam on every latent", size=13),
        arrow((219, 390), (219, 420)),
        box(139, 420, 160, 34, "ratio masks Mᵢ"),
        arrow((219, 454), (219, 486)),
        arrow((300, 97), (424, 97), (424, 503), (319, 503)),
        box(119, 486, 200, 34, "Mᵢ X, inverse STFT"),
        arrow((219, 520), (219, 552)),
        box(139, 552, 160, 34, "stems"),
    ]
    return drawing(600, parts, "From a mixture to its stems")


def glow() -> str:
    """One prior: its steps, and the coupling within each."""
    parts = [
        box(120, 10, 200, 34, "spectrogram s"),
        arrow((220, 44), (220, 66)),
        box(120, 66, 200, 34, "squeeze: 2 frames in 1"),
        '<rect x="8" y="122" width="424" height="340" rx="10" fill="#f3f4f6" stroke="none"/>',
        arrow((220, 100), (220, 134)),
        text(20, 452, "one of 12 steps", anchor="start", size=13),
        box(100, 134, 240, 34, "ActNorm: scale and shift"),
        arrow((220, 168), (220, 190)),
        box(100, 190, 240, 34, "invertible 1×1 convolution W"),
        arrow((220, 224), (220, 244)),
        text(220, 260, "split the channels in halves", size=13),
        arrow((150, 266), (90, 300)),
        arrow((290, 266), (340, 300)),
        text(62, 300, "x₀"),
        text(370, 300, "x₁"),
        box(150, 302, 120, 46, "network"),
        arrow((90, 300), (90, 325), (150, 325)),
        arrow((270, 325), (296, 325)),
        box(296, 302, 128, 46, "m + exp(logs) x₁"),
        arrow((90, 325), (90, 404), (120, 404)),
        arrow((340, 348), (340, 404), (320, 404)),
        box(120, 388, 200, 32, "join the halves"),
        arrow((220, 420), (220, 486)),
        box(120, 486, 200, 34, "latent z, as large as s"),
    ]
    return drawing(534, parts, "The layers of a prior")


SUBSCRIPT = {"1": "₁", "2": "₂", "K": "ₖ"}


def drawing(height: int, parts: list[str], title: str) -> str:
    """An SVG file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" font-family="sans-serif" font-size="14" fill="{INK}" stroke-width="1.4">'
    )
    tip = '<path d="M0 0 8 4 0 8z"/>'
    size = 'viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"'
    marker = f'<defs><marker id="tip" {size}>{tip}</marker></defs>'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", marker, ground, *parts, "</svg>", ""])


def box(x: float, y: float, width: float, height: float, words: str, fill: str = "#fff") -> str:
    """A rectangle with words in its middle."""
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}" stroke="{INK}"'
    opacity = "" if fill == "#fff" else ' fill-opacity="0.35"'
    return f"{shape}{opacity}/>{text(x + width / 2, y + height / 2 + 5, words)}"


def node(x: float, y: float, sign: str, index: str = "") -> str:
    """A circle with a sign."""
    circle = f'<circle cx="{x}" cy="{y}" r="16" fill="#fff" stroke="{INK}"/>'
    return circle + text(x, y + 5, sign + SUBSCRIPT.get(index, ""))


def text(x: float, y: float, words: str, anchor: str = "middle", size: int = 14) -> str:
    """A line of words."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """A line through points, with a tip at its end."""
    path = "M" + " ".join(f"{x:g} {y:g}" for x, y in points)
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{INK}"{dashes} marker-end="url(#tip)"/>'


if __name__ == "__main__":
    main()
