"""Print what can be printed: a line that is lost must not cost a training."""

import io
import os
import select
import sys
from typing import TextIO


class _Losing(io.FileIO):
    """Write to a descriptor, and remember the first refusal in place of raising it.

    A reader that is gone is an error of stdout still, which ends what writes to nobody.
    """

    refusal: OSError | None = None

    def write(self, data: bytes, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        rest = memoryview(data)
        try:
            while rest:  # a write may take a part, and a pipe that does not wait none
                taken = super().write(rest)
                if taken is None:
                    select.select([], [self.fileno()], [])
                rest = rest[taken or 0 :]
        except OSError as error:
            if isinstance(error, BrokenPipeError) and self.fileno() == 1:
                raise
            self.refusal = self.refusal or error
        return len(data)


def open_streams() -> None:
    """Make ready what this process prints to, before it opens any file.

    A standard stream that was closed leads nowhere, since the next file opened would take its
    number, and what a library prints would go there. Characters that the encoding does not have
    are escaped.
    """
    numbers = [number for number in range(3) if not is_open(number)]
    for _ in numbers:  # each takes the lowest number that is free
        os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = losing(1, sys.stdout), losing(2, sys.stderr)


def is_open(number: int) -> bool:
    """Return whether a descriptor is open."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def losing(number: int, like: TextIO | None) -> TextIO:
    """Return a text stream to a descriptor that loses what is refused there.

    Args:
      number: the descriptor, which stays open when the stream is closed.
      like: the stream whose encoding and buffering it has; None where that was closed.
    """
    raw, at_once = _Losing(number, "wb", closefd=False), bool(os.environ.get("PYTHONUNBUFFERED"))
    return io.TextIOWrapper(
        raw if at_once else io.BufferedWriter(raw),  # pyright: ignore[reportArgumentType]
        encoding=like.encoding if like else "utf-8",
        errors="backslashreplace",
        line_buffering=number == 2 or raw.isatty(),
        write_through=at_once,
    )


def refusal_of(stream: TextIO) -> str:
    """Return why the system has refused to write to a stream; nothing where it has not."""
    buffer = getattr(stream, "buffer", None)
    found = getattr(getattr(buffer, "raw", buffer), "refusal", None)
    return found.strerror if found else ""
