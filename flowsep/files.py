"""Files: written whole or not at all, hashed, named safely, and refused before they fill the memory."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Limits on files from outside.
MAX_YAML = 64 * 1024  # bytes
MAX_DEPTH = 32  # levels of mappings and lists in YAML
MAX_HEADER = 16 * 2**20  # bytes of the header of a .safetensors file
MAX_JSON = 64 * 2**20  # bytes
MAX_TABLE = 256 * 2**20  # bytes of a CSV file
MAX_SAMPLES = 2**29  # in all channels of a file read whole: 1.7 hours of stereo, 2 GB; streams have no limit
SAMPLE_RATES = (1_000, 1_000_000)  # Hz
MAX_NAME = 120  # bytes of a `safe_name`
SUFFIX = re.compile(r"-[0-9a-f]{8}$")  # the end of a `safe_name` that differs from its name


class FlowsepError(ValueError):
    """Invalid input. The message names the file or key, what was found and what to do."""


# errors of the disk rather than of the data: full, over quota, file too large, read-only
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextlib.contextmanager
def writable(place: str | Path, cure: str) -> Iterator[None]:
    """Turn an OSError in the block into a FlowsepError that names `place` and the `cure`."""
    try:
        yield
    except OSError as error:
        raise FlowsepError(f"{place}: cannot write there ({error.strerror or error}); {cure}") from error


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    Readers see the old file or the whole new one, even after a kill or on a full disk. The temporary path keeps the
    suffix, by which writers such as soundfile choose their format.
    Raises FlowsepError when the folder cannot be written or is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
    with writable(path, "choose another folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
    try:
        yield temporary
        with writable(path, "choose another name"):
            temporary.chmod(mode)  # some writers make private files; results are for everybody
            temporary.replace(path)
    except OSError as error:
        if error.errno not in NO_ROOM:  # it may come from a file that the block reads
            raise
        cure = "make room or choose another folder, then run it again"
        raise FlowsepError(f"{path}: not written ({error.strerror}); {cure}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(place: str | Path, cure: str = "choose another folder") -> Iterator[None]:
    """Let one process at a time work on `place`; others print that they wait, and wait.

    The lock is a hidden file beside `place`, which stays there. The system releases it when the process ends.
    Raises FlowsepError with the `cure` where the file cannot be made or locked.
    """
    place = Path(place)
    path = place.with_name(f".{place.name}.lock")
    with contextlib.ExitStack() as held:
        with writable(path, cure):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(path.open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{place}: another process works there; waiting until it is done", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def whole_folder(target: Path, cure: str = "choose another folder") -> Iterator[Path]:
    """Yield a folder beside `target`, and move all files in it to `target` when the block ends without an error.

    The folder is locked as long as it is there; FlowsepError if another run holds it.
    """
    digest = hashlib.sha256(target.name.encode(errors="surrogateescape")).hexdigest()[:8]
    temporary = target.parent / f".{target.name[:40]}-{digest}"
    with contextlib.ExitStack() as held:
        with writable(target.parent, cure):
            temporary.mkdir(parents=True, exist_ok=True)
            lock = os.open(temporary, os.O_RDONLY)
            held.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FlowsepError(f"{target}: another run is writing to it; wait, or {cure}") from error
        try:
            for left in temporary.iterdir():  # by a run that was killed
                left.unlink()
            yield temporary
            target.mkdir(exist_ok=True)
            for file in sorted(temporary.iterdir()):
                file.replace(target / file.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_name(name: str) -> str:
    """A name as one path component; different names give different components.

    Letters of any script, digits and ` ._-()&+,` stay, an apostrophe becomes a typographic one, and every other
    character becomes `_`. So a track called `../x` or `<script>` stays inside its folder and is harmless on a page.
    A name that had to change, or that exceeds `MAX_NAME` bytes, ends in the first 8 digits of its SHA-256: `a?` and
    `a*` do not overwrite each other.
    """
    clean = re.sub(r"[^\w .\-()&+,']", "_", name).strip(" .")
    kept = clean == name and clean and not SUFFIX.search(clean)
    encoded = clean.replace("'", "’").encode()
    if kept and len(encoded) <= MAX_NAME:
        return encoded.decode()
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    short = encoded[: MAX_NAME - 10].decode(errors="ignore").rstrip(" .")
    return f"{short or '_'}-{digest}"


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8 without control characters."""
    return not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


def brief(value: Any, most: int = 200) -> str:
    """The message of an exception, or the `repr` of another value, on one line of at most `most` characters."""
    try:
        shown = " ".join(printable(str(value)).split()) if isinstance(value, BaseException) else repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits, nesting
        shown = f"a {type(value).__name__} too large to be shown"
    return shown if len(shown) <= most else f"{shown[:most]}…"


def changes(then: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """'key was a, now b' for each setting of `now` that had another value `then`; nested settings by their path."""
    for key, value in now.items():
        old = then.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            yield from changes(old, value, f"{within}{key}.")
        elif old != value:
            yield f"{within}{key} was {brief(old)}, now {brief(value)}"


def printable(text: str) -> str:
    """Text with escapes for invisible characters except line ends, such as terminal commands."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def check_size(path: str | Path, most: int) -> None:
    """Raise FlowsepError unless `path` is a plain file of at most `most` bytes."""
    path = Path(path)
    if not path.is_file():
        raise FlowsepError(f"{path}: no such file")
    if (size := path.stat().st_size) > most:
        raise FlowsepError(f"{path}: has {size:,} bytes; more than {most:,} are not read")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; FlowsepError if it is missing, too large, nested too deeply or no JSON."""
    check_size(path, MAX_JSON)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FlowsepError(f"{path}: not readable as JSON ({brief(error)})") from error


def cache_folder() -> Path:
    """The folder of generated data: `$FLOWSEP_DATA`, or `flowsep` in `$XDG_CACHE_HOME` or ~/.cache."""
    if chosen := os.environ.get("FLOWSEP_DATA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flowsep"


def song_name(path: Path) -> str:
    """The name of a song's folder of stems, where `python -m companion score` looks for it."""
    name = path.name.removesuffix(".stem.mp4") if path.name.endswith(".stem.mp4") else path.stem
    name = path.resolve().parent.name if name == "mixture" else name
    return name if name.strip(".") else path.name  # "...wav" has the stem "..", which would lead out of the folder
