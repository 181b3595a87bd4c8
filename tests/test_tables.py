"""Tables of the book in a real browser: sorted by a column, filtered by what a row says, costs folded on a phone."""

from pathlib import Path

import pytest
from browser import open_page

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
def test_where_not_all_columns_have_room_the_costs_are_shown_on_request(chromium):
    with open_page(page_of(), width=1440, height=844, browser=chromium) as page:
        assert page.get_by_role("columnheader", name="training (s)").is_visible()
    with open_page(page_of(), width=240, height=844, browser=chromium) as page:
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


@pytest.mark.browser
def test_a_corner_that_heads_nothing_is_no_head(chromium):
    table = "<table><thead><tr><th></th><th>steps</th></tr></thead><tbody><tr><th>a</th><td>1</td></tr></tbody></table>"
    with open_page(pandas_page(f"<article class='bd-article'>{table}</article>"), browser=chromium) as page:
        assert page.locator("thead th").all_inner_texts() == ["steps"] and page.locator("thead td").count() == 1


def pandas_page(body: str) -> str:
    script, style = ((STATIC / name).read_text("utf-8") for name in ("tables.js", "book.css"))
    return f"<style>{style}</style><div class='cell_output'>{body}</div><script>{script}</script>"


@pytest.mark.browser
def test_a_table_of_pandas_gets_one_head_and_its_digits_at_the_right(chromium):
    heads = "<tr><th>stem</th><th>bass</th><th>drums</th><th>notes</th></tr>"
    heads += "<tr><th>song</th><th></th><th></th><th></th></tr>"
    rows = "".join(
        f"<tr><th>{name}</th><td>{bass}</td><td>{drums}</td><td>{note}</td></tr>"
        for name, bass, drums, note in (("One", "2.5", "–", "7 bars"), ("A" * 30, "-10.25", "3.0", ""))
    )
    with open_page(
        pandas_page(f"<table><thead>{heads}</thead><tbody>{rows}</tbody></table>"), browser=chromium
    ) as page:
        assert page.locator("thead th").all_inner_texts() == ["song", "bass", "drums", "notes"]
        align = "cells => cells.map(cell => getComputedStyle(cell).textAlign)"
        assert page.eval_on_selector_all("thead th", align) == ["left", "right", "right", "left"]
        assert page.eval_on_selector_all("tbody td", align) == ["right", "right", "left"] * 2
        assert page.locator("th.flowsep-long").all_inner_texts() == ["A" * 30]


@pytest.mark.browser
def test_two_levels_of_columns_keep_their_rows(chromium):
    heads = "<tr><th></th><th colspan='2'>a</th></tr><tr><th>song</th><th>x</th><th>y</th></tr>"
    table = f"<table><thead>{heads}</thead><tbody><tr><th>One</th><td>1</td><td>2</td></tr></tbody></table>"
    with open_page(pandas_page(table), browser=chromium) as page:
        assert page.locator("thead tr").count() == 2


@pytest.mark.browser
def test_a_mark_opens_the_fold_of_its_source(chromium):
    items = "".join(f"<li id='s-{n}'>source {n}</li>" for n in range(8))
    body = f"<a href='#s-5'>5</a><ol class='flowsep-sources'>{items}</ol><ol class='flowsep-sources'><li>one</li></ol>"
    with open_page(pandas_page(body), browser=chromium) as page:
        assert page.locator("details").count() == 1 and page.get_by_text("one", exact=True).is_visible()
        assert not page.locator("#s-5").is_visible()
        page.get_by_role("link", name="5").click()
        page.wait_for_function("document.querySelector('details').open")
        assert page.locator("#s-5").is_visible()
