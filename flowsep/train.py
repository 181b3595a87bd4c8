"""Fitting one prior to solo recordings: seeded, resumable to the same weights, through Lightning Fabric.

Taught in `notebooks/04_train_prior.ipynb`.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from .checkpoint import load_prior
from .config import HOW_ONLY, FeatureConfig, GlowConfig, TrainingConfig
from .fast.likelihood import Likelihood
from .files import FlowsepError, atomic_path, locked
from .machine import keep_freed_memory, peak_memory
from .prior import Prior, parameters
from .resume import resume, save_state, start_fabric
from .spectrogram import pad_features, stft

EDGE = 2  # frames cut from both ends of a crop: there the STFT sees the crop's reflection, not the recording
CHECK_EVERY = 50  # steps between two looks at the loss, each of which waits for the device
DIVERGED = 5.0  # nats per element above the first validation: no run comes back from there


class Sampler(Protocol):
    """What `fit_prior` draws from; `companion.data.crops.CropSampler` is one."""

    def batch(self, step: int) -> np.ndarray:
        """(batch, samples) of audio, a function of the step alone."""


def crop_samples(training: TrainingConfig, feature: FeatureConfig) -> int:
    """Samples of one crop, so that an even number of frames is left once the edges are cut."""
    frames = max(2, round(training.crop_seconds * feature.sample_rate / feature.hop / 2) * 2)
    return (frames + 2 * EDGE - 1) * feature.hop


class Ahead:
    """`draw(step)` as a tensor on a device, while a thread draws what comes next: nobody waits for data.

    A batch depends on its step alone, so these are the batches that there would be without a thread. An error of
    `draw` is raised where its batch is asked for.

    Args:
        draw: step -> (batch, ...), its share of which this process takes.
        steps: none is drawn ahead from this step on.
        fabric: of `start_fabric`: the device, and which of how many equal shares is taken.
        ahead: how many batches are ready at most.
    """

    def __init__(self, draw: Callable[[int], np.ndarray], steps: int, fabric: Fabric, *, ahead: int = 2):
        self.draw, self.steps, self.fabric, self.ahead = draw, steps, fabric, ahead
        self.drawn: dict[int, Future[Tensor]] = {}

    def __enter__(self) -> Self:
        self.thread = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> Tensor:
        for wanted in range(step, max(step + 1, min(step + 1 + self.ahead, self.steps))):
            if wanted not in self.drawn:
                self.drawn[wanted] = self.thread.submit(self._prepare, wanted)
        return self.drawn.pop(step).result().to(self.fabric.device, non_blocking=True)

    def _prepare(self, step: int) -> Tensor:
        batch = torch.from_numpy(self.draw(step)).chunk(self.fabric.world_size)[self.fabric.global_rank]
        return batch.pin_memory() if self.fabric.device.type == "cuda" else batch


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

    With `training.noise` s, x is a crop and s times normal noise, also in validation: the prior is then the density of
    the source blurred by N(0, s^2), and likelihoods for different s do not compare.

    Every ActNorm is initialised from the first batches. Each `training.validate_every` steps the validation
    likelihood is computed, and the best prior so far, the last one, the whole state of the training and the loss curve
    go to `work` (`best.safetensors`, `last.safetensors`, `state.safetensors`, `loss.csv` with the columns step, split,
    nll in nats per element, seconds). A run that was killed goes on from there and ends with the same weights, because
    batches and dropout depend on the seed and the step only. At the end the best prior goes to `checkpoint`, its
    provenance with the number of `parameters` and what `optimise` returns.

    Args:
        sampler: crops of `crop_samples` samples at the feature's rate.
        validation: (crops, samples) of held-out recordings.
        source, model, feature, training, seed: what is fitted, and how.
        checkpoint: the `.safetensors` file of the best prior, once all is done.
        work: folder of this training.
        provenance: stored with the weights, beside what the training adds.
        progress: show a bar.
    Returns:
        The best prior, as loaded from `checkpoint`.
    Raises:
        FlowsepError: the loss became NaN or left its start far behind, the state belongs to another configuration,
            or there is nothing to validate on.
    """
    checkpoint, work = Path(checkpoint), Path(work)
    if len(validation) == 0:
        raise FlowsepError(f"{source}: no audible validation crop; raise `valid_tracks` or lower `silence_db`")
    settings = {"source": source, "seed": seed}
    settings |= {"model": model.model_dump(mode="json"), "feature": feature.model_dump(mode="json")}
    settings |= {"training": training.model_dump(mode="json", exclude=set(HOW_ONLY))}
    fabric = start_fabric(training, training.devices)
    torch.manual_seed(seed)
    prior = Prior(model, feature, source).to(fabric.device)
    held_out = blurred(_features(torch.from_numpy(validation).to(fabric.device), prior), training.noise)
    start = [sampler.batch(step) for step in range(max(1, 64 // training.batch))]
    first = _features(torch.from_numpy(np.concatenate(start)).to(fabric.device), prior)
    prior.glow.initialise(blurred(first, training.noise))
    network = Likelihood(prior.glow, reversible=training.reversible).to(fabric.device)
    batches = Ahead(sampler.batch, training.steps, fabric)

    def loss(log_prob: nn.Module, step: int) -> Tensor:
        x = blurred(_features(batches(step), prior), training.noise)  # the seed is set for every step by `optimise`
        return -log_prob(x).mean() / x[0].numel()

    def validate(log_prob: nn.Module) -> float:
        total = sum(log_prob(part).sum() for part in held_out.split(training.batch))
        return -total.item() / held_out.numel()

    def keep(step: int, nll: float, best: bool) -> None:
        facts = {"step": step, "valid_nll": nll, "seed": seed, "training": training.model_dump(mode="json")}
        prior.provenance = dict(provenance or {}) | facts
        network.put_back(prior.glow)
        if best:
            prior.save(work / "best.safetensors")
        prior.save(work / "last.safetensors")

    with alone(fabric, work), batches:
        costs = optimise(
            fabric,
            network,
            training,
            loss=loss,
            validate=validate,
            keep=keep,
            settings=settings,
            work=work,
            name=source,
            seed=seed,
            column="nll",
            margin=DIVERGED,
            progress=progress,
        )
        if fabric.is_global_zero:
            if not (work / "best.safetensors").is_file():
                raise FlowsepError(f"{source}: no step improved on the initial validation likelihood; train longer")
            best = load_prior(work / "best.safetensors")
            best.provenance |= {"parameters": parameters(best), **costs}  # known only now that the training has ended
            best.save(checkpoint)
    fabric.barrier()
    return load_prior(checkpoint)


@contextlib.contextmanager
def alone(fabric: Fabric, work: Path) -> Iterator[None]:
    """One training at a time in `work`: another waits, finds what the first left, and ends with the same weights."""
    with locked(work) if fabric.is_global_zero else contextlib.nullcontext():
        fabric.barrier()
        yield


def optimise(
    fabric: Fabric,
    network: nn.Module,
    training: TrainingConfig,
    *,
    loss: Callable[[nn.Module, int], Tensor],
    validate: Callable[[nn.Module], float],
    keep: Callable[[int, float, bool], None],
    settings: Mapping[str, Any],
    work: Path,
    name: str,
    seed: int,
    column: str = "value",
    margin: float = math.inf,
    key: str = "training.lr",
    progress: bool = True,
) -> dict[str, float]:
    """`training.steps` steps of Adam on `loss`, seeded by (seed, step), that go on where a killed run left off.

    Args:
        fabric: of `start_fabric`.
        network: on the device of `fabric`.
        training: steps, lr, schedule, clip, validate_every.
        loss: (network, step) -> the loss of that step's batch, or of this process's share of it, a scalar.
        validate: network, in evaluation mode and without gradients -> its loss on held-out songs.
        keep: called with (step, validation loss, is it the best yet) after each validation but the first, which is
            of the network as it was handed in; it writes the weights.
        settings: what a run must have in common with the one that it continues, as JSON holds it.
        work: folder of `state.safetensors` and `loss.csv` (columns step, split, `column`, seconds).
        name: for messages and the bar.
        margin: a validation loss that exceeds the first one by more ends the training.
        key: of the learning rate, as the messages call it.
    Returns:
        `training_seconds`, the sum over all runs up to their last states, and `training_memory_mib`, the largest of
        their `peak_memory`.
    Raises:
        FlowsepError: the loss became NaN, or left its start behind; the state belongs to another configuration.
    """
    keep_freed_memory()
    fused = training.precision != "16-mixed"  # whose gradients are unscaled and clipped before the optimiser sees them
    optimizer = torch.optim.Adam(network.parameters(), lr=training.lr, fused=fused)
    wrapped, optimizer = fabric.setup(network, optimizer)

    def validated() -> float:
        network.eval()
        with torch.no_grad():
            value = validate(wrapped)
        network.train()
        return fabric.broadcast(value)  # what is decided by it must not differ between processes

    state = work / "state.safetensors"
    if state.is_file():
        reached, rows = resume(state, settings, network, optimizer, work)
        done, best, memory = reached["step"], reached["best"], reached.get("memory", math.nan)
    else:
        done, best, memory = 0, validated(), math.nan
        rows = [{"step": 0, "split": "valid", column: best, "seconds": 0.0}]
    before, began = rows[-1]["seconds"], time.monotonic()
    network.train()
    recent: list[Tensor] = []
    bar = tqdm(total=training.steps, initial=done, desc=name, unit="step", disable=not progress, mininterval=2)
    for step in range(done, training.steps):
        # dropout draws from here, also after a resumption, and other numbers in other processes
        torch.manual_seed(seed * 1_000_003 + step + fabric.global_rank * 2**40)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, step)
        value = loss(wrapped, step)
        optimizer.zero_grad()
        fabric.backward(value)
        fabric.clip_gradients(wrapped, optimizer, max_norm=training.clip, error_if_nonfinite=False)
        optimizer.step()
        recent.append(value.detach())
        done, last = step + 1, step + 1 == training.steps
        bar.update()
        if done % CHECK_EVERY == 0 or last or done % training.validate_every == 0:
            mean = fabric.all_reduce(torch.stack(recent).mean()).item()
            recent.clear()
            if not math.isfinite(mean):
                raise FlowsepError(f"{name}: training loss became {mean} by step {done}; lower `{key}`")
            rows.append({"step": done, "split": "train", column: mean, "seconds": before + time.monotonic() - began})
        if last or done % training.validate_every == 0:
            held_out = validated()
            if not held_out < rows[0][column] + margin:
                raise FlowsepError(
                    f"{name}: training diverged: validation loss {held_out:.4g} at step {done}, "
                    f"{rows[0][column]:.4g} at the start; lower `{key}`"
                )
            rows.append(
                {"step": done, "split": "valid", column: held_out, "seconds": before + time.monotonic() - began}
            )
            bar.set_postfix_str(f"valid {held_out:.4g}")
            memory = float(np.fmax(memory, peak_memory()))
            if fabric.is_global_zero:
                keep(done, held_out, held_out < best)
                with atomic_path(work / "loss.csv") as temporary:
                    pd.DataFrame(rows).to_csv(temporary, index=False)
                # last: what it continues is on disk by now
                save_state(state, settings, network, optimizer, step=done, best=min(best, held_out), memory=memory)
            best = min(best, held_out)
    bar.close()
    return {"training_seconds": round(rows[-1]["seconds"], 1), "training_memory_mib": memory}


def learning_rate(training: TrainingConfig, step: int) -> float:
    """'step': lr * 0.3^floor(step / 80,000), the paper's; 'cosine': a linear rise over 2 %, then a half cosine to 0."""
    if training.schedule == "step":
        return training.lr * 0.3 ** (step // 80_000)
    rise = max(1, round(0.02 * training.steps))
    if step < rise:
        return training.lr * (step + 1) / rise
    return training.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, training.steps - rise)))


def magnitudes(audio: Tensor, feature: FeatureConfig) -> Tensor:
    """|STFT| of crops without the frames that see their edges: (batch, samples) -> (batch, 513 bins, frames)."""
    spectrum = stft(audio, feature.n_fft, feature.hop)[..., EDGE:-EDGE]
    return spectrum.real.square().add_(spectrum.imag.square()).sqrt_()  # three times as fast as abs on a CPU


def _features(audio: Tensor, prior: Prior) -> Tensor:
    return pad_features(magnitudes(audio.float(), prior.feature), prior.model.bins, multiple=1)


def blurred(magnitudes: Tensor, noise: float) -> Tensor:
    """x + `noise` * normal noise of torch's default generator. Shape: any -> the same."""
    return magnitudes + noise * torch.randn_like(magnitudes) if noise else magnitudes
