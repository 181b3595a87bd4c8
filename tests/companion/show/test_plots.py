"""Pictures show what they are given, in words too, and everyone can tell their colours apart."""

import itertools
import re
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from companion import show
from companion.show import style

# seaborn 0.13.2 passes `vert` to Axes.bxp, which matplotlib 3.11 deprecates; nothing in our hands.
pytestmark = pytest.mark.filterwarnings("ignore:vert. bool was deprecated")
RATE, HOP = 22050, 256


@pytest.fixture(autouse=True, scope="module")
def _style():
    with matplotlib.rc_context():
        show.use_style()
        yield


def _labels(ax):
    return ax.get_title(), ax.get_xlabel(), ax.get_ylabel()


def _magnitude(frequency, frames=40):
    magnitude = np.full((513, frames), 1e-3)
    magnitude[round(frequency * 1024 / RATE)] = 1.0
    return magnitude


def test_spectrograms_put_a_tone_at_its_frequency_and_levels_below_the_highest():
    figure = show.spectrograms({"tone": _magnitude(1000)}, RATE, HOP)
    mesh = figure.axes[0].collections[0]
    levels = np.asarray(mesh.get_array()).reshape(513, 40)
    frequency = mesh.get_coordinates()[:-1, 0, 1][levels[:, 0].argmax()]
    assert abs(frequency - 1000) < RATE / 1024
    np.testing.assert_allclose([levels.max(), levels.min()], [0, -60], atol=1e-4)
    assert mesh.get_clim() == (-80, 0)
    assert _labels(figure.axes[0]) == ("tone", "Time (s)", "Frequency (Hz)")
    assert mesh.get_coordinates()[0, -1, 0] == pytest.approx(40 * HOP / RATE, rel=0.03)


def test_spectrograms_share_one_scale():
    figure = show.spectrograms({"a": _magnitude(500), "b": 0.1 * _magnitude(500), "c": _magnitude(900)}, RATE, HOP)
    top = [np.max(ax.collections[0].get_array()) for ax in figure.axes[:3]]
    np.testing.assert_allclose(top, [0, -20, 0], atol=1e-4)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a", "b", "c"]
    named = [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes[:3]]  # once where neighbours have the same axis
    assert named == [("", "Frequency (Hz)"), ("Time (s)", ""), ("Time (s)", "Frequency (Hz)")]
    assert len(figure.axes) == 4 and figure.axes[3].get_ylabel() == "Level (dB)"


def test_a_silent_spectrogram_is_drawn_at_the_bottom():
    assert show.spectrograms({"": np.zeros((513, 4))}, RATE, HOP).axes[0].collections[0].get_array().max() <= -80


def _losses(sign):
    steps = np.arange(5)
    parts = [pd.DataFrame({"step": steps, "split": split, "value": sign * steps}) for split in ("train", "valid")]
    return pd.concat(parts, ignore_index=True)


def test_loss_curve_draws_each_split():
    ax = show.loss_curves({"bass": _losses(-1)}).axes[0]
    assert _labels(ax) == ("bass", "Step", "NLL (nats per element)")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["train", "valid"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), -np.arange(5))


def test_loss_curves_are_small_multiples_with_the_label_of_their_loss():
    figure = show.loss_curves({"critic": _losses(-1), "generator": _losses(2), "other": _losses(1)}, label="Loss (1)")
    assert [_labels(ax) for ax in figure.axes] == [(n, "Step", "Loss (1)") for n in ("critic", "generator", "other")]
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), 2 * np.arange(5))
    assert _labels(show.loss_curves({"": _losses(1)}, label="L1 (1)").axes[0]) == ("", "Step", "L1 (1)")
    long = "mean absolute error (standard deviations of the mixture)"
    lines = show.loss_curves({"": _losses(1)}, label=long).axes[0].get_ylabel().split("\n")
    assert " ".join(lines) == long and len(lines) == 2


