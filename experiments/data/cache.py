"""Locate the folders for data sets and compiled programs."""

import os
import sys
from pathlib import Path

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
