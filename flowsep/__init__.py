"""flowsep: Glow priors, one per musical source, and separation as optimisation in their latent spaces."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .baselines import load_system
    from .config import FeatureConfig, GlowConfig, Profile, SeparationConfig, TrainingConfig, load_profile
    from .data import load_dataset
    from .files import FlowsepError
    from .latent import separate_magnitude
    from .metrics import sdr, si_sdr
    from .prior import Prior, load_prior
    from .separate import separate, separate_stream
    from .train import fit_prior

__all__ = [
    "FeatureConfig",
    "FlowsepError",
    "GlowConfig",
    "Prior",
    "Profile",
    "SeparationConfig",
    "TrainingConfig",
    "fit_prior",
    "load_dataset",
    "load_prior",
    "load_profile",
    "load_system",
    "sdr",
    "separate",
    "separate_magnitude",
    "separate_stream",
    "si_sdr",
]

# Names are imported on first use, from these modules, so that a command that needs no torch does not wait for it.
_MODULES = {
    "baselines": ("load_system",),
    "config": ("FeatureConfig", "GlowConfig", "Profile", "SeparationConfig", "TrainingConfig", "load_profile"),
    "data": ("load_dataset",),
    "files": ("FlowsepError",),
    "latent": ("separate_magnitude",),
    "metrics": ("sdr", "si_sdr"),
    "prior": ("Prior", "load_prior"),
    "separate": ("separate", "separate_stream"),
    "train": ("fit_prior",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


class _Package(ModuleType):
    """`flowsep.separate` is the function, also once the module of that name is imported, which would take its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        same = isinstance(value, ModuleType) and _HOMES.get(name) == name
        super().__setattr__(name, getattr(value, name) if same else value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'flowsep' has no attribute '{name}'")
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
