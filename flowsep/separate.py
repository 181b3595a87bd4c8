"""Separation as optimisation in the priors' latent spaces (paper, section "Separation"); knows no data set.

Taught in `notebooks/05_separate.ipynb`. The core is `separate_magnitude`; `separate` brings any audio to it and back.
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from .config import FeatureConfig, SeparationConfig
from .files import FlowsepError
from .prior import Prior
from .spectrogram import istft, pad_features, stft

FLOOR = 1e-8  # of magnitudes inside logarithms and ratios (paper)

Magnitudes = dict[str, Tensor]
Callback = Callable[[dict[str, Any]], None]


def kl_divergence(target: Tensor, estimate: Tensor) -> Tensor:
    """KL(a; b) = mean(a log(a / (b + e) + e) - a + b) with e = 1e-8, as the research code has it. Shape: any -> scalar.

    Neither may be negative; it is zero, but for terms of the size of e, only where they agree.
    """
    return (target * (target / (estimate + FLOOR) + FLOOR).log() - target + estimate).mean()


def separate_magnitude(
    magnitude: Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig | None = None,
    callback: Callback | None = None,
) -> Magnitudes:
    """argmin over z_i of KL(|x| ; |sum_i G_i(z_i)|) + alpha R(z), by Adam from z_i = sigma * noise; returns G_i(z_i).

    R = sum_i 0.5 |z_i|^2 / N in space 'z', the sum of the mean negative log-likelihoods of G_i(z_i) in space 'x'.
    With `config.wiener` the estimates become max(G_i, 0) / sum_j max(G_j, 0) * |x|, or G_i / |sum_j G_j| * |x| where
    `config.nonnegative` is off, as in the research code. As there, too, the estimates are those that the last loss was
    computed from, and the padded bin is masked out of the sum but counted in the mean: with `SeparationConfig.paper()`
    and priors of the research code the result is the research code's own, from the same magnitude and on the same
    processor to the last bit (another rounding of either drifts by some per cent).
    Nothing is cut into chunks here: `separate` does that.

    Args:
        magnitude: linear magnitude spectrogram of the mixture, audio in [-1, 1].
        priors: name -> prior; all of one number of bins.
        config: default `SeparationConfig()`.
        callback: called before each step with `iteration` (from 0), `iterations`, `loss` (0-d tensor, not yet
            synchronised with the host) and `estimates` {name: (bins, frames)}; raise from it to cancel.
    Shape:
        (bins, frames) -> {name: (bins, frames)}.
    Raises:
        FlowsepError: no priors, priors of different feature, NaN, or a loss that diverged.
    """
    config = config or SeparationConfig()
    _check_priors(priors)
    if magnitude.ndim != 2:
        raise FlowsepError(f"magnitude: expected (bins, frames), found shape {tuple(magnitude.shape)}")
    if not torch.isfinite(magnitude).all():
        raise FlowsepError("magnitude: holds NaN or infinite values")
    device, dtype = choose_device(config.device), _dtype(config)
    flows = {name: _placed(prior, device, dtype) for name, prior in priors.items()}
    bins, frames = magnitude.shape
    first = next(iter(flows.values()))
    target = pad_features(magnitude.to(device, dtype), first.model.bins, _common_squeeze(priors))
    audible = (torch.arange(first.model.bins, device=device) <= first.feature.n_fft // 2).to(dtype).unsqueeze(1)

    shape = (1, *target.shape)
    generator = torch.Generator().manual_seed(config.seed)
    latents = {
        name: (config.sigma * torch.randn(shape, generator=generator)).to(device, dtype).requires_grad_()
        for name in flows
    }
    optimizer = torch.optim.Adam(latents.values(), lr=config.lr)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16-mixed")
    for iteration in range(config.iterations):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * config.lr_decay ** (iteration // config.lr_every)
        with autocast:
            decoded = {name: flows[name].decode(z) for name, z in latents.items()}
        estimates = {name: x[0].to(dtype) for name, (x, _) in decoded.items()}
        total = torch.stack(list(estimates.values())).sum(dim=0).abs()
        # The research code adds its floor to the target anew at every iteration, in the padded bin as well.
        target = target + FLOOR
        loss = kl_divergence(target, audible * total)
        if config.alpha > 0:
            loss = loss + config.alpha * _regulariser(config.space, latents, decoded)
        if callback is not None:
            shown = {name: x.detach()[:bins, :frames] for name, x in estimates.items()}
            callback(
                {"iteration": iteration, "iterations": config.iterations, "loss": loss.detach(), "estimates": shown}
            )
        if iteration < config.iterations - 1:  # the last step would move latents that nobody decodes any more
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if not torch.isfinite(loss):
        raise FlowsepError(f"separation diverged (loss {loss.item()}) at learning rate {config.lr}; lower `lr`")
    found = {name: x.detach()[:bins, :frames] for name, x in estimates.items()}
    if config.wiener:
        gains = ratio_masks(found) if config.nonnegative else signed_ratios(found)
        mixture = magnitude.to(device, dtype) if config.nonnegative else target[:bins, :frames]
        found = {name: gain * mixture for name, gain in gains.items()}
    return {name: x.to(magnitude.device, magnitude.dtype) for name, x in found.items()}


def ratio_masks(magnitudes: Magnitudes) -> Magnitudes:
    """M_i = max(G_i, 0) / sum_j max(G_j, 0), each floored at 1e-8, so that the masks sum to one also in silence."""
    stacked = torch.stack(list(magnitudes.values())).clamp_min(FLOOR)
    return dict(zip(magnitudes, stacked / stacked.sum(dim=0), strict=True))


def signed_ratios(magnitudes: Magnitudes) -> Magnitudes:
    """G_i / (|sum_j G_j| + 1e-8), the research code's mask: hardly bounded where estimates of opposite sign cancel."""
    total = torch.stack(list(magnitudes.values())).sum(dim=0).abs() + FLOOR
    return {name: x / total for name, x in magnitudes.items()}


