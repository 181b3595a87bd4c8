"""Pictures in one style: spectrograms, waveforms, losses, scores and latents, each a matplotlib Figure.

The drawing libraries are imported inside the functions, so that importing this module costs nothing.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox
from .style import _array, _columns, _grid, _named, _plain_decades, _text, source_color

ORACLE = "oracle"
SUPERVISION = {  # what a system learnt from -> its colour, of seaborn's colour-blind-safe ones, and its marker
    "mixtures": ("#0173b2", "o"),
    "random mixes": ("#56b4e9", "s"),
    "solo": ("#d55e00", "D"),
    "none": ("#949494", "X"),
    ORACLE: ("#333333", "^"),
}


def loss_curve(frame: "pandas.DataFrame", *, label: str = "NLL (nats per element)", title: str = "") -> "Figure":
    """A loss over training steps; columns `step`, `split` ('train' or 'valid') and `value`, which `label` names."""
    return loss_curves({title: frame}, label=label)


def loss_curves(frames: "Mapping[str, pandas.DataFrame]", *, label: str) -> "Figure":
    """Small multiples, one `loss_curve` a name, each on axes of its own."""
    import seaborn

    figure, axes = _grid(1, 1, 6.4, 3.0) if len(_named(frames)) == 1 else _grid(len(frames), 2, 3.6, 2.4)
    for ax, (name, frame) in zip(axes, frames.items(), strict=True):
        _columns(frame, "step", "split", "value")
        few = bool(frame["split"].value_counts().max() <= 12)  # a line through one point cannot be seen
        look = {"style": "split", "markers": few, "markersize": 5, "errorbar": None, "linewidth": 1.5}
        seaborn.lineplot(frame, x="step", y="value", hue="split", **look, ax=ax)
        ax.set(title=_text(name), xlabel="Step", ylabel=textwrap.fill(label, 30 if len(frames) == 1 else 26))
        ax.legend(title=None)
    return figure


def score_boxes(frame: "pandas.DataFrame", *, label: str = "SDR (dB)") -> "Figure":
    """Quartiles and every single score by source; columns `stem`, `system`, `value`. NaN (failed) scores are left out.

    Raises ValueError if a column is missing or no score is left.
    """
    import seaborn

    frame = _columns(frame, "stem", "system", "value")
    frame = frame.dropna(subset=["value"])
    if frame.empty:
        raise ValueError("scores: no row with a value")
    systems = frame["system"].nunique()
    figure, (ax,) = _grid(1, 1, max(6.0, 0.35 * systems * frame["stem"].nunique() + 2.5), 4.0)
    palette = seaborn.color_palette("colorblind", systems)  # a plain name warns of more than ten systems
    common = {"data": frame, "x": "stem", "y": "value", "hue": "system", "ax": ax, "palette": palette}
    seaborn.boxplot(**common, showfliers=False, linewidth=1, boxprops={"alpha": 0.45}, legend="full")
    seaborn.stripplot(**common, dodge=True, size=3.5, jitter=0.12, legend=False)
    ax.axhline(0, color="0.4", linewidth=0.8, zorder=0)
    ax.set(xlabel="", ylabel=label)
    ax.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def ranked_boxes(
    frame: "pandas.DataFrame", marks: Mapping[str, float] | None = None, *, mark: str = "", dots: bool = False
) -> "Figure":
    """Quartiles of every system, best median first: a panel a stem, boxes coloured by the kind of system.

    frame: columns `stem`, `system`, `kind`, `value` (SDR in dB). marks: stem -> a value to stand among them as a dashed
    line, called `mark`. Whiskers reach 1.5 times the height of a box; scores beyond them are not drawn, unless `dots`
    shows every single one.
    """
    import seaborn
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    frame = _columns(frame, "stem", "system", "kind", "value")
    marks = {} if marks is None else {_text(stem): value for stem, value in marks.items()}  # or a Series, as of scores
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
        seaborn.boxplot(**common, hue="kind", palette=kinds, dodge=False, **look)
        if dots:
            seaborn.stripplot(**common, color="black", alpha=0.5, size=2.5, jitter=0.15)
        if stem in marks:
            ax.axvline(marks[stem], color="black", linestyle="--", linewidth=1.2)
        ax.set_title(stem, loc="left")
        ax.set(xlabel="SDR (dB)", ylabel="")
        ax.tick_params(axis="y", labelsize="small")
        ax.tick_params(axis="x", labelbottom=True)
        ax.xaxis.label.set_visible(True)
    handles = [Patch(color=color, label=kind) for kind, color in kinds.items()]
    handles += [Line2D([], [], color="black", linestyle="--", label=mark)] if marks else []
    figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize="small")
    return figure


def pareto_front(frame: "pandas.DataFrame", cost: str) -> "pandas.DataFrame":
    """The rows that no other one beats at the same or a lower `cost`, cheapest first.

    frame: columns `supervision`, `mean` (the quality) and `cost`; oracles and rows without a number are left out.
    """
    _columns(frame, "supervision", "mean", cost)
    rows = frame[frame["supervision"] != ORACLE].dropna(subset=["mean", cost])
    rows = rows.sort_values([cost, "mean"], ascending=[True, False])
    return rows[rows["mean"] > rows["mean"].cummax().shift(fill_value=-np.inf)]


def pareto(frame: "pandas.DataFrame") -> "Figure":
    """Quality against the seconds of training and of separation, each system a named point, and the front as steps.

    frame: columns `system`, `supervision`, `mean` (median SDR, mean over sources, dB), `training (s)` and `RTF` (s of
    separation per s of music), as in `results.table`; what lacks a number is left out of its panel. A cost of 0, for
    which a logarithmic axis has no place, stands at the left edge, shaded.
    """
    from matplotlib.lines import Line2D

    panels = {"training (s)": ("Training (s)", "none"), "RTF": ("Separation (s per s of music)", "0")}
    frame = _columns(frame, "system", "supervision", "mean", *panels)
    found = set(frame["supervision"])
    looks = {kind: look for kind, look in SUPERVISION.items() if kind in found}
    looks |= dict.fromkeys(sorted(found - set(SUPERVISION)), ("#cc78bc", "P"))
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
        ax.axvspan(edge / 2, edge * 2, color="0.93", zorder=0)
        front = pareto_front(frame, cost)["mean"]
        levels = np.repeat(front.to_numpy(), 2)
        steps = np.column_stack([np.append(np.repeat(x[front.index].to_numpy(), 2)[1:], end)[: len(levels)], levels])
        ax.plot(*steps.T, color="0.5", linewidth=1.2, zorder=1)
        for kind, (color, marker) in looks.items():
            chosen = rows["supervision"] == kind
            ax.scatter(x[chosen], rows.loc[chosen, "mean"], s=46, color=color, marker=marker, zorder=3)
        ax.margins(y=0.12)
        drawn.append((ax, rows["system"].tolist(), np.column_stack([x, rows["mean"]]), steps))
    handles = [Line2D([], [], color=c, marker=m, linestyle="", label=kind or "?") for kind, (c, m) in looks.items()]
    handles += [Line2D([], [], color="0.5", label="best at no more than this cost, without oracles")]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize="small")
    figure.draw_without_rendering()  # settles the layout, and with it where a point is in pixels
    for names in drawn:
        _name_points(*names)
    return figure


def paired_differences(frame: "pandas.DataFrame", system: str) -> "Figure":
    """Song by song, by how much `system` is above each rival: dots and quartiles, a row a rival, a colour a stem.

    frame: columns `rival`, `stem`, `value` (dB), as in `results.differences`; NaN are left out.
    """
    import seaborn

    frame = _columns(frame, "rival", "stem", "value")
    frame = frame.dropna(subset=["value"])
    if frame.empty:
        raise ValueError(f"frame: no song on which both '{system}' and a rival have a number")
    rivals, stems = frame["rival"].nunique(), frame["stem"].unique()
    figure, (ax,) = _grid(1, 1, 7.6, (0.13 * len(stems) + 0.1) * rivals + 1.0)
    palette = {stem: source_color(stem) for stem in stems}
    common = {"data": frame, "x": "value", "y": "rival", "hue": "stem", "palette": palette, "ax": ax}
    seaborn.boxplot(**common, showfliers=False, whis=0, showcaps=False, linewidth=1, boxprops={"alpha": 0.35})
    seaborn.stripplot(**common, dodge=True, size=3, jitter=0.1, legend=False)
    ax.axvline(0, color="0.3", linewidth=1, zorder=0)
    for place in range(rivals - 1):
        ax.axhline(place + 0.5, color="0.85", linewidth=0.6, zorder=0)
    ax.set(xlabel=f"{_text(system)} − rival, SDR (dB)", ylabel="")
    ax.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def paired_scatter(frame: "pandas.DataFrame", x: str, y: str, *, label: str = "SDR (dB)") -> "Figure":
    """Song by song, one system against another: a panel a stem, and the diagonal on which both are equal.

    frame: columns `track`, `stem`, `system`, `value`; songs that one of the two has no number for are left out.
    Raises ValueError if a column is missing or no song has a number of both.
    """
    frame, x, y = _columns(frame, "track", "stem", "system", "value"), _text(x), _text(y)
    wide = frame[frame["system"].isin([x, y])].pivot_table(index=["stem", "track"], columns="system", values="value")
    wide = wide.reindex(columns=[x, y]).dropna()
    if wide.empty:
        raise ValueError(f"scores: no song with a number of both '{x}' and '{y}'")
    stems = [stem for stem in frame["stem"].unique() if stem in wide.index.unique("stem")]
    ends = np.array([np.floor(wide.min(axis=None) - 0.3), np.ceil(wide.max(axis=None) + 0.3)])
    figure, axes = _grid(len(stems), min(2, len(stems)), 2.7, 2.8)
    for ax, stem in zip(axes, stems, strict=True):
        pair = wide.loc[stem]
        ax.plot(ends, ends, color="0.4", linewidth=0.8, zorder=1)
        ax.scatter(pair[x], pair[y], s=22, color=source_color(stem), edgecolor="white", linewidth=0.4, zorder=2)
        ax.set_title(f"{stem}: above in {(pair[y] > pair[x]).sum()} of {len(pair)}", fontsize="small")
        ax.set(xlim=ends, ylim=ends, aspect="equal", xlabel=f"{x}, {label}", ylabel=f"{y}, {label}")
    return figure


def score_matrix(frame: "pandas.DataFrame", *, label: str, rows: str = "clips of", columns: str = "prior") -> "Figure":
    """A table as annotated heat map, each row's highest value in a frame.

    For a likelihood table, where each source's clips should like their own prior best. label: what the values are,
    with their unit. frame: numeric, one row and one column a name.
    """
    import seaborn
    from matplotlib.patches import Rectangle

    values = _array(frame.to_numpy(dtype=float), label, 2)
    height, width = values.shape
    figure, (ax,) = _grid(1, 1, 1.1 * width + 2.5, 0.7 * height + 1.2)
    seaborn.heatmap(frame, annot=True, fmt=".2f", cmap="crest", linewidths=1, cbar_kws={"label": label}, ax=ax)
    for row, column in enumerate(values.argmax(axis=1)):
        ax.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, fill=False, edgecolor="black", linewidth=2))
    ax.set(xlabel=columns, ylabel=rows)
    ax.tick_params(axis="y", rotation=0)
    return figure


def _name_points(ax: "Axes", names: Sequence[str], points: np.ndarray, line: np.ndarray) -> None:
    """Write each name beside its point, as near as it hides no point, no other name and nothing of the `line`.

    points: (names, 2); line: (corners, 2), of horizontal and vertical pieces. The figure's layout must be settled.
    """
    from matplotlib.transforms import Bbox

    unit = ax.figure.dpi / 72  # pixels per point
    centres = ax.transData.transform(points)
    taken = [Bbox([centre - 4 * unit, centre + 4 * unit]) for centre in centres]
    corners = ax.transData.transform(line)
    taken += [Bbox([np.minimum(*pair) - 1, np.maximum(*pair) + 1]) for pair in itertools.pairwise(corners)]
    directions = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    places = [(reach * dx, reach * dy) for reach in (7, 14, 22, 32, 44) for dx, dy in directions]
    for name, point, centre in zip(names, points, centres, strict=True):
        probe = ax.text(*point, name, fontsize="x-small")
        size = np.array(probe.get_window_extent().size)
        probe.remove()
        starts = [centre + np.multiply(place, unit) + size * (np.sign(place) - 1) / 2 for place in places]
        boxes = [Bbox([start, start + size]) for start in starts]
        free = (k for k, box in enumerate(boxes) if _within(box, ax.bbox) and not box.count_overlaps(taken))
        chosen = next(free, 0)
        taken.append(boxes[chosen])
        dx, dy = places[chosen]
        sides = {"ha": ("right", "center", "left")[np.sign(dx) + 1], "va": ("top", "center", "bottom")[np.sign(dy) + 1]}
        lead = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        note = ax.annotate(
            name, point, (dx, dy), textcoords="offset points", fontsize="x-small", arrowprops=lead, **sides
        )
        note.set_in_layout(False)


def _within(box: "Bbox", frame: "Bbox") -> bool:
    return bool(np.all(box.min >= frame.min) and np.all(box.max <= frame.max))


def ranges(frame: "pandas.DataFrame", *, label: str) -> "Figure":
    """Medians with their quartiles as bars, one row a name, on a logarithmic axis; a target, if any, as a tick.

    frame: columns `name`, `value`, `low`, `high`, all positive, and perhaps `target` (NaN where there is none).
    """
    _columns(frame, "name", "value", "low", "high")
    frame = frame.dropna(subset=["value"])
    if frame.empty or (frame["low"] <= 0).any():
        raise ValueError("ranges: expected rows with values, low and high above 0")
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


def scaling(frame: "pandas.DataFrame", floors: Mapping[str, float]) -> "Figure":
    """Hours until all is done against the number of workers, both logarithmic; a dotted line is what no number beats.

    frame: columns `name` (a line each), `workers`, `hours`. floors: name -> hours of its longest path.
    """
    _columns(frame, "name", "workers", "hours")
    figure, (ax,) = _grid(1, 1, 7.0, 3.4)
    for name, its in frame.sort_values("workers").groupby("name", sort=False):
        (line,) = ax.plot(its["workers"], its["hours"], marker="o", label=name)
        ax.axhline(floors[name], color=line.get_color(), linestyle=":", linewidth=1.4, label=f"{name}: longest path")
    ax.set(xscale="log", yscale="log", xlabel="Workers", ylabel="Time (hours)")
    workers = sorted(frame["workers"].unique())
    ax.set_xticks(workers, [f"{number:g}" for number in workers])
    ax.minorticks_off()
    _plain_decades(ax.yaxis)
    ax.legend(fontsize="small", loc="upper right")
    return figure


def roofline(frame: "pandas.DataFrame", *, copy: float, product: float) -> "Figure":
    """Measured rates under min(product, copy * intensity), the most that arithmetic and memory allow; both axes log.

    frame: columns `intensity` (operations a byte), `rate` (GFLOP/s), `layer` and `direction`, a point a row.
    copy: GB/s of copying; product: GFLOP/s of a large matrix product.
    Reference: Williams, Waterman, Patterson 2009.
    """
    import seaborn

    _columns(frame, "intensity", "rate", "layer", "direction")
    figure, (ax,) = _grid(1, 1, 7.0, 3.6)
    reach = np.geomspace(min(0.5, frame["intensity"].min() / 2), max(frame["intensity"].max(), product / copy) * 4, 200)
    ax.plot(reach, np.minimum(product, copy * reach), color="0.4", linewidth=1.4, label="copying, then a large product")
    look = {"hue": "layer", "style": "direction", "s": 70, "ax": ax}
    seaborn.scatterplot(frame, x="intensity", y="rate", **look)
    ax.set(xscale="log", yscale="log", xlabel="Operations a byte", ylabel="Rate (GFLOP/s)")
    for axis in (ax.xaxis, ax.yaxis):
        _plain_decades(axis)
    ax.legend(title=None, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return figure
