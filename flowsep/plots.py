"""Pictures in one style: spectrograms, waveforms, losses, scores and latents, each a matplotlib Figure.

The drawing libraries are imported inside the functions, so that importing this module costs nothing.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import yaml

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

Arrays = Mapping[str, np.ndarray]
SOURCE_COLORS = yaml.safe_load(Path(__file__).with_name("colors.yaml").read_text(encoding="utf-8"))
ORACLE = "oracle"
SUPERVISION = {  # what a system learnt from -> its colour, of seaborn's colour-blind-safe ones, and its marker
    "mixtures": ("#0173b2", "o"),
    "random mixes": ("#56b4e9", "s"),
    "solo": ("#d55e00", "D"),
    "none": ("#949494", "X"),
    ORACLE: ("#333333", "^"),
}


def source_color(name: str) -> str:
    """The fixed colour of a source; a name outside the table always gets the same one of its colours."""
    return SOURCE_COLORS.get(name) or list(SOURCE_COLORS.values())[crc32(name.encode()) % len(SOURCE_COLORS)]


def use_style() -> None:
    """Set the seaborn theme of every notebook: thin lines, light grid, a colour-blind-safe cycle, sharp pictures.

    Figures that the notebook shows carry their `describe` as the text for those who do not see them.
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
    seaborn.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85, rc=style)
    if shell:
        png = shell.display_formatter.formatters["image/png"]
        png.for_type(Figure, lambda figure: (print_figure(figure, fmt="png"), {"alt": describe(figure)}))


def describe(figure: "Figure") -> str:
    """A figure in words: its panels, what the axes and colours mean, the names in legends, the numbers in a table."""
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


def spectrogram(
    magnitude: np.ndarray, sample_rate: int, hop: int, *, title: str = "", db_range: float = 80.0
) -> "Figure":
    """20 log10(magnitude / its largest value) dB over time and frequency, on a logarithmic frequency axis.

    magnitude: (bins, frames), linear and >= 0, bins from 0 Hz to sample_rate / 2. hop: samples between frames.
    Levels below -db_range dB get the darkest colour.
    Raises ValueError for another shape, negative or non-finite values.
    """
    return spectrograms({title: _array(magnitude, "magnitude", 2)}, sample_rate, hop, db_range=db_range)


def spectrograms(magnitudes: Arrays, sample_rate: int, hop: int, *, db_range: float = 80.0) -> "Figure":
    """Small multiples, one `spectrogram` a name, under one colour scale: 0 dB is the largest value of all."""
    import librosa
    import librosa.display

    arrays = {name: _array(values, name, 2) for name, values in _named(magnitudes).items()}
    reference = max(float(values.max()) for values in arrays.values()) or 1.0
    figure, grid = _grid(len(arrays), 1, 6.8, 2.8) if len(arrays) == 1 else _grid(len(arrays), 2, 3.6, 1.9)
    for ax, (name, values) in zip(grid, arrays.items(), strict=True):
        if values.min() < 0:
            raise ValueError(f"{name}: expected magnitudes >= 0, found {values.min():.3g}")
        levels = librosa.amplitude_to_db(values, ref=reference, amin=1e-10 * reference, top_db=None)
        rates = {"sr": sample_rate, "hop_length": hop, "n_fft": 2 * (len(values) - 1)}
        look = {"x_axis": "time", "y_axis": "log", "cmap": "magma", "vmin": -db_range, "vmax": 0}
        image = librosa.display.specshow(levels, **rates, **look, ax=ax)
        ax.set(title=_text(name), xlabel="Time (s)", ylabel="Frequency (Hz)")
        _plain_frequencies(ax, sample_rate)
        ax.grid(False)
    _share_labels(grid, 2)
    figure.colorbar(image, ax=grid, format="%g", label="Level (dB)", pad=0.02, aspect=10 + 5 * len(grid))
    return figure


