"""Tables as pages, Markdown and files: blocks, costs, marks of the best, quartiles, sources."""

import numpy as np
import pandas as pd
import pytest
from score_rows import FOUR, PUBLISHED, Cells, scores, spending

from companion.profile import Profile, load_profile
from companion.systems.remarks import remarks
from companion.tables import load_published, table, table_html, table_markdown
from flowsep.files import FlowsepError


def test_blocks_are_sorted_by_the_mean_and_say_n(frame):
    actual = table(frame, load_published(PUBLISHED), convention="paper", sources=("bass", "drums"))
    blocks = list(dict.fromkeys(actual.index.get_level_values("block")))
    assert blocks == [
        "measured here, demo (band)",
        "reported by the paper (MUSDB18)",
        "reported by the paper (Slakh2100-submix)",
    ]
    measured = actual.loc[blocks[0]]
    assert list(measured.index) == ["flow [new priors]", "flow", "NMF", "mixture"]
    assert measured.loc["flow", ["bass", "drums", "mean"]].tolist() == [5, 7, 6]
    assert np.isnan(measured.loc["mixture", "mean"])  # a mean over fewer sources would not compare
    assert measured["n"].tolist() == ["1", "2", "2", "0–2 (2 failed)"]
    paper = actual.loc[blocks[1]]
    assert paper.index[0] == "Demucs (v2)" and paper["mean"].is_monotonic_decreasing
    assert paper.loc["InstGlow", "mean"] == pytest.approx((2.58 + 3.85) / 2)
    assert set(paper["n"]) == {""}


def test_a_row_says_what_is_smaller_than_published_and_how_often_its_settings_were_tried(frame, tmp_path, monkeypatch):
    monkeypatch.setattr(Profile, "folder", tmp_path)
    (tmp_path / "choices.csv").write_text("system,mean\ndemucs_v2,1\ndemucs_v2,2\nflowsep,3\n")
    systems = {"demucs_v2": {"width": 16, "sample_rate": 8000}, "flowsep": {}, "open_unmix": {}, "nmf": {}}
    systems |= {"instglow": {}, "mine": {"class": "no/such/file.py:Mine"}}
    notes = remarks(load_profile({"name": "x", "systems": systems, "model": {"steps": 6}}))
    assert notes == {
        "demucs_v2": "8 of 44.1 kHz, width 16 of 64; 2 settings tried",
        "flowsep": "1 setting tried",
        "instglow": "flow steps 6 of 12",
    }
    ours = frame.replace({"system": {"flow": "demucs_v2"}})
    given = {"convention": "paper", "sources": ("bass",), "notes": {"demucs_v2": "<small>", "Demucs (v2)": "theirs"}}
    page, text = (make(ours, load_published(PUBLISHED), **given) for make in (table_html, table_markdown))
    assert page.count("<small>&lt;small&gt;</small>") == 1 and text.count("| Demucs v2 (&lt;small&gt;) |") == 1
    assert "theirs" not in page + text  # a published row is what was published


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


def test_html_escapes_text_and_gives_each_number_its_origin(frame):
    evil = "<script>alert('x')</script>\" & co"
    hostile = frame.replace({"system": {"nmf": evil}})
    text = table_html(hostile, load_published(PUBLISHED), convention="paper", sources=FOUR)
    cells = Cells(text)
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
    pages = [Cells(table_html(frame, published, convention="paper", sources=stems)) for stems in (FOUR, FOUR[1:3])]
    for page in pages:
        rows = [i for i, tag in enumerate(page.tags) if tag == "sup"]
        assert len(rows) == 4 + 6 + 6 == len(page.links)  # flow, its variant, nmf, mixture; the paper's two tables
        assert {link.removeprefix("#") for link in page.links} == set(page.ids)
    note = "results/demo/scores/flow@new priors.csv, configuration abc, checkpoints vocals.safetensors:12"
    assert note in pages[0].text
    assert sum('table "MUSDB18" of its README' in text for text in pages[0].text) == 1
    two = [table_html(None, published, convention="sisec18", sources=FOUR, metric=m) for m in ("SDR", "SI-SDR")]
    assert "flowsep-sources" in two[0] and not set(Cells(two[0]).ids) & set(Cells(two[1]).ids)


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
    titles = Cells(own).titles
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
