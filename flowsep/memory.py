"""How much memory a separation or a step of a training takes, and as many chunks or crops as fit."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from .config import SeparationConfig, TrainingConfig
from .files import FlowsepError, cache_folder, locked
from .machine import choose_device, held_memory
from .prior import Prior

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .train import Task

MARGIN = 0.8  # of a GPU's free memory that is planned with: the formula is good to 25 %, and torch's blocks have gaps
BATCH = 16  # chunks that a GPU gets at once, at most: they wait for one another in the memory of the processor
# bytes: factors of `bytes_of_separation`; audio, spectra and masks of a second of 44.1 kHz stereo; and what is held
# once; and of an element of all estimates in `stereo.in_stereo`. Measured on a CPU, see benchmarks/memory.py
KEPT, HELD, AUDIO, SPARE, PLACES = 1.7, 17.0, 8e6, 40_000_000, 80


def within_memory(limit: Any, priors: Mapping[str, Prior], config: SeparationConfig) -> tuple[SeparationConfig, int]:
    """`config` with chunks short enough for a limit, and how many of them fit into it at once.

    Under a limit chunks that overlap become shorter than `config.chunk_seconds`, but no shorter than 2 s or twice their
    overlap; the paper's pieces, which do not, keep their length. Without one they all do. A CPU separates one at a
    time, as more would not be faster.

    Args:
        limit: bytes that this process, or on a GPU torch there, may hold at most. None: no limit; on a GPU `MARGIN` of
            what is free there.
    Raises:
        FlowsepError: too little for the shortest chunk; says the least that would do.
    """
    device = choose_device(config.device)
    on_gpu = device.type == "cuda"
    if limit is None and not on_gpu:
        return config, 1
    per_second = bytes_of_separation(priors, 1.0, recompute=config.recompute)  # type: float
    held = bytes_of_weights(priors)
    shortest = min(config.chunk_seconds, max(2 * config.overlap_seconds, 2.0) if config.overlap_seconds else math.inf)
    if limit is None:
        with room_on(device) as limit:
            shortest = config.chunk_seconds
    elif not on_gpu:
        held += held_memory() + SPARE
        per_second += AUDIO + (PLACES * _elements(priors, 1.0) if config.stereo else 0)
    seconds = (limit - held) / per_second
    if seconds < shortest:
        least = math.ceil((held + shortest * per_second) / 1e6)
        cure = "; lower `chunk_seconds`, or set `recompute: true`" if on_gpu else ""
        what = f"memory limit: {limit / 1e6:.0f} MB are too few for chunks of {shortest:g} s"
        raise FlowsepError(f"{what}; the least is {least} MB{cure}")
    chosen = min(config.chunk_seconds, seconds)
    batch = min(BATCH, max(1, int(seconds / chosen))) if on_gpu else 1
    return config.model_copy(update={"chunk_seconds": chosen}), batch


@contextmanager
def room_on(gpu: torch.device) -> Iterator[float]:
    """Yield `MARGIN` of a GPU's free bytes to one job at a time; what torch then takes, the next job does not count."""
    card = torch.cuda.get_device_properties(gpu).uuid
    with locked(cache_folder() / f"gpu-{card}", "set FLOWSEP_DATA to another folder"):
        torch.cuda.empty_cache()
        yield MARGIN * torch.cuda.mem_get_info(gpu)[0]


def bytes_of_separation(priors: Mapping[str, Prior], seconds: float, batch: int = 1, *, recompute: bool = False) -> int:
    """Bytes that `separate_magnitude` holds at its peak, beside the weights, for `batch` chunks of so many `seconds`.

    4 bytes x batch x seconds x frames a second x sum_i (1.7 K_i (B + 2 L_i H_i / q_i) + 17 B): for its gradient the
    flow of source i keeps, of each of its K_i couplings, half of its B bins twice, and of each of their L_i layers two
    gates of H_i channels at frames squeezed by q_i; with `recompute`, of one coupling alone. Each latent has a gradient
    and Adam's moments; the rest is what a step has in hand. The two factors fit peaks measured on a CPU, most of them
    within 12 % and all within 25 %.
    """
    kept = sum(
        (1 if recompute else prior.model.steps)
        * (prior.model.bins + 2 * prior.model.layers * prior.model.hidden / prior.model.squeeze)
        for prior in priors.values()
    )
    feature = next(iter(priors.values())).feature
    frames = batch * seconds * feature.sample_rate / feature.hop
    return round(4 * (frames * KEPT * kept + HELD * _elements(priors, batch * seconds)))


