"""Copy what was measured on real songs into README.md, without quartiles: `python tools/readme_table.py`.

A test holds the two equal.
"""

import re

from companion.profile import find_root
from flowsep.files import write_text

MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
QUARTILES = re.compile(r" \((quartiles|-?\d+\.\d(–| to )-?\d+\.\d)\)")  # as companion.tables.render writes them


def renewed(readme: str) -> str:
    """`readme` with the first block of the file that each mark names between the marks."""
    return MARKED.sub(lambda m: m[1] + first_block(compact((find_root() / m[2]).read_text("utf-8"))) + m[3], readme)


def first_block(table: str) -> str:
    """A table of `companion.tables.table_markdown` without the blocks after the first one and their sources."""
    lines = [line for line in table.splitlines() if not line.startswith("- ")]
    others = [number for number, line in enumerate(lines) if line.startswith("| *")][1:]
    if others:
        del lines[others[0] : lines.index("")]
    return "\n".join(lines).rstrip() + "\n"


def compact(table: str) -> str:
    """A table of `companion.tables.table_markdown` without the quartiles beside its medians."""
    return QUARTILES.sub("", table)


if __name__ == "__main__":
    path = find_root() / "README.md"
    write_text(path, renewed(path.read_text(encoding="utf-8")))
