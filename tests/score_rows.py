"""Rows of scores, made by hand, for the tests of whatever makes tables of them."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

from companion.scores.evaluate import COLUMNS, NUMBERS

PUBLISHED = Path(__file__).parents[1] / "results" / "published.csv"
FOUR = ("vocals", "bass", "drums", "other")


def row(**cells):
    filled = {name: "" if name not in NUMBERS else 0 for name in COLUMNS}
    filled |= {"profile": "demo", "system": "flow", "kind": "measured", "data": "band", "metric": "SDR"}
    return filled | {"convention": "paper", "status": "ok", "time": "2026-01-01T00:00:00+00:00"} | cells


def scores(*rows):
    return pd.DataFrame([row(**cells) for cells in rows], columns=list(COLUMNS))


def three_systems() -> pd.DataFrame:
    """Flow, NMF and the mixture on two songs and two stems, and the flow with other priors on one of them."""
    values = {"flow": (5.0, 7.0), "nmf": (1.0, 2.0), "mixture": (6.0, np.nan)}
    rows = [
        {"system": system, "track": track, "stem": stem, "value": value, "supervision": "solo"}
        for system, pair in values.items()
        for stem, value in zip(("bass", "drums"), pair, strict=True)
        for track in ("one", "two")
    ]
    frame = scores(*rows)
    frame.loc[frame.value.isna(), "status"] = "failed"
    other = scores({"track": "one", "stem": "bass", "value": 20.0}, {"track": "one", "stem": "drums", "value": 30.0})
    return pd.concat([frame, other.assign(variant="new priors")], ignore_index=True)


SPENDING = {  # supervision, parameters, training seconds and MiB, seconds of separation of three songs, MiB
    "net": ("mixtures", 266_000_000, 12_345.0, 2000.0, (2.0, 4.0, np.nan), 900.0),
    "mask": ("oracle", 0, 0.0, 0.0, (0.1, 0.1, 0.1), 300.0),
    "flow": ("solo", 1_620_000, 641.2, 1000.0, (20.0, 40.0, 90.0), 800.0),
    "their own": ("mixtures", 20_100, np.nan, np.nan, (1.0, 1.0, 1.0), 700.0),
}
LENGTHS = (10.0, 20.0, 30.0)
SDRS = {"net": 4.0, "mask": 9.0, "flow": 3.0, "their own": 4.004}


def spending():
    """Four systems, three songs, two sources; the net failed on the last song, before it was separated."""
    rows = []
    for system, (supervision, parameters, training, memory, seconds, peak) in SPENDING.items():
        made = {"system": system, "supervision": supervision, "parameters": parameters, "training_seconds": training}
        for track, (spent, length) in enumerate(zip(seconds, LENGTHS, strict=True)):
            done = {"seconds": spent, "audio_seconds": length, "peak_memory_mib": peak - track}
            done |= {"track": f"song {track}", "training_memory_mib": memory}
            value = np.nan if np.isnan(spent) else SDRS[system] + track - 1
            done["status"] = "failed" if np.isnan(spent) else "ok"
            rows += [made | done | {"stem": stem, "value": value} for stem in ("bass", "drums")]
    return scores(*rows)


class Cells(HTMLParser):
    """The text of all cells, and the titles of those that have one."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.titles, self.text, self.links, self.ids = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for attribute, actual in (("title", self.titles), ("href", self.links), ("id", self.ids)):
            actual += [value for name, value in attributes if name == attribute]

    def handle_data(self, data):
        self.text += [data] if data.strip() else []
