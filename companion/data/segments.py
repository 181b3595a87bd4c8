"""Training material: the solo recordings of each source, decoded once into the cache."""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import soxr

from flowsep.config import FeatureConfig
from flowsep.files import FlowsepError, atomic_path, cache_folder, writable

from ..profile import PiecesConfig
from .pieces import cut, held_out, remove_silences
from .tracks import Dataset, Track, _as_channels, log


def solo_segments(dataset: Dataset, subset: str, source: str, feature: FeatureConfig) -> list[np.ndarray]:
    """Material to train a prior on: mono solo recordings at its rate, memory-mapped float32 arrays (samples,).

    Each array is the whole stem of a track or, for "train" and "valid" of a data set with `pieces`, a piece of a
    training track (`companion.data.pieces`). The seed and the source decide which pieces are held out.

    Only solo stems are opened, never a mixture: source-only supervision. They are decoded and resampled (soxr) once,
    into one file in the cache folder. Tracks without the source and damaged test tracks are left out.

    Raises FlowsepError if no track has the source, training tracks are damaged, or the pieces are too few.
    """
    config = dataset.pieces if subset != "test" else None
    tracks = _having(dataset, "train" if config else subset, source)
    decoded = _decoded(dataset, tracks, source, feature.sample_rate, 1, config, strict=subset != "test")
    stems = [frames[:, 0] for frames in decoded]
    if config is None:
        return [stem for stem in stems if len(stem)]
    pieces = []
    for track, stem in zip(tracks, stems, strict=True):
        own_seed = [dataset.seed, zlib.crc32(f"{track.subset}/{track.name}/{source}".encode())]
        pieces += [stem[start:stop] for start, stop in cut(len(stem), feature.sample_rate, config, own_seed)]
    if len(pieces) < 2:
        count = f"{len(tracks)} tracks give {len(pieces)} piece(s) of '{source}' of {config.shortest} s or more"
        raise FlowsepError(f"{dataset.root}: {count}; two are needed, one of them to validate on")
    chosen = held_out(len(pieces), config.valid_share, dataset.seed) == (subset == "valid")
    return [pieces[i] for i in np.flatnonzero(chosen)]


def whole_stems(dataset: Dataset, subset: str, source: str, sample_rate: int, channels: int = 2) -> list[np.ndarray]:
    """One source in all tracks of a subset, memory-mapped float32 arrays (channels, samples).

    The arrays of several sources are aligned in time; a track without the source gives an array without samples. They
    are decoded and resampled (soxr) once, as in `solo_segments`, and take 8 bytes per stereo sample. Whole songs are
    held out, even with `pieces`, which hold one source each.

    Raises FlowsepError if no track has the source, or tracks are damaged.
    """
    whole = replace(dataset, pieces=None)
    _having(whole, subset, source)
    return [frames.T for frames in _decoded(whole, whole.subset(subset), source, sample_rate, channels, None)]


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
    strict: bool = True,
) -> list[np.ndarray]:
    """One array (samples, channels) per track; `channels` = 1 is the mean of all channels, and `pieces` needs it.

    An unreadable track is an error or, unless `strict`, an array without samples and a line in the log.

    All arrays lie in one file, since a mapped file per track would exceed the limit on open files. The file holds the
    end of each array (64-bit integers), then the samples (float32).
    """
    files = [[(path.name, path.stat().st_mtime_ns) for path in track.files_of(source)] for track in tracks]
    silence = pieces and (pieces.silence_db, pieces.max_silence_seconds)
    names = [(track.subset, track.name) for track in tracks]
    identity = repr((dataset.hash, names, files, source, sample_rate, channels, silence))
    cached = cache_folder() / "segments" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.f32"
    if not cached.is_file():
        ends, failed = np.zeros(len(tracks), np.int64), []
        with atomic_path(cached) as temporary, temporary.open("wb") as file:
            file.write(ends.tobytes())
            for i, track in enumerate(tracks):
                ends[i] = ends[i - 1]
                if not track.files_of(source):
                    continue
                try:
                    audio, rate = track.stem(source), track.sample_rate
                except FlowsepError as error:
                    failed.append(str(error))
                    continue
                audio = audio.mean(axis=0, keepdims=True) if channels == 1 else _as_channels(audio, channels)
                frames = soxr.resample(audio.T, rate, sample_rate, "HQ")
                frames = remove_silences(frames[:, 0], sample_rate, pieces) if pieces else frames
                with writable(cached, "make room, or set FLOWSEP_DATA to another folder"):
                    file.write(frames.tobytes())
                ends[i] += frames.size
            if failed and strict:
                raise FlowsepError(f"{len(failed)} of {len(tracks)} tracks cannot be trained on: {'; '.join(failed)}")
            if failed:
                log.warning("%s: %d tracks left out:\n  %s", source, len(failed), "\n  ".join(failed))
            file.seek(0)
            file.write(ends.tobytes())
    content = np.memmap(cached, mode="r")
    ends = content[: 8 * len(tracks)].view(np.int64)
    numbers = content[8 * len(tracks) :].view(np.float32)
    bounds = zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    return [numbers[start:stop].reshape(-1, channels) for start, stop in bounds]
