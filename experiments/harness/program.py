"""What an experiment hands to the harness."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from recurrent.training.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = dict[str, Any]  # the traced fields of the Config


class Picture(NamedTuple):
    """One figure of the report.

    Attributes:
      name: of its PNG file, without the ending.
      heading: what it shows.
      caption: how to read it.
      figure: a matplotlib figure.
    """

    name: str
    heading: str
    caption: str
    figure: "Figure"


class Program(NamedTuple):
    """A training run as pure functions over one state; the harness jits them.

    Attributes:
      task: its functions. ``train`` takes steps of one epoch; the params of the highest ``score``
        on the validation split are kept.
      data: the splits ``"train"``, ``"valid"`` and ``"test"``, each a tree of arrays.
      epochs: passes over the training split.
      steps_per_epoch: of the training split.
      metric: the name of the metric that people read.
      pictures: ``(params, rows of metrics) -> pictures`` of the finished run.
    """

    task: Task
    data: dict[str, Any]
    epochs: int
    steps_per_epoch: int
    metric: str
    pictures: Callable[[Any, list[dict[str, Any]]], Iterator[Picture]]


def lowest_loss(means: dict[str, Any]) -> Any:
    """A score. On a small split, metrics such as accuracy tie too often to choose by."""
    return -means["loss"]


def best_step(rows: list[dict[str, Any]]) -> int | None:
    """The step whose params `lowest_loss` chose."""
    finite = [row for row in rows if row.get("valid_loss") is not None]
    return min(finite, key=lambda row: row["valid_loss"])["step"] if finite else None
