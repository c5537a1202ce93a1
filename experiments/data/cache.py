"""Where data sets and compiled programs are kept."""

import os
import sys
from pathlib import Path

from experiments.harness.errors import UserError


def data_dir() -> Path:
    """The folder of all data sets: `RECURRENT_DATA_DIR`, else one in the user's cache.

    The folder need not exist.

    Raises:
      UserError: there is no home directory to hold a cache.
    """
    chosen = os.environ.get("RECURRENT_DATA_DIR")
    try:
        return Path(chosen).expanduser() if chosen else cache_dir() / "data"
    except RuntimeError as error:
        raise UserError(
            f"Found no folder for data ({error}): set RECURRENT_DATA_DIR to one."
        ) from error


def cache_dir() -> Path:
    """The project's folder in the user's cache, which need not exist.

    Raises:
      RuntimeError: there is no home directory.
    """
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "recurrent"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "recurrent"
