"""Score files and published numbers -> tables; reads files, runs no model, and knows no number of its own."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pandas as pd

from .evaluate import CONVENTIONS, METRICS, read_scores, read_table
from .files import FlowsepError
from .museval_json import KIND, digest

PUBLISHED = ("system", "supervision", "backbone", "dataset", "convention", "stem", "metric", "value", "kind", "source")
KINDS = ("reported by the paper", "reported by its authors", "recomputed")
MEASURED = "measured here"
MEAN = "mean"  # over sources, of the medians
SYSTEM = ["kind", "profile", "data", "system", "variant"]
KEYS = [*SYSTEM, "stem"]
SCORED = [*KEYS, "track", "metric", "convention", "piece"]
SAME = {"musdb18": "MUSDB18", "musdb18hq": "MUSDB18", "slakh": "Slakh2100-submix"}  # data.kind -> published dataset

CAMPAIGN = ("system", "track", "target", "SDR", "SIR", "SAR", "ISR")
# SiSEC 2018: what each submission's description says of itself (is_blind, additional_training_data)
_SUBMISSIONS = {
    "oracle": "IBM1 IBM2 IRM1 IRM2 MWF",
    "supervised": "HEL1 JY1 JY2 JY3 MDL1 MDLT RGT1 RGT2 STL2 TAK1 UHL1 UHL2 WK",
    "supervised, more songs": "STL1 TAK2 TAK3 TAU1 UHL3",
    "blind": "2DFT HPLP HPSS MELO REP1 REP2 RPCA",
    "unprocessed": "MIX",
}
SUBMISSIONS = {system: kind for kind, names in _SUBMISSIONS.items() for system in names.split()}

Rows = pd.DataFrame | None


def load_scores(folder: str | Path) -> pd.DataFrame:
    """All rows of `folder/scores/*.csv`; `folder` is a profile's, such as `results/demo`.

    Raises FlowsepError where there is no score file, or one is wrong, or two rows score the same thing.
    """
    paths = sorted((Path(folder) / "scores").glob("*.csv"))
    if not paths:
        raise FlowsepError(f"{Path(folder) / 'scores'}: no score files (*.csv); run the evaluation of a system first")
    frame = read_scores(paths)
    if twice := frame[frame.duplicated(SCORED)].to_dict("records"):
        what = ", ".join(str(twice[0][key]) for key in SCORED if twice[0][key] != "")
        raise FlowsepError(f"{Path(folder) / 'scores'}: two rows score the same ({what}); remove one of the files")
    return frame


def load_published(path: str | Path) -> pd.DataFrame:
    """The published numbers, a row each, with their source; FlowsepError names the column of what is wrong."""
    valid = {"convention": tuple(CONVENTIONS), "metric": METRICS, "kind": KINDS}
    return read_table(path, PUBLISHED, {"value": float}, valid)


def same_data(published: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of `published` for the songs of a profile's data (`data.kind`), which may stand beside its own.

    MUSDB18 and MUSDB18-HQ hold the same songs; of the embedded band, or a folder of stems, nothing was published.
    """
    return published[published["dataset"] == SAME.get(kind, "")]


def same_songs(frame: pd.DataFrame, others: pd.DataFrame) -> pd.Series:
    """Which rows of `others` may stand beside those of `frame`: of systems all of whose songs were measured here."""
    known = others["track"].isin(set(frame["track"]))
    return known.groupby(others["system"]).transform("all")


def load_campaign(path: str | Path) -> pd.DataFrame:
    """SiSEC 2018, a row per system, track and stem: kind of system, and the median over frames of SDR, SIR, SAR, ISR.

    Raises FlowsepError naming a column that is missing, holds no numbers, or a system that did not take part.
    """
    numbers = dict.fromkeys(CAMPAIGN[3:], float)
    frame = read_table(path, CAMPAIGN, numbers, {"system": tuple(SUBMISSIONS)}).rename(columns={"target": "stem"})
    frame.insert(1, "kind", frame["system"].map(SUBMISSIONS))
    return frame


