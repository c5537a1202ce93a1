"""Write metrics and hyperparameters as TensorBoard events."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness.disk import writing
from experiments.harness.plan import DIVERGED, Outcome
from experiments.harness.program import Row


class Events(NamedTuple):
    """Hold what adds to the events of a run; what is added is on the disk on return.

    Attributes:
      add: a row of metrics, under ``train/NAME`` and ``valid/NAME``.
      end: what became of the run, under ``best/NAME`` (on the validation split) and ``test/NAME``.
    """

    add: Callable[[Row], None]
    end: Callable[[Outcome], None]


@contextlib.contextmanager
def event_writer(
    folder: Path, hparams: Mapping[str, Any], metrics: Sequence[str]
) -> Iterator[Events]:
    """Open an event file in ``folder`` and yield the functions that add to it.

    A killed run has lost no row that its checkpoint counts. The first row makes TensorBoard forget
    what an earlier process wrote for that step and later ones.

    Args:
      folder: of the event files, one of each process that has trained.
      hparams: the fields of the Config, which begin each file.
      metrics: the names of those beside which TensorBoard's page of hyperparameters shows them.

    Raises:
      UserError: where they cannot be written.
    """
    writer: Any = None

    def write(since: int, numbers: Sequence[tuple[str, int, Any]]) -> None:
        nonlocal writer
        from tensorboardX.summary import scalar

        with writing(str(folder), folder):
            if writer is None:
                writer = _begun(folder, since, hparams, metrics)
            for name, step, value in numbers:
                if value is not None:
                    writer.write_event(_event(step, summary=scalar(name, value)))
            writer.flush()

    def add(row: Row) -> None:
        names = [name for name in row if name not in ("step", "evaluation")]
        write(row["step"], [(_tag(name), row["step"], row[name]) for name in names])

    def end(outcome: Outcome) -> None:
        write(outcome["step"] + 1, final_numbers(outcome))
        if outcome["status"] != DIVERGED:
            writer.write_event(_event(outcome["step"], summary=_hparams(hparams, metrics)[2]))
            writer.flush()

    try:
        yield Events(add, end)
    finally:
        if writer is not None:
            with writing(str(folder), folder):
                writer.close()


def final_numbers(outcome: Outcome) -> list[tuple[str, int, Any]]:
    """Return tag, step and value of each metric at the best evaluation, where there is one."""
    step = outcome["best_step"]
    best = {name: value for name, value in outcome.items() if name.startswith(("valid_", "test_"))}
    return [(_tag(name).replace("valid/", "best/"), step, best[name]) for name in best if step]


def _tag(name: str) -> str:
    return name.replace("_", "/", 1)


def _event(step: int, **content: Any) -> Any:
    from tensorboardX.proto import event_pb2

    proto: Any = event_pb2  # generated, so without types
    return proto.Event(step=step, wall_time=time.time(), **content)


def _begun(folder: Path, step: int, hparams: Mapping[str, Any], metrics: Sequence[str]) -> Any:
    # the import takes a second, so not before it is needed; and not SummaryWriter, whose
    # queue holds rows back for minutes
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

    proto: Any = event_pb2
    folder.mkdir(exist_ok=True)
    writer = EventsWriter(str(folder / "events"), f".{step}")
    writer.write_event(_event(step, session_log=proto.SessionLog(status=proto.SessionLog.START)))
    for summary in _hparams(hparams, metrics)[:2]:
        writer.write_event(_event(step, summary=summary))
    return writer


def _hparams(hparams: Mapping[str, Any], metrics: Sequence[str]) -> Any:
    """Return what the page of hyperparameters reads: of the experiment, a start and an end."""
    from tensorboardX import summary

    tags = [f"{split}/{name}" for name in metrics for split in ("best", "test")]
    return summary.hparams(dict(hparams), dict.fromkeys(tags))
