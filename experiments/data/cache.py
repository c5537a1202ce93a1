"""Locate the folders for data sets and compiled programs, and keep what takes long to compute."""

import contextlib
import hashlib
import io
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.errors import UserError


def data_dir() -> Path:
    """Return the folder of all data sets, which may not exist yet.

    It is `RECURRENT_DATA_DIR` if that is set, otherwise a folder in the user's cache.

    Raises:
      UserError: if the home directory is needed and cannot be determined.
    """
    chosen = os.environ.get("RECURRENT_DATA_DIR")
    try:
        return Path(chosen).expanduser() if chosen else cache_dir() / "data"
    except RuntimeError as error:
        raise UserError(
            f"Found no folder for data ({error}): set RECURRENT_DATA_DIR to one."
        ) from error


def cache_dir() -> Path:
    """Return the project's folder in the user's cache, which may not exist yet.

    Raises:
      RuntimeError: if the home directory cannot be determined.
    """
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "recurrent"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "recurrent"


def computed_dir() -> Path:
    """Return the folder of what `computed_once` keeps, which may not exist yet.

    Raises:
      RuntimeError: if the home directory cannot be determined.
    """
    return cache_dir() / "computed"


def computed_once(name: str, key: str, compute: Callable[[], Sequence[Any]]) -> list[np.ndarray]:
    """Return the arrays that ``compute()`` returns, after the first time from the user's cache.

    What is kept is compared with a hash of it, and computed anew where it was damaged. Without a
    home directory, or where the cache cannot be written, it is computed each time.

    Args:
      name: of what is computed; the first part of the file's name.
      key: a hash of all that it depends on.
      compute: what takes long.
    """
    try:
        file = computed_dir() / f"{name}-{key[:32]}.npz"
    except RuntimeError:
        return [np.asarray(each) for each in compute()]
    found = _read_arrays(file)
    if found is None:
        found = [np.asarray(each) for each in compute()]
        with contextlib.suppress(OSError):
            _write_arrays(file, found)
    return found


def _read_arrays(file: Path) -> list[np.ndarray] | None:
    try:
        with open(file, "rb") as stream:
            expected, data = stream.read(64), stream.read()
        if hashlib.sha256(data).hexdigest().encode() != expected:
            return None
        with np.load(io.BytesIO(data)) as arrays:
            return [arrays[each] for each in arrays.files]
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _write_arrays(file: Path, arrays: list[np.ndarray]) -> None:
    stream = io.BytesIO()
    np.savez(stream, *arrays)
    data = stream.getvalue()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_bytes(hashlib.sha256(data).hexdigest().encode() + data)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
