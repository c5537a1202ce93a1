"""Write files whole or not at all, and tell by a hash whether they have changed."""

import hashlib
import os
from pathlib import Path


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
