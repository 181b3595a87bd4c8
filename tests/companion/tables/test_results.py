"""Tables: the aggregation of each convention, what a block says, and every published number against its source."""

import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from nbformat import NotebookNode
from scipy.stats import wilcoxon

from companion.scores.evaluate import COLUMNS, NUMBERS, write_scores
from companion.scores.museval_json import KIND
from companion.tables import (
    ALL,
    aggregate,
    costs,
    differences,
    load_campaign,
    load_published,
    load_scores,
    paired,
    plain,
    same_data,
    same_songs,
    table,
    table_html,
    table_markdown,
    write_tables,
)
from companion.tables.published import SUBMISSIONS
from companion.tables.statistics import holm
from flowsep.files import FlowsepError, sha256

PUBLISHED = Path(__file__).parents[3] / "results" / "published.csv"
MEDIANS = PUBLISHED.with_name("sisec18_test_medians.csv")
FOUR = ("vocals", "bass", "drums", "other")

# PAPER: vocals, bass, drums, other
PAPER_MUSDB = """
Demucs (v2) | full | U-Net | 7.14 | 5.50 | 6.74 | 4.16
Conv-TasNet | full | TCN | 7.00 | 4.19 | 5.25 | 3.94
Open-Unmix | full | BiLSTM | 6.86 | 4.88 | 6.35 | 3.86
Wave-U-Net | full | U-Net | 5.06 | 2.63 | 3.74 | 1.95
InstGlow | source-only | Glow | 3.92 | 2.58 | 3.85 | 2.37
GAN-Prior | source-only | SpecGAN | -0.44 | 0.48 | -0.40 | 0.32
"""
# PAPER: bass, drums, guitar, piano
PAPER_SLAKH = """
Demucs (v2) | full | U-Net | 5.48 | 10.21 | - | -
Conv-TasNet | full | TCN | 4.97 | 9.95 | - | -
Open-Unmix | full | BiLSTM | 4.66 | 8.64 | - | -
Wave-U-Net | full | U-Net | 0.01 | 3.91 | - | -
InstGlow | source-only | Glow | 1.54 | 6.14 | 1.85 | 0.80
GAN-Prior | source-only | SpecGAN | 0.09 | 0.85 | -0.01 | -0.42
"""
AUTHORS = """
Demucs (v2) | full | U-Net | 6.84 | 7.01 | 6.86 | 4.42
Conv-TasNet | full | TCN | 6.81 | 5.66 | 6.08 | 4.37
Open-Unmix | full | BiLSTM | 6.32 | 5.23 | 5.73 | 4.02
"""
CAMPAIGN = """
Wave-U-Net (STL2) | full | U-Net | 3.25 | 3.21 | 4.22 | 2.25
Ideal ratio mask (IRM1) | oracle | | 8.52 | 6.18 | 7.33 | 6.92
Ideal ratio mask (IRM2) | oracle | | 9.43 | 7.12 | 8.45 | 7.85
Unprocessed mixture (MIX) | none | | 1.12 | 0.67 | 1.33 | 1.16
"""
TABLES = [
    (PAPER_MUSDB, "reported by the paper", "MUSDB18", "paper", FOUR),
    (PAPER_SLAKH, "reported by the paper", "Slakh2100-submix", "paper", ("bass", "drums", "guitar", "piano")),
    (AUTHORS, "reported by its authors", "MUSDB18", "sisec18", FOUR),
    (CAMPAIGN, "recomputed", "MUSDB18", "sisec18", FOUR),
]


def expected_rows():
    for text, kind, dataset, convention, stems in TABLES:
        for line in text.strip().splitlines():
            system, supervision, backbone, *values = [cell.strip() for cell in line.split("|")]
            for stem, value in zip(stems, values, strict=True):
                if value != "-":
                    yield system, supervision, backbone, dataset, convention, stem, "SDR", float(value), kind


def row(**cells):
    filled = {name: "" if name not in NUMBERS else 0 for name in COLUMNS}
    filled |= {"profile": "demo", "system": "flow", "kind": "measured", "data": "band", "metric": "SDR"}
    return filled | {"convention": "paper", "status": "ok", "time": "2026-01-01T00:00:00+00:00"} | cells


def scores(*rows):
    return pd.DataFrame([row(**cells) for cells in rows], columns=list(COLUMNS))


def test_published_holds_exactly_the_numbers_of_the_paper_page():
    published = load_published(PUBLISHED)
    actual = [tuple(r) for r in published.drop(columns="source").itertuples(index=False)]
    assert sorted(actual) == sorted(expected_rows())
    assert len(actual) == len(set(actual))


