"""Written pages: the solutions of their exercises run, their drawings are of the code that draws them."""

import re
from pathlib import Path

import nbformat
import pytest
import schematics

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
