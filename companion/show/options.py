"""Tables of settings and facts for a page."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import Series
    from pandas.io.formats.style import Styler
    from pydantic import BaseModel


LABELS = {  # key in a profile or a provenance -> what a reader calls it; other keys lose their underscores
    "alpha": "weight of the prior",
    "batch": "crops per batch",
    "clip": "largest norm of a gradient",
    "config": "hash of the settings",
    "crop_seconds": "crop (s)",
    "data_hash": "hash of the data",
    "epochs": "passes over the recordings",
    "exponent": "exponent of the magnitudes",
    "gain_db": "random gain, at most (dB)",
    "hop": "hop (samples)",
    "lr": "learning rate",
    "n_fft": "window (samples)",
    "noise": "noise added in training",
    "refine": "steps of the refinement",
    "sample_rate": "sample rate (Hz)",
    "silence_db": "silent below (dB)",
    "step": "best step",
    "stereo": "rounds of the stereo filter",
    "train_segments": "recordings to train on",
    "training_memory_mib": "memory of the training (MiB)",
    "training_seconds": "training (s)",
    "valid_nll": "validation loss (nats per element)",
    "valid_segments": "recordings to validate on",
    "validate_every": "steps per validation",
}


def facts_table(facts: Mapping[str, Any]) -> "Styler":
    """Name and value of each fact that is not None, as readers call them; floats to four digits."""
    import pandas as pd

    short = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in facts.items()}
    cells = [(_label(name), str(value)) for name, value in short.items() if value is not None]
    rows = pd.DataFrame(cells, columns=["name", "value"])
    return rows.style.hide(axis="index").hide(axis="columns").format(escape="html")


def changed_options(options: "BaseModel", default: "BaseModel") -> "Styler | str":
    """The options that differ from `default`, both values side by side; a sentence if none does.

    Of several sets of priors each is shown with all that it sets.
    """
    import pandas as pd

    if options == default:
        return "all options have their default values"
    values, usual = options.model_dump(mode="json"), default.model_dump(mode="json")
    usual |= {name: None for name, value in usual.items() if _is_list_of_groups(value)}
    both = pd.DataFrame({"here": _flat(values), "default": _flat(usual)})
    both = both.map(lambda value: "–" if pd.isna(value) is True else str(value))
    changed = both.query("here != default").reset_index(names="option")
    changed["option"] = changed["option"].map(_label)
    return changed.style.hide(axis="index").format(escape="html")


def _is_list_of_groups(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _flat(values: dict[str, Any]) -> "Series":
    import pandas as pd

    for name, value in values.items():
        if _is_list_of_groups(value):
            values[name] = {f"set {place}": group for place, group in enumerate(value, 1)}
    return pd.json_normalize(values).T[0]


def _label(name: str) -> str:
    """`members.set 1.training.lr` -> set 1, learning rate."""
    *groups, key = name.split(".")
    groups = [group for group in groups if group not in ("members", "feature", "model", "training")]
    return ", ".join([*groups, LABELS.get(key, key.replace("_", " "))])
