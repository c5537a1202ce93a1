"""What an experiment hands to the harness."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

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
      init: ``numbers -> state``; the state has ``step``, ``params`` and ``skipped``.
      train: ``(state, numbers, data, steps) -> (state, metrics)``: steps of one epoch in one
        call, with metrics a dict of `recurrent.losses.Average` summed over them. ``steps`` is
        static.
      evaluate: ``(params, data) -> metrics`` over a whole split.
      data: the splits ``"train"``, ``"valid"`` and ``"test"``, each a tree of arrays.
      epochs: passes over the training split.
      steps_per_epoch: of the training split.
      metric: the name of the metric that people read.
      score: ``means of the validation metrics -> number``; the params of the highest are kept.
      pictures: ``(params, rows of metrics) -> pictures`` of the finished run.
    """

    init: Callable[[Numbers], Any]
    train: Callable[[Any, Numbers, Any, int], tuple[Any, Any]]
    evaluate: Callable[[Any, Any], Any]
    data: dict[str, Any]
    epochs: int
    steps_per_epoch: int
    metric: str
    score: Callable[[dict[str, float]], float]
    pictures: Callable[[Any, list[dict[str, Any]]], Iterator[Picture]]
