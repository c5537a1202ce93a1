"""Write metrics as TensorBoard events."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def event_writer(folder: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open an event file in ``folder`` and yield a function that adds a row of metrics to it.

    A row is on the disk when the function returns, so that a killed run has lost none that its
    checkpoint counts. The first row makes TensorBoard forget what an earlier process wrote for
    that step and later ones.
    """
    writer = None

    def write(row: dict[str, Any]) -> None:
        nonlocal writer
        # the import takes a second, so not before it is needed; and not SummaryWriter, whose
        # queue holds rows back for minutes
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        proto: Any = event_pb2  # generated, so without types
        step, now = row["step"], time.time()
        if writer is None:
            folder.mkdir(exist_ok=True)
            writer = EventsWriter(str(folder / "events"), f".{step}")
            begins = proto.SessionLog(status=proto.SessionLog.START)
            writer.write_event(proto.Event(session_log=begins, step=step, wall_time=now))
        for name, value in row.items():
            if name not in ("step", "evaluation") and value is not None:
                summary = scalar(name.replace("_", "/", 1), value)
                writer.write_event(proto.Event(summary=summary, step=step, wall_time=now))
        writer.flush()

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
