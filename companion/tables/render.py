"""Tables of scores, ours and published ones, as frames, HTML and Markdown."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import pandas as pd

from flowsep.files import write_text

from ..scores.museval_json import KIND, digest
from .aggregate import COST_HEADS, ORACLE, SYSTEM, aggregate, check_convention, labels, load_scores, made_of
from .text import digits, plain, prefixed

MEASURED = "measured here"
MEAN = "mean"  # over sources, of the medians
BEST, SECOND = "best", "second"  # within a block
SHOWN_COSTS = ["parameters", "training (s)", "RTF"]  # beside the scores
NONE: Mapping[str, str] = {}
Rows: TypeAlias = pd.DataFrame | None


def table(
    frame: Rows, published: Rows = None, *, convention: str, sources: Sequence[str], metric: str = "SDR"
) -> pd.DataFrame:
    """The table of one convention: index (block, system), columns supervision, costs, n, each source, and their mean.

    The costs are parameters, training (s) and RTF, as in `costs`; NaN where unknown, as for published rows.

    Blocks name the origin of the numbers and their data: *measured here*, *read from museval JSON*, *reported by the
    paper*, ... Within a block systems are sorted by the mean over sources of the medians, NaN for a system that lacks
    a source.

    Args:
        frame: of `load_scores`, with or without rows of `read_museval`, or None.
        published: of `load_published`, or None; rows of other conventions and other stems than `sources` are left out.
    Raises:
        FlowsepError: as `aggregate`.
    """
    return _pivot(_cells(frame, published, convention, sources, metric), sources)


def table_html(
    frame: Rows,
    published: Rows = None,
    *,
    convention: str,
    sources: Sequence[str],
    metric: str = "SDR",
    notes: Mapping[str, str] = NONE,
) -> str:
    """`table` as HTML: a body per block under its label, each number with its origin as `title`. All text is escaped.

    Quartiles stand below the medians. In each block and column the best number is strong, the second underlined, and
    their titles say so; oracles are not ranked. A system's mark leads to the list of sources below the table, for
    readers who cannot hover. Known costs stand beside SDR, not beside other metrics. `notes` has a line below the
    name of each system measured here.
    """
    cells = _cells(frame, published, convention, sources, metric, notes)
    shown, places = _ranked(cells, sources, metric)
    noted = cells.groupby(["block", "system"])["note"].first()
    origin = cells.set_index(["block", "system", "stem"])["origin"].to_dict()
    quartiles = _quartiles(cells)
    sourced = cells.groupby(["block", "system"])["source"].unique()
    origins = list(dict.fromkeys(source for index in shown.index for source in sourced[index]))
    anchor = f"source-{crc32(repr((convention, metric, origins)).encode()):x}"  # no two tables of a page share it
    names = ["system", *shown.columns]
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    caption = html.escape(_caption(convention, metric, shown, places, "underlined"))
    lines = [f'<table class="flowsep-scores">\n<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>']
    for block, rows in shown.groupby(level="block", sort=False):
        label = f'<th colspan="{len(names)}" scope="colgroup"><em>{html.escape(block)}</em></th>'
        lines.append(f"<tbody><tr>{label}</tr>")
        for (_, system), row in rows.iterrows():
            numbers = [origins.index(source) + 1 for source in sourced[block, system]]
            marks = " ".join(f'<a href="#{anchor}-{n}" aria-label="source {n}">{n}</a>' for n in numbers)
            note = f"<small>{html.escape(noted[block, system])}</small>" if noted[block, system] else ""
            lines.append(f'<tr><th scope="row">{html.escape(system)}<sup>{marks}</sup>{note}</th>')
            for name, cell in row.items():
                text, below = html.escape(_text(name, cell)), quartiles.get((block, system, name), "")
                if name == "n":
                    text, _, below = text.rstrip(")").partition(" (")  # how many failed
                place = places.get((block, system, name), "")
                if place:
                    text = f"<strong>{text}</strong>" if place == BEST else f"<u>{text}</u>"
                    place += " of this block"
                text += f"<small>{below}</small>" if below else ""
                title = html.escape("; ".join(filter(None, (origin.get((block, system, name)), place))))
                lines.append(f'<td title="{title}">{text}</td>' if title else f"<td>{text}</td>")
            lines.append("</tr>")
        lines.append("</tbody>")
    items = [f'<li id="{anchor}-{n}">{html.escape(source)}</li>' for n, source in enumerate(origins, 1)]
    return "\n".join([*lines, "</table>", '<ol class="flowsep-sources">', *items, "</ol>"])


def table_markdown(
    frame: Rows,
    published: Rows = None,
    *,
    convention: str,
    sources: Sequence[str],
    metric: str = "SDR",
    notes: Mapping[str, str] = NONE,
) -> str:
    """`table` as Markdown, a heading row per block; a list below it names the sources of each block's numbers.

    Quartiles stand in parentheses, as does the note of a system measured here. In each block and column the best
    number is bold, the second in italics.
    """
    cells = _cells(frame, published, convention, sources, metric, notes)
    shown, places = _ranked(cells, sources, metric)
    noted = cells.groupby(["block", "system"])["note"].first()
    quartiles = _quartiles(cells)
    names = ["system", *shown.columns]
    lines = [_line(map(plain, names)), "|---|---|" + "---:|" * (len(names) - 2)]
    for block, rows in shown.groupby(level="block", sort=False):
        lines.append(_line([f"*{plain(block)}*", *[""] * (len(names) - 1)]))
        for (_, system), row in rows.iterrows():
            note = noted[block, system]
            texts = [plain(f"{system} ({note})" if note else system)]
            for name, cell in row.items():
                stars = {BEST: "**", SECOND: "*"}.get(places.get((block, system, name), ""), "")
                spread = quartiles.get((block, system, name), "")
                texts.append(stars + plain(_text(name, cell)) + stars + (f" ({spread})" if spread else ""))
            lines.append(_line(texts))
    lines += ["", plain(_caption(convention, metric, shown, places, "in italics")) + ".", ""]
    reported = cells[~cells["block"].str.startswith(MEASURED)]
    origins = reported[["block", "source"]].drop_duplicates().itertuples(index=False)
    lines += [f"- *{plain(block)}*: {plain(source)}" for block, source in origins]
    return "\n".join(lines).rstrip() + "\n"


def table_files(
    frame: pd.DataFrame,
    published: Rows,
    *,
    conventions: Sequence[str],
    sources: Sequence[str],
    notes: Mapping[str, str] = NONE,
) -> dict[str, str]:
    """{file name: text} of the tables of each convention, as Markdown and as CSV."""
    texts = {}
    for convention in conventions:
        shown = table_markdown(frame, published, convention=convention, sources=sources, notes=notes)
        texts[f"table-{convention}.md"] = shown
        medians = aggregate(frame, convention).round(4)
        texts[f"table-{convention}.csv"] = medians.to_csv(index=False, lineterminator="\n")
    return texts


def write_tables(folder: str | Path, published: Rows, **given: Any) -> None:
    """Write the `table_files` of all rows in `folder/scores`, and `tables.json` with `made_of`."""
    folder = Path(folder)
    for name, text in table_files(load_scores(folder), published, **given).items():
        write_text(folder / name, text)
    write_text(folder / "tables.json", json.dumps({"made_of": made_of(folder)}, indent=1) + "\n")


def _cells(
    frame: Rows, published: Rows, convention: str, sources: Sequence[str], metric: str, notes: Mapping[str, str] = NONE
) -> pd.DataFrame:
    """A row per number of the table: block, system, stem, the number, its quartiles, and the facts for `_pivot`."""
    check_convention(convention)
    parts: list[pd.DataFrame] = []
    if frame is not None:
        rows = aggregate(frame, convention, metric).rename(columns={"median": "value"})
        rows = rows.sort_values("kind", kind="stable")  # 'measured' first
        files = {key: _source(part) for key, part in frame.groupby(SYSTEM)}
        how = rows["kind"].str.removeprefix("measured").str.replace(", ", " with ")  # published weights
        data = (" (" + rows["data"] + ")").where(rows["data"] != rows["profile"], "")
        measured = MEASURED + how + ", " + rows["profile"] + data
        rows["block"] = measured.where(rows["kind"] != KIND, f"read from {KIND} (" + rows["data"] + ")")
        rows["source"] = [files[tuple(key)] for key in rows[SYSTEM].to_numpy()]
        named = rows[["system", "variant"]].to_numpy()
        rows["note"] = ["" if variant else notes.get(system, "") for system, variant in named]
        rows["system"] = labels(rows)
        origins = [_origin(row) for row in rows.to_dict("records")]
        parts.append(rows.assign(origin=origins).rename(columns=COST_HEADS))
    if published is not None:
        rows = published[(published["convention"] == convention) & (published["metric"] == metric)]
        block = rows["kind"] + " (" + rows["dataset"] + ")"
        parts.append(rows.assign(block=block, n=-1, failed=0, origin=rows["source"], note=""))
    columns = [
        "block",
        "system",
        "supervision",
        "stem",
        "value",
        "q25",
        "q75",
        "n",
        "failed",
        "origin",
        "source",
        "note",
    ]
    columns += SHOWN_COSTS
    cells = pd.concat([pd.DataFrame(columns=columns), *parts])[columns]
    return cells[cells["stem"].isin(list(sources))]


def _pivot(cells: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame:
    rows = []
    for (block, system), group in cells.groupby(["block", "system"], sort=False):
        values = group.set_index("stem")["value"].astype(float).reindex(list(sources))
        row = {"block": block, "system": system, "supervision": group["supervision"].iloc[0], "n": _count(group)}
        row |= group[SHOWN_COSTS].astype(float).iloc[0].to_dict()
        rows.append(row | values.to_dict() | {MEAN: values.mean(skipna=False)})
    wide = pd.DataFrame(rows, columns=["block", "system", "supervision", *SHOWN_COSTS, "n", *sources, MEAN])
    order = [part.sort_values(MEAN, ascending=False, kind="stable") for _, part in wide.groupby("block", sort=False)]
    return pd.concat([wide[:0], *order]).set_index(["block", "system"])


def _ranked(
    cells: pd.DataFrame, sources: Sequence[str], metric: str
) -> tuple[pd.DataFrame, dict[tuple[str, str, str], str]]:
    """The printed table, without costs if all are unknown, and (block, system, column) -> BEST or SECOND.

    Numbers that print alike are equal. A column with fewer than two systems to rank has no mark.
    """
    wide = _pivot(cells, sources)
    places: dict[tuple[str, str, str], str] = {}
    for block, rows in wide[wide["supervision"] != ORACLE].groupby(level="block", sort=False):
        for column in (*sources, MEAN):
            values = rows.loc[block, column].round(2).dropna()
            if len(values) > 1:
                ranks = values.rank(method="dense", ascending=False)
                marked = ranks[ranks <= 2].map({1: BEST, 2: SECOND})
                places |= {(block, system, column): place for system, place in marked.items()}
    without_costs = metric != "SDR" or wide[SHOWN_COSTS].isna().all(axis=None)
    return wide.drop(columns=SHOWN_COSTS if without_costs else []), places


def _quartiles(cells: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """(block, system, stem) -> '1.8–4.1', for known quartiles."""
    known = cells.dropna(subset=["q25", "q75"])
    ends = known[["q25", "q75"]].astype(float).round(1) + 0.0  # no -0.0
    ranges = [f"{low:.1f}{'–' if low >= 0 else ' to '}{high:.1f}" for low, high in ends.itertuples(index=False)]
    return dict(zip(known[["block", "system", "stem"]].itertuples(index=False, name=None), ranges, strict=True))


def _origin(row: dict[str, Any]) -> str:
    counts = f"median of {row['n']} values from {row['tracks']} tracks"
    quartiles = f", quartiles {row['q25']:.2f} to {row['q75']:.2f} dB" if row["n"] else ""
    lost = "".join(f", {row[state]} {state}" for state in ("failed", "silent") if row[state])
    return counts + quartiles + lost


def _source(rows: pd.DataFrame) -> str:
    """The files that hold the scores of one system, and the hashes of what made them."""
    first, checkpoints = rows.iloc[0], rows["checkpoint"].unique()
    if first["kind"] == KIND:
        files = f"{len(checkpoints)} files in {first['data']}/{first['system']}/test"
        return f"{files}, SHA-256 of their names and hashes {digest(checkpoints)}"
    made = {"configuration": first["config_hash"], "data": first["data_hash"], "commit": first["git_commit"][:12]}
    made |= {"checkpoints": " ".join(checkpoints)}
    label = f"{first['system']}@{first['variant']}" if first["variant"] else first["system"]
    facts = "".join(f", {what} {value}" for what, value in made.items() if value)
    return f"results/{first['profile']}/scores/{label}.csv{facts}"


def _count(group: pd.DataFrame) -> str:
    """The number of values behind a row's medians, as a range if sources differ, and of failed tracks."""
    least, most, failed = group["n"].min(), group["n"].max(), group["failed"].max()
    if most < 0:  # unknown, of a published row
        return ""
    n = f"{least}" if least == most else f"{least}–{most}"
    return f"{n} ({failed} failed)" if failed else n


def _caption(convention: str, metric: str, shown: pd.DataFrame, places: dict, second: str) -> str:
    frames = "whole songs" if metric == "SI-SDR" else "median over frames of 1 s"
    unit = {"paper": "pieces (mono, 22.05 kHz)", "sisec18": f"songs (44.1 kHz, {frames})"}[convention]
    median = "median (quartiles)" if shown["n"].any() else "median"
    parts = [f"{metric} in dB by convention {convention}: {median} over n {unit}; {MEAN} over sources"]
    if places:
        ranks = f"The best number of each block is bold, the second {second}"
        parts.append(f"{ranks}; oracles, which see the true stems, are not ranked")
    if "RTF" in shown:
        parts.append("RTF: seconds of separation per second of music; costs: 0 where nothing is learnt, – if unknown")
    return ". ".join(parts)


def _text(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value or "–"
    if pd.isna(value):
        return "–"
    if column == "parameters":
        return prefixed(value)
    return digits(value) if column in SHOWN_COSTS else f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
