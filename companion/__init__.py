"""The companion of flowsep: the experiment and the book, which the method does without."""

import os
from typing import TYPE_CHECKING, Any

from flowsep.files import cache_folder

from .data.tracks import load_dataset
from .profile import Profile, load_profile

if TYPE_CHECKING:
    from .systems import load_system

# librosa compiles by numba, which otherwise writes beside librosa or below ~, where it may not be allowed to
_there = next((folder for folder in (cache_folder(), *cache_folder().parents) if folder.is_dir()), None)
if _there is not None and os.access(_there, os.W_OK):
    os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))

__all__ = ["Profile", "load_dataset", "load_profile", "load_system"]


def __getattr__(name: str) -> Any:
    """Import `load_system` on first use: it needs torch, for which short commands should not wait."""
    if name != "load_system":
        raise AttributeError(f"module 'companion' has no attribute '{name}'")
    from .systems import load_system

    return load_system