def waveforms(stems: Arrays, sample_rate: int) -> "Figure":
    """Envelopes of named signals, (samples,) or (channels, samples), below each other on common axes."""
    import librosa.display

    arrays = {name: np.atleast_2d(np.asarray(audio)) for name, audio in _named(stems).items()}
    arrays = {name: _array(audio.mean(axis=0, dtype=np.float32), name, 1) for name, audio in arrays.items()}
    figure, axes = _grid(len(arrays), 1, 6.8, 1.0)
    for ax, (name, audio) in zip(axes, arrays.items(), strict=True):
        librosa.display.waveshow(audio, sr=sample_rate, ax=ax, color=source_color(name), axis="time")
        ax.set(xlabel="")
        ax.set_ylabel("Amplitude", fontsize="small")
        ax.set_title(_text(name), loc="left", pad=2)
        ax.sharex(axes[0])
        ax.sharey(axes[0])
    # the range of the first one alone would cut off the others
    reach = 1.05 * max(float(np.abs(audio).max()) for audio in arrays.values()) or 1.0
    axes[-1].set(xlabel="Time (s)", xlim=(0, max(audio.size for audio in arrays.values()) / sample_rate))
    axes[-1].set(ylim=(-reach, reach))
    for ax in axes:
        ax.label_outer()
    return figure


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


def latents(z: np.ndarray, *, title: str = "") -> "Figure":
    """A latent (bins, frames) as picture, and its histogram against N(0, 1), which the prior assumes."""
    import seaborn

    z = _array(z, "z", 2)
    figure, (left, right) = _grid(2, 2, 3.6, 2.8)
    image = left.imshow(z, aspect="auto", origin="lower", cmap="vlag", vmin=-3, vmax=3, interpolation="nearest")
    left.set(title=_text(title), xlabel="Frame", ylabel="Latent channel")
    left.grid(False)
    figure.colorbar(image, ax=left, label="z", pad=0.02)
    seaborn.histplot(x=z.ravel(), stat="density", bins=np.linspace(-5, 5, 81), element="step", ax=right)
    grid = np.linspace(-5, 5, 201)
    right.plot(grid, np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi), color="black", linewidth=1.2, label="N(0, 1)")
    right.set(xlabel="z", ylabel="Density")
    right.legend()
    return figure


