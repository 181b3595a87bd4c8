"""Metrics, evaluation of systems, estimates on disk, museval's JSON."""

from .metrics import sdr, si_sdr

__all__ = ["sdr", "si_sdr"]
