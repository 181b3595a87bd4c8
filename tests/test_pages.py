"""Written pages: the path has exercises, their solutions run, and drawings are of the code that draws them."""

import re
from pathlib import Path

import build_book
import kept
import nbformat
import pytest
import schematics
import tabs
import yaml
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from pybtex.database import parse_file

from companion.show import player, slider, source_color

BOOK = Path(__file__).parent.parent / "book"
NOTEBOOKS = {path: nbformat.read(path, as_version=4) for path in sorted((BOOK.parent / "notebooks").glob("*.ipynb"))}
TEXTS = {page.name: page.read_text("utf-8") for page in sorted(BOOK.glob("*.md"))} | {
    path.name: "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for path, notebook in NOTEBOOKS.items()
}
SOLUTIONS = [
    (page, number, code)
    for page, text in TEXTS.items()
    for number, solution in enumerate(re.findall(r"^:::\{admonition\} Solution$(.*?)^:::$", text, re.M | re.S), 1)
    for code in re.findall(r"^```python\n(.*?)^```", solution, re.M | re.S)
]
PARTS = {part["caption"]: part["chapters"] for part in yaml.safe_load((BOOK / "_toc.yml").read_text("utf-8"))["parts"]}
MADE_OF = {"separate_flows": "05_separate", "real_songs": "06_results"}  # pages that go by another name
CHAPTERS = [
    Path(chapter.get("file") or chapter["glob"].removesuffix("*")).name
    for caption in ("The problem", "The method", "The results", "Going further")
    for chapter in PARTS[caption]
]


@pytest.mark.parametrize("chapter", [name for name in CHAPTERS if name != "separate"])  # that one is an instrument
def test_a_page_of_the_path_says_what_it_gives_and_lets_the_reader_try(chapter):
    stem = MADE_OF.get(chapter, chapter)
    text = TEXTS[f"{stem}.md" if f"{stem}.md" in TEXTS else f"{stem}.ipynb"]
    told, _, exercises = text.partition("\n## Exercises\n")
    assert re.match(r"# .+\n\nAfter this page you ", told), "its first sentence says what the reader can do then"
    assert told.count("**Summary.** ") == 1
    numbers = re.findall(r"^:::\{admonition\} (\d)\. ", exercises, re.M)
    assert numbers in (["1", "2"], ["1", "2", "3"])
    assert exercises.count("{admonition} Solution\n:class: dropdown\n") == exercises.count("```python") == len(numbers)


@pytest.mark.parametrize(("page", "number", "code"), SOLUTIONS, ids=[f"{page}-{n}" for page, n, _ in SOLUTIONS])
def test_solutions_of_exercises_run_and_hold(page, number, code, capsys):
    assert "assert " in code, "a solution checks what it claims"
    exec(compile(code, f"{page}, block {number}", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize(("name", "words"), [("pipeline", 10), ("glow", 10), ("mark", 0)])
def test_the_drawings_are_up_to_date(name, words):
    drawn = getattr(schematics, name)()
    assert (BOOK / "_static" / f"{name}.svg").read_text("utf-8") == drawn, "run python tools/schematics.py"
    assert drawn.count("<text") >= words and "viewBox" in drawn


def test_the_card_of_a_link_has_its_size_and_the_whole_title():
    figure = schematics.card()
    figure.canvas.draw()
    assert all(figure.bbox.contains(*corner) for text in figure.texts for corner in text.get_window_extent().corners())
    assert tuple(figure.bbox.size) == schematics.CARD == tuple(imread(BOOK / "_static" / "card.png").shape[1::-1])


def test_the_palette_can_be_read_in_light_and_dark():
    style = (BOOK / "_static" / "book.css").read_text("utf-8")
    for theme, grounds in {"light": ("#ffffff", "#f3f4f5"), "dark": ("#121212", "#29313d")}.items():
        rule = re.search(rf'^html\[data-theme="{theme}"\] {{ (--pst-color-primary:.*) }}$', style, re.M)[1]
        colours = dict(re.findall(r"--pst-color-([\w-]+): (#\w+);", rule))
        shown = {name: colours[name] for name in ("primary", "secondary", "link-higher-contrast", "inline-code")}
        low = {name: ratio for name, c in shown.items() if (ratio := min(contrast(c, g) for g in grounds)) < 4.5}
        assert low == {}
    stripe = re.search(r"h1::after .*linear-gradient\((.*)\);", style)[1]
    assert re.findall(r"#\w+", stripe) == [source_color(source) for source in schematics.BARS]


def contrast(one, other):
    """The ratio of WCAG, from 1 to 21."""
    linear = [[(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for v in to_rgb(c)] for c in (one, other)]
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)


def test_the_first_page_gets_the_present_scripts():
    """The kept file has none, so a change of player or slider needs no new run."""
    page = (BOOK / "hero.html").read_text("utf-8")
    assert kept.without_scripts(page) == page and page.count("<script></script>") == 2
    shown = kept.with_scripts(page)
    assert player.script() in shown and slider.script() in shown and kept.without_scripts(shown) == page


def test_what_concerns_the_flows_stands_on_their_page_alone():
    notebook, demo = nbformat.from_dict(NOTEBOOKS[BOOK.parent / "notebooks" / "05_separate.ipynb"]), Path("demo")
    notebook.metadata["papermill"] = {"parameters": {"system": "x"}, "input_path": "a.ipynb", "duration": 1.0}
    pages = {name: build_book.to_page({"05_separate_x": notebook}, name, demo) for name in tabs.FAMILIES}
    texts = {name: "\n".join(cell.source for cell in page.cells) for name, page in pages.items()}
    assert [name for name, text in texts.items() if "## Exercises" in text] == ["separate_flows"]


def test_what_does_not_depend_on_the_songs_stands_on_the_page_of_real_songs_alone():
    notebook = nbformat.from_dict(NOTEBOOKS[BOOK.parent / "notebooks" / "06_results.ipynb"])
    notebook.metadata["papermill"] = {"parameters": {}, "input_path": "a.ipynb", "duration": 1.0}
    pages = {
        (name, profile): "\n".join(
            cell.source for cell in build_book.to_page({name: notebook}, name, Path(profile)).cells
        )
        for name, profile in (("06_results", "demo"), ("real_songs", build_book.REAL), ("06_results", build_book.REAL))
    }
    sections = ("## Exercises", "## The field in 2018", "## Where the numbers come from")
    assert [[section in text for section in sections] for text in pages.values()] == [
        [False] * 3,
        [True] * 3,
        [True] * 3,
    ]
    titles = [text.split("\n")[0] for text in pages.values()]
    assert titles == ["# Results on the synthetic band", "# Results on real songs", "# Results"]


def test_every_reference_is_cited_and_leads_to_the_work():
    entries = parse_file(BOOK / "references.bib").entries
    cited = re.findall(r"\{cite\}`([^`]+)`", "\n".join(TEXTS.values()))
    assert set(entries) == set(cited)
    assert [key for key, entry in entries.items() if not {"doi", "eprint", "url"} & set(entry.fields)] == []