def _grid(count: int, columns: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure with `count` axes of (width, height) inches, filled row by row; spare places stay empty."""
    import matplotlib.pyplot as plt

    rows = -(-count // columns)
    figure = plt.figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.07)
    plt.close(figure)  # it lives on, but a notebook shows it once, as the value of its cell, and not again by itself
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


def _array(values: np.ndarray, name: str, dimensions: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != dimensions or values.size == 0:
        raise ValueError(f"{name}: expected {dimensions} axes with at least one element, found shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: holds NaN or infinite values")
    return values


def _named(arrays: Arrays) -> Arrays:
    if not arrays:
        raise ValueError("nothing to draw: expected at least one name with its array")
    return arrays


def _columns(frame: "pandas.DataFrame", *needed: str) -> "pandas.DataFrame":
    """`frame`, all that is text in the columns as `_text`; ValueError where one is missing or there are no rows."""
    missing = [column for column in needed if column not in frame]
    if missing or frame.empty:
        raise ValueError(f"frame: expected rows with the columns {needed}, found {len(frame)} rows of {list(frame)}")
    return frame.assign(
        **{column: frame[column].map(_text) for column in needed if frame[column].dtype.kind not in "fiu"}
    )


def _text(name: Any) -> Any:
    """A name as matplotlib shows it letter by letter, not as mathematics between dollar signs."""
    return name.replace("$", r"\$") if isinstance(name, str) else name


def spectrogram_table(
    rows: Mapping[str, Arrays], sample_rate: int, hop: int, *, db_range: float = 60.0, top: float | None = None
) -> "Figure":
    """Rows of small spectrograms rows[row][column] on common axes, under one colour scale.

    top: the magnitude of 0 dB; None: the largest of all. Everything else as in `spectrogram`.
    """
    import librosa
    import librosa.display

    titles = list(dict.fromkeys(title for row in _named(rows).values() for title in _named(row)))
    arrays = {(row, title): _array(values, title, 2) for row, its in rows.items() for title, values in its.items()}
    reference = top or max(float(values.max()) for values in arrays.values()) or 1.0
    figure, grid = _grid(len(rows) * len(titles), len(titles), max(1.6, 7.2 / len(titles)), 1.45)
    figure.set_dpi(90)  # noise hardly compresses, and there are many pictures of it here
    look = {"x_axis": "time", "y_axis": "log", "cmap": "magma", "vmin": -db_range, "vmax": 0}
    for ax, (row, title) in zip(grid, ((row, title) for row in rows for title in titles), strict=True):
        ax.set_visible((row, title) in arrays)
        if (row, title) in arrays:
            values = arrays[row, title]
            levels = librosa.amplitude_to_db(values, ref=reference, amin=1e-10 * reference, top_db=None)
            rates = {"sr": sample_rate, "hop_length": hop, "n_fft": 2 * (len(values) - 1)}
            image = librosa.display.specshow(levels, ax=ax, **rates, **look)
            ax.set(title=_text(title) if row == next(iter(rows)) else "", xlabel="Time (s)")
            ax.set_ylabel(f"{_text(row)}\nFrequency (Hz)", fontsize="small")
            _plain_frequencies(ax, sample_rate)
            ax.label_outer()
            ax.grid(False)
    figure.colorbar(image, ax=grid, format="%g", label="Level (dB)", pad=0.01, aspect=40)
    return figure


def average_spectra(panels: Mapping[str, Arrays], sample_rate: int) -> "Figure":
    """10 log10(mean over frames of magnitude^2) dB by frequency: panels[panel][line], each (bins, frames).

    0 dB is the highest value of all lines. Bins run from 0 Hz to sample_rate / 2.
    """
    power = {
        (panel, line): np.square(_array(values, line, 2), dtype=np.float64).mean(axis=1)
        for panel, lines in _named(panels).items()
        for line, values in _named(lines).items()
    }
    top = max(float(values.max()) for values in power.values()) or 1.0
    figure, grid = _grid(len(panels), min(2, len(panels)), 6.8 if len(panels) == 1 else 3.6, 2.4)
    for ax, panel in zip(grid, panels, strict=True):
        for line in panels[panel]:
            levels = 10 * np.log10(power[panel, line] / top + 1e-20)
            frequency = np.linspace(0, sample_rate / 2, len(levels))
            ax.semilogx(frequency[1:], levels[1:], linewidth=1.4, label=_text(line))  # 0 Hz has no place on the axis
        ax.set(title=_text(panel), xlabel="Frequency (Hz)", ylabel="Level (dB)", ylim=(-90, 3))
        ax.legend(loc="lower left", fontsize="small")
    return figure


def likelihoods(frame: "pandas.DataFrame") -> "Figure":
    """Every clip's log-likelihood by what it is, one panel a prior; columns `prior`, `audio`, `log_prob` in nats.

    The axis is linear between -10 and 10 and logarithmic beyond.
    """
    import seaborn

    frame = _columns(frame, "prior", "audio", "log_prob")
    priors, kinds = frame["prior"].unique(), frame["audio"].unique()
    figure, grid = _grid(len(priors), min(2, len(priors)), 3.9, 0.28 * len(kinds) + 1.1)
    for ax, prior in zip(grid, priors, strict=True):
        common = {"data": frame[frame["prior"] == prior], "x": "log_prob", "y": "audio", "order": list(kinds), "ax": ax}
        seaborn.boxplot(**common, color=source_color(prior), boxprops={"alpha": 0.35}, showfliers=False, linewidth=1)
        seaborn.stripplot(**common, color=source_color(prior), size=3, jitter=0.2)
        ax.set_xscale("symlog", linthresh=10)
        ax.set(title=f"{prior} prior", xlabel="log p(x) (nats per element)", ylabel="")
        ax.set_xlim(2 * min(frame["log_prob"].min(), -10), 10)
        ax.locator_params(axis="x", numticks=5)
        ax.label_outer()
    return figure


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


def _plain_frequencies(ax: "Axes", sample_rate: int) -> None:
    """Ticks at 100 Hz, 1 kHz and 10 kHz on a frequency axis upwards, those that the sample rate has."""
    names = {100: "100", 1000: "1 k", 10000: "10 k"}
    there = [hertz for hertz in names if hertz <= sample_rate / 2]
    ax.set_yticks(there, [names[hertz] for hertz in there])


def _plain_decades(axis: "Axis") -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as plain numbers: a short logarithmic axis would have hardly one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
