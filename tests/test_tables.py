"""Tables of the book in a real browser: sorted by a column, filtered by what a row says, costs folded on a phone."""

from pathlib import Path

import pytest
from browser import launch, open_page

STATIC = Path(__file__).parent.parent / "book" / "_static"
ROWS = [  # system, supervision, training (s), mean
    ("flow <b>", "solo", "1,075", "3.13"),
    ("nmf", "solo", "20", "−2.32"),
    ("net", "mixtures", "255", "4.37"),
    ("wave", "mixtures", "4.72 M", "3.77"),
    ("rules", "none", "0", "–"),
    ("mix", "none", "&lt;0.001", "1.22"),
    ("gan", "solo", "300", "0.37"),
    ("mine", "solo", "3.4", "2.25"),
]


def page_of(rows=ROWS) -> str:
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("system", "supervision", "training (s)", "mean"))
    body = "".join(
        f"<tr><th scope='row'>{name.replace('<', '&lt;')}<sup><a href='#s'>1</a></sup></th><td>{kind}</td>"
        f"<td>{cost}</td><td><strong>{mean}</strong><small>0.1–0.2</small></td></tr>"
        for name, kind, cost, mean in rows
    )
    blocks = f"<tbody><tr><th colspan='4' scope='colgroup'><em>measured</em></th></tr>{body}</tbody>"
    table = f"<table class='flowsep-scores'><thead><tr>{head}</tr></thead>{blocks}</table>"
    script, style = ((STATIC / name).read_text("utf-8") for name in ("tables.js", "book.css"))
    return f"<style>{style}</style><div class='cell_output'>{table}</div><p id='s'></p><script>{script}</script>"


@pytest.fixture(scope="module")
def chromium():
    with launch() as browser:
        yield browser


def seen(page) -> list[str]:
    rows = "tbody tr:not([hidden]) th[scope=row]"
    return page.eval_on_selector_all(rows, "cells => cells.map(cell => cell.firstChild.data)")


@pytest.mark.browser
def test_a_column_sorts_down_up_and_back(chromium):
    with open_page(page_of(), browser=chromium) as page:
        names = [row[0] for row in ROWS]
        head = page.get_by_role("button", name="training (s)")
        head.click()
        assert seen(page) == ["wave", "flow <b>", "gan", "net", "nmf", "mine", "mix", "rules"]
        assert page.locator("th[aria-sort=descending]").inner_text().startswith("training (s)")
        head.press("Enter")  # a button, which the keyboard reaches
        assert seen(page) == ["rules", "mix", "mine", "nmf", "net", "gan", "flow <b>", "wave"]
        head.click()
        assert seen(page) == names and page.locator("th[aria-sort]").count() == 0
        page.get_by_role("button", name="mean").click()
        assert seen(page) == ["net", "wave", "flow <b>", "mine", "mix", "gan", "nmf", "rules"]  # no number: last
        page.get_by_role("button", name="system").click()
        assert seen(page) == sorted(names)
        assert page.locator("tbody tr").first.inner_text() == "measured"  # the block's name stays above its rows
        assert page.console_errors == []


@pytest.mark.browser
def test_rows_are_filtered_by_name_and_supervision(chromium):
    with open_page(page_of(), browser=chromium) as page:
        assert page.get_by_role("status").inner_text() == "8 of 8 rows"
        page.get_by_label("solo").uncheck()
        assert seen(page) == ["net", "wave", "rules", "mix"]
        page.get_by_role("searchbox").fill("N")
        assert seen(page) == ["net"] and page.get_by_role("status").inner_text() == "1 of 8 rows"
        page.get_by_role("searchbox").fill("<b>")
        assert seen(page) == [] and page.get_by_role("status").inner_text() == "0 of 8 rows"
        assert page.console_errors == []


@pytest.mark.browser
def test_a_phone_shows_the_scores_and_the_costs_on_request(chromium):
    with open_page(page_of(), width=390, height=844, browser=chromium) as page:
        assert page.get_by_role("columnheader", name="mean").is_visible()
        assert not page.get_by_role("columnheader", name="training (s)").is_visible()
        page.get_by_label("costs").check()
        assert page.get_by_role("columnheader", name="training (s)").is_visible()


@pytest.mark.browser
def test_small_tables_are_sorted_without_a_filter_and_odd_ones_left_alone(chromium):
    with open_page(page_of(ROWS[:4]), browser=chromium) as page:
        assert page.get_by_role("searchbox").count() == 0 and page.get_by_role("button").count() == 4
    with open_page(page_of(ROWS[:4]).replace("<td>20</td>", "<td rowspan='2'>20</td>"), browser=chromium) as page:
        assert page.get_by_role("button").count() == 0 and page.console_errors == []