def separate(
    mixture: np.ndarray | Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig | None = None,
    sample_rate: int = 44100,
    callback: Callback | None = None,
) -> dict[str, Any]:
    """Stems of a mixture: s_i = iSTFT(M_i X), M_i from `separate_magnitude` of the mixture's magnitude.

    The mixture is analysed at a multiple of the priors' sample rate that covers its own (44.1 kHz for 22.05 kHz
    priors) with as many times longer windows, so that bins and frames fall on those of the prior. Channels share one
    mask, found on the root mean square of their magnitudes, which keeps the stereo image and costs one separation;
    for mono input all this is exactly the paper's method. Above the prior's band (11 kHz) each stem gets the share
    that it has in the top quarter of the band. Long tracks are cut into overlapping chunks of `chunk_seconds`, whose
    masks are cross-faded.

    Args:
        mixture: (channels, samples) or (samples,), numpy or torch, full scale = 1.
        priors: name of the stem -> prior.
        config: default `SeparationConfig()`.
        sample_rate: of the mixture, Hz.
        callback: as in `separate_magnitude`, with `chunk` (from 0) and `chunks` added.
    Returns:
        {name: stem} of the mixture's shape, sample rate and type; with `config.wiener` and `nonnegative`
        they sum to the mixture.
    Raises:
        FlowsepError: empty input, NaN or infinite samples, more than two axes, priors that do not fit together.
    """
    config = config or SeparationConfig()
    _check_priors(priors)
    feature = next(iter(priors.values())).feature

    def magnitudes_of(magnitude: Tensor) -> Magnitudes:
        return _in_chunks(magnitude, priors, config, feature, callback)

    return separate_with_masks(
        mixture,
        sample_rate,
        magnitudes_of,
        feature=feature,
        wiener=config.wiener and config.nonnegative,
        names=tuple(priors),
    )


