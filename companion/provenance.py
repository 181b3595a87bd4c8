"""The provenance of a score: code and state of git, packages, data, checkpoints."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from flowsep.files import sha256
from flowsep.machine import device_name

from .systems import code_of, total_costs


def run_provenance(
    profile: Any, system: Any, dataset: Any, *, name: str | None = None, variant: str = ""
) -> dict[str, Any]:
    """The columns of a score row with the origin and the costs of a system; each track adds `SPENT` and time.

    Args:
        profile: a `Profile`.
        system: of `load_system`; its checkpoints are listed as `<file>:<first 12 digits of the SHA-256>`.
        dataset: a `Dataset`, for `name` and `hash`.
        name: of the system in the table; default `system.name`.
        variant: name of another set of checkpoints; '' for the profile's own.
    """
    fitted = not getattr(system, "unavailable", "")
    checkpoints = " ".join(f"{path.name}:{sha256(path)[:12]}" for path in map(Path, system.checkpoints() * fitted))
    origin = {"profile": profile.name, "system": name or system.name, "variant": variant}
    origin |= {"kind": getattr(system, "kind", "measured")}
    origin |= {"supervision": system.supervision, "checkpoint": checkpoints}
    origin |= {"config_hash": profile.hash_of(origin["system"])} | (system.costs() if fitted else total_costs([{}]))
    origin |= {"data": dataset.name, "data_hash": dataset.hash, "seed": profile.seed, "device": device_name()}
    code = code_of(origin["system"], profile.systems.get(origin["system"]))
    return origin | git_state() | {"code": code, "versions": package_versions()}


def git_state() -> dict[str, str]:
    """`git_commit` and `git_dirty` ('yes' | 'no') of the code; both '' without git or outside a repository.

    Changes under results/ do not count: the run itself writes there.
    """
    command = ["git", "-C", str(Path(__file__).parent)]
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ":(top)", ":(top,exclude)results"]
    try:
        commit, dirty = (
            subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], changes)
        )
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": "", "git_dirty": ""}
    return {"git_commit": commit, "git_dirty": "yes" if dirty else "no"}


def package_versions() -> str:
    """The versions of Python and of the packages that can change a number, in one line."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "soxr", "flowsep")}
    return ", ".join(f"{name} {version}" for name, version in {"python": platform.python_version(), **versions}.items())
