"""SDR of BSS Eval version 4 and SI-SDR, in numpy alone; ISR, SIR and SAR by museval.

Since version 4 the SDR of BSS Eval is a plain signal-to-noise ratio per frame: the distortion filters only divide the
error into kinds (ISR, SIR, SAR) and do not change the sum. So one line replaces a large linear system.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 2**13  # samples of each channel that are summed at once
PEEK = 2**10  # samples that are searched for sound at once


def sdr(
    reference: np.ndarray, estimate: np.ndarray, *, window: int | None = None, hop: int | None = None
) -> float | np.ndarray:
    """Signal-to-distortion ratio in dB: `10 log10( sum r^2 / sum (r - e)^2 )`, sums over channels and samples.

    `reference` and `estimate`: (channels, samples) or (samples,). `window` and `hop` in samples; `hop` is `window`
    when not given. Without `window` the whole piece is one frame and a float comes back, otherwise (frames,).
    A frame whose reference is silent is NaN, one without error is +inf, a silent estimate of a sounding source 0 dB.

    Two conventions share this formula; their numbers are not comparable:

    - *paper* (Zhu et al. 2022): mono at 22,050 Hz, pieces of 60 s, one frame per piece (`window=None`); pieces with
      `sum r^2 <= 20` left out; median over all pieces of all songs.
    - *sisec18* (Stöter, Liutkus, Ito 2018): stereo at 44,100 Hz, frames of 1 s without overlap (`window=44100`), a
      frame counts only if all sources sound in it (`frame_sdr`); median over frames, then over songs.

    Raises ValueError for shapes that differ, empty audio, NaN or Inf. Reference: Vincent, Gribonval, Févotte 2006.
    """
    reference, estimate = _pair(reference, estimate)
    values = _sdr(_sums(reference, estimate, _frames(reference.shape[-1], window, hop)))
    return float(values[0]) if window is None else values


def frame_sdr(
    references: Sequence[np.ndarray], estimates: Sequence[np.ndarray], window: int | None = None, hop: int | None = None
) -> np.ndarray:
    """SDR of several sources of one song, (sources, frames), with the frames and NaN rules of museval 4.

    `references` and `estimates`: one (channels, samples) per source, all of one shape. As in museval, an incomplete
    last frame is dropped (audio shorter than `window` is one frame), and a frame is NaN for every source if any
    reference or estimate is silent in it, which means that the sum of the channels is zero throughout.

    Raises ValueError as `sdr` does.
    """
    pairs = _pairs(references, estimates)
    frames = _frames(pairs[0][0].shape[-1], window, hop)
    values = np.stack([_sdr(_sums(*pair, frames)) for pair in pairs])
    return np.where(_silent(pairs, frames), np.nan, values)


def silent_frames(
    references: Sequence[np.ndarray], estimates: Sequence[np.ndarray], window: int | None = None
) -> np.ndarray:
    """Mask of the frames that are NaN in `frame_sdr` because a reference or an estimate is silent: bool, (frames,)."""
    pairs = list(zip(references, estimates, strict=True))
    return np.array(_silent(pairs, _frames(pairs[0][0].shape[-1], window, None)))


def both_sdr(reference: np.ndarray, estimate: np.ndarray, window: int | None = None) -> tuple[np.ndarray, float]:
    """`sdr` of each frame, (frames,), and `si_sdr` of the whole, in the time of one of them.

    Arguments as in `sdr`; that they are finite and of one shape is not checked.
    """
    samples = reference.shape[-1]
    frames = _frames(samples, window, None)
    rest = slice(min(frames[-1].stop, samples), samples)
    sums = _sums(reference, estimate, [*frames, rest])
    return _sdr(sums[:-1]), _si_sdr(sums.sum(axis=0), reference, estimate)


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant SDR in dB: `10 log10( |a r|^2 / |a r - e|^2 )` with `a = <e, r> / <r, r>`.

    `reference` and `estimate`: (channels, samples) or (samples,); one scale `a` for all channels. NaN for a silent
    reference, -inf for an estimate orthogonal to it (such as silence), +inf for a scaled copy.
    Raises ValueError as `sdr` does. Reference: Le Roux, Wisdom, Erdogan, Hershey 2019.
    """
    reference, estimate = _pair(reference, estimate)
    (sums,) = _sums(reference, estimate, [slice(0, reference.shape[-1])])
    return _si_sdr(sums, reference, estimate)