def separate_with_masks(
    mixture: np.ndarray | Tensor,
    sample_rate: int,
    magnitude_function: Callable[[Tensor], Magnitudes],
    *,
    names: tuple[str, ...],
    feature: FeatureConfig | None = None,
    wiener: bool = True,
) -> dict[str, Any]:
    """What `separate` does around its core, for any system that maps a magnitude to one magnitude per source.

    Args:
        mixture, sample_rate: as in `separate`.
        magnitude_function: (bins, frames) at the feature's resolution -> {name: (bins, frames)}; silence skips it.
        names: of the stems that it returns.
        feature: default the paper's, 22,050 Hz, 513 bins, hop 256.
        wiener: ratio masks that sum to one; else each estimate's own magnitude with the mixture's phase.
    """
    feature = feature or FeatureConfig()
    audio = torch.as_tensor(np.asarray(mixture), dtype=torch.float32)
    if sample_rate <= 0:
        raise FlowsepError(f"sample_rate: expected a positive number of Hz, found {sample_rate}")
    if audio.ndim not in (1, 2) or audio.numel() == 0:
        raise FlowsepError(
            f"mixture: expected (channels, samples) or (samples,), not empty, found shape {tuple(audio.shape)}"
        )
    if not torch.isfinite(audio).all():
        raise FlowsepError("mixture: holds NaN or infinite samples; repair the file first")
    channels = audio.unsqueeze(0) if audio.ndim == 1 else audio
    if not channels.any():
        stems = {name: torch.zeros_like(channels) for name in names}
    else:
        stems = _mask_channels(channels, sample_rate, magnitude_function, feature, wiener)
        if wiener:  # what resampling and the transform rounded away goes to all stems alike: the sum is exact
            missing = (channels - torch.stack(list(stems.values())).sum(dim=0)) / len(stems)
            stems = {name: stem + missing for name, stem in stems.items()}
    return {name: _like(stem.reshape(audio.shape), mixture) for name, stem in stems.items()}


