"""Keep compiled programs on disk, so that the next start need not wait for them."""

import glob
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

import jax

BEING_WRITTEN = 60  # seconds within which what is half a program may be another process's whole one
DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([^'/]+)'")


def keep_compiled_programs() -> None:
    """Keep compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where already.

    They are a convenience: a user without a home directory does without.
    """
    from experiments.data.cache import cache_dir

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
        except RuntimeError:
            return
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.filterwarnings("always", DAMAGED.pattern)  # where warnings are off, too
    if not isinstance(warnings.showwarning, Mending):
        warnings.showwarning = Mending(warnings.showwarning)


class Mending:
    """Show warnings as before, but remove a damaged program that JAX warns of.

    JAX compiles it once more, and would keep the damaged one, which is there already. It writes
    programs in place, so that one that is new may be what another process is writing: it is left,
    without a word.
    """

    def __init__(self, show: Any) -> None:
        self.show = show

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Show a warning, or remove what it is about."""
        match = DAMAGED.match(str(message))
        if match is None:
            self.show(message, category, filename, lineno, file, line)
            return
        folder = Path(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]
        entries = list(folder.glob(f"{glob.escape(match[1])}-*"))  # a few are of the same name
        if any(0 <= age(entry) < BEING_WRITTEN for entry in entries):
            return
        for entry in entries:
            entry.unlink(missing_ok=True)
        print(
            f"warning: the program {match[1]} in {folder} was damaged; it is compiled once more.",
            file=sys.stderr,
        )


def age(file: Path) -> float:
    """Return the seconds since a file was written; below 0 by a wrong clock, infinity if gone."""
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
