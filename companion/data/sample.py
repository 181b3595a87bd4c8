"""MUSDB18's public 7-second sample: where it lies, or else the download through musdb, every file checked."""

import os
import tempfile
from http.client import HTTPException
from pathlib import Path
from zipfile import BadZipFile

from flowsep.audio import inspect
from flowsep.files import FlowsepError, brief, cache_folder, locked, writable

COUNTS = {"train": 94, "test": 50}
LONGEST = 8.0  # seconds of an excerpt
NAME = "musdb18-7s"


def find_sample() -> Path:
    """The folder of the sample: `MUSDB_PATH` if it holds excerpts, else the cache, into which it is downloaded once.

    Whole songs under `MUSDB_PATH` are another data set, and are passed over. Raises FlowsepError where the download
    fails, or a file of it is missing or damaged.
    """
    given = Path(os.path.expandvars(os.environ.get("MUSDB_PATH", ""))).expanduser()
    if os.environ.get("MUSDB_PATH") and _holds_excerpts(given):
        return given
    place = cache_folder() / NAME
    if not place.is_dir():
        with locked(place, "set FLOWSEP_DATA to another folder"):
            if not place.is_dir():  # another process may have been first
                _download(place)
    return place


def check_sample(folder: Path) -> None:
    """FlowsepError unless `folder` holds all songs, each with its five streams."""
    for subset, count in COUNTS.items():
        songs = sorted((folder / subset).glob("*.stem.mp4"))
        if len(songs) != count:
            raise FlowsepError(f"{folder / subset}: {len(songs)} songs, expected {count}; get the sample again")
        for song in songs:
            inspect(song)


def _holds_excerpts(folder: Path) -> bool:
    songs = sorted((folder / "test").glob("*.stem.mp4"))
    if not songs:
        return False
    rate, _, samples = inspect(songs[0])
    return samples <= LONGEST * rate


def _download(place: Path) -> None:
    import musdb  # whose import needs ffmpeg

    with (
        writable(place, "make room, or set FLOWSEP_DATA to another folder"),
        tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{NAME}-") as temporary,
    ):
        fresh = Path(temporary) / NAME
        try:
            musdb.DB(root=str(fresh), download=True)
        except (OSError, RuntimeError, HTTPException, BadZipFile) as error:
            cure = "set MUSDB_PATH to a folder that holds its train/ and test/, or run this where there is a network"
            raise FlowsepError(f"MUSDB18's 7-second sample cannot be downloaded ({brief(error)}); {cure}") from error
        check_sample(fresh)
        fresh.rename(place)
