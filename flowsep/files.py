"""Writing whole files or none, hashing them, and naming them safely."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The most that is read of files that others may have made; beyond, they are refused before they fill the memory.
MAX_PROFILE = 256 * 1024  # bytes of a YAML file
MAX_VALUES = 20_000  # in a profile, with what its aliases repeat
MAX_DEPTH = 32  # of mappings and lists within each other, in a profile
MAX_ALIASES = 200  # in a profile
MAX_HEADER = 16 * 2**20  # bytes of the header of a .safetensors file
MAX_JSON = 64 * 2**20  # bytes
MAX_TABLE = 256 * 2**20  # bytes of a CSV file
MAX_SAMPLES = 2**29  # of all channels of a sound that is read whole: 1.7 hours in stereo, 2 GB; streams have no limit
SAMPLE_RATES = (1_000, 1_000_000)  # Hz
MAX_NAME = 120  # bytes of a `safe_name`
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names of devices on Windows
SUFFIX = re.compile(r"-[0-9a-f]{8}$")  # of a name that was changed


class FlowsepError(ValueError):
    """A wrong input, told in one sentence: which file or key, what was found, what to do."""


# what a system says when the place itself takes no more, whatever is written: full, over a quota or a limit, read-only
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextlib.contextmanager
def writable(place: str | Path, cure: str) -> Iterator[None]:
    """Turn the system's refusal to make something at `place` into a FlowsepError that names it and the `cure`."""
    try:
        yield
    except OSError as error:
        raise FlowsepError(f"{place}: cannot write there ({error.strerror or error}); {cure}") from error


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` if the block ends well, remove it if not.

    A reader therefore sees the old file or the whole new one, never a part, also after a kill or on a full disk.
    The temporary name keeps the suffix, because writers such as soundfile choose their format by it.
    Raises FlowsepError when the folder cannot be written, or takes no more while the block writes.
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
            temporary.chmod(mode)  # some writers make private files; these are results, meant to be read
            temporary.replace(path)
    except OSError as error:
        if error.errno not in NO_ROOM:  # else it may be about what the block reads
            raise
        cure = "make room or choose another folder, then run it again"
        raise FlowsepError(f"{path}: not written ({error.strerror}); {cure}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(place: str | Path, cure: str = "choose another folder") -> Iterator[None]:
    """One process at a time works on `place`: another says that it waits, and waits. The lock ends with its process.

    It is a hidden file beside `place`, which stays: its name is `place`'s, not this run's.
    Raises FlowsepError with the `cure` where that file cannot be made or locked.
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


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_name(name: str) -> str:
    """`name` as one portable path component; different names never become the same.

    Letters of any script, digits and ` ._-()&+,` stay, an apostrophe becomes a typographic one, the rest `_`: no
    separators, control characters, quotes, markup, leading dots or names of devices, so that a track called `../x` or
    `<script>` stays inside its folder and harmless on a page. What was changed, or is longer than `MAX_NAME` bytes,
    ends in the first 8 digits of the SHA-256 of the name, so that `a?` and `a*` do not overwrite each other.
    """
    clean = re.sub(r"[^\w .\-()&+,']", "_", name).strip(" .")
    kept = clean == name and clean and not RESERVED.fullmatch(clean) and not SUFFIX.search(clean)
    clean = clean.replace("'", "’").encode()
    if kept and len(clean) <= MAX_NAME:
        return clean.decode()
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    short = clean[: MAX_NAME - 10].decode(errors="ignore").rstrip(" .")
    if RESERVED.fullmatch(f"{short}-{digest}"):
        short = f"_{short}"
    return f"{short or '_'}-{digest}"


def is_text(name: str) -> bool:
    """Has it no control characters, and no bytes that are no UTF-8 (as names on a disk may), so that it can be told?"""
    return not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


def brief(value: Any, most: int = 200) -> str:
    """What an exception says, or `repr` of any other value, of whatever size, on one line of `most` characters."""
    try:
        shown = " ".join(printable(str(value)).split()) if isinstance(value, BaseException) else repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits, nesting
        shown = f"a {type(value).__name__} too large to be shown"
    return shown if len(shown) <= most else f"{shown[:most]}…"


def printable(text: str) -> str:
    """Text with escapes for all that cannot be seen but ends of lines, such as what commands a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def check_size(path: str | Path, most: int) -> None:
    """Raise FlowsepError for what is no plain file, or has more than `most` bytes."""
    path = Path(path)
    if not path.is_file():
        raise FlowsepError(f"{path}: no such file")
    if (size := path.stat().st_size) > most:
        raise FlowsepError(f"{path}: has {size:,} bytes; more than {most:,} are not read")


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. FlowsepError for one that is missing, too large, nested too deeply or no JSON."""
    check_size(path, MAX_JSON)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FlowsepError(f"{path}: not readable as JSON ({brief(error)})") from error


def cache_folder() -> Path:
    """Where generated data lie: `$FLOWSEP_DATA`, or `flowsep` in `$XDG_CACHE_HOME` or ~/.cache."""
    if chosen := os.environ.get("FLOWSEP_DATA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flowsep"
