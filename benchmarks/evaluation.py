"""Scoring: our SDR against museval's on the same arrays, and scoring against reading what it scores."""

import tempfile
from pathlib import Path

import museval
import numpy as np

from companion.scores.evaluate import CONVENTIONS, score_track
from companion.scores.metrics import frame_sdr
from flowsep.audio import read_audio, write_audio
from flowsep.files import FlowsepError

from .harness import Context, Figure, figure, interleave, ratios, threads

RATE = 44100


def song(seconds: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(references, estimates), each (4 sources, 2 channels, samples) float32; the estimates leak into each other."""
    rng = np.random.default_rng(seed)
    references = 0.1 * rng.standard_normal((4, 2, round(seconds * RATE)))
    mixing = np.eye(4) + 0.3 * rng.random((4, 4))
    return references.astype(np.float32), np.tensordot(mixing, references, 1).astype(np.float32)


def run(context: Context) -> list[Figure]:
    with threads(1):  # museval and numpy compute with one thread, so torch does, too
        return [*against_museval(context), *against_reading(context)]


def against_museval(context: Context) -> list[Figure]:
    """Frames of 1 s, as in SiSEC 2018."""
    seconds, repeats = (2.0, 1) if context.quick else (10.0, 3)
    references, estimates = song(seconds)
    turned = references.swapaxes(1, 2).astype(np.float64), estimates.swapaxes(1, 2).astype(np.float64)
    frames = {}

    def theirs() -> None:
        frames["museval"] = museval.evaluate(*turned, win=RATE, hop=RATE)[0]

    def ours() -> None:
        frames["flowsep"] = frame_sdr(list(references), list(estimates), RATE)

    times = interleave({"museval": theirs, "flowsep": ours}, repeats, context.clock, warmup=0)
    if not np.array_equal(*(np.isnan(values) for values in frames.values())):
        raise FlowsepError("evaluation: museval and frame_sdr leave out different frames")
    what = f"SDR of four stereo sources of {seconds:g} s"
    rows = [figure("evaluation.sdr", what, values, "s", system=name) for name, values in times.items()]
    faster, told = ratios(times["museval"], times["flowsep"]), {"reference": "museval.evaluate"}
    rows.append(figure("evaluation.speedup", "museval's time over ours, the same arrays", faster, "x", **told))
    gap = float(np.nanmax(np.abs(frames["museval"] - frames["flowsep"])))
    return [*rows, figure("evaluation.difference", "greatest difference of a frame's SDR", gap, "dB", **told)]


def against_reading(context: Context) -> list[Figure]:
    """One song of four stems and their estimates as WAV files, which the system has cached, so that reading is fast."""
    seconds = 2.0 if context.quick else 30.0
    references, estimates = song(seconds)
    names = [f"{kind}{i}" for kind in ("reference", "estimate") for i in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.wav" for name in names]
        for path, audio in zip(paths, (*references, *estimates), strict=True):
            write_audio(path, audio, RATE)
        given = [{str(i): audio[i] for i in range(4)} for audio in (references, estimates)]
        work = {name: lambda name=name: score_track(*given, RATE, (name,), ("SDR",)) for name in CONVENTIONS}
        work["reading"] = lambda: [read_audio(path) for path in paths]
        times = interleave(work, context.repeats, context.clock)
    what = f"one song of four stereo stems, {seconds:g} s"
    rows = [figure("evaluation.song", what, values, "s", part=name) for name, values in times.items()]
    for name in CONVENTIONS:
        shares = ratios(times[name], times["reading"])
        what = "time of scoring a song over the time of reading its stems and estimates"
        rows.append(figure("evaluation.scoring_over_reading", what, shares, "x", reference="reading", convention=name))
    return rows
