"""TensorBoard events."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def event_writer(folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yields a function that adds a row of metrics to the event file in ``folder``."""
    writer = None

    def write(row: dict[str, Any]) -> None:
        nonlocal writer
        if writer is None:  # the import takes a second, so not before it is needed
            from tensorboardX import SummaryWriter

            writer = SummaryWriter(str(folder), purge_step=row["step"])
        for name, value in row.items():
            if name not in ("step", "epoch") and value is not None:
                writer.add_scalar(name.replace("_", "/", 1), value, row["step"])

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
