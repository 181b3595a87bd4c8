"""Writing whole files or none, hashing them, and naming them safely."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path


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
    """`name` as one portable path component: letters of any script, digits and ` ._-()&+,` stay, the rest becomes `_`.

    Separators, control characters, quotes and markup cannot survive, nor a leading dot, so a track called
    `../x` or `<script>` stays inside its folder and harmless on a page.
    """
    clean = re.sub(r"[^\w .\-()&+,]", "_", name, flags=re.UNICODE).strip(" .")
    return clean[:120] or "_"


def cache_folder() -> Path:
    """Where generated data lie: `$FLOWSEP_DATA`, or `flowsep` in `$XDG_CACHE_HOME` or ~/.cache."""
    if chosen := os.environ.get("FLOWSEP_DATA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flowsep"
