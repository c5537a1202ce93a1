"""Write files whole or not at all."""

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
