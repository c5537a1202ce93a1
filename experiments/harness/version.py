"""Say which version of the code a run is of."""

import functools
import hashlib
import importlib.metadata
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.harness.neighbors import neighbors

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("jax", "flax", "optax")


def versions() -> dict[str, str]:
    """Return the versions of the packages that numbers depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@functools.cache
def code_digest() -> str:
    """Return a hash of the library and of what all experiments pass through."""
    files = sorted(path for part in ("recurrent", "experiments") for path in _sources(ROOT / part))
    digests = (hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _sources(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if path.parent != ROOT / "experiments"]


def git_version(folder: Path, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Return the commit that a folder is at, and whether it is clean; nothing without git.

    Args:
      folder: in a repository.
      files: what must be in the commit as it is; by default all that git tracks.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    only = ["--untracked-files=all", "--", *map(str, files)] if files else ["--untracked-files=no"]
    return {"commit": commit, "clean": _git(folder, "status", "--porcelain", *only) == ""}


def own_version() -> dict[str, Any]:
    """Return the commit of this package; nothing where it is installed into another's folder."""
    top = _git(ROOT, "rev-parse", "--show-toplevel")
    return git_version(ROOT) if top and Path(top).resolve() == ROOT else {}


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code_version(file: Path | None) -> dict[str, Any]:
    """Return what ``result.json`` says of the code: versions and git commits.

    Args:
      file: of an experiment of the user's, whose folder may have commits of its own.
    """
    found = {"recurrent": importlib.metadata.version("recurrent"), **own_version()}
    if file is not None and not file.is_relative_to(ROOT):
        own = git_version(file.parent, [file, *neighbors(file)])
        found |= {f"experiment_{name}": each for name, each in own.items()}
    return found | versions()


def describe() -> str:
    """Return the versions in a line or two, with the commit where there is one."""
    import platform

    found = code_version(None)
    commit = f" (commit {found['commit'][:12]}" if "commit" in found else ""
    state = commit and (")" if found["clean"] else ", with changes)")
    packages = ", ".join(f"{name} {found[name]}" for name in PACKAGES)
    python = f"Python {platform.python_version()}"
    return f"recurrent {found['recurrent']}{commit}{state}, {packages}, {python}"