def test_score_boxes_show_every_score_that_is_a_number():
    rows = list(itertools.product(["vocals", "drums"], ["nmf", "instglow"], [1.0, 2.0, np.nan]))
    figure = show.score_boxes(pd.DataFrame(rows, columns=["stem", "system", "value"]))
    ax = figure.axes[0]
    points = sum(len(item.get_offsets()) for item in ax.collections)
    assert points == 8
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["vocals", "drums"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["nmf", "instglow"]
    assert ax.get_ylabel() == "SDR (dB)"


def test_score_boxes_take_more_systems_than_the_palette_has_colours():
    rows = list(itertools.product(["vocals"], [f"system {k}" for k in range(13)], [1.0, 2.0]))
    figure = show.score_boxes(pd.DataFrame(rows, columns=["stem", "system", "value"]))  # a warning would be an error
    assert len(figure.axes[0].get_legend().get_texts()) == 13


def _campaign():
    """Two stems; the best of three systems is the oracle, then c, then the blind one, which has no drums."""
    medians = {"vocals": {"best": 8, "c": 4, "worst": 0}, "drums": {"c": 5, "best": 9}}
    kinds = {"best": "oracle", "c": "supervised", "worst": "blind"}
    return pd.DataFrame(
        [
            {"stem": stem, "system": system, "kind": kinds[system], "track": f"song {k}", "value": median + step}
            for stem, systems in medians.items()
            for system, median in systems.items()
            for k, step in enumerate((-1, 0, 1, 2, -2))
        ]
    )


def test_ranked_boxes_rank_the_systems_and_place_the_mark():
    figure = show.ranked_boxes(_campaign(), pd.Series({"vocals": 3.92}), mark="as reported")
    vocals, drums = figure.axes
    assert [tick.get_text() for tick in vocals.get_yticklabels()] == ["best", "c", "worst"]
    assert [tick.get_text() for tick in drums.get_yticklabels()] == ["best", "c"]
    assert vocals.yaxis_inverted()  # the first is on top
    dashed = [[line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] for ax in figure.axes]
    assert dashed == [[3.92], []]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "oracle",
        "supervised",
        "blind",
        "as reported",
    ]
    faces = [{tuple(patch.get_facecolor()) for patch in ax.patches} for ax in figure.axes]
    assert len(faces[0]) == 3 and len(faces[1]) == 2 and faces[1] < faces[0]
    assert vocals.get_xlim() == drums.get_xlim() and vocals.get_xlabel() == "SDR (dB)"
    assert len(show.ranked_boxes(_campaign()).legends[0].get_texts()) == 3


def test_ranked_boxes_colour_by_supervision_and_show_each_song():
    figure = show.ranked_boxes(_campaign().replace({"kind": {"supervised": "mixtures"}}), dots=True)
    for ax, systems in zip(figure.axes, (3, 2), strict=True):
        assert sum(len(item.get_offsets()) for item in ax.collections) == 5 * systems
    colours = {patch.get_label(): patch.get_facecolor() for patch in figure.legends[0].get_patches()}
    known = {kind: matplotlib.colors.to_rgba(style.SUPERVISION[kind][0]) for kind in ("oracle", "mixtures")}
    assert {kind: colours[kind] for kind in known} == known and len(set(colours.values())) == 3


# ---- quality against compute -----------------------------------------------------------------------------------------


def _table(seed=None):
    """As `tables.table` has it; with a seed, more systems, crowded together."""
    rows = [
        ("mixture", "none", 0.0, 0.0, 1.0),
        ("nmf", "solo", 20.0, 0.5, 2.0),
        ("worse", "mixtures", 30.0, 5.0, 1.5),
        ("net", "mixtures", 600.0, 0.1, 5.0),
        ("equal", "random mixes", 600.0, 0.1, 4.0),
        ("flow", "solo", 1000.0, 8.0, 5.0),
        ("mask", "oracle", 0.0, 0.01, 9.0),
        ("unknown", "mixtures", np.nan, 0.2, 8.0),
        ("theirs", "", np.nan, np.nan, 7.0),
    ]
    if seed is not None:
        rng = np.random.default_rng(seed)
        rows += [(f"a long name {k}", "mixtures", *rng.uniform((500, 0.05, 4), (700, 0.2, 5.5))) for k in range(8)]
    return pd.DataFrame(rows, columns=["system", "supervision", "training (s)", "RTF", "mean"])