def _elements(priors: Mapping[str, Prior], seconds: float) -> float:
    """Bins times frames of the estimates of all sources."""
    feature = next(iter(priors.values())).feature
    return seconds * feature.sample_rate / feature.hop * sum(prior.model.bins for prior in priors.values())


def bytes_of_weights(priors: Mapping[str, Prior]) -> int:
    """Bytes of the weights twice: as the priors hold them, and as `search.Flows` prepares them."""
    return 2 * 4 * sum(weight.numel() for prior in priors.values() for weight in prior.parameters())


def micro_batch(task: "Task", training: TrainingConfig, fabric: "Fabric") -> int:
    """How many crops of a batch a training computes at once: `training.micro_batch`, but no more than there are.

    For 'auto' a CPU computes all. On a GPU it is all, or else a half, a quarter ...: the most whose gradient takes less
    than `MARGIN` of what is free when gradients and Adam's moments have their place; tried out within `room_on`.
    Raises FlowsepError if a single crop takes more.
    """
    count = training.batch // fabric.world_size
    if training.micro_batch != "auto" or fabric.device.type != "cuda":
        return count if training.micro_batch == "auto" else min(count, training.micro_batch)
    weights = 4 * sum(weight.numel() for weight in task.network.parameters())
    buffers = [buffer.clone() for buffer in task.network.buffers()]  # statistics of batches, which a trial would move
    with room_on(fabric.device) as room, torch.random.fork_rng([fabric.device]):
        crops, limit = task.batch(0), room - 3 * weights
        while _step_bytes(task, crops[:count], fabric) > limit:
            if count == 1:
                what = f"{task.name}: a single crop takes more than the {limit / 1e6:.0f} MB that the GPU has left"
                raise FlowsepError(f"{what}; lower `crop_seconds`, or for a prior set `recompute: true`")
            count = (count + 1) // 2
    for buffer, before in zip(task.network.buffers(), buffers, strict=True):
        buffer.copy_(before)
    torch.cuda.reset_peak_memory_stats(fabric.device)
    if fabric.world_size > 1:  # as many in every process, which wait for one another after each part
        count = int(cast(Any, fabric.all_reduce(torch.tensor(count, device=fabric.device), reduce_op="min")))
    return count


def names_micro_batch(training: Callable[..., Any]) -> Callable[..., Any]:
    """`training(task, ...)`, in which a GPU that runs out of memory after all is a FlowsepError with the setting."""

    @functools.wraps(training)
    def run(task: "Task", *arguments: Any, **options: Any) -> Any:
        try:
            return training(task, *arguments, **options)
        except torch.OutOfMemoryError as error:
            most = (task.micro or 1) // 2
            cure = f"set `micro_batch` under `training` to {most}" if most else "lower `crop_seconds`"
            what = f"{task.name}: the GPU ran out of memory with {task.micro or 'all'} crops at once"
            raise FlowsepError(
                f"{what}; {cure}, or leave more of it free: the training goes on where it was"
            ) from error

    return run


def _step_bytes(task: "Task", crops: torch.Tensor, fabric: "Fabric") -> float:
    """Bytes that torch takes from the GPU for the gradient of some crops, infinitely many if it has too few."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(fabric.device)
    before = torch.cuda.memory_reserved(fabric.device)
    try:
        with fabric.autocast():
            task.loss(task.network, crops).backward()
        return torch.cuda.max_memory_reserved(fabric.device) - before
    except torch.OutOfMemoryError:
        return math.inf
    finally:
        task.network.zero_grad()
