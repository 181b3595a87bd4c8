"""Training material: the solo recordings of each source, decoded once into the cache."""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import soxr

from flowsep.config import FeatureConfig
from flowsep.files import FlowsepError

from ..profile import PiecesConfig
from .pieces import cut, held_out, remove_silences
from .recordings import Recording, recordings
from .tracks import Dataset, Track, _as_channels, log


def solo_segments(
    dataset: Dataset, subset: str, source: str, feature: FeatureConfig, *, songs: int | None = None
) -> list[Recording]:
    """Material to train a prior on: mono solo recordings (samples,) at its rate, mapped into memory.

    Each is the whole stem of a track or, for "train" and "valid" of a data set with `pieces`, a piece of a
    training track (`companion.data.pieces`). The seed and the source decide which pieces are held out.

    Only solo stems are opened, never a mixture: source-only supervision. They are decoded and resampled (soxr) once,
    into the cache folder. Tracks without the source and damaged test tracks are left out, and those after the first
    `songs` that have it.

    Raises FlowsepError if no track has the source, training tracks are damaged, or the pieces are too few.
    """
    config = dataset.pieces if subset != "test" else None
    tracks = _having(dataset, "train" if config else subset, source)[:songs]
    rounded, strict = dataset.pieces is not None, subset != "test"
    decoded = _decoded(dataset, tracks, source, feature.sample_rate, 1, config, rounded=rounded, strict=strict)
    stems = [Recording(recording.stored[0]) for recording in decoded]
    if config is None:
        return [stem for stem in stems if len(stem)]
    pieces = []
    for track, stem in zip(tracks, stems, strict=True):
        own_seed = [dataset.seed, zlib.crc32(f"{track.subset}/{track.name}/{source}".encode())]
        bounds = cut(len(stem), feature.sample_rate, config, own_seed)
        pieces += [Recording(stem.stored[start:stop]) for start, stop in bounds]
    if len(pieces) < 2:
        count = f"{len(tracks)} tracks give {len(pieces)} piece(s) of '{source}' of {config.shortest} s or more"
        raise FlowsepError(f"{dataset.root}: {count}; two are needed, one of them to validate on")
    chosen = held_out(len(pieces), config.valid_share, dataset.seed) == (subset == "valid")
    return [pieces[i] for i in np.flatnonzero(chosen)]


def whole_stems(dataset: Dataset, subset: str, source: str, sample_rate: int, channels: int = 2) -> list[Recording]:
    """One source in all tracks of a subset, recordings (channels, samples) mapped into memory.

    Recordings of several sources are aligned in time; a track without the source gives one without samples. They are
    decoded and resampled (soxr) once, as in `solo_segments`; at the songs' own rate a stereo sample takes 4 bytes.
    Whole songs are held out, even with `pieces`, which hold one source each.

    Raises FlowsepError if no track has the source, or tracks are damaged.
    """
    whole = replace(dataset, pieces=None)
    _having(whole, subset, source)
    return _decoded(whole, whole.subset(subset), source, sample_rate, channels, None)


def _having(dataset: Dataset, subset: str, source: str) -> list[Track]:
    """The tracks of a subset that have a source; FlowsepError if there are none."""
    tracks = [track for track in dataset.subset(subset) if source in (*track.files, "accompaniment")]
    if not tracks:
        known = ", ".join(sorted({s for track in dataset.tracks for s in track.sources}))
        raise FlowsepError(f"{dataset.root}: no {subset} track has the source '{source}'; sources there: {known}")
    return tracks


def _decoded(
    dataset: Dataset,
    tracks: Sequence[Track],
    source: str,
    sample_rate: int,
    channels: int,
    pieces: PiecesConfig | None,
    *,
    rounded: bool = False,
    strict: bool = True,
) -> list[Recording]:
    """One recording (channels, samples) per track; `channels` = 1 is the mean of all channels, and `pieces` needs it.

    An unreadable track is an error or, unless `strict`, one without samples and a line in the log.

    The paper's material is `rounded` to 16 bits, whose last step the dequantisation of `CropSampler` fills. Nothing
    else is: resampled songs have more bits, and the tables hold results of priors that were trained on these.
    """
    silence = pieces and (pieces.silence_db, pieces.max_silence_seconds)
    having = [track for track in tracks if track.files_of(source)]

    def decode(number: int) -> np.ndarray:
        audio, rate = having[number].stem(source), having[number].sample_rate
        audio = audio.mean(axis=0, keepdims=True) if channels == 1 else _as_channels(audio, channels)
        frames = soxr.resample(audio.T, rate, sample_rate, "HQ")
        return remove_silences(frames[:, 0], sample_rate, pieces)[None] if pieces else frames.T

    identities = []
    for track in having:
        files = [(path.name, path.stat().st_mtime_ns) for path in track.files_of(source)]
        identities.append((dataset.hash, track.subset, track.name, files, source, sample_rate, channels, silence))
    what = f"{source}, {sample_rate} Hz, {'mono' if channels == 1 else 'stereo'}"
    stems = dict(zip(having, recordings(what, identities, decode, channels, rounded=rounded), strict=True))
    failed = [str(stem) for stem in stems.values() if isinstance(stem, FlowsepError)]
    if failed and strict:
        raise FlowsepError(f"{len(failed)} of {len(tracks)} tracks cannot be trained on: {'; '.join(failed)}")
    if failed:
        log.warning("%s: %d tracks left out:\n  %s", source, len(failed), "\n  ".join(failed))
    nothing = Recording(np.zeros((channels, 0), np.float32))
    kept = [stems.get(track, nothing) for track in tracks]
    return [nothing if isinstance(stem, FlowsepError) else stem for stem in kept]
