"""What a row of the table must say of a system beside its name."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from flowsep.config import GlowConfig

from . import SYSTEMS, load_system

SIZES = ("width", "depth", "levels", "filters", "channels", "bottleneck", "hidden", "layers", "blocks", "repeats")


def remarks(profile: Any) -> dict[str, str]:
    """{system: what its row must say}: what is smaller than published, and how many settings were tried.

    Such as "16 of 44.1 kHz, width 16 of 64; 3 settings tried". The trials are the rows of the profile's `choices.csv`.
    """
    choices = profile.folder / "choices.csv"
    trials = pd.read_csv(choices).system.value_counts() if choices.is_file() else {}
    said = {}
    for name, options in profile.systems.items():
        parts = [", ".join(_smaller(name, options, profile))]
        if count := trials.get(name, 0):
            parts.append(f"{count} setting{'s' * bool(count > 1)} tried")
        said[name] = "; ".join(filter(None, parts))
    return {name: text for name, text in said.items() if text}


def _smaller(name: str, options: Mapping[str, Any], profile: Any) -> list[str]:
    if name == "instglow":  # whose sizes are the profile's
        ours, paper = profile.model, GlowConfig()
        sizes = [("flow steps", ours.steps, paper.steps), ("hidden", ours.hidden, paper.hidden)]
        return [f"{key} {size} of {whole}" for key, size, whole in sizes if size < whole]
    if "class" in options or name not in SYSTEMS or name == "flowsep":  # published nowhere
        return []
    system = load_system(name, options, sources=profile.sources)
    here, published = system.options, type(system).Options(**system.defaults)
    here, published = (getattr(sizes, "prior", sizes) for sizes in (here, published))
    rates = [getattr(sizes, "sample_rate", 0) / 1000 for sizes in (here, published)]
    smaller = [f"{rates[0]:.3g} of {rates[1]:.3g} kHz"] if rates[0] < rates[1] else []
    both = [(key, getattr(here, key, 0), getattr(published, key, 0)) for key in SIZES]
    return smaller + [f"{key} {size} of {whole}" for key, size, whole in both if size < whole]
