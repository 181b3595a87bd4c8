"""The rules of the house (who imports whom, how long files are, what names mean), as functions of {path: text}.

Each returns the violations in words, none if the rule is kept. Paths are those of the repository: "flowsep/glow.py".
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath
from typing import NamedTuple

Sources = dict[str, str]

LIBRARIES = {"torch", "numpy", "soxr", "soundfile", "safetensors", "pydantic", "tqdm"}  # all that flowsep needs
WHEN_NEEDED = {"lightning_fabric", "onnx"}  # inside functions only: separation does without
# what may import nothing of a package, but what lies within itself
ALONE = {
    "flowsep.glow": "flowsep",
    "flowsep.spectrogram": "flowsep",
    "flowsep.files": "flowsep",
    "companion.band": "companion",
    "companion.show": "companion",
}
# the rooms of companion: each may import those before it
ROOMS = (
    "band",
    "show",
    "codehash",
    "parameters",
    "profile",
    "data",
    "systems",
    "provenance",
    "scores",
    "tables",
    "live",
)
TOP = ("studies", "graph")  # nobody imports these, and they not each other
READ = (
    "glow",
    "spectrogram",
    "config",
    "prior",
    "train",
    "search",
    "refine",
    "separator",
    "stream",
    "stereo",
    "confidence",
)
DOORS = (
    "__init__",
    "files",
    "weights",
    "checkpoint",
    "research_checkpoint",
    "audio",
    "arrays",
    "machine",
    "memory",
    "resume",
    "cli",
)
LINES = {  # at most
    "one file": 300,
    "READ": 1_800,
    "DOORS": 1_920,
    "flowsep/fast": 1_115,  # the engine, and its iteration as a graph for other programs
    "flowsep and companion": 13_230,
}
LAYOUT = ("flowsep/fast/", "flowsep/checkpoint.py")  # where the engine's order of channels is known
SAY_NOTHING = {"its", "found"}  # as names of variables, arguments and attributes


class Import(NamedTuple):
    module: str  # that is imported, or from which something is
    late: bool  # inside a function, or for type checking only


def foreign(sources: Sources) -> list[str]:
    """flowsep imports nothing of ours outside itself, and few libraries."""
    return [
        f"{path}: imports {module}"
        for path, module, late in _all_imports(sources, "flowsep")
        if (top := module.partition(".")[0]) not in LIBRARIES | {"flowsep"} | sys.stdlib_module_names
        and not (late and top in WHEN_NEEDED)
    ]


def siblings(sources: Sources) -> list[str]:
    """What stands `ALONE` imports nothing beside itself."""
    return [
        f"{path}: imports {module}"
        for path, module, _ in _all_imports(sources, "flowsep", "companion")
        for alone, package in ALONE.items()
        if _within(_module(path), alone) and _within(module, package) and not _within(module, alone)
    ]


def upward(sources: Sources) -> list[str]:
    """In companion imports go from tables to scores, systems, data, never back, and nobody imports graph or studies."""
    wrong = []
    for path, module, _ in _all_imports(sources, "companion"):
        room, other = _room(path), _room(module)
        if not _within(module, "companion") or room == other or path == "companion/__main__.py":
            continue
        if other in TOP or (room in ROOMS and (other not in ROOMS or ROOMS.index(other) > ROOMS.index(room))):
            wrong.append(f"{path}: imports {module}")
    rooms = {_room(path) for path in sources if path.startswith("companion/")} - {"__init__", "__main__"}
    return wrong + [f"companion/{room}: has no place" for room in sorted(rooms - {*ROOMS, *TOP})]


def models_behind_tables(sources: Sources) -> list[str]:
    """Tables know files and scores, but neither models nor data."""
    known = ("companion.tables", "companion.scores", "flowsep.files")
    return [
        f"{path}: imports {module}"
        for path, module, _ in _all_imports(sources, "companion/tables")
        if module.partition(".")[0] in ("flowsep", "companion") and not any(_within(module, name) for name in known)
    ]


def circles(sources: Sources) -> list[str]:
    """No module imports itself by way of others while it is loaded."""
    imported: dict[str, set[str]] = {_module(path): set() for path in sources}
    for path, module, late in _all_imports(sources, "flowsep", "companion"):
        if not late and module in imported:
            imported[_module(path)].add(module)

    def reached(start: str) -> set[str]:
        seen, ahead = set(), [start]
        while ahead:
            new = imported[ahead.pop()] - seen
            seen |= new
            ahead += new
        return seen

    return [f"{module}: imports itself" for module in imported if module in reached(module)]


def too_long(sources: Sources) -> list[str]:
    """The numbers of lines in `LINES` are kept, and each file of flowsep belongs to READ, DOORS or fast."""
    lines = {
        path: len(text.splitlines()) for path, text in sources.items() if path.startswith(("flowsep", "companion"))
    }
    core = {path: PurePosixPath(path).stem for path in lines if PurePosixPath(path).parent.name == "flowsep"}
    sums = {
        "READ": sum(lines[path] for path, name in core.items() if name in READ),
        "DOORS": sum(lines[path] for path, name in core.items() if name in DOORS),
        "flowsep/fast": sum(number for path, number in lines.items() if path.startswith("flowsep/fast/")),
        "flowsep and companion": sum(lines.values()),
    }
    wrong = [
        f"{name}: {number:,} lines, at most {LINES[name]:,}" for name, number in sums.items() if number > LINES[name]
    ]
    wrong += [f"{path}: {number} lines" for path, number in lines.items() if number > LINES["one file"]]
    return wrong + [f"{path}: neither in READ nor in DOORS" for path, name in core.items() if name not in READ + DOORS]


def other_orders(sources: Sources) -> list[str]:
    """The engine's order of channels is named in the engine, and where older files are read."""
    elsewhere = [path for path in sources if path.startswith(("flowsep", "companion")) and not path.startswith(LAYOUT)]
    wrong = [
        f"{path}: {m[0]}"
        for path in elsewhere
        if (m := re.search(r"grouped[_ ]order|[\"']grouped[\"']", sources[path]))
    ]
    imports = _all_imports(sources, *elsewhere)
    return wrong + [
        f"{path}: imports {module}" for path, module, _ in imports if _within(module, "flowsep.fast.layout")
    ]


def empty_names(sources: Sources) -> list[str]:
    """A name says what it stands for."""
    return [
        f"{path}:{node.lineno}: {name}"
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text))
        for name in (getattr(node, field, None) for field in ("id", "arg", "attr", "name", "asname"))
        if name in SAY_NOTHING
    ]


RULES = (foreign, siblings, upward, models_behind_tables, circles, too_long, other_orders, empty_names)


def _all_imports(sources: Sources, *places: str) -> Iterator[tuple[str, str, bool]]:
    modules = frozenset(map(_module, sources))
    for path, text in sources.items():
        if path.startswith(places):
            for module, late in _imports(path, text, modules):
                yield path, module, late


@cache
def _imports(path: str, text: str, modules: frozenset[str]) -> tuple[Import, ...]:
    tree, package = ast.parse(text), PurePosixPath(path).parent.parts
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [Import(alias.name, node in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1]] if node.level else [])
            base = ".".join(filter(None, [base, node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names]
            imports += [Import(name if name in modules else base, node in late) for name in names]
    return tuple(imports)


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _room(place: str) -> str:
    """The part of companion that a path or a module lies in."""
    return [*_module(place).split("."), "__init__"][1]
