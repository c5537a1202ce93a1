"""Say in a sentence why a file system refuses to write."""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.harness.errors import UserError

MENDED = "Once that is mended, the same command goes on."


@contextlib.contextmanager
def writing(what: str, path: Path, then: Callable[[], str] = lambda: MENDED) -> Iterator[None]:
    """Raise `UserError`, in a sentence, for what the file system refuses meanwhile.

    Args:
      what: is written, as the subject of the sentence.
      path: where it is written.
      then: is called for a sentence of what is there still, and what to do.
    """
    try:
        yield
    except Exception as error:
        reason = refusal(error)
        if not reason:
            raise
        raise UserError(f"{what} cannot be written: {reason} ({room(path)}). {then()}") from error


def refusal(error: Exception) -> str:
    """Return why the system refused; nothing for another error.

    Example:
      >>> refusal(PermissionError(13, "Permission denied"))
      'Permission denied'
      >>> refusal(ValueError("Failed to write 9 bytes [os_error_code='28']"))
      'No space left on device'
      >>> refusal(ValueError("expected 3 rows"))
      ''
    """
    found = re.search(r"os_error_code='(\d+)'", str(error))  # so says TensorStore
    number = int(found[1]) if found else getattr(error, "errno", None)
    return os.strerror(number) if number else ""


def room(path: Path) -> str:
    """Say on which file system a path is, and how much room it has."""
    place = next(each for each in [path.absolute(), *path.absolute().parents] if each.exists())
    free = shutil.disk_usage(place).free / 1e6
    while not os.path.ismount(place):
        place = place.parent
    return f"the file system at {place} has {free:.1f} MB free"
