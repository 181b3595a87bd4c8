"""How much memory a separation takes, and chunks that fit into the free memory."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from .config import SeparationConfig
from .files import FlowsepError
from .machine import choose_device, held_memory
from .prior import Prior

BATCH = 16  # chunks that a GPU gets at once, at most: they wait for one another in the memory of the processor
# bytes: factors of `bytes_of_separation`; audio, spectra and masks of a second of 44.1 kHz stereo; and what is held
# once. Measured on a CPU, see benchmarks/memory.py
KEPT, HELD, AUDIO, SPARE = 1.7, 17.0, 8e6, 40_000_000


def within_memory(limit: Any, priors: Mapping[str, Prior], config: SeparationConfig) -> tuple[SeparationConfig, int]:
    """`config` with chunks short enough for a limit, and how many of them fit into it at once.

    Chunks that overlap become shorter than `config.chunk_seconds`, but no shorter than 2 s or twice their overlap; the
    paper's pieces, which do not, keep their length. A CPU separates one at a time, as more would not be faster.

    Args:
        limit: bytes that this process, or on a GPU torch there, may hold at most. None: no limit; on a GPU what is
            free there.
    Raises:
        FlowsepError: too little for the shortest chunk; says the least that would do.
    """
    device = choose_device(config.device)
    on_gpu = device.type == "cuda"
    if limit is None and not on_gpu:
        return config, 1
    per_second = bytes_of_separation(priors, 1.0, recompute=config.recompute)  # type: float
    held = bytes_of_weights(priors)
    if on_gpu:
        limit = torch.cuda.mem_get_info(device)[0] if limit is None else limit
    else:
        held += held_memory() + SPARE
        per_second += AUDIO
    seconds = (limit - held) / per_second
    shortest = min(config.chunk_seconds, max(2 * config.overlap_seconds, 2.0) if config.overlap_seconds else math.inf)
    if seconds < shortest:
        least = math.ceil((held + shortest * per_second) / 1e6)
        raise FlowsepError(
            f"memory limit: {limit / 1e6:.0f} MB are too few for chunks of {shortest:g} s; the least is {least} MB"
        )
    chosen = min(config.chunk_seconds, seconds)
    batch = min(BATCH, max(1, int(seconds / chosen))) if on_gpu else 1
    return config.model_copy(update={"chunk_seconds": chosen}), batch


def bytes_of_separation(priors: Mapping[str, Prior], seconds: float, batch: int = 1, *, recompute: bool = False) -> int:
    """Bytes that `separate_magnitude` holds at its peak, beside the weights, for `batch` chunks of so many `seconds`.

    4 bytes x batch x seconds x frames a second x sum_i (1.7 K_i (B + 2 L_i H_i / q_i) + 17 B): for its gradient the
    flow of source i keeps, of each of its K_i couplings, half of its B bins twice, and of each of their L_i layers two
    gates of H_i channels at frames squeezed by q_i; with `recompute`, of one coupling alone. Each latent has a gradient
    and Adam's moments; the rest is what a step has in hand. The two factors fit peaks measured on a CPU, most of them
    within 12 % and all within 25 %. A second of music and one source take:

    | flow | MB | with `recompute` |
    |---|---:|---:|
    | small: 2 steps, 8 hidden, 1 layer | 3.6 | 3.3 |
    | demo: 6 steps, 64 hidden, 3 layers | 5.5 | 3.4 |
    | paper: 12 steps, 128 hidden, 4 layers | 10.2 | 3.6 |
    """
    feature = next(iter(priors.values())).feature
    kept = sum(
        (1 if recompute else prior.model.steps)
        * (prior.model.bins + 2 * prior.model.layers * prior.model.hidden / prior.model.squeeze)
        for prior in priors.values()
    )
    held = sum(prior.model.bins for prior in priors.values())
    frames = batch * seconds * feature.sample_rate / feature.hop
    return round(4 * frames * (KEPT * kept + HELD * held))


def bytes_of_weights(priors: Mapping[str, Prior]) -> int:
    """Bytes of the weights twice: as the priors hold them, and as `search.Flows` prepares them."""
    return 2 * 4 * sum(weight.numel() for prior in priors.values() for weight in prior.parameters())
