"""Fitting one prior to solo recordings: seeded, resumable, through Lightning Fabric.

Read `fit_prior`, then `optimise`, which trains all networks here. Taught in `notebooks/04_train_prior.ipynb`.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .checkpoint import load_prior
from .config import HOW_ONLY, FeatureConfig, GlowConfig, TrainingConfig
from .fast.likelihood import Likelihood
from .files import FlowsepError
from .machine import keep_freed_memory, peak_memory
from .memory import micro_batch, names_micro_batch
from .prior import Prior, parameters
from .resume import Ahead, alone, resume, save_state, set_aside, start_fabric, write_curve
from .spectrogram import pad_features, stft

if TYPE_CHECKING:
    from lightning_fabric import Fabric

EDGE = 2  # frames cut from both ends of a crop: there the STFT sees the crop's reflection, not the recording
CHECK_EVERY = 50  # steps between two looks at the loss, each of which waits for the device
IDENTITY = ("data_hash", "code")  # of a provenance: what decides a training besides its settings
DIVERGED = 5.0  # nats per element above the first validation: no run comes back from there


class Sampler(Protocol):
    """What `fit_prior` draws from, in threads; `companion.data.crops.CropSampler` is one."""

    def batch(self, step: int, rows: slice = slice(None)) -> np.ndarray:
        """(batch, samples) of audio, a function of the step alone; with several `devices` each asks for its `rows`."""


class Task:
    """What `optimise` trains: a network, its loss on training and held-out data, and what to save.

    `column` names the loss in `loss.csv`, `key` the learning rate in messages; a validation loss that exceeds the first
    one by more than `margin` ends the training; `betas` are Adam's. `micro` crops are in memory at once; see `parts`.
    """

    column, key, margin, betas = "value", "training.lr", math.inf, (0.9, 0.999)
    micro: int | None = None  # None: all

    def __init__(self, name: str, network: nn.Module):
        self.name, self.network = name, network  # type: str, Any

    def batch(self, step: int) -> Tensor:
        """The crops of one step, or this process's share of them, on the device: (batch, ...)."""
        raise NotImplementedError

    def loss(self, network: nn.Module, batch: Tensor) -> Tensor:
        """The mean loss of some crops, a scalar."""
        raise NotImplementedError

    def parts(self, batch: Tensor) -> list[tuple[Tensor, float]]:
        """`micro` crops after the other, each part with its share of the batch: the weight of its mean in the whole."""
        return [(part, len(part) / len(batch)) for part in batch.split(self.micro or len(batch))]

    def validate(self, network: nn.Module) -> float:
        """The loss on held-out data; the network is in evaluation mode, without gradients."""
        raise NotImplementedError

    def keep(self, step: int, value: float, best: bool) -> None:
        """Write the weights after a validation, the best one yet or not."""
        raise NotImplementedError

    def update(self, fabric: "Fabric", network: nn.Module, optimizer: Any, step: int, clip: float) -> Tensor:
        """One step down the gradient of the mean loss, summed over `parts`; returns the loss."""
        optimizer.zero_grad()
        losses = []
        for part, share in self.parts(self.batch(step)):
            value = share * self.loss(network, part)
            fabric.backward(value)
            losses.append(value.detach())
        fabric.clip_gradients(network, optimizer, max_norm=clip, error_if_nonfinite=False)
        optimizer.step()
        return torch.stack(losses).sum()


