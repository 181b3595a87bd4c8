"""What surrounds a training: its device and precision, its batches drawn ahead, its state and curve on disk."""

import contextlib
import csv
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from .config import TrainingConfig
from .files import FlowsepError, atomic_path, changes, locked
from .machine import choose_device, choose_precision, processors, runs_on
from .weights import load_exactly, read_header, read_safetensors, save_safetensors

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FEEDERS = 8  # threads that prepare batches for a GPU


def start_fabric(training: TrainingConfig, devices: int = 1) -> "Fabric":
    """Device and precision as `training` says (`machine.choose_precision`), which one line tells.

    Raises FlowsepError without Lightning Fabric, or where `devices` are more than one and torchrun did not start as
    many processes.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision
        from lightning_fabric.plugins.environments import LightningEnvironment
        from lightning_fabric.strategies import DDPStrategy
    except ImportError as error:
        raise FlowsepError(f"training needs Lightning Fabric ({error}); pip install flowsep[train]") from error

    class InsideOnly(MixedPrecision):
        """Autocast alone: inputs enter as they are, for a density must not fit the steps of rounded numbers."""

        def convert_input(self, data: Any) -> Any:
            return data

    device = choose_device(training.device)
    precision: Any = choose_precision(training.precision, device)
    if os.environ.get("RANK", "0") == "0":
        print(runs_on(device, training.precision.replace("auto", precision)), flush=True)
    how: dict[str, Any] = {"accelerator": device.type, "precision": precision}
    if precision in ("bf16-mixed", "16-mixed"):
        scaler = torch.amp.GradScaler(device.type) if precision == "16-mixed" else None
        how = {"accelerator": device.type, "plugins": [InsideOnly(precision, device.type, scaler)]}
    if devices == 1:
        # one process, wherever it was started: else Fabric looks for SLURM, and warns or stops where it sees any of it
        how["plugins"] = [*how.get("plugins", []), LightningEnvironment()]
        return Fabric(devices=[device.index or 0] if device.type == "cuda" else 1, **how)
    if int(os.environ.get("WORLD_SIZE", 1)) != devices:
        started = f"torchrun --standalone --nproc-per-node={devices} -m companion.systems.priors PROFILE SOURCE"
        raise FlowsepError(f"training.devices is {devices}: needs as many processes; use train_source, or {started}")
    strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    fabric = Fabric(devices=devices, strategy=strategy, **how)
    fabric.launch()
    return fabric


def save_state(
    path: Path,
    settings: Mapping[str, Any],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    **reached: float,
) -> None:
    """Write all that a training goes on from: settings, steps done and more, weights, Adam's moments."""
    tensors = {f"model.{name}": value for name, value in network.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    save_safetensors(path, tensors, {**settings, "step": step, **reached})


def set_aside(work: Path, settings: Mapping[str, Any]) -> None:
    """Move the work of a training of other settings to the hidden folder `.<name>.before`, so that a new one begins."""
    state = work / "state.safetensors"
    if state.is_file() and (changed := list(changes(read_header(state)[0], settings))):
        before = work.with_name(f".{work.name}.before")
        shutil.rmtree(before, ignore_errors=True)
        work.rename(before)
        print(f"{work}: begins anew ({'; '.join(changed)}); the earlier training is kept in {before}", flush=True)


def resume(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, work: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Put back what `save_state` wrote; returns its header and the rows of `<work>/loss.csv` so far."""
    header, tensors = read_safetensors(path)
    load_exactly(network, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, path)
    moments: dict[int, dict[str, Tensor]] = {}
    weights = list(network.parameters())
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, moment = name.split(".")
            like = weights[int(index)]  # fused Adam reads memory in its order, so moments must lie as their weights do
            value = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            moments.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    # a kill between the two writes left a longer curve
    return header, [row for row in read_curve(work) if row["step"] <= header["step"]]


def write_curve(work: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `<work>/loss.csv`: the columns step, split, the loss and seconds."""
    with atomic_path(work / "loss.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_curve(work: Path) -> list[dict[str, Any]]:
    """The rows that `write_curve` wrote."""
    with (work / "loss.csv").open(newline="", encoding="utf-8") as file:
        kinds = {"step": int, "split": str}
        return [{name: kinds.get(name, float)(value) for name, value in row.items()} for row in csv.DictReader(file)]


@contextlib.contextmanager
def alone(fabric: "Fabric", work: Path) -> Iterator[None]:
    """One training at a time in `work`: another waits, finds what the first left, and ends with the same weights."""
    with locked(work) if fabric.is_global_zero else contextlib.nullcontext():
        fabric.barrier()
        yield


class Ahead:
    """`draw(step)` as a tensor on a device, while threads draw what comes next: nobody waits for data.

    A batch depends on its step alone, so these are the batches that there would be without threads. An error of `draw`
    is raised where its batch is asked for. A GPU is fed by up to `FEEDERS` threads, and gets the next batch while it
    still computes; a CPU, which has to compute as well, is fed by one.

    Args:
        draw: step -> (batch, ...), called from several threads at once.
        steps: none is drawn ahead from this step on.
        fabric: of `start_fabric`, for the device.
    """

    def __init__(self, draw: Callable[[int], np.ndarray], steps: int, fabric: "Fabric"):
        self.draw, self.steps, self.device = draw, steps, fabric.device
        self.gpu = self.device.type == "cuda"
        self.workers = min(FEEDERS, processors()) if self.gpu else 1
        self.stream = torch.cuda.Stream(self.device) if self.gpu else None
        self.drawn: dict[int, Future[Tensor]] = {}
        self.copied: dict[int, Tensor] = {}

    def __enter__(self) -> Self:
        self.threads = ThreadPoolExecutor(self.workers)
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> Tensor:
        for wanted in range(step, max(step + 1, min(step + 1 + max(2, self.workers), self.steps))):
            if wanted not in self.drawn and wanted not in self.copied:
                self.drawn[wanted] = self.threads.submit(self._prepare, wanted)
        batch = self.copied.pop(step) if step in self.copied else self._copy(step)
        if self.stream:
            now = torch.cuda.current_stream(self.device)
            now.wait_stream(self.stream)
            batch.record_stream(now)
            following = self.drawn.get(step + 1)
            if following and following.done() and not following.exception():
                self.copied[step + 1] = self._copy(step + 1)
        return batch

    def _prepare(self, step: int) -> Tensor:
        batch = torch.from_numpy(self.draw(step))
        return batch.pin_memory() if self.gpu else batch

    def _copy(self, step: int) -> Tensor:
        batch = self.drawn.pop(step).result()
        with torch.cuda.stream(self.stream):
            return batch.to(self.device, non_blocking=True)
