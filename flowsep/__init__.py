"""flowsep: Glow priors, one per musical source, and separation as optimisation in their latent spaces."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint import load_prior, load_priors
    from .config import FeatureConfig, GlowConfig, SeparationConfig, TrainingConfig
    from .files import FlowsepError
    from .prior import Prior
    from .search import separate_magnitude
    from .separator import Separator, separate
    from .train import fit_prior

__all__ = [
    "FeatureConfig",
    "FlowsepError",
    "GlowConfig",
    "Prior",
    "SeparationConfig",
    "Separator",
    "TrainingConfig",
    "fit_prior",
    "load_prior",
    "load_priors",
    "separate",
    "separate_magnitude",
]

# Names are imported on first use, so that a command that needs no torch does not wait for it.
_HOMES = {
    "FeatureConfig": "config",
    "FlowsepError": "files",
    "GlowConfig": "config",
    "Prior": "prior",
    "SeparationConfig": "config",
    "Separator": "separator",
    "TrainingConfig": "config",
    "fit_prior": "train",
    "load_prior": "checkpoint",
    "load_priors": "checkpoint",
    "separate": "separator",
    "separate_magnitude": "search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flowsep' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
