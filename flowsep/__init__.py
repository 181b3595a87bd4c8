"""flowsep: Glow priors, one per musical source, and separation as optimisation in their latent spaces."""

import importlib
from typing import Any

from .config import FeatureConfig, GlowConfig, Profile, SeparationConfig, TrainingConfig, load_profile
from .files import FlowsepError
from .latent import separate_magnitude
from .metrics import sdr, si_sdr
from .prior import Prior, load_prior
from .separate import separate, separate_stream

# What needs more than torch and numpy is imported on first use, so that a short command starts at once.
_LATER = {"fit_prior": "train", "load_dataset": "data", "load_system": "baselines"}

__all__ = [
    "FeatureConfig",
    "FlowsepError",
    "GlowConfig",
    "Prior",
    "Profile",
    "SeparationConfig",
    "TrainingConfig",
    "load_prior",
    "load_profile",
    "sdr",
    "separate",
    "separate_magnitude",
    "separate_stream",
    "si_sdr",
]
__all__ += list(_LATER)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'flowsep' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
