"""Read the paths that users write; write files whole, and tell by a hash whether they change."""

import hashlib
import os
import stat
from pathlib import Path

from experiments.harness.errors import UserError


def path_of(text: str | Path, flag: str = "") -> Path:
    """Return the path that a user has written, in which ``~`` stands for a home directory.

    Args:
      text: the path, of what may not be there yet.
      flag: what names it, such as ``"--workdir: "``, for the sentences of errors.

    Raises:
      UserError: for the home of a user that there is not, and for what cannot be a path.
    """
    expanded = os.path.expanduser(text)
    if str(expanded).startswith("~"):
        raise UserError(f"{flag}there is no home directory that the ~ of {str(text)!r} stands for.")
    path = Path(expanded)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:
        raise UserError(f"{flag}{str(text)!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # such as a null character
        raise UserError(f"{flag}{str(text)!r} is no path: {error}.") from error
    return path


def check_regular(file: Path, flag: str = "", most_bytes: float = float("inf")) -> None:
    """Raise `UserError` where a file is there and cannot be read to its end: look before reading.

    Args:
      file: its path; where nothing is there, whoever reads it says so.
      flag: what names it, for the sentence.
      most_bytes: of which a larger file is refused.
    """
    try:
        found = file.stat()
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode):  # a pipe or a device could block or never end
        raise UserError(f"{flag}{file} is no regular file.")
    if found.st_size > most_bytes:
        raise UserError(f"{flag}{file} has {found.st_size} bytes; expected at most {most_bytes}.")


def write_atomically(file: Path, text: str) -> None:
    """Replace the file in one step, so that a crash leaves the old one or the new one."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as stream:
            # a command line may hold bytes that are not UTF-8, which Python keeps as surrogates
            stream.write(text.encode("utf-8", "backslashreplace"))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def digest(file: Path) -> str:
    """Return SHA-256 of a file; nothing where it cannot be read, which its reader says better."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
