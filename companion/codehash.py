"""What code made a number: a hash of the definitions that it came through, so that numbers of older code are known.

The hash of a definition (a function, class or constant at the top of a module) holds its statements, and in the place
of each name of ours the hash of the definition behind it. So it follows the code wherever it lies and whatever it is
called: moving a function, splitting a module or renaming a variable changes nothing. Neither do comments, docstrings,
annotations of arguments, imports, nor guards (`assert`, and an `if` or `except` that ends in `raise`), which can stop
a run but move no number. Rooms that only read, write or show (`NOT_FOLLOWED`) are left out: what they read has hashes
of its own.
"""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = ("flowsep", "companion")
NOT_FOLLOWED = (
    *(
        f"flowsep/{name}.py"
        for name in ("audio", "checkpoint", "cli", "files", "machine", "research_checkpoint", "weights")
    ),
    *(f"companion/{name}.py" for name in ("profile", "parameters", "provenance", "codehash", "live")),
    *(f"companion/{room}" for room in ("band", "show", "tables", "studies", "graph")),
)

Definition = tuple[Path, str]  # a file, and a name at its top


def code_hash(*places: str, files: Iterable[Path] = ()) -> str:
    """First 12 digits of the SHA-256 of definitions and of all that they call.

    Args:
        places: such as "companion.scores.metrics:sdr".
        files: Python files outside the packages, of which every definition counts.
    """
    roots = [(_file(*place.partition(":")[0].split(".")), place.partition(":")[2]) for place in places]
    roots += [(path, name) for path in files for name in _module(path).definitions]
    state = hashlib.sha256()
    for path, name in roots:
        state.update(_Hasher().digest(path, name).encode())
    return state.hexdigest()[:12]


def code_of_class(kind: type) -> str:
    """`code_hash` of a class, or of its whole file where that lies outside the packages."""
    if kind.__module__.partition(".")[0] in PACKAGES:
        return code_hash(f"{kind.__module__}:{kind.__qualname__}")
    file = getattr(sys.modules[kind.__module__], "__file__", None)  # a notebook's own class has none
    return code_hash(files=[Path(file)] if file else [])


def covered(*places: str) -> set[str]:
    """The names of all definitions that `code_hash` of these places holds."""
    hasher = _Hasher()
    for place in places:
        module, _, name = place.partition(":")
        hasher.digest(_file(*module.split(".")), name)
    return {name for _, name in hasher.digests}


class _Module:
    """The definitions of a file, and where the names that it imports from our packages are defined."""

    def __init__(self, path: Path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.top = set(tree.body)
        self.definitions: dict[str, list[ast.stmt]] = {}
        for statement in tree.body:
            for name in _defined(statement):
                self.definitions.setdefault(name, []).append(statement)
        self.imported: dict[str, tuple[Path, str | None]] = {}  # None: the module itself
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                above = list(path.relative_to(ROOT).parent.parts) if path.is_relative_to(ROOT) else []
                base = above[: len(above) - node.level + 1] if node.level else []
                base += (node.module or "").split(".") if node.module else []
                if base and base[0] in PACKAGES:
                    for alias in node.names:
                        module = _file(*base, alias.name)
                        place = (module, None) if module else (_file(*base), alias.name)
                        if place[0]:
                            self.imported[alias.asname or alias.name] = place


_module = cache(_Module)


def _file(*parts: str) -> Any:
    place = ROOT.joinpath(*parts)
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)]


class _Hasher:
    """Digests of definitions by what they say; one walk has one, since circles are cut where the walk closes them."""

    def __init__(self) -> None:
        self.digests: dict[Definition, str] = {}

    def digest(self, path: Path, name: str) -> str:
        """The hexadecimal digest of one definition."""
        key = path, name
        if key not in self.digests:
            self.digests[key] = "within itself"
            said = "".join(self._said(node, path, _Locals()) for node in _module(path).definitions[name])
            self.digests[key] = hashlib.sha256(said.encode()).hexdigest()
        return self.digests[key]

    def _referred(self, path: Path, name: str, attribute: str = "") -> str | None:
        """The digest behind a name of ours, or None: of a library, or of a room that is not followed."""
        module = _module(path)
        if name in module.definitions and not attribute:
            return self.digest(path, name)
        place, within = module.imported.get(name, (None, None))
        if place is None or bool(attribute) != (within is None):
            return None
        if any(place.is_relative_to(ROOT / room) for room in NOT_FOLLOWED):
            return "not followed"
        within = within or attribute
        if within in _module(place).definitions:
            return self.digest(place, within)
        return self._referred(place, within)  # handed on by an __init__

    def _said(self, node: object, path: Path, local: "_Locals") -> str:
        """The statements below `node` as text that does not hang on names, layout or the version of Python."""
        if isinstance(node, list):
            return "".join(self._said(item, path, local) for item in _without_guards(node))
        if not isinstance(node, ast.AST):
            return f"{node!r};"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not local.names:
            local = _Locals(node)
        if isinstance(node, ast.Name):
            return f"<{local.get(node.id) or self._referred(path, node.id) or node.id}>"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in local.names:
            behind = self._referred(path, node.value.id, node.attr)
            if behind is not None:
                return f"<{behind}>"
        left_out = {"ctx", "type_comment", "type_params", "kind", "annotation", "returns"}
        if isinstance(node, ast.AnnAssign) and not local.names:
            left_out -= {"annotation"}  # of a field of a class, where it says what is valid
        if getattr(node, "name", None) in local.names or node in _module(path).top:  # but a method's name counts
            left_out.add("name")
        parts = [type(node).__name__]
        for field, value in ast.iter_fields(node):
            if field in left_out or value in (None, []):
                continue
            if isinstance(value, str):
                value = (local.get(value) or value) if field == "arg" else value
            if isinstance(node, ast.Nonlocal):
                value = [local.get(name) or name for name in value]
            keep = isinstance(node, ast.keyword) and field == "arg"  # the callee's name, not ours
            parts.append(f"{field}={getattr(node, field)!r}" if keep else f"{field}={self._said(value, path, local)}")
        return f"({' '.join(parts)})"


class _Locals:
    """The names that a function, and all functions within it, bind: numbered as the statements that count use them."""

    def __init__(self, function: ast.AST | None = None):
        self.numbers: dict[str, str] = {}
        self.names = {""} if function else set()  # never empty within a function
        for node in ast.walk(function) if function else ():
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.names.add(node.id)
            elif isinstance(node, ast.arg):
                self.names.add(node.arg)
            elif isinstance(node, ast.ExceptHandler | ast.FunctionDef) and node is not function and node.name:
                self.names.add(node.name)

    def get(self, name: str) -> str | None:
        """What stands for a local name; None for another one."""
        return self.numbers.setdefault(name, f"v{len(self.numbers)}") if name in self.names else None


def _without_guards(items: list) -> Iterator[object]:
    """The items of a list of statements that can change a number; any other list as it is."""
    for item in items:
        if isinstance(item, ast.Import | ast.ImportFrom | ast.Raise | ast.Assert | ast.Pass):
            continue
        if isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant):  # docstrings
            continue
        if isinstance(item, ast.If) and isinstance(item.body[-1], ast.Raise) and not item.orelse:
            continue
        if isinstance(item, ast.ExceptHandler) and isinstance(item.body[-1], ast.Raise):
            continue
        if (
            isinstance(item, ast.Try)
            and not item.finalbody
            and all(isinstance(handler.body[-1], ast.Raise) for handler in item.handlers)
        ):
            yield from _without_guards(item.body + item.orelse)
            continue
        yield item
