"""Pictures of sound: spectrograms, latents, mean spectra, likelihoods of clips.

The drawing libraries are imported inside the functions, so that importing this module costs nothing.
"""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure
from .style import INK, Arrays, _grid, _share_labels, _text, _texts, source_color


def spectrograms(magnitudes: Arrays, sample_rate: int, hop: int) -> "Figure":
    """20 log10(magnitude / largest value of all) dB over time and logarithmic frequency, one panel per name.

    magnitudes: title -> (bins, frames), linear and >= 0, bins from 0 Hz to sample_rate / 2. hop: samples between
    frames. Levels below -80 dB get the darkest colour.
    """
    reference = max(float(values.max()) for values in magnitudes.values()) or 1.0
    count = len(magnitudes)
    figure, grid = _grid(count, 1, 6.8, 2.8) if count == 1 else _grid(count, 2, 3.6, 1.9)
    for ax, (name, values) in zip(grid, magnitudes.items(), strict=True):
        image = _draw_spectrogram(ax, values, reference, sample_rate, hop, -80)
        ax.set(title=_text(name), xlabel="Time (s)", ylabel="Frequency (Hz)")
    _share_labels(grid, 2)
    figure.colorbar(image, ax=grid, format="%g", label="Level (dB)", pad=0.02, aspect=10 + 5 * len(grid))
    return figure


def latents(z: np.ndarray, *, title: str = "") -> "Figure":
    """A latent (bins, frames) as a picture, and the histogram of its elements against the prior's N(0, 1)."""
    import seaborn

    figure, (left, right) = _grid(2, 2, 3.6, 2.8)
    image = left.imshow(z, aspect="auto", origin="lower", cmap="vlag", vmin=-3, vmax=3, interpolation="nearest")
    left.set(title=_text(title), xlabel="Frame", ylabel="Latent channel")
    left.grid(False)
    figure.colorbar(image, ax=left, label="z", pad=0.02)
    seaborn.histplot(x=z.ravel(), stat="density", bins=np.linspace(-5, 5, 81), element="step", ax=right)
    grid = np.linspace(-5, 5, 201)
    right.plot(grid, np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi), color=INK, linewidth=1.2, label="N(0, 1)")
    right.set(xlabel="z", ylabel="Density")
    right.legend()
    return figure


def spectrogram_table(rows: Mapping[str, Arrays], sample_rate: int, hop: int, *, top: float | None = None) -> "Figure":
    """Rows of small spectrograms rows[row][column] on common axes, under one colour scale.

    top: the magnitude of 0 dB; None: the largest of all. Levels below -60 dB get the darkest colour. All else as in
    `spectrograms`.
    """
    titles = list(dict.fromkeys(title for row in rows.values() for title in row))
    reference = top or max(float(values.max()) for row in rows.values() for values in row.values()) or 1.0
    figure, grid = _grid(len(rows) * len(titles), len(titles), max(1.6, 7.2 / len(titles)), 1.45)
    figure.set_dpi(90)  # noise hardly compresses, and a slider holds many of these pictures
    for ax, (row, title) in zip(grid, itertools.product(rows, titles), strict=True):
        ax.set_visible(title in rows[row])
        if title in rows[row]:
            image = _draw_spectrogram(ax, rows[row][title], reference, sample_rate, hop, -60)
            ax.set(title=_text(title) if row == next(iter(rows)) else "", xlabel="Time (s)")
            ax.set_ylabel(f"{_text(row)}\nFrequency (Hz)", fontsize="small")
            ax.label_outer()
    figure.colorbar(image, ax=grid, format="%g", label="Level (dB)", pad=0.01, aspect=40)
    return figure


def average_spectra(panels: Mapping[str, Arrays], sample_rate: int) -> "Figure":
    """10 log10(mean over frames of magnitude^2) dB by frequency: panels[panel][line], each (bins, frames).

    0 dB is the highest value of all lines. Bins run from 0 Hz to sample_rate / 2.
    """
    power = {
        (panel, line): np.square(values, dtype=np.float64).mean(axis=1)
        for panel, lines in panels.items()
        for line, values in lines.items()
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
    """The log-likelihood of every clip by kind of audio, one panel per prior.

    frame: columns `prior`, `audio` (the kind) and `log_prob` (nats per element).
    The axis is linear between -10 and 10 and logarithmic beyond.
    """
    import seaborn

    frame = _texts(frame, "prior", "audio")
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


def _draw_spectrogram(
    ax: "Axes", magnitude: np.ndarray, reference: float, sample_rate: int, hop: int, bottom: float
) -> "QuadMesh":
    """20 log10(magnitude / reference) dB on `ax`, colours from `bottom` to 0 dB, ticks at 100 Hz, 1 kHz and 10 kHz."""
    import librosa
    import librosa.display

    levels = librosa.amplitude_to_db(magnitude, ref=reference, amin=1e-10 * reference, top_db=None)
    rates: dict[str, Any] = {"sr": sample_rate, "hop_length": hop, "n_fft": 2 * (len(magnitude) - 1)}
    look: dict[str, Any] = {"x_axis": "time", "y_axis": "log", "cmap": "magma", "vmin": bottom, "vmax": 0}
    image = librosa.display.specshow(levels, **rates, **look, ax=ax)
    names = {100: "100", 1000: "1 k", 10000: "10 k"}
    ticks = [hertz for hertz in names if hertz <= sample_rate / 2]
    ax.set_yticks(ticks, [names[hertz] for hertz in ticks])
    ax.grid(False)
    return image
