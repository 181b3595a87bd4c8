"""What a bench of this project wrote (`python -m benchmarks`), as tables: `results/bench/<device>.json`.

A file holds for each topic its figures, each with unit, quartiles, number of repeats, what it is a ratio of and its
settings, and the provenance of that topic's run; beside them the targets, and whether the figures meet them.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from flowsep.files import FlowsepError, read_json

FORMAT = "flowsep-bench-1"


def read_bench(path: str | Path) -> dict[str, Any]:
    """A whole file; FlowsepError if it is no bench of this project."""
    bench = read_json(path)
    if not isinstance(bench, dict) or bench.get("format") != FORMAT:
        raise FlowsepError(f"{path}: not a bench of this project (no format {FORMAT}); name another file")
    return bench


def find_benches(folder: str | Path) -> dict[str, dict[str, Any]]:
    """{device: bench} of all `*.json` in a folder; nothing there is no error."""
    benches = map(read_bench, sorted(Path(folder).glob("*.json")))
    return {bench["device"]: bench for bench in benches}


def figures(bench: dict[str, Any], *names: str) -> pd.DataFrame:
    """One figure a row, its settings as columns beside topic, name, what, value, unit, low, high, repeats, reference.

    names: of the figures wanted; none: all.
    """
    rows = [
        {"topic": topic, **{key: value for key, value in row.items() if key != "settings"}, **row["settings"]}
        for topic, content in bench["topics"].items()
        for row in content["figures"]
        if not names or row["name"] in names
    ]
    columns = ["topic", "name", "what", "value", "unit", "low", "high", "repeats", "reference"]
    return pd.DataFrame(rows, columns=list(dict.fromkeys(columns + [key for row in rows for key in row])))


def provenance(bench: dict[str, Any]) -> pd.DataFrame:
    """One topic a column: status, reason, and where, when and with what its figures were measured, as text."""
    topics = bench["topics"].items()
    facts = {topic: {"status": x["status"], "reason": x["reason"], **x["provenance"]} for topic, x in topics}
    table = pd.DataFrame(facts, dtype=object).fillna("").astype(str)
    length = {"git_commit": 12, "date": len("2026-01-01T00:00")}
    table = table.apply(lambda row: row.str[: length.get(row.name)], axis=1)
    return table.apply(lambda row: row.str.replace("T", " ") if row.name == "date" else row, axis=1)


def in_words(name: str) -> str:
    """A name of a figure, fact or setting as a page writes it: `separation.floor_share` is separation: floor share."""
    return name.replace(".", ": ").replace("_", " ")


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `figures` for a page: what was measured, under which settings, median with unit and quartiles."""
    given = ["topic", "name", "what", "value", "unit", "low", "high", "repeats", "reference"]
    settings = rows.drop(columns=given)
    told = [", ".join(_setting(key, x) for key, x in row.dropna().items()) for _, row in settings.iterrows()]
    medians = [
        "not measurable" if pd.isna(x) else f"{x:.3g} {unit}" + (f" ({a:.3g} to {b:.3g})" if n > 1 else "")
        for x, unit, a, b, n in zip(rows.value.astype(float), rows.unit, rows.low, rows.high, rows.repeats, strict=True)
    ]
    columns = {"measured": rows.what, "settings": told, "median (quartiles)": medians, "relative to": rows.reference}
    return pd.DataFrame(columns)


def on_a_page(table: pd.DataFrame, caption: str = "") -> Styler:
    """The table with its texts escaped and folded, so that it is as wide as the page and no wider."""
    folded = {"white-space": "normal", "text-align": "left", "vertical-align": "top"}
    heads = [{"selector": "th", "props": list(folded.items())}]
    return table.style.format(escape="html").set_properties(**folded).set_table_styles(heads).set_caption(caption)


def targets(bench: dict[str, Any]) -> pd.DataFrame:
    """The targets with the measured values, for a page; `met` is yes, no or not measured."""
    rows = pd.DataFrame(bench["targets"])
    settings = [", ".join(_setting(key, value) for key, value in row.items()) for row in rows.settings]
    values = [f"{x:.3g} {unit}" if pd.notna(x) else "never" for x, unit in zip(rows.value, rows.unit, strict=True)]
    values = ["" if pd.isna(met) else value for met, value in zip(rows.met, values, strict=True)]
    signs = rows.comparison.replace({">=": "≥", "<=": "≤"})
    wanted = [f"{sign}\N{NO-BREAK SPACE}{value:g}" for sign, value in zip(signs, rows.target, strict=True)]
    met = ["not measured" if pd.isna(x) else "yes" if x else "no" for x in rows.met]
    return pd.DataFrame(
        {
            "figure": rows.figure.map(in_words),
            "settings": settings,
            "measured": values,
            "target": wanted,
            "met": met,
            "source": rows.source,
        }
    )


def _setting(name: str, value: Any) -> str:
    """A setting in words. One that became a float beside missing ones is shown as the whole number that it was."""
    if isinstance(value, bool):
        return in_words(name) if value else f"not {in_words(name)}"
    return f"{in_words(name)} {value:g}" if isinstance(value, float) else f"{in_words(name)} {value}"
