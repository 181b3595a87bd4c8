"""Pages around the tables: the README, how to run a chapter, the numbers behind it, links, the status page."""

import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from score_rows import PUBLISHED, spending

from companion.scores.evaluate import write_scores
from companion.show import StemPlayer
from companion.tables import plain, table_markdown, write_tables
from flowsep.files import safe_name, sha256


def test_the_readme_has_no_room_for_quartiles(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from readme_table import compact, first_block

    lines = compact(table_markdown(spending(), convention="paper", sources=("bass", "drums"))).splitlines()
    assert "| net | mixtures | 266 M | 12,345 | 0.2 | 2 (1 failed) | *3.50* | *3.50* | *3.50* |" in lines
    assert "SDR in dB by convention paper: median over n pieces (mono, 22.05 kHz); mean over sources." in lines[-1]
    assert "-1.00 |" in compact("| -1.00 (-2.0 to -0.1) |")
    blocks = (
        "| system |\n|---|\n| *measured here* |\n| net |\n| *reported* |\n| other |\n\nCaption.\n\n- *reported*: x\n"
    )
    assert first_block(blocks) == "| system |\n|---|\n| *measured here* |\n| net |\n\nCaption.\n"
    assert first_block("| system |\n|---|\n| *measured here* |\n| net |\n\nCaption.\n").count("net") == 1


def test_each_chapter_tells_the_command_that_runs_it(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    import build_book

    parameters = {"profile": {"name": "demo"}, "system": "my system", "checkpoints": ""}
    about = NotebookNode(input_path="notebooks/05_separate.ipynb", parameters=parameters, duration=12.3)
    chapters = {f"05_separate_{k}": NotebookNode(metadata=NotebookNode(papermill=about)) for k in "ab"}
    monkeypatch.setattr(build_book, "data_of", lambda chapter, results: [f"demo/scores/my {chapter[-1]}.csv"])
    told = build_book.how_to_run(chapters, Path("results/demo"))
    assert "papermill notebooks/05_separate.ipynb out.ipynb -f configs/demo.yaml -p system 'my system'\n" in told
    assert "make results PROFILE=demo" in told and "It took 25 s" in told
    assert '<a href="../_sources/chapters/05_separate_b.ipynb" download>' in told
    assert '<a href="../_data/demo/scores/my%20b.csv" download>demo/scores/my b.csv</a>' in told


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
    pd.DataFrame([accepted, accepted | {"system": "flow"}]).to_csv(tmp_path / "accepted.csv", index=False)
    faults = {"commit": "0123", "faults": [{"kind": "kill <b>", "injected": 20, "lost": 0}]}
    (tmp_path / "faults.json").write_text(json.dumps(faults))
    run = NotebookNode(duration=3.0, end_time="2026-01-01T00:00:00.5", parameters={"system": "wave_u_net"})
    chapters = {
        name: NotebookNode(metadata=NotebookNode(papermill=run), cells=[NotebookNode(source=f"# {title}\n\nText")])
        for name, title in {"06": "Results", "05_separate_wave_u_net": "Separating the test songs"}.items()
    }
    page = status_page(folder, chapters)
    assert "| [Results](<06.ipynb>) | 3 | 2026-01-01 00:00 |" in page
    assert "| [Separating the test songs: Wave-U-Net](<separate_limits.ipynb>) | 3 | 2026-01-01 00:00 |" in page
    assert "| net | 12,345 | 2,000 | 6 | 900 | `abc` |" in page and "| their own | – | – | 3 | 700 | `abc` |" in page
    assert f"| {plain('flow [x]')} | 641 | 1,000 | 150 | 800 | `abc` |" in page
    assert "| net | `net.safetensors:12`, `more:34` |" in page and f"| {plain('flow [x]')} | none |" in page
    assert f"| `{sha256(folder / 'scores' / 'a.csv')[:16]}` | p/scores/a.csv |" in page
    assert f"| 2026-01-01 | net, flow | {plain('a | <b>')} |" in page and "<b>" not in page  # a reason once
    assert "} Faults injected\n" in page and "| kind | injected | lost |" in page and "On a cluster" not in page


def test_the_demo_s_table_fits_a_page_of_the_small_book():
    from build_book import kept_table

    text = kept_table(PUBLISHED.parents[1] / "results" / "demo")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["system", "supervision", "vocals", "bass", "drums", "other", "mean"]
    assert {len(row) for row in rows} == {7} and not any("(" in cell for row in rows for cell in row[2:])
    names = {row[0] for row in rows}
    assert {"flowsep", "ideal ratio mask", "Demucs v2 (8 of 44.1 kHz, width 16 of 64, depth 5 of 6)"} <= names


def test_a_kept_chapter_shows_the_present_wording(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from kept import renew_texts

    cells = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    source = nbformat.v4.new_notebook(cells=[cells[0]("new"), cells[1]("1 + 1"), cells[0]("newer")])
    executed = nbformat.v4.new_notebook(cells=[cells[0]("old"), cells[1]("1 + 1"), cells[0]("older")])
    injected = cells[1]("profile = 'x'", metadata={"tags": ["injected-parameters"]})
    executed.cells.insert(1, injected)
    source.cells[1].metadata |= {"caption": "a sum", "tags": ["hide-input"]}
    renew_texts(executed, source)
    assert [cell.source for cell in executed.cells] == ["new", "profile = 'x'", "1 + 1", "newer"]
    assert executed.cells[2].metadata["caption"] == "a sum" and executed.cells[2].metadata["tags"] == ["hide-input"]
    source.cells.append(cells[0]("exercises"))
    renew_texts(executed, source)
    assert [cell.source for cell in executed.cells] == ["new", "profile = 'x'", "1 + 1", "newer", "exercises"]
    source.cells.append(cells[1]("2"))
    source.cells[0].source = "newest"
    renew_texts(executed, source)  # other cells: as it was executed
    assert executed.cells[0].source == "new"


def test_a_kept_player_gets_the_present_script(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from kept import renew_scripts

    from companion.show.player import script

    html = "<flowsep-player data-title='x'>sounds</flowsep-player>\n<script>old()</script>\n<p>words</p>"
    output = nbformat.v4.new_output("display_data", {"text/html": html})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])
    renew_scripts(notebook)
    new = notebook.cells[0].outputs[0].data["text/html"]
    assert new == html.replace("old()", script()) and "\\" in script()  # no escape of the script was read as a group


def test_a_sentence_that_a_cell_returns_reads_like_one_that_it_prints(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from kept import renew_words

    plain = [r"'all of it\'s \n here'", '"it\'s here"', "12", "{'a': 1}"]
    results = [nbformat.v4.new_output("execute_result", {"text/plain": text}) for text in plain]
    results.append(nbformat.v4.new_output("execute_result", {"text/plain": "'a'", "text/html": "<b>a</b>"}))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=results)])
    renew_words(notebook)
    shown = notebook.cells[0].outputs
    assert [output.get("text") for output in shown] == ["all of it's \n here\n", "it's here\n", None, None, None]


