"""The look of all pictures: theme, colours of the sources, grids, and a description for readers who cannot see them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


Arrays = Mapping[str, np.ndarray]
ORACLE = "oracle"
SUPERVISION = {  # training material -> colour, from seaborn's colour-blind-safe palette, and marker
    "mixtures": ("#0173b2", "o"),
    "random mixes": ("#56b4e9", "s"),
    "solo": ("#d55e00", "D"),
    "none": ("#949494", "X"),
    ORACLE: ("#029e73", "^"),
}
INK = "#7b7b7b"  # of text and axes: contrast 4.2 on a white page and on a dark one, under pictures without a ground
# All stand out from a white and from a black page (contrast 3 or more), and from each other for eyes that lack one kind
# of cone, too; tests/companion/show/test_plots.py computes both.
SOURCE_COLORS = {
    "vocals": "#dd5a86",
    "bass": "#3d5cf0",
    "drums": "#b58b25",
    "other": "#277434",
    "guitar": "#d95ce8",
    "piano": "#4b9cbf",
    "accompaniment": "#884faf",
    "mixture": "#686a60",
}
SOURCE_COLORS_LIKE = {"rest": "accompaniment"}  # never on one page


def source_color(name: str) -> str:
    """The fixed colour of a source; a name outside the table always gets the same one of its colours."""
    name = SOURCE_COLORS_LIKE.get(name, name)
    return SOURCE_COLORS.get(name) or list(SOURCE_COLORS.values())[crc32(name.encode()) % len(SOURCE_COLORS)]


def use_style() -> None:
    """Set the seaborn theme of every notebook: thin lines, light grid, a colour-blind-safe cycle, sharp pictures.

    Each figure that the notebook shows carries its `describe` as alternative text.
    """
    import matplotlib.pyplot as plt
    import seaborn
    from IPython import get_ipython
    from IPython.core.pylabtools import print_figure
    from matplotlib.figure import Figure

    shell = get_ipython()
    if shell:
        plt.switch_backend(plt.get_backend())  # else the first figure loads it, and it puts its formatter over ours
    style = {"figure.dpi": 110, "axes.titlesize": "medium", "grid.linewidth": 0.6, "legend.frameon": False}
    style |= dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none") | {"legend.facecolor": "white"}
    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    style |= dict.fromkeys(inked, INK) | {"grid.alpha": 0.35, "axes.edgecolor": f"{INK}80"}
    seaborn.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85, rc=style)
    if shell:
        png = shell.display_formatter.formatters["image/png"]
        png.for_type(Figure, lambda figure: (print_figure(figure, fmt="png"), {"alt": describe(figure)}))


def describe(figure: "Figure") -> str:
    """A figure in words: panels, axes, colours, the names in legends, the numbers in a table."""
    bars = {ax for ax in figure.axes if ax.get_label() == "<colorbar>"}
    panels = [ax for ax in figure.axes if ax.get_visible() and ax not in bars]
    titles = [" ".join((ax.get_title() or ax.get_title("left")).split()) for ax in panels]
    said = [f"{len(panels)} panels" if len(panels) > 1 else "A figure"]
    said[0] += f": {', '.join(filter(None, titles))}." if any(titles) else "."
    for part, way in (("xlabel", "to the right"), ("ylabel", "upwards")):
        names = dict.fromkeys(" ".join(getattr(ax, f"get_{part}")().split()) for ax in panels)
        said += [f"{', '.join(filter(None, names))} {way}."] if any(names) else []
    colours = dict.fromkeys(" ".join((ax.get_ylabel() or ax.get_xlabel()).split()) for ax in bars)
    said += [f"Colour: {', '.join(filter(None, colours))}."] if any(colours) else []
    legends = [*(ax.get_legend() for ax in panels), *figure.legends]
    keys = dict.fromkeys(text.get_text() for legend in legends if legend for text in legend.get_texts())
    said += [f"Shown: {', '.join(keys)}."] if keys else []
    for ax in panels:
        for name, axis in (("Rows", ax.yaxis), ("Columns", ax.xaxis)):
            labels = [" ".join(tick.get_text().split()) for tick in axis.get_ticklabels()]
            if labels and not any(_is_number(label) for label in labels) and any(labels):
                said.append(f"{name}: {', '.join(filter(None, labels))}.")
        written = [" ".join(text.get_text().split()) for text in ax.texts]
        if len(written) > 1:
            said.append(f"{'Values, row by row' if all(map(_is_number, written)) else 'Labels'}: {', '.join(written)}.")
    return " ".join(dict.fromkeys(said))


def _is_number(text: str) -> bool:
    try:
        float(text.replace("−", "-").rstrip("%dB "))
    except ValueError:
        return text == "" or text.startswith("$")  # no label, or a power of ten
    return True


def _grid(count: int, columns: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure with `count` axes of (width, height) inches, filled row by row; spare places stay empty."""
    import matplotlib.pyplot as plt

    rows = -(-count // columns)
    figure = plt.figure(figsize=(width * columns, height * rows), layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.06, h_pad=0.07)
    plt.close(figure)  # a notebook then shows it once, as the value of the cell
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _share_labels(axes: "Sequence[Axes]", columns: int) -> None:
    """Name an axis once where its neighbour, to the left or below, has the same range."""
    for place, ax in enumerate(axes):
        left, below = axes[place - place % columns], axes[place + columns :][:1]
        if ax is not left and ax.get_ylim() == left.get_ylim():
            ax.set_ylabel("")
            ax.tick_params(axis="y", labelleft=False)
        if below and ax.get_xlim() == below[0].get_xlim():
            ax.set_xlabel("")
            ax.tick_params(axis="x", labelbottom=False)


def _texts(frame: "pandas.DataFrame", *columns: str) -> "pandas.DataFrame":
    """`frame` with all text in these columns as `_text`."""
    return frame.assign(**{name: frame[name].map(_text) for name in columns if frame[name].dtype.kind not in "fiu"})


def _text(name: Any) -> Any:
    """A name with its dollar signs escaped, so that matplotlib does not read it as mathematics."""
    return name.replace("$", r"\$") if isinstance(name, str) else name


def _plain_decades(axis: "Axis") -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as plain numbers: powers of ten alone are too few on a short axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
