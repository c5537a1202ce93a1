"""Check the numbers that the files of a run hold before they are computed with."""

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.harness.errors import UserError

LARGEST = 2**1000  # what a float holds
METRICS = ("train_", "valid_", "test_")


def checked_row(file: Path, row: Any, whole: Iterable[str] = ()) -> dict[str, Any]:
    """Return an object whose metrics are numbers or None.

    Args:
      file: it was read from, for the sentence of an error.
      row: what was read.
      whole: the fields that must be there and be whole numbers.

    Raises:
      UserError: where it is something else.

    Example:
      >>> checked_row(Path("metrics.jsonl"), {"step": 3, "valid_loss": None}, ["step"])
      {'step': 3, 'valid_loss': None}
    """
    if not isinstance(row, dict):
        raise damaged(file, f"expected an object, got {reprlib.repr(row)}")
    for name in whole:
        if type(row.get(name)) is not int or not is_number(row[name]):
            raise damaged(file, f"{name} is {reprlib.repr(row.get(name))}, not a whole number")
    for name, value in row.items():
        if name.startswith(METRICS) and value is not None and not is_number(value):
            raise damaged(file, f"{name} is {reprlib.repr(value)}, not a number")
    return row


def is_number(value: Any) -> bool:
    """Return whether a value is a number that a float holds; true and false are none."""
    return type(value) is float or (type(value) is int and abs(value) < LARGEST)


def damaged(file: Path, reason: str) -> UserError:
    """Return the error of a file that holds something else than was written."""
    return UserError(f"{file} is damaged: {reason}. Restore it, or use --overwrite.")
