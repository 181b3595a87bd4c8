"""Every published number against its source, and on which songs it may stand beside ours."""

import pandas as pd
import pytest
from score_rows import FOUR, PUBLISHED, scores

from companion.scores.museval_json import KIND
from companion.tables import load_campaign, load_published, same_data, same_songs, table, table_markdown
from companion.tables.published import SUBMISSIONS
from flowsep.files import FlowsepError

MEDIANS = PUBLISHED.with_name("sisec18_test_medians.csv")
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
oBSRNN-SIMO | random mixes | band-split RNN | 10.66 | 9.73 | 10.98 | 7.78
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


def test_published_holds_exactly_the_numbers_of_the_paper_page():
    published = load_published(PUBLISHED)
    actual = [tuple(r) for r in published.drop(columns="source").itertuples(index=False)]
    assert sorted(actual) == sorted(expected_rows())
    assert len(actual) == len(set(actual))


def test_every_published_number_names_where_it_stands():
    for kind, source in load_published(PUBLISHED)[["kind", "source"]].itertuples(index=False):
        needed = {"reported by the paper": "10.1109/LSP.2022.3219355", "recomputed": "62fb479"}.get(kind, "")
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
