"""Tables: medians and costs of score files, published numbers, paired statistics; as frames, HTML and Markdown."""

from .aggregate import ORACLE, aggregate, costs, labels, load_scores, made_of, ranking
from .published import load_campaign, load_published, same_data, same_songs
from .render import table, table_files, table_html, table_markdown, write_tables
from .statistics import ALL, differences, paired
from .text import plain, written

__all__ = [
    "ALL",
    "ORACLE",
    "aggregate",
    "costs",
    "differences",
    "labels",
    "load_campaign",
    "load_published",
    "load_scores",
    "made_of",
    "paired",
    "plain",
    "ranking",
    "same_data",
    "same_songs",
    "table",
    "table_files",
    "table_html",
    "table_markdown",
    "write_tables",
    "written",
]
