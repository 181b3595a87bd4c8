"""References and estimates of a song -> score rows, by the two conventions of SDR in the literature."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import soxr

from flowsep.files import FlowsepError

from .metrics import both_sdr, bss_eval, silent_frames

CONVENTIONS = {"paper": 22_050, "sisec18": 44_100}  # name -> sample rate at which it scores
PIECE_SECONDS = 60  # paper: length of one frame
ENERGY = 20.0  # paper: pieces with a reference energy sum(x^2) up to this are left out
METRICS = ("SDR", "SI-SDR", "SIR", "ISR", "SAR")
MUSEVAL = METRICS[2:]  # museval's, on request
ALONE = ("paper", "SIR")  # has no rows: nothing interferes with a source that is scored alone
Audio = Mapping[str, np.ndarray]


def score_track(
    references: Audio,
    estimates: Audio,
    sample_rate: int,
    conventions: Sequence[str] = tuple(CONVENTIONS),
    metrics: Sequence[str] = METRICS[:2],
) -> list[dict[str, Any]]:
    """The scores of one song: a row for each stem, metric, convention and, under *paper*, piece.

    *paper*: mean of the channels, resampled to 22,050 Hz, pieces of 60 s (the last one shorter), one frame per piece,
    each source alone; pieces with reference energy sum(x^2) <= 20 are 'silent'. *sisec18*: resampled to 44,100 Hz, the
    median over frames of 1 s that museval counts (`metrics.frame_sdr`); SI-SDR over the whole track. A source silent
    from end to end, which museval refuses, is 'silent' (0 dB if only the estimate is) and blanks no other source.

    museval's SIR, ISR and SAR (`metrics.bss_eval`) follow the same rules: frames of 1 s under *sisec18*; under *paper*
    each source is alone, so that there is no SIR, and the SAR counts leakage from the others as artefacts.

    Args:
        references, estimates: stem -> (channels, samples), full scale = 1; estimates that are missing, of another
            shape or not finite give rows with status 'failed' and the reason.
        sample_rate: of references and estimates, Hz.
        metrics: of `METRICS`.
    Returns:
        dictionaries with stem, metric, convention, piece, sample_rate, value (dB), n_frames, nan_count, status, reason,
        and frames, the array with the value as median without NaN; no score file holds it.
    Raises:
        FlowsepError: an unknown convention or metric, or a reference that is empty or not finite.
    """
    return track_scorer(references, sample_rate, conventions, metrics)(estimates)


def track_scorer(
    references: Audio,
    sample_rate: int,
    conventions: Sequence[str] = tuple(CONVENTIONS),
    metrics: Sequence[str] = METRICS[:2],
) -> Callable[..., list[dict[str, Any]]]:
    """`score_track` for the estimates of many systems: the references are mixed down and resampled once.

    Returns:
        score(estimates, reasons): the rows of one system; stems in `reasons` need no estimate and are 'failed'.
    Raises:
        FlowsepError: as `score_track`.
    """
    for kind, given, valid in (("convention", conventions, CONVENTIONS), ("metric", metrics, METRICS)):
        if unknown := set(given) - set(valid):
            raise FlowsepError(f"{kind} '{min(unknown)}' is unknown; valid: {', '.join(valid)}")
    for stem, audio in references.items():
        if audio.ndim != 2 or audio.size == 0 or not np.isfinite(audio).all():
            raise FlowsepError(
                f"reference '{stem}' (shape {audio.shape}) is empty, not (channels, samples) or not finite"
            )
    heard = {
        name: {stem: _heard(audio, sample_rate, name) for stem, audio in references.items()} for name in conventions
    }
    rules = {"paper": _score_paper, "sisec18": _score_sisec18}

    def score(estimates: Audio, reasons: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        checked = {stem: _problem(stem, audio.shape, estimates) for stem, audio in references.items()} | (reasons or {})
        problems = {stem: reason for stem, reason in checked.items() if reason}
        rows = []  # type: list[dict[str, Any]]
        for name in conventions:
            sound = {stem: audio for stem, audio in heard[name].items() if stem not in problems}
            pairs = {stem: (audio, _heard(estimates[stem], sample_rate, name)) for stem, audio in sound.items()}
            rows += rules[name](pairs, CONVENTIONS[name], metrics)
        return rows + failed_rows(problems, conventions, metrics)

    return score


def failed_rows(
    reasons: Mapping[str, str], conventions: Sequence[str], metrics: Sequence[str] = METRICS[:2]
) -> list[dict[str, Any]]:
    """Score rows without a score: stem -> reason."""
    every = itertools.product(conventions, reasons.items(), metrics)
    rows = [_row(name, stem, metric, [], reason) | {"status": "failed"} for name, (stem, reason), metric in every]
    return [row for row in rows if (row["convention"], row["metric"]) != ALONE]


def _heard(audio: np.ndarray, sample_rate: int, convention: str) -> np.ndarray:
    """(channels, samples) at the sample rate of a convention; *paper* takes the mean of the channels first."""
    same = sample_rate == CONVENTIONS[convention]
    if convention == "paper":
        exact = audio.astype(np.float64) if same else audio  # soxr computes in float32
        audio = reduce(np.add, exact)[None] / len(audio)  # in half the time of mean(axis=0)
    return audio if same else soxr.resample(np.ascontiguousarray(audio.T), sample_rate, CONVENTIONS[convention]).T


def _score_paper(pairs: Mapping[str, tuple], rate: int, metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    size = PIECE_SECONDS * rate
    for stem, (reference, estimate) in pairs.items():
        for piece, start in enumerate(range(0, reference.shape[-1], size)):
            r, e = reference[:, start : start + size], estimate[:, start : start + size]
            energy = np.square(r, dtype=np.float64).sum()
            if energy > ENERGY:
                reason = "the estimate is silent"
                values = dict(zip(METRICS[:2], both_sdr(r, e), strict=True)) | _museval(metrics, [r], [e])
            else:
                reason, values = f"reference energy {energy:.3g} is not above {ENERGY:g}", {}
            for metric in metrics:
                if ("paper", metric) != ALONE:
                    yield _row("paper", stem, metric, values.get(metric, [math.nan]), reason, piece)


def _score_sisec18(pairs: Mapping[str, tuple], rate: int, metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    sounding = {stem: pair for stem, pair in pairs.items() if all(_sounds(audio, rate) for audio in pair)}
    if sounding:
        both = tuple(zip(*sounding.values(), strict=True))
        blank, theirs = silent_frames(*both, rate), _museval(metrics, *both, rate)  # type: ignore[arg-type, call-arg]
    for stem, (reference, estimate) in pairs.items():
        values = dict(zip(METRICS[:2], both_sdr(reference, estimate, rate), strict=True))  # type: dict[str, Any]
        if stem in sounding:
            values["SDR"] = np.where(blank, np.nan, values["SDR"])
            values |= {metric: rows[list(sounding).index(stem)] for metric, rows in theirs.items()}
            reason = "there is no frame in which all sources sound"
        else:  # SDR is NaN, or 0 dB where only the estimate is silent
            reason = "the estimate is silent" if _sounds(reference, rate) else "the reference is silent"
        nothing = np.full_like(values["SDR"], np.nan)
        for metric in metrics:
            alone = metric == "SIR" and list(sounding) == [stem]
            why = "no other source sounds" if alone else reason
            yield _row("sisec18", stem, metric, values.get(metric, nothing), why)


def _sounds(audio: np.ndarray, rate: int) -> bool:
    """Is any sample not zero? Second by second, so that the search ends at the first sound."""
    return any(audio[:, start : start + rate].any() for start in range(0, audio.shape[-1], rate))


def _museval(metrics: Sequence[str], *audio: Any) -> dict[str, np.ndarray]:
    """museval's metrics among `metrics`, metric -> (sources, frames); without any of them museval does not run."""
    wanted = set(metrics) & set(MUSEVAL)
    return {metric: values for metric, values in bss_eval(*audio).items() if metric in wanted} if wanted else {}


def _row(name: str, stem: str, metric: str, values: Any, reason: str, piece: int = 0) -> dict[str, Any]:
    """A row with the median over frames; 'silent', with `reason`, if all frames are NaN."""
    values = np.ravel(values)
    counted = values[~np.isnan(values)]
    row = {"convention": name, "sample_rate": CONVENTIONS[name], "stem": stem, "metric": metric, "piece": piece}
    row |= {"value": float(np.median(counted)) if len(counted) else math.nan}
    row |= {"n_frames": len(values), "nan_count": len(values) - len(counted), "frames": values}
    return row | ({"status": "ok", "reason": ""} if len(counted) else {"status": "silent", "reason": reason})


def _problem(stem: str, shape: tuple[int, ...], estimates: Audio) -> str:
    if stem not in estimates:
        return f"no estimate of '{stem}'"
    if estimates[stem].shape != shape:
        return f"estimate of '{stem}' has shape {estimates[stem].shape}, reference {shape}"
    return "" if np.isfinite(estimates[stem]).all() else f"estimate of '{stem}' holds NaN or Inf"