def _mask_channels(
    channels: Tensor,
    sample_rate: int,
    magnitude_function: Callable[[Tensor], Magnitudes],
    feature: FeatureConfig,
    wiener: bool,
) -> Magnitudes:
    times = math.ceil(sample_rate / feature.sample_rate)
    rate, n_fft, hop = times * feature.sample_rate, times * feature.n_fft, times * feature.hop
    analysed = _resample(channels, sample_rate, rate)
    spectrum = stft(analysed, n_fft, hop)
    magnitude = spectrum.abs().square().mean(dim=0).sqrt() / times  # a window `times` as long sums to `times` as much
    band = magnitude[: feature.n_fft // 2 + 1]
    estimates = magnitude_function(band)
    if wiener:
        gains = ratio_masks(estimates)
    else:
        gains = {name: estimate / band.clamp_min(FLOOR) for name, estimate in estimates.items()}
    top = {name: x[-band.shape[0] // 4 :].clamp_min(FLOOR).mean(dim=0, keepdim=True) for name, x in estimates.items()}
    shares = ratio_masks(top)
    above = spectrum.shape[-2] - band.shape[0]
    stems = {}
    for name, gain in gains.items():
        mask = torch.cat([gain, shares[name].expand(above, -1)])
        stem = istft(spectrum * mask, analysed.shape[-1], n_fft, hop)
        stems[name] = _fit(_resample(stem, rate, sample_rate), channels.shape[-1])
    return stems


def _in_chunks(
    magnitude: Tensor,
    priors: Mapping[str, Prior],
    config: SeparationConfig,
    feature: FeatureConfig,
    callback: Callback | None,
) -> Magnitudes:
    """`separate_magnitude` on chunks of equal length, overlapping by a linear cross-fade of the estimates.

    Without overlap the chunks are pieces of exactly `chunk_seconds`, the last one shorter, as in the paper.
    """
    frames = magnitude.shape[-1]
    second = feature.sample_rate / feature.hop
    longest = max(2, round(config.chunk_seconds * second))
    overlap = min(round(config.overlap_seconds * second), longest // 2) if frames > longest else 0
    chunks = max(1, math.ceil((frames - overlap) / (longest - overlap)))
    length = math.ceil((frames + (chunks - 1) * overlap) / chunks) if overlap else longest
    missing = chunks * (length - overlap) + overlap - frames if overlap else 0
    padded = torch.nn.functional.pad(magnitude, (0, missing))
    rise = (torch.arange(overlap, dtype=magnitude.dtype) + 0.5) / max(overlap, 1)
    out = {name: torch.zeros_like(padded) for name in priors}
    for chunk in range(chunks):
        start = chunk * (length - overlap)
        piece = padded[:, start : start + length]
        fade = torch.ones(piece.shape[-1], dtype=magnitude.dtype)
        if chunk > 0:
            fade[:overlap] = rise
        if overlap and chunk < chunks - 1:
            fade[-overlap:] = 1 - rise

        def report(state: dict[str, Any], chunk: int = chunk) -> None:
            callback(state | {"chunk": chunk, "chunks": chunks})

        found = separate_magnitude(piece, priors, config, report if callback is not None else None)
        for name, estimate in found.items():
            out[name][:, start : start + length] += fade * estimate
    return {name: estimate[:, :frames] for name, estimate in out.items()}


def choose_device(name: str) -> torch.device:
    """`name` as a torch device; 'auto' is CUDA when there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise FlowsepError(f"device: '{name}' cannot be used here ({str(error).splitlines()[0]})") from error


def _check_priors(priors: Mapping[str, Prior]) -> None:
    if not priors:
        raise FlowsepError("priors: at least one is needed, found none")
    kinds = {name: (prior.feature, prior.model.bins) for name, prior in priors.items()}
    (first, kind), *others = kinds.items()
    for name, other in others:
        if other != kind:
            raise FlowsepError(
                f"priors: '{name}' models {other}, but '{first}' models {kind}; use priors of one feature"
            )


def _common_squeeze(priors: Mapping[str, Prior]) -> int:
    return math.lcm(*(prior.model.squeeze for prior in priors.values()))


def _dtype(config: SeparationConfig) -> torch.dtype:
    return torch.float64 if config.precision == "64-true" else torch.float32


def _placed(prior: Prior, device: torch.device, dtype: torch.dtype) -> Prior:
    """A frozen copy of the prior: gradients flow to the latents only, and the caller's module stays as it was."""
    return copy.deepcopy(prior).to(device, dtype).eval().requires_grad_(False)


def _regulariser(space: str, latents: Magnitudes, decoded: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.stack([0.5 * z.square().mean() for z in latents.values()]).sum()
    if space == "x":  # -log p(x) = 0.5 |z|^2 + log|det dx/dz| + const, at x = G(z)
        elements = next(iter(latents.values())).numel()
        total = total + torch.stack([logdet.sum() for _, logdet in decoded.values()]).sum() / elements
        total = total + len(latents) * 0.5 * math.log(2 * math.pi)
    return total


def _resample(audio: Tensor, rate_in: int, rate_out: int) -> Tensor:
    if rate_in == rate_out:
        return audio
    return torch.from_numpy(np.ascontiguousarray(soxr.resample(audio.numpy().T, rate_in, rate_out, "VHQ").T))


def _fit(audio: Tensor, samples: int) -> Tensor:
    """Cut or zero-pad to `samples`: resampling there and back may round the length by one."""
    return torch.nn.functional.pad(audio[..., :samples], (0, max(0, samples - audio.shape[-1])))


def _like(stem: Tensor, mixture: np.ndarray | Tensor) -> Any:
    if isinstance(mixture, Tensor):
        return stem.to(mixture)
    dtype = mixture.dtype if np.issubdtype(mixture.dtype, np.floating) else np.float32
    return stem.numpy().astype(dtype, copy=False)
