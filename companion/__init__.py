"""The companion of flowsep: the experiment and the book, which the method does without."""

from .data.tracks import load_dataset
from .profile import Profile, load_profile
from .systems import load_system

__all__ = ["Profile", "load_dataset", "load_profile", "load_system"]
