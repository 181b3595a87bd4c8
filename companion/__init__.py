"""The companion of flowsep: the experiment and the book, which the method does without."""

from typing import TYPE_CHECKING, Any

from .data.tracks import load_dataset
from .profile import Profile, load_profile

if TYPE_CHECKING:
    from .systems import load_system

__all__ = ["Profile", "load_dataset", "load_profile", "load_system"]


def __getattr__(name: str) -> Any:
    """Import `load_system` on first use: it needs torch, for which short commands should not wait."""
    if name != "load_system":
        raise AttributeError(f"module 'companion' has no attribute '{name}'")
    from .systems import load_system

    return load_system
