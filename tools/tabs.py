"""Chapters that were executed several times, as one page: the text once, and of each output one tab per run."""

import re
from collections.abc import Mapping
from html import escape
from itertools import groupby
from typing import NamedTuple

import nbformat
import pandas as pd
from nbformat import NotebookNode

from flowsep.files import safe_name

PRIOR = re.compile(r'href="04_train_prior_([^".]+)\.html"')
LABEL = 'class="flowsep-run"'  # of the label above each output, which book/_static/tabs.js turns into tabs


class Family(NamedTuple):
    """A page of several systems."""

    title: str
    text: str  # in the place of the chapter's first cell, which explains the flows' search; '' keeps it


FAMILIES = {
    "separate_flows": Family("Separation by flows", ""),
    "separate_solo": Family(
        "Separation by other source models",
        "Like the flows, these systems learn each source from solo recordings of it, and meet mixtures only when they"
        " separate. [The rivals](../rivals.md) says how each of them works. The first table lists the options that"
        " differ from the system's defaults.",
    ),
    "separate_networks": Family(
        "Separation by networks",
        "These networks learn from mixtures, of real songs or of random stems. [The rivals](../rivals.md) says how each"
        " of them works. Their defaults are the published sizes; the first table lists what is smaller here.",
    ),
    "separate_limits": Family(
        "Limits: rules and oracles",
        "What nobody needs to train: simple rules, which a separator should beat, and oracles, which see the true stems"
        " and which no filter of their kind can beat. [The rivals](../rivals.md) describes them.",
    ),
}
FLOWS = ("flowsep", "instglow")
ORDER = (*FLOWS, "vocals", "bass", "drums", "other")  # of tabs; all others follow as in the alphabet
OF = {"solo": "separate_solo", "random mixes": "separate_networks", "mixtures": "separate_networks"}


def page_of(chapter: str, scores: pd.DataFrame) -> str:
    """The name of the page that shows an executed chapter; most chapters are pages of their own."""
    if chapter.startswith("04_train_prior_"):
        return "04_train_prior"
    if not chapter.startswith("05_separate_"):
        return chapter
    system = chapter.removeprefix("05_separate_")
    if system in FLOWS:
        return "separate_flows"
    kinds = scores.supervision[scores.system.map(safe_name) == system]
    return OF.get(next(iter(kinds), ""), "separate_limits")


def rank(chapter: str) -> tuple[int, str]:
    """Where the tab of a chapter stands among the others, as a key to sort by."""
    run = chapter.removeprefix("05_separate_").removeprefix("04_train_prior_")
    return (ORDER.index(run) if run in ORDER else len(ORDER), run)


def together(pages: Mapping[str, NotebookNode]) -> NotebookNode:
    """One page of several executed notebooks of the same cells: {label of the tab: notebook}.

    Markdown is the first one's. Between two texts stand all cells of the first notebook, below its label, then all of
    the second, and so on.
    """
    first, *more = notebooks = [*pages.values()]
    if not more:
        return first
    cells: list[NotebookNode] = []
    anchored = False
    columns = zip(*(notebook.cells for notebook in notebooks), strict=True)
    for kind, block in groupby(columns, key=lambda rows: rows[0].cell_type):
        rows = [*block]
        if kind == "markdown":
            cells += [row[0] for row in rows]
            continue
        for label, column in zip(pages, zip(*rows, strict=True), strict=True):
            anchor = "" if anchored else f' id="{escape(anchor_of(label))}"'
            text = f"<p {LABEL}{anchor}>{escape(label)}</p>"
            column[0].outputs.insert(0, nbformat.v4.new_output("display_data", {"text/html": text}))
            cells += column
        anchored = True
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the notebooks have the same ids
    return nbformat.from_dict({**first, "cells": cells})


def renew_links(page: NotebookNode) -> None:
    """Lead what a chapter links to the priors' pages, one for each source, to the tabs of the one page."""
    for output in (output for cell in page.cells for output in cell.get("outputs", [])):
        if "text/html" in output.get("data", {}):
            output.data["text/html"] = PRIOR.sub(
                lambda link: f'href="04_train_prior.html#{anchor_of(link[1])}"', output.data["text/html"]
            )


def anchor_of(label: str) -> str:
    """The place of a tab in the address of its page."""
    return re.sub(r"\W+", "-", label).strip("-").lower() or "run"