def fit_prior(
    sampler: Sampler,
    validation: np.ndarray,
    *,
    source: str,
    model: GlowConfig,
    feature: FeatureConfig,
    training: TrainingConfig,
    checkpoint: str | Path,
    work: str | Path,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Prior:
    """Minimise the mean of -log p(x) / N over crops x of one source, N elements each (paper, section "Prior").

    `training.noise` adds N(0, s^2) to each crop, also in validation: the prior is then the density of source plus
    noise, and likelihoods for different s do not compare. The gradient is written out in `fast.likelihood`, which also
    gives the convolutions weight norm. Every ActNorm is initialised from the first batches. After each validation the
    best prior so far and the last one go to `work` (`best.safetensors`, `last.safetensors`), beside what `optimise`
    writes there. The best goes to `checkpoint`, with the number of `parameters` and what `optimise` returns.

    Args:
        sampler: crops of `crop_samples` samples at the feature's rate.
        validation: (crops, samples) of held-out recordings.
        source, model, feature, training, seed: what is fitted, and how.
        checkpoint: the `.safetensors` file that the best prior is written to at the end.
        work: folder of this training.
        provenance: stored with the weights, beside what the training adds; only a run with the same
            `IDENTITY` is continued.
        progress: show a bar.
    Returns:
        The best prior, as loaded from `checkpoint`.
    Raises:
        FlowsepError: the loss became NaN or left its start far behind, or there is nothing to validate on.
    """
    checkpoint, work = Path(checkpoint), Path(work)
    if len(validation) == 0:
        raise FlowsepError(f"{source}: no audible validation crop; raise `valid_tracks` or lower `silence_db`")
    settings = {"source": source, "seed": seed}
    settings |= {"model": model.model_dump(mode="json"), "feature": feature.model_dump(mode="json")}
    settings |= {"training": training.model_dump(mode="json", exclude=set(HOW_ONLY))}
    settings |= {key: (provenance or {}).get(key) for key in IDENTITY}
    fabric = start_fabric(training, training.devices)
    torch.manual_seed(seed)
    prior = Prior(model, feature, source, dict(provenance or {})).to(fabric.device)
    held_out = _noisy_features(torch.from_numpy(validation).to(fabric.device), prior, training.noise)
    start = np.concatenate([sampler.batch(step) for step in range(max(1, 64 // training.batch))])
    prior.glow.initialise(_noisy_features(torch.from_numpy(start).to(fabric.device), prior, training.noise))
    share = training.batch // fabric.world_size
    own = [slice(share * fabric.global_rank, share * (fabric.global_rank + 1))] if fabric.world_size > 1 else []
    with Ahead(lambda step: sampler.batch(step, *own), training.steps, fabric) as batches, alone(fabric, work):
        task = _PriorTask(prior, training, batches, held_out, work, seed)
        costs = optimise(task, training, work, settings, fabric, seed=seed, progress=progress)
        if fabric.is_global_zero:
            if not (work / "best.safetensors").is_file():
                raise FlowsepError(f"{source}: no step improved on the initial validation likelihood; train longer")
            best = load_prior(work / "best.safetensors")
            best.provenance |= {"parameters": parameters(best), **costs}  # known only now that the training has ended
            best.save(checkpoint)
    fabric.barrier()
    return load_prior(checkpoint)


class _PriorTask(Task):
    """-log p(x) / N in nats per element, computed by `Likelihood`."""

    column, margin = "nll", DIVERGED

    def __init__(
        self, prior: Prior, training: TrainingConfig, batches: "Ahead", held_out: Tensor, work: Path, seed: int
    ):
        super().__init__(prior.source, Likelihood(prior.glow, recompute=training.recompute).to(held_out.device))
        self.prior, self.training, self.batches, self.held_out, self.work = prior, training, batches, held_out, work
        self.provenance, self.seed = prior.provenance, seed

    def batch(self, step: int) -> Tensor:
        return _noisy_features(self.batches(step), self.prior, self.training.noise)

    def loss(self, network: nn.Module, batch: Tensor) -> Tensor:
        return -network(batch).mean() / batch[0].numel()

    def validate(self, network: nn.Module) -> float:
        total = sum(network(part).sum() for part in self.held_out.split(self.micro or len(self.held_out)))  # type: Any
        return -total.item() / self.held_out.numel()

    def keep(self, step: int, value: float, best: bool) -> None:
        facts = {"step": step, "valid_nll": value, "seed": self.seed}
        self.prior.provenance = {**self.provenance, **facts, "training": self.training.model_dump(mode="json")}
        self.network.put_back(self.prior.glow)
        if best:
            self.prior.save(self.work / "best.safetensors")
        self.prior.save(self.work / "last.safetensors")


@names_micro_batch
def optimise(
    task: Task, training: TrainingConfig, work: Path, settings: Mapping[str, Any], fabric: "Fabric",
    *, seed: int = 0, progress: bool = True,
) -> dict[str, float]:  # fmt: skip
    """Take `training.steps` steps of Adam on a task, seeded by (seed, step); resume a killed run.

    Each `training.validate_every` steps the task is validated and keeps its weights, and the whole state and the curve
    go to `work`: `state.safetensors`, and `loss.csv` with the columns step, split, the task's `column`, seconds. A run
    that was killed goes on from there, because batches and all that is random depend on the seed and the step only.

    Args:
        task: its network is on the device of `fabric`.
        training: steps, lr, schedule, clip, validate_every.
        settings: what a run must have in common with the one that it continues, as JSON holds it. The work of a
            training of other settings is set aside, and this one begins anew.
        fabric: of `start_fabric`.
    Returns:
        `training_seconds`, the sum over all runs up to their last states, `training_memory_mib`, the largest of
        their `peak_memory`, and the `micro_batch` of the last one.
    Raises:
        FlowsepError: the loss became NaN, or left its start behind; the state is damaged; a GPU with too little memory.
    """
    keep_freed_memory()
    network, column, rows = task.network, task.column, []
    fused = training.precision != "16-mixed"  # whose gradients are unscaled and clipped before the optimiser sees them
    optimizer = torch.optim.Adam(network.parameters(), lr=training.lr, betas=task.betas, fused=fused)
    wrapped, optimizer = fabric.setup(network, optimizer)
    state, memory, began = work / "state.safetensors", math.nan, time.monotonic()
    task.micro = micro_batch(task, training, fabric)

    def validated() -> float:
        network.eval()
        with torch.no_grad():
            value = task.validate(wrapped)
        network.train()
        return fabric.broadcast(value)  # all processes must take the same decision

    def note(step: int, split: str, value: float) -> None:
        rows.append({"step": step, "split": split, column: value, "seconds": before + time.monotonic() - began})

    if fabric.is_global_zero:
        set_aside(work, settings)
    fabric.barrier()
    if state.is_file():
        reached, rows = resume(state, network, optimizer, work)
        done, best, memory = reached["step"], reached["best"], reached.get("memory", math.nan)
    else:
        done, best = 0, validated()
        rows = [{"step": 0, "split": "valid", column: best, "seconds": 0.0}]
    before, began = rows[-1]["seconds"], time.monotonic()
    network.train()
    recent: list[Tensor] = []
    bar = tqdm(total=training.steps, initial=done, desc=task.name, unit="step", disable=not progress, mininterval=2)
    for step in range(done, training.steps):
        # dropout and noise draw from here, also after a resumption, and other numbers in other processes
        torch.manual_seed(seed * 1_000_003 + step + fabric.global_rank * 2**40)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, step)
        recent.append(task.update(fabric, wrapped, optimizer, step, training.clip))
        done, last = step + 1, step + 1 == training.steps
        bar.update()
        if done % CHECK_EVERY == 0 or last or done % training.validate_every == 0:
            mean = fabric.all_reduce(torch.stack(recent).mean()).item()  # type: ignore[union-attr]  # a tensor
            recent.clear()
            if not math.isfinite(mean):
                raise FlowsepError(f"{task.name}: training loss became {mean} by step {done}; lower `{task.key}`")
            note(done, "train", mean)
        if last or done % training.validate_every == 0:
            held_out, first = validated(), rows[0][column]
            if not held_out < first + task.margin:
                moved = f"validation loss {held_out:.4g} at step {done}, {first:.4g} at the start"
                raise FlowsepError(f"{task.name}: training diverged: {moved}; lower `{task.key}`")
            note(done, "valid", held_out)
            bar.set_postfix_str(f"valid {held_out:.4g}")
            memory = float(np.fmax(memory, peak_memory()))
            if fabric.is_global_zero:
                task.keep(done, held_out, held_out < best)
                write_curve(work, rows)
                # last, after the files that it depends on
                save_state(state, settings, network, optimizer, step=done, best=min(best, held_out), memory=memory)
            best = min(best, held_out)
    bar.close()
    return {"training_seconds": round(rows[-1]["seconds"], 1), "training_memory_mib": memory, "micro_batch": task.micro}


def learning_rate(training: TrainingConfig, step: int) -> float:
    """'step': lr * 0.3^floor(step / 80,000), the paper's; 'cosine': a linear rise over 2 %, then a half cosine to 0."""
    if training.schedule == "step":
        return training.lr * 0.3 ** (step // 80_000)
    rise = max(1, round(0.02 * training.steps))
    if step < rise:
        return training.lr * (step + 1) / rise
    return training.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, training.steps - rise)))


def crop_samples(training: TrainingConfig, feature: FeatureConfig) -> int:
    """Samples of one crop, so that an even number of frames is left once the edges are cut."""
    frames = max(2, round(training.crop_seconds * feature.sample_rate / feature.hop / 2) * 2)
    return (frames + 2 * EDGE - 1) * feature.hop


def magnitudes(audio: Tensor, feature: FeatureConfig) -> Tensor:
    """|STFT|^exponent of crops, without frames that see their edges: (batch, samples) -> (batch, 513 bins, frames)."""
    spectrum = stft(audio, feature.n_fft, feature.hop)[..., EDGE:-EDGE]
    power = spectrum.real.square().add_(spectrum.imag.square())  # three times as fast as abs on a CPU
    return power.sqrt_() if feature.exponent == 1 else power.pow_(feature.exponent / 2)


def add_noise(magnitudes: Tensor, noise: float) -> Tensor:
    """x + `noise` * normal noise of torch's default generator. Shape: any -> the same."""
    return magnitudes + noise * torch.randn_like(magnitudes) if noise else magnitudes


def _noisy_features(audio: Tensor, prior: Prior, noise: float) -> Tensor:
    """(batch, samples) -> (batch, bins, frames): what the flow sees of crops."""
    return add_noise(pad_features(magnitudes(audio.float(), prior.feature), prior.model.bins, multiple=1), noise)