def bss_eval(
    references: Sequence[np.ndarray], estimates: Sequence[np.ndarray], window: int | None = None
) -> dict[str, np.ndarray]:
    """SDR, ISR, SIR, SAR of museval 4 in dB, each (sources, frames): the estimate is `r + e_spat + e_interf + e_artif`.

    `ISR = |r|^2 / |e_spat|^2`, `SIR = |r + e_spat|^2 / |e_interf|^2`, `SAR = |r + e_spat + e_interf|^2 / |e_artif|^2`,
    `SDR` as in `sdr`. `r + e_spat` is the estimate projected on its own reference delayed by 0 to 511 samples,
    `r + e_spat + e_interf` on all references so delayed: one set of filters for the whole piece, energies per frame.

    Arguments, frames and NaN rules as in `frame_sdr`. All values are NaN if a source is silent from end to end, which
    museval refuses; the SIR of a single source is NaN, since nothing interferes with it. Four stereo sources at
    44.1 kHz take 1.6 times their length on one CPU core (50 s for 30 s, 195 s for 120 s) and 25 MB per second.

    Raises ValueError as `sdr` does. References: Vincent, Gribonval, Févotte 2006; Stöter, Liutkus, Ito 2018.
    """
    import museval

    pairs = _pairs(references, estimates)
    audio = np.stack([[x.T.astype(np.float64) for x in pair] for pair in pairs], axis=1)  # museval's order of axes
    samples = audio.shape[2]
    frames = len(_frames(samples, window, None))
    if audio.sum(axis=3).any(axis=2).all():
        size = window or samples
        values = museval.evaluate(*audio, win=size, hop=size)
    else:
        values = np.full((4, len(pairs), frames), np.nan)
    metrics = dict(zip(("SDR", "ISR", "SIR", "SAR"), values, strict=True))
    if len(pairs) == 1:
        metrics["SIR"] = np.full((1, frames), np.nan)  # museval would divide by a rounding error
    return metrics


def _pair(reference: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reference, estimate = np.asarray(reference), np.asarray(estimate)
    if reference.shape != estimate.shape:
        raise ValueError(f"reference has shape {reference.shape}, estimate {estimate.shape}; they must be equal")
    for name, audio in (("reference", reference), ("estimate", estimate)):
        if audio.size == 0 or audio.ndim == 0:
            raise ValueError(f"{name} holds no samples (shape {audio.shape})")
        if not np.isfinite(audio).all():
            raise ValueError(f"{name} holds NaN or Inf")
    return reference, estimate


def _pairs(references: Sequence[np.ndarray], estimates: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    if len(references) != len(estimates):
        raise ValueError(f"{len(references)} references and {len(estimates)} estimates; they must be equally many")
    pairs = [_pair(*pair) for pair in zip(references, estimates, strict=True)]
    shapes = {reference.shape for reference, _ in pairs}
    if len(shapes) != 1 or len(min(shapes)) != 2:
        raise ValueError(f"references have shapes {shapes}; expected the same (channels, samples) of each")
    return pairs


def _frames(samples: int, window: int | None, hop: int | None) -> list[slice]:
    window, hop = (samples, samples) if window is None else (window, window if hop is None else hop)
    if window < 1 or hop < 1:
        raise ValueError(f"window and hop must be at least 1 sample, found {window} and {hop}")
    starts = range(0, max(samples - window, 0) + 1, hop)
    return [slice(start, start + window) for start in starts]


def _sdr(sums: np.ndarray) -> np.ndarray:
    """SDR of each frame; NaN where the reference is silent."""
    signal, error, _ = sums.T
    return np.where(signal > 0, _decibel(signal, error), np.nan)


def _si_sdr(sums: np.ndarray, reference: np.ndarray, estimate: np.ndarray) -> float:
    """`a r - e = d - b r` with b = <d, r> / <r, r> = 1 - a, of energy <d, d> - b <d, r>."""
    signal, error, product = sums
    if signal == 0:
        return math.nan
    scale, rest = 1 - product / signal, error - product**2 / signal
    if rest < 1e-3 * error:  # the difference of two numbers so alike is too coarse: sum the squares themselves
        whole = _blocks(reference, estimate, slice(0, reference.shape[-1]))
        rest = sum(_dot(scale * r - e, scale * r - e) for r, e in whole)
    return float(_decibel(scale**2 * signal, rest))


def _sums(reference: np.ndarray, estimate: np.ndarray, frames: Sequence[slice]) -> np.ndarray:
    """(frames, 3): <r, r>, <d, d> and <d, r> of the error d = r - e."""
    sums = np.zeros((len(frames), 3))
    for row, frame in zip(sums, frames, strict=True):
        for r, e in _blocks(reference, estimate, frame):
            d = r - e
            row += _dot(r, r), _dot(d, d), _dot(d, r)
    return sums


def _blocks(reference: np.ndarray, estimate: np.ndarray, frame: slice) -> Iterator[tuple[np.ndarray, ...]]:
    """A frame in float64, block by block: no copy is larger than the cache, however long the song."""
    for start in range(frame.start, min(frame.stop, reference.shape[-1]), BLOCK):
        block = slice(start, min(start + BLOCK, frame.stop))
        yield tuple(np.ascontiguousarray(audio[..., block], np.float64) for audio in (reference, estimate))


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return np.vecdot(a, b).sum()  # channel by channel: BLAS puts longer sums on threads, which then wait for each other


def _silent(pairs: Sequence[tuple[np.ndarray, np.ndarray]], frames: Sequence[slice]) -> list[bool]:
    """For each frame: is the sum of the channels of any reference or estimate zero throughout?"""

    def sounds(audio: np.ndarray, frame: slice) -> bool:
        starts = range(frame.start, min(frame.stop, audio.shape[-1]), PEEK)  # mostly the first samples suffice
        return any(audio[:, start : min(start + PEEK, frame.stop)].sum(axis=0).any() for start in starts)

    return [not all(sounds(audio, frame) for pair in pairs for audio in pair) for frame in frames]


def _decibel(signal: np.ndarray | float, error: np.ndarray | float) -> np.ndarray:
    """`10 log10(signal / error)`: -inf without a signal, else +inf without an error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(signal, 0), -np.inf, 10 * np.log10(np.divide(signal, error)))
