"""How many operations the steps of a whole experiment take, in GFLOP: torch counts products and convolutions on tensors
without content, so that the largest network costs nothing. What is done element by element is not counted."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from companion.systems.gan_prior import GanPrior
from companion.systems.open_unmix import OpenUnmix
from companion.systems.specgan import Critic, Generator
from companion.systems.supervised import Supervised
from flowsep.config import FeatureConfig, GlowConfig, TrainingConfig
from flowsep.train import EDGE, crop_samples

from . import floor

FULL = floor.PASSES["encode, full gradient"]  # forwards, the gradients of the inputs and of the weights
SHORT = 0.5  # seconds; recurrent layers are counted frame by frame, which takes long


def counted(function: Callable[[], Any]) -> float:
    """GFLOP of one call without gradients."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops() / 1e9


def prior_step(model: GlowConfig, feature: FeatureConfig, training: TrainingConfig) -> float:
    """One step of a flow."""
    frames = crop_samples(training, feature) // feature.hop + 1 - 2 * EDGE
    return FULL * training.batch * sum(floor.operations(model, frames).values()) / 1e9


def network_step(system: Supervised) -> float:
    """One step of a network that sees mixtures."""
    return FULL * system.options.batch * _forwards(system)


def network_second(system: Supervised) -> float:
    """A second of music through such a network, in crops of which a part comes out."""
    heard = system.crop - 2 * system.context
    return _forwards(system) * system.options.sample_rate / heard


@cache
def _forwards(system: Supervised) -> float:
    """One crop; of Open-Unmix a short one, for its operations grow with the frames alone."""
    options, samples = system.options, system.crop
    if isinstance(system, OpenUnmix):
        samples = round(SHORT * options.sample_rate)
    with torch.device("meta"):
        network = system.build()
        stems = torch.randn(1, len(system.sources), options.channels, samples)
    return counted(lambda: system.loss(network, stems)) * system.crop / samples


@cache
def gan_step(system: GanPrior) -> float:
    """One step of a generator G, 3 G + 2 D operations, and the steps of its critic D before it, G + 12 D each.

    The critic judges a real and a false image with gradients of its weights, 3 D each; the penalty is a pass forwards
    and one back to the image, and the way back through both, with the weights.
    """
    options = system.options.prior
    with torch.device("meta"):
        generator, critic = Generator(options), Critic(options)
        latents, image = torch.randn(1, options.latent), torch.randn(1, options.side, options.side)
        make, judge = counted(lambda: generator(latents)), counted(lambda: critic(image))
    return options.batch * (options.critic_steps * (make + 12 * judge) + 3 * make + 2 * judge)


@cache
def gan_second(system: GanPrior) -> float:
    """A second of music searched for in the generators of all sources: forwards, and back to the latents."""
    options = system.options.prior
    with torch.device("meta"):
        generator, latents = Generator(options), torch.randn(1, options.latent)
        make = counted(lambda: generator(latents))
    music = options.side * options.feature.hop / options.sample_rate
    return system.options.iterations * len(system.sources) * 2 * make / music
