"""Pictures, players and sliders for the book: arrays and frames in, figures and HTML out."""

from .cost_plots import loss_curves, pareto, pareto_front, ranges, roofline
from .options import changed_options, facts_table
from .player import StemPlayer
from .score_plots import paired_differences, paired_scatter, ranked_boxes, score_boxes, score_matrix
from .slider import PictureSlider
from .sound_plots import (
    average_spectra,
    latents,
    likelihoods,
    spectrogram_table,
    spectrograms,
)
from .sounds import invert, magnitude
from .style import INK, describe, source_color, use_style

__all__ = [
    "INK",
    "PictureSlider",
    "StemPlayer",
    "average_spectra",
    "changed_options",
    "describe",
    "facts_table",
    "invert",
    "latents",
    "likelihoods",
    "loss_curves",
    "magnitude",
    "paired_differences",
    "paired_scatter",
    "pareto",
    "pareto_front",
    "ranges",
    "ranked_boxes",
    "roofline",
    "score_boxes",
    "score_matrix",
    "source_color",
    "spectrogram_table",
    "spectrograms",
    "use_style",
]
