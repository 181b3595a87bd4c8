"""Tables of settings and facts for a page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import Series
    from pandas.io.formats.style import Styler
    from pydantic import BaseModel


def facts_table(facts: Mapping[str, Any]) -> "Styler":
    """Name and value of each fact: names without underscores, floats to four digits, – for None."""
    import pandas as pd

    short = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in facts.items()}
    cells = [(name.replace("_", " "), "–" if value is None else str(value)) for name, value in short.items()]
    rows = pd.DataFrame(cells, columns=["name", "value"])
    return rows.style.hide(axis="index").hide(axis="columns").format(escape="html")


def changed_options(options: "BaseModel", default: "BaseModel") -> "Styler | str":
    """The options that differ from `default`, both values side by side; a sentence if none does.

    Options within groups have names such as `members.0.training.steps`.
    """
    import pandas as pd

    both = pd.DataFrame({"here": _flat(options), "default": _flat(default)})
    both = both.map(lambda value: "–" if pd.isna(value) is True else str(value))
    changed = both.query("here != default").reset_index(names="option")
    return (
        changed.style.hide(axis="index").format(escape="html")
        if len(changed)
        else "all options have their default values"
    )


def _flat(options: "BaseModel") -> "Series":
    import pandas as pd

    values = options.model_dump(mode="json")
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            values[name] = {str(place): group for place, group in enumerate(value)}
    return pd.json_normalize(values).T[0]
