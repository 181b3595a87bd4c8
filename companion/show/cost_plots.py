"""Pictures of what things cost: training curves, quality against compute, speed.

The drawing libraries are imported inside the functions, so that importing this module costs nothing.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import INK, ORACLE, SUPERVISION, _grid, _plain_decades, _text, _texts

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def loss_curves(frames: "Mapping[str, pandas.DataFrame]", *, label: str = "NLL (nats per element)") -> "Figure":
    """Losses over training steps, one panel per name, each with axes of its own.

    frames: title -> columns `step`, `split` ('train' or 'valid') and `value`, which `label` names.
    """
    import seaborn

    figure, axes = _grid(1, 1, 6.4, 3.0) if len(frames) == 1 else _grid(len(frames), 2, 3.6, 2.4)
    for ax, (name, frame) in zip(axes, frames.items(), strict=True):
        few = bool(frame["split"].value_counts().max() <= 12)  # a line through one point cannot be seen
        look = {"style": "split", "markers": few, "markersize": 5, "errorbar": None, "linewidth": 1.5}
        seaborn.lineplot(frame, x="step", y="value", hue="split", **look, ax=ax)
        ax.set(title=_text(name), xlabel="Step", ylabel=textwrap.fill(label, 30 if len(frames) == 1 else 26))
        ax.legend(title=None)
    return figure


def pareto_front(frame: "pandas.DataFrame", cost: str) -> "pandas.DataFrame":
    """The rows with a higher `mean` than every row of the same or a lower `cost`, cheapest first.

    frame: columns `supervision`, `mean` and the one that `cost` names; oracles and rows without a number are left out.
    """
    rows = frame[frame["supervision"] != ORACLE].dropna(subset=["mean", cost])
    rows = rows.sort_values([cost, "mean"], ascending=[True, False])
    return rows[rows["mean"] > rows["mean"].cummax().shift(fill_value=-np.inf)]


def pareto(frame: "pandas.DataFrame") -> "Figure":
    """Quality against the time of training and of separation: a named point per system, and the front as steps.

    frame: as of `tables.table`, columns `system`, `supervision`, `mean` (median SDR, mean over sources, dB),
    `training (s)` and `RTF` (s of separation per s of music). A panel leaves out systems that lack its number. A cost
    of 0 has no place on a logarithmic axis and stands at the left edge, shaded.
    """
    from matplotlib.lines import Line2D

    panels = {"training (s)": ("Training (s)", "none"), "RTF": ("Separation (s per s of music)", "0")}
    frame = _texts(frame, "system")
    kinds = set(frame["supervision"])
    looks = {kind: look for kind, look in SUPERVISION.items() if kind in kinds}
    looks |= dict.fromkeys(sorted(kinds - set(SUPERVISION)), ("#cc78bc", "P"))
    figure, axes = _grid(2, 1, 7.6, 4.0)
    drawn = []
    for ax, (cost, (title, zero)) in zip(axes, panels.items(), strict=True):
        rows = frame.dropna(subset=["mean", cost])
        some = rows.loc[rows[cost] > 0, cost]
        least, most = (some.min(), some.max()) if len(some) else (1.0, 1.0)
        edge, end = least / 4, most * 4
        x = rows[cost].where(rows[cost] > 0, edge)
        decades = 10.0 ** np.arange(np.ceil(np.log10(least / 1.5)), np.log10(end))
        ax.set(xscale="log", xlim=(edge / 2, end), xlabel=title, ylabel="SDR, mean of medians (dB)")
        ax.set_xticks([edge, *decades], [zero, *(f"{decade:,g}" for decade in decades)])
        ax.set_xticks([], minor=True)
        ax.axvspan(edge / 2, edge * 2, color=INK, alpha=0.12, linewidth=0, zorder=0)
        front = pareto_front(frame, cost)["mean"]
        levels = np.repeat(front.to_numpy(), 2)
        steps = np.column_stack([np.append(np.repeat(x[front.index].to_numpy(), 2)[1:], end)[: len(levels)], levels])
        ax.plot(*steps.T, color=INK, linewidth=1.2, zorder=1)
        for kind, (color, marker) in looks.items():
            chosen = rows["supervision"] == kind
            ax.scatter(x[chosen], rows.loc[chosen, "mean"], s=46, color=color, marker=marker, zorder=3)
        ax.margins(y=0.12)
        drawn.append((ax, rows["system"].tolist(), np.column_stack([x, rows["mean"]]), steps))
    handles = [Line2D([], [], color=c, marker=m, linestyle="", label=kind or "?") for kind, (c, m) in looks.items()]
    handles += [Line2D([], [], color=INK, label="best at no more than this cost, without oracles")]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize="small")
    figure.draw_without_rendering()  # settles the layout, and with it where a point is in pixels
    for names in drawn:
        _name_points(*names)
    return figure


def ranges(frame: "pandas.DataFrame", *, label: str) -> "Figure":
    """Medians with their quartiles as bars, one row per name, on a logarithmic axis; targets as ticks.

    frame: columns `name`, `value`, `low`, `high`, all positive, and perhaps `target` (NaN where there is none).
    """
    frame = frame.dropna(subset=["value"])
    figure, (ax,) = _grid(1, 1, 7.6, 0.34 * len(frame) + 1.2)
    places = np.arange(len(frame))[::-1]
    spread = np.abs(frame[["low", "high"]].to_numpy().T - frame["value"].to_numpy())
    ax.errorbar(frame["value"], places, xerr=spread, fmt="o", color="#0173b2", capsize=3, label="median and quartiles")
    if "target" in frame and frame["target"].notna().any():
        ax.plot(frame["target"], places, "|", color="#d55e00", markersize=16, markeredgewidth=2, label="target")
    ax.set(xscale="log", xlabel=label, ylim=(-0.6, len(frame) - 0.4))
    _plain_decades(ax.xaxis)
    ax.set_yticks(places, frame["name"])
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside upper right", ncols=2, fontsize="small")
    return figure


def roofline(frame: "pandas.DataFrame", *, copy: float, product: float) -> "Figure":
    """Measured rates under min(product, copy * intensity), the bound by arithmetic and memory; both axes logarithmic.

    frame: columns `intensity` (operations per byte), `rate` (GFLOP/s), `layer` and `direction`, one point per row.
    copy: GB/s of copying; product: GFLOP/s of a large matrix product.
    Reference: Williams, Waterman, Patterson 2009.
    """
    import seaborn

    figure, (ax,) = _grid(1, 1, 7.0, 3.6)
    reach = np.geomspace(min(0.5, frame["intensity"].min() / 2), max(frame["intensity"].max(), product / copy) * 4, 200)
    ax.plot(reach, np.minimum(product, copy * reach), color=INK, linewidth=1.4, label="copying, then a large product")
    look = {"hue": "layer", "style": "direction", "s": 70, "ax": ax}
    seaborn.scatterplot(frame, x="intensity", y="rate", **look)
    ax.set(xscale="log", yscale="log", xlabel="Operations a byte", ylabel="Rate (GFLOP/s)")
    for axis in (ax.xaxis, ax.yaxis):
        _plain_decades(axis)
    ax.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return figure


def _name_points(ax: "Axes", names: Sequence[str], points: np.ndarray, line: np.ndarray) -> None:
    """Write each name at the nearest place beside its point where it covers no point, no other name and no `line`.

    points: (names, 2); line: (corners, 2), horizontal and vertical segments. The layout of the figure must be settled.
    """
    from matplotlib.transforms import Bbox

    unit = ax.figure.dpi / 72  # pixels per point
    centres = ax.transData.transform(points)
    taken = [Bbox([centre, centre]).padded(4 * unit) for centre in centres]
    taken += [Bbox(pair).padded(1) for pair in itertools.pairwise(ax.transData.transform(line))]
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    places = [(reach * dx, reach * dy) for reach in (7, 14, 22, 32, 44) for dx, dy in directions]
    for name, point, centre in zip(names, points, centres, strict=True):
        probe = ax.text(point[0], point[1], name, fontsize="x-small")
        size = np.array(probe.get_window_extent().size)
        probe.remove()
        starts = [centre + np.multiply(place, unit) + size * (np.sign(place) - 1) / 2 for place in places]
        boxes = [Bbox([start, start + size]) for start in starts]
        inside = (k for k, box in enumerate(boxes) if all(ax.bbox.contains(*corner) for corner in (box.min, box.max)))
        free = (k for k in inside if not boxes[k].count_overlaps(taken))
        chosen = next(free, 0)
        taken.append(boxes[chosen])
        dx, dy = places[chosen]
        sides: dict[str, Any] = {
            "ha": ("right", "center", "left")[np.sign(dx) + 1],
            "va": ("top", "center", "bottom")[np.sign(dy) + 1],
        }
        lead = {"arrowstyle": "-", "color": INK, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        note = ax.annotate(
            name, point, (dx, dy), textcoords="offset points", fontsize="x-small", arrowprops=lead, **sides
        )
        note.set_in_layout(False)
