"""Copy the demo's table from its file into README.md: `python tools/readme_table.py`. A test holds the two equal."""

import re

from flowsep.config import find_root
from flowsep.files import write_text

MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def renewed(readme: str) -> str:
    """`readme` with the file that each mark names between the marks."""
    return MARKED.sub(lambda m: m[1] + (find_root() / m[2]).read_text(encoding="utf-8") + m[3], readme)


if __name__ == "__main__":
    path = find_root() / "README.md"
    write_text(path, renewed(path.read_text(encoding="utf-8")))