def aggregate(frame: pd.DataFrame, convention: str, metric: str = "SDR") -> pd.DataFrame:
    """Median and quartiles a system and stem, by the rule of one convention.

    *paper*: over all pieces of all tracks; *sisec18*: over tracks, whose value is the median over their frames.

    Returns:
        a row per kind, profile, data, system, variant and stem with supervision, median, q25, q75 (dB), n (values that
        count), tracks (that gave one), failed and silent (tracks with a row that gave none).
    Raises:
        FlowsepError: an unknown convention, several at once, or one that no row has.
    """
    _check(convention)
    rows = frame[(frame["convention"] == convention) & (frame["metric"] == metric)]
    if rows.empty:
        found = sorted(set(zip(frame["convention"], frame["metric"], strict=True)))
        raise FlowsepError(f"no scores of {metric} by convention '{convention}'; there are {found or 'none at all'}")
    groups = rows.groupby(KEYS, sort=False)
    result = groups.agg(supervision=("supervision", "first"), median=("value", "median"), n=("value", "count"))
    for name, q in (("q25", 0.25), ("q75", 0.75)):
        result[name] = groups["value"].quantile(q)
    for name, status in (("tracks", "ok"), ("failed", "failed"), ("silent", "silent")):
        counts = rows[rows["status"] == status].groupby(KEYS)["track"].nunique()
        result[name] = counts.reindex(result.index, fill_value=0)
    return result.reset_index()


def table(
    frame: Rows, published: Rows = None, *, convention: str, sources: Sequence[str], metric: str = "SDR"
) -> pd.DataFrame:
    """The table of one convention: index (block, system), columns supervision, n, each source, and their mean.

    Blocks say who vouches for the numbers, and on which data: *measured here*, *read from museval JSON*, *reported by
    the paper*, ... Within a block systems are sorted by the mean over sources of the medians, which only a system with
    all sources has.

    Args:
        frame: of `load_scores`, with or without rows of `read_museval`, or None; a system's other variants are called
            `system [variant]`.
        published: of `load_published`, or None; rows of other conventions and without any of `sources` are left out.
    Raises:
        FlowsepError: as `aggregate`.
    """
    return _pivot(_cells(frame, published, convention, sources, metric), sources)


def table_html(
    frame: Rows, published: Rows = None, *, convention: str, sources: Sequence[str], metric: str = "SDR"
) -> str:
    """`table` as HTML: a body per block under its label, each number's origin in its `title`. All text is escaped.

    A system's mark leads to the list of sources below the table, for those who cannot hover.
    """
    cells = _cells(frame, published, convention, sources, metric)
    found = _pivot(cells, sources)
    origin = cells.set_index(["block", "system", "stem"])["origin"].to_dict()
    sourced = cells.groupby(["block", "system"])["source"].unique()
    notes = list(dict.fromkeys(note for index in found.index for note in sourced[index]))
    anchor = f"source-{crc32(repr((convention, metric, notes)).encode()):x}"  # no two tables of a page share it
    names = ["system", *found.columns]
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    caption = html.escape(_caption(convention, metric))
    lines = [f'<table class="flowsep-scores">\n<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>']
    for block, rows in found.groupby(level="block", sort=False):
        label = f'<th colspan="{len(names)}" scope="colgroup"><em>{html.escape(block)}</em></th>'
        lines.append(f"<tbody><tr>{label}</tr>")
        for (_, system), row in rows.iterrows():
            numbers = [notes.index(note) + 1 for note in sourced[block, system]]
            marks = " ".join(f'<a href="#{anchor}-{n}" aria-label="source {n}">{n}</a>' for n in numbers)
            titles = [html.escape(origin.get((block, system, name), "")) for name in row.index]
            cells = "".join(
                f'<td title="{title}">{html.escape(_text(cell))}</td>' for title, cell in zip(titles, row, strict=True)
            )
            heading = f'<th scope="row">{html.escape(system)}<sup>{marks}</sup></th>'
            lines.append(f"<tr>{heading}{cells}</tr>".replace(' title=""', ""))
        lines.append("</tbody>")
    items = [f'<li id="{anchor}-{n}">{html.escape(note)}</li>' for n, note in enumerate(notes, 1)]
    return "\n".join([*lines, "</table>", '<ol class="flowsep-sources">', *items, "</ol>"])


def table_markdown(
    frame: Rows, published: Rows = None, *, convention: str, sources: Sequence[str], metric: str = "SDR"
) -> str:
    """`table` as Markdown, a heading row per block; the sources of each block's numbers follow as a list."""
    cells = _cells(frame, published, convention, sources, metric)
    found = _pivot(cells, sources)
    names = ["system", *found.columns]
    lines = [_line(names), "|---|---|" + "---:|" * (len(names) - 2)]
    for block, rows in found.groupby(level="block", sort=False):
        lines.append(_line([f"*{_plain(block)}*", *[""] * (len(names) - 1)]))
        lines += [_line([_plain(_text(cell)) for cell in (index[1], *row)]) for index, row in rows.iterrows()]
    lines += ["", _plain(_caption(convention, metric)) + ".", ""]
    reported = cells[~cells["block"].str.startswith(MEASURED)]
    origins = reported[["block", "source"]].drop_duplicates().itertuples(index=False)
    lines += [f"- *{_plain(block)}*: {_plain(source)}" for block, source in origins]
    return "\n".join(lines).rstrip() + "\n"


