"""Tables: the aggregation of each convention, what a block says, and every published number against its source."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowsep.evaluate import COLUMNS, NUMBERS, write_scores
from flowsep.files import FlowsepError
from flowsep.museval_json import KIND
from flowsep.results import (
    SUBMISSIONS,
    aggregate,
    load_campaign,
    load_published,
    load_scores,
    same_data,
    same_songs,
    table,
    table_html,
    table_markdown,
)

PUBLISHED = Path(__file__).parents[1] / "results" / "published.csv"
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
    found = [tuple(r) for r in published.drop(columns="source").itertuples(index=False)]
    assert sorted(found) == sorted(expected_rows())
    assert len(found) == len(set(found))


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
    (found,) = aggregate(frame, "paper").to_dict("records")
    assert found["median"] == 3.0 and (found["q25"], found["q75"]) == (1.75, 5.25)
    assert (found["n"], found["tracks"], found["silent"], found["failed"]) == (4, 2, 1, 1)
    (found,) = aggregate(frame, "sisec18").to_dict("records")
    assert (found["median"], found["n"], found["tracks"]) == (50, 1, 1)
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
    found = table(frame, load_published(PUBLISHED), convention="paper", sources=("bass", "drums"))
    blocks = list(dict.fromkeys(found.index.get_level_values("block")))
    assert blocks == [
        "measured here, demo (band)",
        "reported by the paper (MUSDB18)",
        "reported by the paper (Slakh2100-submix)",
    ]
    measured = found.loc[blocks[0]]
    assert list(measured.index) == ["flow [new priors]", "flow", "nmf", "mixture"]
    assert measured.loc["flow", ["bass", "drums", "mean"]].tolist() == [5, 7, 6]
    assert np.isnan(measured.loc["mixture", "mean"])  # a mean over fewer sources would not compare
    assert measured["n"].tolist() == ["1", "2", "2", "0–2 (2 failed)"]
    paper = found.loc[blocks[1]]
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
    found = table(frame, beside, convention="paper", sources=stems)
    blocks = {block: list(rows.index.get_level_values("system")) for block, rows in found.groupby(level="block")}
    assert set(blocks) == {f"measured here, demo ({kind})", f"reported by the paper ({dataset})"}
    assert len(blocks[f"reported by the paper ({dataset})"]) == 6


@pytest.mark.parametrize("kind", ["toyband", "stems"])
def test_nothing_was_published_on_songs_of_ones_own(frame, kind):
    beside = same_data(load_published(PUBLISHED), kind)
    assert beside.empty
    found = table(frame, beside, convention="paper", sources=FOUR)
    assert set(found.index.get_level_values("block")) == {"measured here, demo (band)"}


def test_scores_of_others_join_on_the_same_songs_only(frame):
    theirs = {"kind": KIND, "profile": "", "data": "theirs", "stem": "bass", "value": 3.0}
    rows = [("net", "one"), ("net", "two"), ("far", "one"), ("far", "abroad")]
    others = scores(*(theirs | {"system": s, "track": t, "checkpoint": f"{t}.json:12"} for s, t in rows))
    joins = same_songs(frame, others)
    assert joins.tolist() == [True, True, False, False]
    joined = pd.concat([frame, others[joins]])
    found = table(joined, convention="paper", sources=("bass",))
    assert found.loc[("read from museval JSON (theirs)", "net"), "bass"] == 3
    assert "far" not in found.index.get_level_values("system")
    assert "2 files in theirs/net/test, SHA-256" in table_markdown(joined, convention="paper", sources=("bass",))


class _Cells(HTMLParser):
    """The text of all cells, and the titles of those that have one."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.titles, self.text, self.links, self.ids = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for attribute, found in (("title", self.titles), ("href", self.links), ("id", self.ids)):
            found += [value for name, value in attributes if name == attribute]

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
    assert "SI-SDR in dB by convention sisec18: median over n songs (44.1 kHz, whole songs)" in table_html(
        both, convention="sisec18", sources=("bass",), metric="SI-SDR"
    )


def test_markdown_escapes_pipes_and_lists_the_sources(frame):
    hostile = frame.replace({"system": {"nmf": "a|b *c*\n<i>"}})
    text = table_markdown(hostile, load_published(PUBLISHED), convention="paper", sources=("bass", "drums"))
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {rows[0].count("|")}
    assert "| a\\|b \\*c\\* &lt;i&gt; | solo | 2 | 1.00 | 2.00 | 1.50 |" in lines
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