def test_every_published_number_names_where_it_stands():
    for kind, source in load_published(PUBLISHED)[["kind", "source"]].itertuples(index=False):
        needed = {"reported by the paper": "10.1109/LSP.2022.3219355", "recomputed": "62fb479"}.get(kind, "20")
        assert needed in source and ("arXiv" in source or "doi" in source)


def test_recomputed_numbers_are_the_medians_of_the_campaigns_file():
    campaign = load_campaign(MEDIANS)
    recomputed = load_published(PUBLISHED).query("kind == 'recomputed'")
    assert len(recomputed) == 4 * 4
    for row in recomputed.itertuples():
        submission = row.system[row.system.index("(") + 1 : -1]
        assert f"submission {submission}:" in row.source
        scores = campaign[(campaign.system == submission) & (campaign.stem == row.stem)]
        assert len(scores) == 50 and scores.SDR.median() == pytest.approx(row.value, abs=0.01)


def test_the_campaign_is_whole():
    campaign = load_campaign(MEDIANS)
    assert len(campaign) == 6050 and campaign.track.nunique() == 50 and len(SUBMISSIONS) == 31
    assert campaign.groupby("system").stem.nunique().value_counts().to_dict() == {5: 17, 2: 10, 4: 4}
    kinds = campaign.groupby("kind").system.nunique().to_dict()
    assert kinds == {"oracle": 5, "supervised": 13, "supervised, more songs": 5, "blind": 7, "unprocessed": 1}
    medians = campaign[campaign.stem == "vocals"].groupby(["kind", "system"]).SDR.median()
    assert medians["oracle"].min() > medians.drop("oracle", level="kind").max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("target", "stem", 1), "lacks column 'target'"),
        (lambda text: text.replace("8.58260", "loud", 1), "column 'SDR' holds something that is no number"),
        (lambda text: text.replace("2DFT", "3DFT", 1), "column 'system' holds '3DFT'"),
    ],
)
def test_a_bad_campaign_file_is_named(tmp_path, change, message):
    path = tmp_path / "medians.csv"
    path.write_text(change(MEDIANS.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(FlowsepError, match=message) as error:
        load_campaign(path)
    assert str(path) in str(error.value)


def test_the_paper_rule_is_the_median_over_all_pieces():
    frame = scores(
        *({"track": "a", "piece": i, "value": v, "stem": "bass"} for i, v in enumerate([1.0, 2.0, 9.0])),
        {"track": "b", "value": 4.0, "stem": "bass"},
        {"track": "c", "value": np.nan, "stem": "bass", "status": "silent"},
        {"track": "d", "value": np.nan, "stem": "bass", "status": "failed"},
        {"track": "b", "value": 50.0, "stem": "bass", "metric": "SI-SDR"},
        {"track": "b", "value": 50.0, "stem": "bass", "convention": "sisec18"},
    )
    (actual,) = aggregate(frame, "paper").to_dict("records")
    assert actual["median"] == 3.0 and (actual["q25"], actual["q75"]) == (1.75, 5.25)
    assert (actual["n"], actual["tracks"], actual["silent"], actual["failed"]) == (4, 2, 1, 1)
    (actual,) = aggregate(frame, "sisec18").to_dict("records")
    assert (actual["median"], actual["n"], actual["tracks"]) == (50, 1, 1)
    assert aggregate(frame, "paper", "SI-SDR")["median"].tolist() == [50]


@pytest.fixture
def frame():
    values = {"flow": (5.0, 7.0), "nmf": (1.0, 2.0), "mixture": (6.0, np.nan)}
    rows = [
        {"system": system, "track": track, "stem": stem, "value": value, "supervision": "solo"}
        for system, pair in values.items()
        for stem, value in zip(("bass", "drums"), pair, strict=True)
        for track in ("one", "two")
    ]
    frame = scores(*rows)
    frame.loc[frame.value.isna(), "status"] = "failed"
    other = scores({"track": "one", "stem": "bass", "value": 20.0}, {"track": "one", "stem": "drums", "value": 30.0})
    return pd.concat([frame, other.assign(variant="new priors")], ignore_index=True)


def test_blocks_are_sorted_by_the_mean_and_say_n(frame):
    actual = table(frame, load_published(PUBLISHED), convention="paper", sources=("bass", "drums"))
    blocks = list(dict.fromkeys(actual.index.get_level_values("block")))
    assert blocks == [
        "measured here, demo (band)",
        "reported by the paper (MUSDB18)",
        "reported by the paper (Slakh2100-submix)",
    ]
    measured = actual.loc[blocks[0]]
    assert list(measured.index) == ["flow [new priors]", "flow", "nmf", "mixture"]
    assert measured.loc["flow", ["bass", "drums", "mean"]].tolist() == [5, 7, 6]
    assert np.isnan(measured.loc["mixture", "mean"])  # a mean over fewer sources would not compare
    assert measured["n"].tolist() == ["1", "2", "2", "0–2 (2 failed)"]
    paper = actual.loc[blocks[1]]
    assert paper.index[0] == "Demucs (v2)" and paper["mean"].is_monotonic_decreasing
    assert paper.loc["InstGlow", "mean"] == pytest.approx((2.58 + 3.85) / 2)
    assert set(paper["n"]) == {""}


def test_conventions_never_share_a_table(frame):
    with pytest.raises(FlowsepError, match="one convention"):
        table(frame, convention=("paper", "sisec18"), sources=FOUR)
    with pytest.raises(FlowsepError, match="one convention of paper, sisec18, found 'uSDR'"):
        table(frame, convention="uSDR", sources=FOUR)
    with pytest.raises(FlowsepError, match="no scores of SDR by convention 'sisec18'"):
        table(frame, load_published(PUBLISHED), convention="sisec18", sources=FOUR)
    only = table(None, load_published(PUBLISHED), convention="sisec18", sources=FOUR)
    assert set(only.index.get_level_values("block")) == {"reported by its authors (MUSDB18)", "recomputed (MUSDB18)"}
    assert len(table(None, convention="paper", sources=FOUR)) == 0


@pytest.mark.parametrize(
    ("kind", "dataset", "stems"),
    [("musdb18", "MUSDB18", FOUR), ("slakh", "Slakh2100-submix", ("bass", "drums", "guitar", "piano"))],
)
def test_numbers_of_the_same_songs_stand_in_one_table(kind, dataset, stems):
    frame = scores(*({"data": kind, "track": "one", "stem": stem, "value": 5.0} for stem in stems))
    beside = same_data(load_published(PUBLISHED), kind)
    actual = table(frame, beside, convention="paper", sources=stems)
    blocks = {block: list(rows.index.get_level_values("system")) for block, rows in actual.groupby(level="block")}
    assert set(blocks) == {f"measured here, demo ({kind})", f"reported by the paper ({dataset})"}
    assert len(blocks[f"reported by the paper ({dataset})"]) == 6


@pytest.mark.parametrize("kind", ["toyband", "stems"])
def test_nothing_was_published_on_songs_of_ones_own(frame, kind):
    beside = same_data(load_published(PUBLISHED), kind)
    assert beside.empty
    actual = table(frame, beside, convention="paper", sources=FOUR)
    assert set(actual.index.get_level_values("block")) == {"measured here, demo (band)"}


def test_scores_of_others_join_on_the_same_songs_only(frame):
    theirs = {"kind": KIND, "profile": "", "data": "theirs", "stem": "bass", "value": 3.0}
    rows = [("net", "one"), ("net", "two"), ("far", "one"), ("far", "abroad")]
    others = scores(*(theirs | {"system": s, "track": t, "checkpoint": f"{t}.json:12"} for s, t in rows))
    joins = same_songs(frame, others)
    assert joins.tolist() == [True, True, False, False]
    joined = pd.concat([frame, others[joins]])
    actual = table(joined, convention="paper", sources=("bass",))
    assert actual.loc[("read from museval JSON (theirs)", "net"), "bass"] == 3
    assert "far" not in actual.index.get_level_values("system")
    assert "2 files in theirs/net/test, SHA-256" in table_markdown(joined, convention="paper", sources=("bass",))


class _Cells(HTMLParser):
    """The text of all cells, and the titles of those that have one."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.titles, self.text, self.links, self.ids = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for attribute, actual in (("title", self.titles), ("href", self.links), ("id", self.ids)):
            actual += [value for name, value in attributes if name == attribute]

    def handle_data(self, data):
        self.text += [data] if data.strip() else []


def test_html_escapes_text_and_gives_each_number_its_origin(frame):
    evil = "<script>alert('x')</script>\" & co"
    hostile = frame.replace({"system": {"nmf": evil}})
    text = table_html(hostile, load_published(PUBLISHED), convention="paper", sources=FOUR)
    cells = _Cells(text)
    assert "script" not in cells.tags and evil in cells.text
    assert cells.tags.count("tbody") == 3
    assert {"measured here, demo (band)", "reported by the paper (MUSDB18)"} <= set(cells.text)
    assert any("median of 2 values from 2 tracks, quartiles 5.00 to 5.00 dB" in title for title in cells.titles)
    assert any("0 values from 0 tracks, 2 failed" in title for title in cells.titles)
    assert sum("10.1109/LSP.2022.3219355" in title for title in cells.titles) == 24 + 12
    assert "nan" not in text and "–" in cells.text


def test_each_systems_mark_leads_to_its_source_below_the_table(frame):
    frame["config_hash"], frame["checkpoint"] = "abc", "vocals.safetensors:12"
    published = load_published(PUBLISHED)
    pages = [_Cells(table_html(frame, published, convention="paper", sources=stems)) for stems in (FOUR, FOUR[1:3])]
    for page in pages:
        rows = [i for i, tag in enumerate(page.tags) if tag == "sup"]
        assert len(rows) == 4 + 6 + 6 == len(page.links)  # flow, its variant, nmf, mixture; the paper's two tables
        assert {link.removeprefix("#") for link in page.links} == set(page.ids)
    note = "results/demo/scores/flow@new priors.csv, configuration abc, checkpoints vocals.safetensors:12"
    assert note in pages[0].text
    assert sum('table "MUSDB18" of its README' in text for text in pages[0].text) == 1
    two = [table_html(None, published, convention="sisec18", sources=FOUR, metric=m) for m in ("SDR", "SI-SDR")]
    assert "flowsep-sources" in two[0] and not set(_Cells(two[0]).ids) & set(_Cells(two[1]).ids)


def test_the_caption_says_what_a_value_is(frame):
    both = frame.assign(convention="sisec18", metric="SI-SDR")
    assert "SI-SDR in dB by convention sisec18: median (quartiles) over n songs (44.1 kHz, whole songs)" in table_html(
        both, convention="sisec18", sources=("bass",), metric="SI-SDR"
    )


def test_markdown_escapes_pipes_and_lists_the_sources(frame):
    hostile = frame.replace({"system": {"nmf": "a|b *c*\n<i>"}})
    text = table_markdown(hostile, load_published(PUBLISHED), convention="paper", sources=("bass", "drums"))
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {rows[0].count("|")}
    assert "| a\\|b \\*c\\* &lt;i&gt; | solo | 0 | 0 | – | 2 | 1.00 (1.0–1.0) | 2.00 (2.0–2.0) | 1.50 |" in lines
    notes = [line for line in lines if line.startswith("- ")]
    assert len(notes) == 3 and all("doi 10.1109/LSP.2022.3219355" in note for note in notes)


def test_load_scores_reads_a_folder_and_refuses_what_counts_twice(frame, tmp_path):
    with pytest.raises(FlowsepError, match="no score files"):
        load_scores(tmp_path)
    for system, part in frame.groupby("system"):
        write_scores(part, tmp_path / "scores" / f"{system}.csv")
    back = load_scores(tmp_path)
    pd.testing.assert_frame_equal(
        table(back, convention="paper", sources=("bass", "drums")),
        table(frame, convention="paper", sources=("bass", "drums")),
    )
    write_scores(frame[:1], tmp_path / "scores" / "again.csv")
    with pytest.raises(FlowsepError, match=r"two rows score the same .*flow.*bass.*one"):
        load_scores(tmp_path)


# ---- what a system cost ----------------------------------------------------------------------------------------------

SPENDING = {  # supervision, parameters, training seconds and MiB, seconds of separation of three songs, MiB
    "net": ("mixtures", 266_000_000, 12_345.0, 2000.0, (2.0, 4.0, np.nan), 900.0),
    "mask": ("oracle", 0, 0.0, 0.0, (0.1, 0.1, 0.1), 300.0),
    "flow": ("solo", 1_620_000, 641.2, 1000.0, (20.0, 40.0, 90.0), 800.0),
    "their own": ("mixtures", 20_100, np.nan, np.nan, (1.0, 1.0, 1.0), 700.0),
}
LENGTHS = (10.0, 20.0, 30.0)
SDRS = {"net": 4.0, "mask": 9.0, "flow": 3.0, "their own": 4.004}


def spending():
    """Four systems, three songs, two sources; the net failed on the last song, before it was separated."""
    rows = []
    for system, (supervision, parameters, training, memory, seconds, peak) in SPENDING.items():
        made = {"system": system, "supervision": supervision, "parameters": parameters, "training_seconds": training}
        for track, (spent, length) in enumerate(zip(seconds, LENGTHS, strict=True)):
            done = {"seconds": spent, "audio_seconds": length, "peak_memory_mib": peak - track}
            done |= {"track": f"song {track}", "training_memory_mib": memory}
            value = np.nan if np.isnan(spent) else SDRS[system] + track - 1
            done["status"] = "failed" if np.isnan(spent) else "ok"
            rows += [made | done | {"stem": stem, "value": value} for stem in ("bass", "drums")]
    return scores(*rows)


def test_costs_are_those_of_the_songs_that_were_separated():
    theirs = scores({"system": "net", "kind": KIND, "data": "theirs", "track": "song 0", "stem": "bass", "value": 1.0})
    actual = costs(pd.concat([spending(), theirs])).set_index("system")
    assert list(actual.index) == ["mask", "flow", "net", "their own"]  # by the seconds of training, unknown ones last
    assert actual["RTF"].to_dict() == pytest.approx({"mask": 0.3 / 60, "flow": 2.5, "net": 6 / 30, "their own": 0.05})
    assert actual["parameters"]["net"] == 266e6 and actual["supervision"]["flow"] == "solo"
    assert actual.loc["flow", ["training (s)", "training memory (MiB)", "memory (MiB)"]].tolist() == [641.2, 1000, 800]
    assert np.isnan(actual.loc["their own", "training (s)"])
    columns = ["parameters", "training_seconds", "training_memory_mib", "rtf", "peak_memory_mib"]
    row = aggregate(spending(), "paper").set_index(["system", "stem"]).loc[("net", "drums"), columns]
    assert row.tolist() == pytest.approx([266e6, 12345, 2000, 0.2, 900])


def test_the_table_shows_the_costs_shortly():
    lines = table_markdown(spending(), load_published(PUBLISHED), convention="paper", sources=("bass", "drums"))
    starts = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:6] for line in lines.splitlines() if "|" in line}
    assert starts["system"] == ["supervision", "parameters", "training (s)", "RTF", "n"]
    assert starts["net"] == ["mixtures", "266 M", "12,345", "0.2", "2 (1 failed)"]
    assert starts["flow"] == ["solo", "1.62 M", "641", "2.5", "3"]
    assert starts["mask"] == ["oracle", "0", "0", "0.005", "3"]
    assert starts["their own"] == ["mixtures", "20.1 k", "–", "0.05", "3"]
    assert starts["InstGlow"] == ["source-only", "–", "–", "–", "–"]
    assert "0 where nothing is learnt, – if unknown" in lines


def test_costs_stand_where_there_are_any_and_beside_sdr_only():
    both = pd.concat([spending(), spending().assign(metric="SI-SDR")])
    assert "RTF" in table_html(both, convention="paper", sources=("bass",))
    assert "RTF" not in table_html(both, convention="paper", sources=("bass",), metric="SI-SDR")
    assert "RTF" not in table_markdown(None, load_published(PUBLISHED), convention="paper", sources=FOUR)
    assert list(table(both, convention="paper", sources=("bass",), metric="SI-SDR").columns)[:5] == [
        *("supervision", "parameters", "training (s)", "RTF", "n"),
    ]


def test_the_readme_has_no_room_for_quartiles(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from readme_table import compact

    lines = compact(table_markdown(spending(), convention="paper", sources=("bass", "drums"))).splitlines()
    assert "| net | mixtures | 266 M | 12,345 | 0.2 | 2 (1 failed) | *3.50* | *3.50* | *3.50* |" in lines
    assert "SDR in dB by convention paper: median over n pieces (mono, 22.05 kHz); mean over sources." in lines[-1]
    assert "-1.00 |" in compact("| -1.00 (-2.0 to -0.1) |")


def test_each_chapter_tells_the_command_that_runs_it(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from build_book import how_to_run

    parameters = {"profile": {"name": "demo"}, "system": "my system", "checkpoints": ""}
    about = SimpleNamespace(input_path="notebooks/05_separate.ipynb", parameters=parameters, duration=12.3)
    told = how_to_run(about, Path("results/demo"), ["demo/scores/my system.csv"])
    assert "papermill notebooks/05_separate.ipynb out.ipynb -f configs/demo.yaml -p system 'my system'\n" in told
    assert "make results PROFILE=demo" in told and "It took 12 s" in told
    assert '<a href="../_data/demo/scores/my%20system.csv" download>demo/scores/my system.csv</a>' in told


def test_the_numbers_behind_a_page_are_found(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from build_book import data_of

    for name in (
        "x/scores/nmf.csv",
        "x/table-paper.csv",
        "x/table-paper.md",
        "x/training/bass/loss.csv",
        "published.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert data_of("05_separate_nmf", tmp_path / "x") == ["x/scores/nmf.csv"]
    assert data_of("06_results", tmp_path / "x") == ["x/table-paper.csv", "x/scores/nmf.csv", "published.csv"]
    assert data_of("04_train_prior_bass", tmp_path / "x") == ["x/training/bass/loss.csv"]
    assert data_of("03_glow", tmp_path / "x") == []


def test_a_link_that_leads_nowhere_is_told(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from finish import dead_links

    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "two.html").write_text('<h2 id="here ü"></h2><a href="../one.html">up</a><a href="#top">?</a>')
    (tmp_path / "a b" / "index.html").write_text("")
    good = ("a%20b/two.html#here%20%C3%BC", "a b", "a%20b/two.html", "#one", "data:,", "//host/x", "https://host/x")
    links = "".join(f'<a href="{link}">x</a>' for link in (*good, "a%20b/two.html#there"))
    (tmp_path / "one.html").write_text(f'<p id="one"></p>{links}<img src="gone.png">')
    assert dead_links(tmp_path) == ["a b/two.html: #top", "one.html: a%20b/two.html#there", "one.html: gone.png"]


def test_the_status_page_says_what_each_system_took(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from build_book import status_page

    frame = spending().assign(config_hash="abc", git_commit="0123", checkpoint="")
    frame.loc[frame["system"] == "net", "checkpoint"] = "net.safetensors:12 more:34"
    folder = tmp_path / "p"
    write_scores(pd.concat([frame, frame[frame["system"] == "flow"].assign(variant="x")]), folder / "scores" / "a.csv")
    write_tables(folder, None, conventions=["paper"], sources=("bass", "drums"))
    accepted = {"system": "net", "was": "01", "now": "02", "reason": "a | <b>", "git_commit": "", "date": "2026-01-01"}
    pd.DataFrame([accepted]).to_csv(tmp_path / "accepted.csv", index=False)
    faults = {"commit": "0123", "faults": [{"kind": "kill <b>", "injected": 20, "lost": 0}]}
    (tmp_path / "faults.json").write_text(json.dumps(faults))
    run = NotebookNode(duration=3.0, end_time="2026-01-01T00:00:00.5", parameters={"system": "wave_u_net"})
    chapters = {
        name: NotebookNode(metadata=NotebookNode(papermill=run), cells=[NotebookNode(source=f"# {title}\n\nText")])
        for name, title in {"06": "Results", "05_separate_wave_u_net": "Separating the test songs"}.items()
    }
    page = status_page(folder, chapters)
    assert "| [Results](<06.ipynb>) | 3 | 2026-01-01 00:00 |" in page
    assert "| [Separation: Wave-U-Net](<05_separate_wave_u_net.ipynb>) | 3 | 2026-01-01 00:00 |" in page
    assert "| net | 12,345 | 2,000 | 6 | 900 | `abc` |" in page and "| their own | – | – | 3 | 700 | `abc` |" in page
    assert f"| {plain('flow [x]')} | 641 | 1,000 | 150 | 800 | `abc` |" in page
    assert "| net | `net.safetensors:12`, `more:34` |" in page and f"| {plain('flow [x]')} | none |" in page
    assert f"| `{sha256(folder / 'scores' / 'a.csv')[:16]}` | p/scores/a.csv |" in page
    assert "| net | `01` | `02` |" in page and plain("a | <b>") in page and "<b>" not in page
    assert "## Faults injected" in page and "| kind | injected | lost |" in page and "## On a cluster" not in page


# ---- best and second -------------------------------------------------------------------------------------------------


def test_best_and_second_of_a_block_without_its_oracles():
    text = table_markdown(spending(), load_published(PUBLISHED), convention="paper", sources=("bass", "drums"))
    assert "| mask | oracle | 0 | 0 | 0.005 | 3 | 9.00 (8.5–9.5) | 9.00 (8.5–9.5) | 9.00 |" in text
    own = next(line for line in text.splitlines() if line.startswith("| their own"))
    assert own.endswith("| **4.00** (3.5–4.5) | **4.00** (3.5–4.5) | **4.00** |")
    net = next(line for line in text.splitlines() if line.startswith("| net"))
    assert net.endswith("| *3.50* (3.2–3.8) | *3.50* (3.2–3.8) | *3.50* |")
    assert "| Demucs (v2) | full | – | – | – | – | **5.50** | **6.74** | **6.12** |" in text
    assert "| Open-Unmix | full | – | – | – | – | *4.88* | *6.35* | *5.62* |" in text
    assert "The best number of each block is bold, the second in italics; oracles" in text


def test_equal_looking_numbers_have_equal_marks():
    rows = [
        {"system": s, "track": "one", "stem": "bass", "value": v} for s, v in zip("abc", (3.001, 3.002, 1), strict=True)
    ]
    text = table_markdown(scores(*rows), convention="paper", sources=("bass",))
    assert text.count("**3.00** (3.0–3.0) | **3.00** |") == 2 and text.count("*1.00* (1.0–1.0) | *1.00* |") == 1


def test_a_single_system_beats_nobody():
    pair = spending()[lambda rows: rows["system"].isin(["flow", "mask"])]
    text = table_markdown(pair, convention="paper", sources=("bass", "drums"))
    page = table_html(pair, convention="paper", sources=("bass", "drums"))
    assert "**" not in text and "best" not in text + page and "<strong>" not in page


def test_html_marks_are_told_in_titles_and_quartiles_stand_below():
    page = table_html(spending(), convention="paper", sources=("bass", "drums"))
    (own,) = [line for line in page.split("<tr>") if "their own<sup>" in line]
    assert own.count("<strong>4.00</strong>") == 3 and own.count("<small>3.5–4.5</small>") == 2
    titles = _Cells(own).titles
    assert len(titles) == 3 and all(title.endswith("best of this block") for title in titles)
    assert "median of 3 values from 3 tracks, quartiles 3.50 to 4.50 dB; best of this block" in titles
    (net,) = [line for line in page.split("<tr>") if "net<sup>" in line]
    assert net.count("<u>3.50</u>") == 3 and net.count("second of this block") == 3
    assert "<td>2<small>1 failed</small></td>" in net
    (mask,) = [line for line in page.split("<tr>") if "mask<sup>" in line]
    assert "of this block" not in mask
    assert "the second underlined" in page


def test_quartiles_below_zero_are_read_without_doubt():
    rows = [{"system": "x", "track": str(k), "stem": "bass", "value": v} for k, v in enumerate((-2.0, -0.04, 1.0))]
    text = table_markdown(scores(*rows), convention="paper", sources=("bass",))
    assert "-0.04 (-1.0 to 0.5)" in text
    text = table_markdown(scores(rows[1]), convention="paper", sources=("bass",))
    assert "(0.0–0.0)" in text and "-0.0 " not in text


# ---- paired differences ----------------------------------------------------------------------------------------------


def duel(seed=0, songs=9):
    """The flow against three rivals of which the last is an oracle; song 0 has no bass, `odd` failed on song 1."""
    rng = np.random.default_rng(seed)
    rows = [
        {"system": system, "track": f"song {k}", "stem": stem, "value": level + rng.normal(), "supervision": kind}
        for system, level, kind in (
            ("flow", 2, "solo"),
            ("good", 3, "mixtures"),
            ("odd", 1, "none"),
            ("o", 9, "oracle"),
        )
        for k in range(songs)
        for stem in ("drums", "bass")
        if not (k == 0 and stem == "bass")
    ]
    frame = scores(*rows)
    frame.loc[(frame["system"] == "odd") & (frame["track"] == "song 1"), "value"] = np.nan
    return frame


def test_differences_are_those_of_the_same_song():
    frame = duel()
    actual = differences(frame, "flow", convention="paper")
    wide = frame.pivot(index=["stem", "track"], columns="system", values="value")
    for row in actual[actual["stem"] != ALL].itertuples():
        expected = wide.loc[(row.stem, row.track), "flow"] - wide.loc[(row.stem, row.track), row.rival]
        assert row.value == pytest.approx(expected, nan_ok=True)
    assert actual["rival"].unique().tolist() == ["odd", "good"]  # the flow is furthest above the first; no oracle
    whole = actual[(actual["stem"] == ALL) & (actual["rival"] == "good")].set_index("track")["value"]
    gaps = wide["flow"] - wide["good"]
    assert whole["song 3"] == pytest.approx((gaps["drums", "song 3"] + gaps["bass", "song 3"]) / 2)
    assert whole["song 0"] == pytest.approx(gaps["drums", "song 0"])


def test_a_song_of_several_pieces_counts_once():
    pieces = [("flow", v, k) for k, v in enumerate((1.0, 5.0, 6.0))] + [
        ("x", v, k) for k, v in enumerate((1.0, 2.0, 9.0))
    ]
    frame = scores(*({"system": s, "track": "one", "stem": "bass", "value": v, "piece": k} for s, v, k in pieces))
    assert differences(frame, "flow", convention="paper")["value"].tolist() == [3, 3]


def test_paired_rows_hold_wilcoxons_p_and_holms():
    frame = duel()
    gaps = differences(frame, "flow", convention="paper")
    actual = paired(frame, "flow", convention="paper")
    assert actual[["rival", "stem"]].to_numpy().tolist() == [
        [r, s] for r in ("odd", "good") for s in (ALL, "drums", "bass")
    ]
    for row in actual.itertuples():
        values = gaps[(gaps["rival"] == row.rival) & (gaps["stem"] == row.stem)]["value"].dropna()
        assert row.p == wilcoxon(values).pvalue and row.n == len(values) and row.better == (values > 0).sum()
        assert (row.median, row.q25, row.q75) == pytest.approx(tuple(values.quantile([0.5, 0.25, 0.75])))
    assert actual.set_index(["rival", "stem"])["n"].to_dict() == {
        **{("odd", ALL): 8, ("odd", "drums"): 8, ("odd", "bass"): 7},
        **{("good", ALL): 9, ("good", "drums"): 9, ("good", "bass"): 8},
    }
    for _, part in actual.groupby("stem"):
        low, high = part["p"].min(), part["p"].max()
        assert part["p_holm"].max() == pytest.approx(min(1, max(2 * low, high)))
        assert part["p_holm"].min() == pytest.approx(min(1, 2 * low))


def test_nothing_between_two_systems_is_no_significance():
    frame = duel()
    same = frame[frame["system"] == "flow"].assign(variant="copy")
    lost = frame[frame["system"] == "odd"].assign(system="lost", value=np.nan)
    actual = paired(pd.concat([frame, same, lost]), "flow", convention="paper").set_index(["rival", "stem"])
    assert actual.loc[("flow [copy]", ALL), ["median", "better", "n", "p", "p_holm"]].tolist() == [0, 0, 9, 1, 1]
    assert actual.loc[("lost", ALL), "n"] == 0 and np.isnan(actual.loc[("lost", ALL), "p"])
    assert np.isnan(actual.loc[("lost", "bass"), "p_holm"])


def test_paired_names_a_system_that_is_not_there():
    with pytest.raises(FlowsepError, match="no scores of 'glow'; the files hold flow, good, odd, o"):
        paired(duel(), "glow", convention="paper")
    with pytest.raises(FlowsepError, match="no scores of SDR by convention 'sisec18'"):
        differences(duel(), "flow", convention="sisec18")
    alone = duel()[lambda rows: rows["system"] == "flow"]
    assert paired(alone, "flow", convention="paper").empty


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.04 -> times 4 3 2 1 -> 0.04 0.06 0.06 0.04 -> never smaller than the one before
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == pytest.approx([1, 1])
    assert holm([0.05]) == pytest.approx([0.05])
    assert holm([np.nan, 0.02, 0.04]) == pytest.approx([np.nan, 0.04, 0.04], nan_ok=True)
    assert holm([]).shape == (0,)


def test_holm_keeps_the_family_wise_error():
    """Reject all p <= a in the corrected list: the same as Holm's own step-down rule."""
    for p in np.random.default_rng(1).beta(0.3, 3, (50, 6)):
        ranked = np.sort(p)
        passed = ranked <= 0.05 / np.arange(6, 0, -1)
        rejected = 6 if passed.all() else int(passed.argmin())
        assert (holm(p) <= 0.05).sum() == rejected


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("stem", "stump", 1), "expected system, supervision"),
        (lambda text: text.replace(",7.14,", ",2.26/0.256,", 1), "column 'value'"),
        (lambda text: text.replace(",paper,", ",mine,", 1), "column 'convention' holds 'mine'"),
        (lambda text: text.split("\n")[0] + "\nA,full,,D,paper,bass,SDR,1,recomputed,\n", "column 'source' is empty"),
        (lambda text: "", "not a readable CSV file"),
    ],
)
def test_a_bad_published_file_is_named(tmp_path, change, message):
    path = tmp_path / "published.csv"
    path.write_text(change(PUBLISHED.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(FlowsepError, match=message) as error:
        load_published(path)
    assert str(path) in str(error.value)