def test_systems_share_a_page_by_what_they_learn_from(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from tabs import page_of

    kinds = {"flowsep": "solo", "nmf": "solo", "my net": "random mixes", "open_unmix": "mixtures", "mask": "oracle"}
    scores = pd.DataFrame({"system": [*kinds], "supervision": [*kinds.values()]})
    pages = [page_of(f"05_separate_{safe_name(name)}", scores) for name in kinds]
    networks = ["separate_networks"] * 2
    assert pages == ["separate_flows", "separate_solo", *networks, "separate_limits"]
    assert page_of("04_train_prior_bass", scores) == "04_train_prior" and page_of("06_results", scores) == "06_results"


def test_runs_of_a_chapter_become_one_page(monkeypatch):
    """The text once; between two texts all cells of the first run, then all of the second, each below its label."""
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from tabs import renew_links, together

    def run(name):
        link = f'<a href="04_train_prior_{name}.html">{name}</a>'
        shown = [new_output("display_data", {"text/html": link})]
        cells = [new_code_cell("x", outputs=shown), new_code_cell("y")]
        return new_notebook(cells=[new_markdown_cell("# A"), *cells, new_markdown_cell("B"), new_code_cell("z")])

    page = together({name: run(name) for name in ("a <b>", "c")})
    nbformat.validate(page)
    assert [cell.source for cell in page.cells] == ["# A", "x", "y", "x", "y", "B", "z", "z"]
    heads = [cell.outputs[0].data["text/html"] for cell in page.cells if cell.get("outputs")]
    assert [head.partition(">")[2] for head in heads] == ["a &lt;b&gt;</p>", "c</p>"] * 2
    assert ['id="' in head for head in heads] == [True, True, False, False]
    renew_links(page)
    assert 'href="04_train_prior.html#c"' in page.cells[3].outputs[1].data["text/html"]
    alone = run("a")
    assert together({"a": alone}) is alone


def test_players_call_systems_as_the_tables_do(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from kept import renew_names

    sound = np.zeros((1, 800), dtype=np.float32)
    stems = {name: {"bass": sound} for name in ("wave_u_net", "true stems", "instglow@my <b>")}
    page = StemPlayer(stems, 8000)._repr_html_()
    cell = new_code_cell("", outputs=[new_output("display_data", {"text/html": page})])
    renew_names(new_notebook(cells=[cell]))
    shown = cell.outputs[0].data["text/html"]
    assert re.findall('data-system="([^"]*)"', shown) == ["Wave-U-Net", "true stems", "InstGlow [my &lt;b&gt;]"]
    assert re.findall('aria-label="bass, ([^"]*)"', shown) == re.findall('data-system="([^"]*)"', shown)
    assert "<p>Wave-U-Net</p>" in shown and "wave_u_net" not in shown


def test_the_address_of_the_book_has_the_card_of_its_first_page(tmp_path):
    from finish import make_card

    tags = '<meta content="_static/card.png" property="og:image" />\n<meta content="x" name="twitter:card" />\n'
    for base, shown in (("", ""), ('<link rel="canonical" href="https://a.b/book/intro.html" />', "https://a.b/book/")):
        (tmp_path / "intro.html").write_text(f'<meta content="other" name="description" />{tags}{base}')
        (tmp_path / "index.html").write_text("leads on")
        make_card(tmp_path)
        expected = tags.replace("_static", f"{shown}_static") + "leads on"
        assert (tmp_path / "index.html").read_text() == expected
        assert f'"{shown}_static/card.png"' in (tmp_path / "intro.html").read_text()


def test_a_picture_without_a_ground_stands_on_white_paper(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED.parents[1] / "tools"))
    from make_pdf import jpeg

    picture = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    picture.paste((200, 0, 0, 255), (0, 0, 8, 16))
    picture.save(tmp_path / "a b.webp", lossless=True)
    with Image.open(io.BytesIO(jpeg((tmp_path / "a b.webp").as_uri()))) as printed:
        left, right = printed.getpixel((2, 8)), printed.getpixel((13, 8))
    assert np.allclose(left, (200, 0, 0), atol=12) and np.allclose(right, 255, atol=6)
