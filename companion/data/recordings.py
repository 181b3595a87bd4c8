"""The cache of decoded recordings: one file for each stem of a song, mapped into memory."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tqdm import tqdm

from flowsep.files import FlowsepError, atomic_path, cache_folder, writable

KINDS = {".i16": torch.int16, ".f32": torch.float32, ".mono.i16": torch.int16, ".mono.f32": torch.float32}


class Recording:
    """A mapped array (samples,) or (channels, samples); what is taken of it, or all of it, is float32, full scale 1."""

    def __init__(self, stored: np.ndarray):
        self.stored, self.shape = stored, stored.shape

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, place: Any) -> np.ndarray:
        part = self.stored[place]
        return part / np.float32(32768) if part.dtype == np.int16 else part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __dlpack__(self, **options: Any) -> Any:  # so that torch takes it as it takes an array
        return self[:].__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.stored.__dlpack_device__()


def recordings(
    what: str, identities: Sequence[object], decode: Callable[[int], np.ndarray], channels: int, *, rounded: bool
) -> list[Recording | FlowsepError]:
    """The recordings (channels, samples) with these identities, from the cache or else decoded into it now.

    As many are decoded at a time as torch has threads. Each file appears whole: a killed run goes on where it was.
    What has 16 bits takes 16, the rest 32 or, if it is `rounded` and does not clip, 16; equal channels are kept once.

    Args:
        what: the name in the progress bar.
        identities: all that a recording hangs on, whose `repr` names its file.
        decode: the number of an identity -> float32 (channels, samples); a FlowsepError takes the recording's place.
    """
    digests = [hashlib.sha256(repr(identity).encode()).hexdigest()[:24] for identity in identities]
    places = [cache_folder() / "segments" / digest for digest in digests]

    def load(number: int) -> Recording | FlowsepError:
        if (there := _opened(places[number], channels)) is not None:
            return there
        try:
            audio = decode(number)
        except FlowsepError as error:
            return error
        return _stored(places[number], audio, rounded)

    done: list[Recording | FlowsepError] = []
    # a chapter is not published with what a cell writes to standard error
    silent = "ipykernel" in sys.modules or all(_opened(place, channels) is not None for place in places)
    # threads suffice: ffmpeg is a process, and soxr, soundfile and numpy release the lock
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        closing(cast(Any, pool.map(load, range(len(places))))) as each,  # after an interrupt nothing more is begun
        tqdm(each, what, len(places), unit="song", disable=silent) as bar,
    ):
        for recording in bar:
            done.append(recording)
            size = sum(np.multiply(one.shape, one.stored.strides).max() for one in done if isinstance(one, Recording))
            bar.set_postfix_str(f"{size / 1e9:.2f} GB", refresh=False)
    return done


def _stored(place: Path, audio: np.ndarray, rounded: bool) -> Recording:
    kept = audio[:1] if (audio == audio[:1]).all() else audio
    scaled = kept * np.float32(32768)
    steps = np.rint(scaled)
    fits = not steps.size or (steps.min() >= -32768 and steps.max() <= 32767)
    short = fits and (rounded or np.array_equal(steps, scaled))
    path = place.with_suffix(".mono" * (len(kept) < len(audio)) + (".i16" if short else ".f32"))
    with atomic_path(path) as temporary, writable(path, "make room, or set FLOWSEP_DATA to another folder"):
        temporary.write_bytes(np.ascontiguousarray(steps if short else kept, np.int16 if short else np.float32).data)
    return cast(Recording, _opened(place, len(audio)))


def _opened(place: Path, channels: int) -> Recording | None:
    for suffix, kind in KINDS.items():
        path = place.with_suffix(suffix)
        if path.is_file():  # a mapping of torch holds no file open, unlike one of numpy
            numbers = torch.from_file(str(path), size=path.stat().st_size // kind.itemsize, dtype=kind)
            return Recording(numbers.view(1 if "mono" in suffix else channels, -1).expand(channels, -1).numpy())
    return None