def _cells(frame: Rows, published: Rows, convention: str, sources: Sequence[str], metric: str) -> pd.DataFrame:
    """A row per number of the table: block, system, supervision, stem, value, n, failed, origin, source of the row."""
    _check(convention)
    parts = []
    if frame is not None:
        rows = aggregate(frame, convention, metric).rename(columns={"median": "value"})
        notes = {key: _source(part) for key, part in frame.groupby(SYSTEM)}
        measured = MEASURED + ", " + rows["profile"] + " (" + rows["data"] + ")"
        rows["block"] = measured.where(rows["kind"] != KIND, f"read from {KIND} (" + rows["data"] + ")")
        rows["source"] = [notes[tuple(key)] for key in rows[SYSTEM].to_numpy()]
        rows["system"] += rows["variant"].map(lambda name: f" [{name}]" if name else "")
        parts.append(rows.assign(origin=[_origin(row) for row in rows.to_dict("records")]))
    if published is not None:
        rows = published[(published["convention"] == convention) & (published["metric"] == metric)]
        block = rows["kind"] + " (" + rows["dataset"] + ")"
        parts.append(rows.assign(block=block, n=-1, failed=0, origin=rows["source"]))
    columns = ["block", "system", "supervision", "stem", "value", "n", "failed", "origin", "source"]
    cells = pd.concat([pd.DataFrame(columns=columns), *parts])[columns]
    return cells[cells["stem"].isin(list(sources))]


def _pivot(cells: pd.DataFrame, sources: Sequence[str]) -> pd.DataFrame:
    rows = []
    for (block, system), group in cells.groupby(["block", "system"], sort=False):
        values = group.set_index("stem")["value"].astype(float).reindex(list(sources))
        row = {"block": block, "system": system, "supervision": group["supervision"].iloc[0], "n": _count(group)}
        rows.append(row | values.to_dict() | {MEAN: values.mean(skipna=False)})
    found = pd.DataFrame(rows, columns=["block", "system", "supervision", "n", *sources, MEAN])
    order = [part.sort_values(MEAN, ascending=False, kind="stable") for _, part in found.groupby("block", sort=False)]
    return pd.concat([found[:0], *order]).set_index(["block", "system"])


def _check(convention: Any) -> None:
    if convention not in tuple(CONVENTIONS):  # also of what has no hash
        one = f"a table holds one convention of {', '.join(CONVENTIONS)}"
        raise FlowsepError(f"{one}, found {convention!r}; they are not comparable")


def _origin(row: dict[str, Any]) -> str:
    counts = f"median of {row['n']} values from {row['tracks']} tracks"
    quartiles = f", quartiles {row['q25']:.2f} to {row['q75']:.2f} dB" if row["n"] else ""
    lost = "".join(f", {row[state]} {state}" for state in ("failed", "silent") if row[state])
    return counts + quartiles + lost


def _source(rows: pd.DataFrame) -> str:
    """Which files the scores of one system come from, and what made them."""
    first, checkpoints = rows.iloc[0], rows["checkpoint"].unique()
    if first["kind"] == KIND:
        files = f"{len(checkpoints)} files in {first['data']}/{first['system']}/test"
        return f"{files}, SHA-256 of their names and hashes {digest(checkpoints)}"
    made = {"configuration": first["config_hash"], "data": first["data_hash"], "commit": first["git_commit"][:12]}
    made |= {"checkpoints": " ".join(checkpoints)}
    label = f"{first['system']}@{first['variant']}" if first["variant"] else first["system"]
    told = "".join(f", {what} {value}" for what, value in made.items() if value)
    return f"results/{first['profile']}/scores/{label}.csv{told}"


def _count(group: pd.DataFrame) -> str:
    """How many values a row's medians are taken over, as a range where sources differ, and how many tracks failed."""
    least, most, failed = group["n"].min(), group["n"].max(), group["failed"].max()
    if most < 0:  # published without it
        return ""
    n = f"{least}" if least == most else f"{least}–{most}"
    return f"{n} ({failed} failed)" if failed else n


def _caption(convention: str, metric: str) -> str:
    frames = "whole songs" if metric == "SI-SDR" else "median over frames of 1 s"
    unit = {"paper": "pieces (mono, 22.05 kHz)", "sisec18": f"songs (44.1 kHz, {frames})"}[convention]
    return f"{metric} in dB by convention {convention}: median over n {unit}; {MEAN} over sources"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or "–"
    return "–" if pd.isna(value) else f"{value:.2f}"


def _plain(text: str) -> str:
    """Text that neither breaks a Markdown table nor becomes markup."""
    return html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