def test_the_front_holds_what_nothing_cheaper_beats_and_no_oracle():
    assert show.pareto_front(_table(), "training (s)")["system"].tolist() == ["mixture", "nmf", "net"]
    assert show.pareto_front(_table(), "RTF")["system"].tolist() == ["mixture", "net", "unknown"]
    assert show.pareto_front(_table()[:0].assign(x=1.0).reindex([0]), "x").empty


def test_pareto_places_each_system_at_its_cost_and_those_without_at_the_edge():
    figure = show.pareto(_table())
    for ax, cost, zero in zip(figure.axes, ("training (s)", "RTF"), ("none", "0"), strict=True):
        rows = _table().dropna(subset=[cost])
        dots = np.concatenate([item.get_offsets() for item in ax.collections])
        edge = min(dots[:, 0])
        expected = [(row[cost] or edge, row["mean"]) for _, row in rows.iterrows()]
        np.testing.assert_allclose(sorted(map(tuple, dots)), sorted(expected))
        assert edge < rows[cost][rows[cost] > 0].min() / 2 and ax.get_xscale() == "log"
        ticks = {label.get_text(): place for label, place in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)}
        assert ticks[zero] == pytest.approx(edge) and ticks["1,000" if zero == "none" else "1"] in (1000, 1)
        assert sorted(text.get_text() for text in ax.texts) == sorted(rows["system"])
        steps = ax.lines[0].get_xydata()
        front = show.pareto_front(_table(), cost)
        assert sorted(set(steps[:, 1])) == front["mean"].tolist() and steps[-1, 0] == ax.get_xlim()[1]
        assert (np.diff(steps, axis=0) >= 0).all() and (np.diff(steps, axis=0) > 0).any(axis=1).all()
    assert figure.axes[1].get_xlabel() == "Separation (s per s of music)"
    assert [text.get_text() for text in figure.legends[0].get_texts()][:4] == [
        "mixtures",
        "random mixes",
        "solo",
        "none",
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_names_of_crowded_systems_do_not_overlap(seed):
    figure = show.pareto(_table(seed))
    figure.draw_without_rendering()
    for ax in figure.axes:
        boxes = [matplotlib.text.Text.get_window_extent(text) for text in ax.texts]
        assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        assert all(ax.bbox.x0 - 1 <= box.x0 and box.x1 <= ax.bbox.x1 + 1 for box in boxes)


def test_pareto_of_systems_that_cost_nothing_is_a_picture_too(tmp_path):
    show.pareto(_table()[:1]).savefig(tmp_path / "x.png")
    show.pareto(_table()[-1:]).savefig(tmp_path / "y.png")  # and one of which nothing is known


def test_paired_differences_show_every_song_by_rival_and_source():
    rows = list(itertools.product(["nmf", "net"], ["vocals", "bass"], [1.0, -2.0, np.nan, 4.0]))
    figure = show.paired_differences(pd.DataFrame(rows, columns=["rival", "stem", "value"]), "flow")
    (ax,) = figure.axes
    dots = np.concatenate([item.get_offsets() for item in ax.collections])
    assert sorted(dots[:, 0]) == [-2.0] * 4 + [1.0] * 4 + [4.0] * 4
    assert sorted(set(dots[:, 1].round().astype(int))) == [0, 1]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["nmf", "net"]
    assert ax.get_xlabel() == "flow − rival, SDR (dB)"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["vocals", "bass"]
    assert 0 in [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1]


def test_paired_scatter_counts_the_songs_above_the_diagonal():
    frame = _campaign()
    frame.loc[(frame.stem == "vocals") & (frame.system == "c") & (frame.track == "song 0"), "value"] = 20
    frame.loc[(frame.stem == "drums") & (frame.system == "c") & (frame.track == "song 1"), "value"] = np.nan
    figure = show.paired_scatter(frame, "best", "c")
    assert [ax.get_title() for ax in figure.axes] == ["vocals: above in 1 of 5", "drums: above in 0 of 4"]
    x, y = np.asarray(figure.axes[0].collections[0].get_offsets()).T
    assert sorted(zip(x, y, strict=True)) == [(6, 2), (7, 20), (8, 4), (9, 5), (10, 6)]
    assert _labels(figure.axes[0])[1:] == ("best, SDR (dB)", "c, SDR (dB)")
    assert all(ax.get_xlim() == ax.get_ylim() == figure.axes[0].get_xlim() for ax in figure.axes)


def test_score_matrix_frames_the_best_of_each_row():
    names = ["vocals", "bass"]
    frame = pd.DataFrame([[3.0, 1.0], [2.5, 2.0]], names, names)
    figure = show.score_matrix(frame, label="Log-likelihood (nats per element)")
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == ["3.00", "1.00", "2.50", "2.00"]
    assert [(int(patch.get_x()), int(patch.get_y())) for patch in ax.patches] == [(0, 0), (0, 1)]
    assert _labels(ax)[1:] == ("prior", "clips of")
    assert figure.axes[1].get_ylabel() == "Log-likelihood (nats per element)"


def test_latents_show_the_values_and_the_normal_density():
    z = np.random.default_rng(0).standard_normal((64, 100))
    left, right = show.latents(z, title="drums").axes[:2]
    np.testing.assert_array_equal(left.images[0].get_array(), z)
    x, density = right.lines[-1].get_data()
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-4)
    assert _labels(left) == ("drums", "Frame", "Latent channel")


