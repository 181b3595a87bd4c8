"""Written pages: the path has exercises, their solutions run, and drawings are of the code that draws them."""

import re
from pathlib import Path

import build_book
import nbformat
import pytest
import schematics
import tabs
import yaml

from companion.show import player, slider

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
    if chapter not in ("07_listen", "17_a_real_song"):  # which open with what is heard
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


@pytest.mark.parametrize("name", ["pipeline", "glow"])
def test_the_drawings_are_up_to_date(name):
    drawn = getattr(schematics, name)()
    assert (BOOK / "_static" / f"{name}.svg").read_text("utf-8") == drawn, "run python tools/schematics.py"
    assert drawn.count("<text") >= 10 and "viewBox" in drawn


def test_the_first_page_has_the_present_scripts():
    """They are inside the file, so a change of player or slider needs `python tools/hero.py`."""
    page = (BOOK / "hero.html").read_text("utf-8")
    assert player.script() in page and slider.script() in page, "run python tools/hero.py"


def test_what_concerns_the_flows_stands_on_their_page_alone():
    notebook, demo = nbformat.from_dict(NOTEBOOKS[BOOK.parent / "notebooks" / "05_separate.ipynb"]), Path("demo")
    notebook.metadata["papermill"] = {"parameters": {"system": "x"}, "input_path": "a.ipynb", "duration": 1.0}
    pages = {name: build_book.to_page({"05_separate_x": notebook}, name, demo) for name in tabs.FAMILIES}
    texts = {name: "\n".join(cell.source for cell in page.cells) for name, page in pages.items()}
    assert [name for name, text in texts.items() if "## Exercises" in text] == ["separate_flows"]
