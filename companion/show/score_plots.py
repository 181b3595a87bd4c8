"""Pictures of scores: boxes, ranks, differences between systems, and matrices of numbers.

The drawing libraries are imported inside the functions, so that importing this module costs nothing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .style import INK, SUPERVISION, _grid, _text, _texts, source_color

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


def score_boxes(frame: "pandas.DataFrame", *, label: str = "SDR (dB)") -> "Figure":
    """Quartiles and every single score by source.

    frame: columns `stem`, `system`, `value`; NaN (failed) scores are left out. Raises ValueError if no score is left.
    """
    import seaborn

    frame = _texts(frame, "stem", "system").dropna(subset=["value"])
    if frame.empty:
        raise ValueError("scores: no row with a value; the reasons stand in the column 'reason'")
    systems = frame["system"].nunique()
    figure, (ax,) = _grid(1, 1, max(6.0, 0.35 * systems * frame["stem"].nunique() + 2.5), 4.0)
    palette = seaborn.color_palette("colorblind", systems)  # a plain name warns of more than ten systems
    common = {"data": frame, "x": "stem", "y": "value", "hue": "system", "ax": ax, "palette": palette}
    look = {"showfliers": False, "linewidth": 1, "linecolor": INK, "boxprops": {"alpha": 0.45}}
    seaborn.boxplot(**common, **look, legend="full")
    seaborn.stripplot(**common, dodge=True, size=3.5, jitter=0.12, legend=False)
    ax.axhline(0, color=INK, linewidth=0.8, zorder=0)
    ax.set(xlabel="", ylabel=label)
    ax.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def ranked_boxes(
    frame: "pandas.DataFrame",
    marks: "Mapping[str, float] | pandas.Series | None" = None,
    *,
    mark: str = "",
    dots: bool = False,
) -> "Figure":
    """Quartiles of every system, best median first: one panel per stem, boxes coloured by the kind of system.

    frame: columns `stem`, `system`, `kind`, `value` (SDR in dB). marks: stem -> where to draw a dashed line; mark: the
    name of these lines. Whiskers reach 1.5 times the height of a box; scores beyond them are drawn with `dots` alone.
    """
    import seaborn
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    frame = _texts(frame, "stem", "system", "kind")
    marks = {} if marks is None else {_text(stem): value for stem, value in marks.items()}
    ranked = frame.groupby("kind")["value"].median().sort_values(ascending=False).index
    fixed = [color for color, _ in SUPERVISION.values()]
    spare = iter(c for c in seaborn.color_palette("colorblind").as_hex() if c not in fixed)
    kinds = {kind: SUPERVISION[kind][0] if kind in SUPERVISION else next(spare) for kind in ranked}
    parts = dict(list(frame.groupby("stem", sort=False)))
    rows = [part["system"].nunique() for part in parts.values()]
    figure, _ = _grid(0, 1, 4.8, 0.0)
    figure.set_size_inches(4.8, 0.19 * sum(rows) + 0.75 * len(rows) + 0.8)
    axes = figure.subplots(len(rows), 1, sharex=True, height_ratios=rows, squeeze=False)[:, 0]
    for ax, (stem, part) in zip(axes, parts.items(), strict=True):
        order = part.groupby("system")["value"].median().sort_values(ascending=False).index
        common = {"data": part, "x": "value", "y": "system", "order": order, "legend": False, "ax": ax}
        look = {"showfliers": False, "linewidth": 0.8, "width": 0.7, "boxprops": {"alpha": 0.5 if dots else 1}}
        seaborn.boxplot(**common, hue="kind", palette=kinds, dodge=False, linecolor=INK, **look)
        if dots:
            seaborn.stripplot(**common, color=INK, alpha=0.5, size=2.5, jitter=0.15)
        if stem in marks:
            ax.axvline(marks[stem], color=INK, linestyle="--", linewidth=1.2)
        ax.set_title(stem, loc="left")
        ax.set(xlabel="SDR (dB)", ylabel="")
        ax.tick_params(axis="y", labelsize="small")
        ax.tick_params(axis="x", labelbottom=True)
        ax.xaxis.label.set_visible(True)
    handles: list[Patch | Line2D] = [Patch(color=color, label=kind) for kind, color in kinds.items()]
    handles += [Line2D([], [], color=INK, linestyle="--", label=mark)] if marks else []
    figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize="small")
    return figure


def paired_differences(frame: "pandas.DataFrame", system: str) -> "Figure":
    """How far `system` lies above each rival, song by song: dots and quartiles, a row per rival, a colour per stem.

    frame: as of `tables.differences`, columns `rival`, `stem`, `value` (dB); NaN are left out.
    """
    import seaborn

    frame = _texts(frame, "rival", "stem").dropna(subset=["value"])
    rivals, stems = frame["rival"].nunique(), frame["stem"].unique()
    figure, (ax,) = _grid(1, 1, 7.6, (0.13 * len(stems) + 0.1) * rivals + 1.0)
    palette = {stem: source_color(stem) for stem in stems}
    common = {"data": frame, "x": "value", "y": "rival", "hue": "stem", "palette": palette, "ax": ax}
    seaborn.boxplot(**common, showfliers=False, whis=0, showcaps=False, linewidth=1, boxprops={"alpha": 0.35})
    seaborn.stripplot(**common, dodge=True, size=3, jitter=0.1, legend=False)
    ax.axvline(0, color=INK, linewidth=1, zorder=0)
    for place in range(rivals - 1):
        ax.axhline(place + 0.5, color=INK, alpha=0.35, linewidth=0.6, zorder=0)
    ax.set(xlabel=f"{_text(system)} − rival, SDR (dB)", ylabel="")
    ax.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def paired_scatter(frame: "pandas.DataFrame", x: str, y: str) -> "Figure":
    """One system against another, song by song: one panel per stem, and the diagonal on which both are equal.

    frame: columns `track`, `stem`, `system`, `value`; x, y: two systems. Only songs with a number of both are drawn.
    """
    frame, x, y = _texts(frame, "track", "stem", "system"), _text(x), _text(y)
    wide = frame[frame["system"].isin([x, y])].pivot_table(index=["stem", "track"], columns="system", values="value")
    wide = wide.reindex(columns=[x, y]).dropna()
    stems = [stem for stem in frame["stem"].unique() if stem in wide.index.unique("stem")]
    ends = np.array([np.floor(wide.min(axis=None) - 0.3), np.ceil(wide.max(axis=None) + 0.3)])
    figure, axes = _grid(len(stems), min(2, len(stems)), 2.7, 2.8)
    for ax, stem in zip(axes, stems, strict=True):
        pair = wide.loc[stem]
        ax.plot(ends, ends, color=INK, linewidth=0.8, zorder=1)
        ax.scatter(pair[x], pair[y], s=22, color=source_color(stem), linewidth=0, zorder=2)
        ax.set_title(f"{stem}: above in {(pair[y] > pair[x]).sum()} of {len(pair)}", fontsize="small")
        ax.set(xlim=ends, ylim=ends, aspect="equal", xlabel=f"{x}, SDR (dB)", ylabel=f"{y}, SDR (dB)")
    return figure


def score_matrix(frame: "pandas.DataFrame", *, label: str, rows: str = "clips of", columns: str = "prior") -> "Figure":
    """A table of numbers as an annotated heat map, with a frame around the highest value of each row.

    label: of the values, with their unit; rows, columns: of the two axes.
    """
    import seaborn
    from matplotlib.patches import Rectangle

    values = frame.to_numpy(dtype=float)
    height, width = values.shape
    figure, (ax,) = _grid(1, 1, 1.1 * width + 2.5, 0.7 * height + 1.2)
    seaborn.heatmap(frame, annot=True, fmt=".2f", cmap="crest", linewidths=1, cbar_kws={"label": label}, ax=ax)
    for row, column in enumerate(values.argmax(axis=1)):
        ax.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, fill=False, edgecolor="black", linewidth=2))
    ax.set(xlabel=columns, ylabel=rows)
    ax.tick_params(axis="y", rotation=0)
    return figure
