"""Copy the demo's table into README.md, without its quartiles: `python tools/readme_table.py`.

A test holds the two equal.
"""

import re

from companion.profile import find_root
from flowsep.files import write_text

MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
QUARTILES = re.compile(r" \((quartiles|-?\d+\.\d(–| to )-?\d+\.\d)\)")  # as companion.tables.render writes them


def renewed(readme: str) -> str:
    """`readme` with the file that each mark names between the marks, which a page is too narrow for as it is."""
    return MARKED.sub(lambda m: m[1] + compact((find_root() / m[2]).read_text(encoding="utf-8")) + m[3], readme)


def compact(table: str) -> str:
    """A table of `companion.tables.table_markdown` without the quartiles beside its medians."""
    return QUARTILES.sub("", table)


if __name__ == "__main__":
    path = find_root() / "README.md"
    write_text(path, renewed(path.read_text(encoding="utf-8")))