def test_spectrogram_table_has_a_row_and_a_column_a_name_and_one_scale():
    rows = {"truth": {"x": _magnitude(500), "y": 0.1 * _magnitude(500)}, "estimate": {"x": 0.01 * _magnitude(500)}}
    figure = show.spectrogram_table(rows, RATE, HOP)
    cells = figure.axes[:4]
    assert [ax.get_visible() for ax in cells] == [True, True, True, False]
    top = [np.max(ax.collections[0].get_array()) for ax in cells[:3]]
    np.testing.assert_allclose(top, [0, -20, -40], atol=1e-4)
    assert [ax.get_title() for ax in cells[:3]] == ["x", "y", ""]
    assert cells[2].get_ylabel() == "estimate\nFrequency (Hz)" and cells[2].get_xlabel() == "Time (s)"
    assert cells[0].get_ylabel() == "truth\nFrequency (Hz)" and figure.axes[4].get_ylabel() == "Level (dB)"
    louder = show.spectrogram_table(rows, RATE, HOP, top=10.0)
    assert np.max(louder.axes[0].collections[0].get_array()) == pytest.approx(-20, abs=1e-4)


def test_average_spectra_are_powers_over_frequency():
    twice = np.concatenate([_magnitude(1000), np.zeros((513, 40))], axis=1)
    figure = show.average_spectra({"a": {"whole": _magnitude(1000), "half of the time": twice}}, RATE)
    whole, half = figure.axes[0].lines
    frequency, levels = whole.get_data()
    assert abs(frequency[levels.argmax()] - 1000) < RATE / 1024 and frequency[-1] == RATE / 2
    np.testing.assert_allclose([levels.max(), levels.min()], [0, -60], atol=1e-4)
    assert half.get_ydata().max() == pytest.approx(10 * np.log10(0.5))
    assert _labels(figure.axes[0]) == ("a", "Frequency (Hz)", "Level (dB)")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["whole", "half of the time"]


def test_likelihoods_show_every_clip_from_far_below_to_far_above():
    rows = list(itertools.product(["bass", "drums"], ["own", "noise"], [5.0, -3e5]))
    figure = show.likelihoods(pd.DataFrame(rows, columns=["prior", "audio", "log_prob"]))
    for ax, name in zip(figure.axes, ("bass", "drums"), strict=True):
        dots = np.concatenate([item.get_offsets()[:, 0] for item in ax.collections])
        assert sorted(dots) == [-3e5, -3e5, 5, 5]
        assert ax.get_xlim()[0] < -3e5 and ax.get_xscale() == "symlog"
        assert ax.get_title() == f"{name} prior"
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["own", "noise"]


