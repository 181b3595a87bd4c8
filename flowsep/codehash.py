"""What code made a number: a hash of the modules that it came through, so that numbers of older code are known.

Comments, docstrings and the layout of the lines do not count, since they change no number.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
LAYOUT = {tokenize.INDENT: "{", tokenize.DEDENT: "}", tokenize.NEWLINE: ";"}


def code_hash(*modules: str, others: Iterable[Path] = ()) -> str:
    """First 12 digits of the SHA-256 of modules of flowsep and of all of it that these import, and of other files.

    Args:
        modules: names within the package, such as "run" or "baselines.nmf".
        others: Python files outside.
    """
    paths = _closure(modules)
    paths += [path.with_suffix(".yaml") for path in paths if path.with_suffix(".yaml").is_file()]  # what a module reads
    state = hashlib.sha256()
    for path in [*sorted(paths), *others]:
        name = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name
        state.update(f"\0{name}\0".encode() + _content(path))
    return state.hexdigest()[:12]


def bare(source: str) -> str:
    """Python source without comments, docstrings and layout, but for indentation."""
    docstrings = {
        (node.body[0].lineno, node.body[0].col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node)
    }
    kept, left_out = [], False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL) or (left_out and token.type == tokenize.NEWLINE):
            left_out = False
        elif token.start in docstrings:
            left_out = True  # and the end of its line with it
        else:
            kept.append(LAYOUT.get(token.type, token.string))
    return "".join(kept)


@cache
def _content(path: Path) -> bytes:
    text = path.read_text(encoding="utf-8")
    return (bare(text) if path.suffix == ".py" else text).encode()


@cache
def _imports(path: Path) -> frozenset[Path]:
    """The files of the package that a file of it imports, at its top or within a function."""
    package, found = path.parent, set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        start = package if node.level == 1 else package.parents[node.level - 2]
        place = start.joinpath(*(node.module or "").split("."))
        # `from .module import name`, or `from . import module`
        found |= {_file(place), *(_file(place / alias.name) for alias in node.names)}
    return frozenset(path for path in found if path and path != PACKAGE / "__init__.py")


def _file(place: Path) -> Path | None:
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _closure(modules: Iterable[str]) -> list[Path]:
    found, waiting = set(), [_file(PACKAGE.joinpath(*name.split("."))) for name in modules]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imports(path)
    return sorted(found)
