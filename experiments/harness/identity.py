"""Say what a run is: what must be the same for it to be gone on with."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from experiments.harness.config import options


def identity_of(experiment: str, config: Any) -> dict[str, Any]:
    """Return the experiment, all fields of its Config, and hashes of the files that they name."""
    return {
        "experiment": experiment,
        "config": dataclasses.asdict(config),
        "sources": source_hashes(config),
    }


def source_hashes(config: Any) -> dict[str, str]:
    """Return the hash of each file of the user's that a Config names, so that an edit is noticed.

    A field declared with ``file=True`` holds ``PATH`` or ``PATH:NAME``; one that names no file
    has no hash.
    """
    found = {
        name: file_hash(getattr(config, name))
        for name, field in options(config).items()
        if field.file
    }
    return {name: digest for name, digest in found.items() if digest}


def file_hash(value: str) -> str | None:
    """Return SHA-256 of the file in ``PATH`` or ``PATH:NAME``; None where there is none.

    A file that cannot be read counts as none; whoever reads it says so better.
    """
    for text in (value, value.rpartition(":")[0]):
        path = Path(text).expanduser()
        try:
            if text and path.is_file():
                return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            return None
    return None