def test_figures_can_be_saved_and_leave_nothing_open(tmp_path):
    figure = show.spectrograms({"": np.zeros((513, 4))}, RATE, HOP)
    figure.savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
    assert plt.get_fignums() == []


def test_scores_that_all_failed_are_no_picture():
    with pytest.raises(ValueError, match="no row with a value"):
        show.score_boxes(pd.DataFrame({"stem": ["a"], "system": ["b"], "value": [np.nan]}))
    assert plt.get_fignums() == []


# ---- colours ---------------------------------------------------------------------------------------------------------


class Eye(NamedTuple):
    """A matrix on linear sRGB: what an eye without one kind of cone sees (Machado, Oliveira, Fernandes 2009)."""

    name: str
    matrix: list[list[float]]


EYES = [
    Eye("all cones", np.eye(3).tolist()),
    Eye("protan", [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    Eye("deutan", [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    Eye("tritan", [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
]
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def _linear(color):
    value = np.array(matplotlib.colors.to_rgb(color))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _lab(linear):
    relative = XYZ @ np.clip(linear, 0, 1) / XYZ.sum(axis=1)
    x, y, z = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("name", style.SOURCE_COLORS)
def test_colours_stand_out_by_day_and_by_night(name):
    luminance = (XYZ @ _linear(show.source_color(name)))[1]
    assert 1.05 / (luminance + 0.05) >= 3
    assert (luminance + 0.05) / 0.05 >= 3


@pytest.mark.parametrize("eye", EYES, ids=lambda eye: eye.name)
def test_colours_differ_for_every_eye(eye):
    seen = {name: _lab(np.array(eye.matrix) @ _linear(color)) for name, color in style.SOURCE_COLORS.items()}
    distance = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(seen, 2)}
    assert min(distance.values()) > 14, min(distance, key=distance.get)
    assert min(d for pair, d in distance.items() if set(pair) <= {"vocals", "bass", "drums", "other"}) > 20


def test_the_rest_of_a_source_has_the_colour_of_none_beside_it():
    beside = ("vocals", "bass", "drums", "other", "guitar", "piano")
    assert show.source_color("rest") not in {show.source_color(name) for name in beside}


def test_the_player_has_the_colours_of_the_pictures():
    page = show.StemPlayer({name: np.zeros(100) for name in ("vocals", "strings", "<b>")}, 8000)._repr_html_()
    colours = re.findall('data-color="([^"]*)"', page)
    assert colours == [show.source_color(name) for name in ("vocals", "strings", "<b>")]
    assert colours[0] == style.SOURCE_COLORS["vocals"] and set(colours) <= set(style.SOURCE_COLORS.values())


# ---- in words --------------------------------------------------------------------------------------------------------


def test_a_figure_is_told_in_words():
    frame = pd.DataFrame([[1.5, -2.0], [0.25, 3.0]], index=["bass", "drums"], columns=["one prior", "two"])
    said = show.describe(show.score_matrix(frame, label="log p (nats)"))
    for part in ("Rows: bass, drums.", "Columns: one prior, two.", "Values, row by row: 1.50, -2.00, 0.25, 3.00."):
        assert part in said
    assert "Colour: log p (nats)." in said and "prior to the right" in said
    magnitudes = {name: np.random.default_rng(0).random((65, 30)) for name in ("vocals", "drums")}
    said = show.describe(show.spectrograms(magnitudes, 8000, 64))
    assert said.startswith(
        "2 panels: vocals, drums. Time (s) to the right. Frequency (Hz) upwards. Colour: Level (dB)."
    )


def test_a_notebook_s_figures_carry_their_words(tmp_path):
    """In a real kernel, where the inline backend sets formatters of its own."""
    source = "from companion import show\nimport numpy as np\nshow.use_style()\nshow.latents(np.eye(4), title='z')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    (output,) = [output for output in notebook.cells[0].outputs if "image/png" in output.get("data", {})]
    assert output.metadata["image/png"]["alt"].startswith("2 panels: z. Frame, z to the right.")
