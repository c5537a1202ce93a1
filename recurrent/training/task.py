"""What a training is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple

from recurrent.training.step import Metrics, TrainState


class Task(NamedTuple):
    """A training whose hyperparameters are traced, as pure functions of one member.

    Attributes:
      init: ``numbers -> TrainState``, with numbers a dict of scalars.
      train: ``(state, numbers, data, steps) -> (state, metrics)``, ``steps`` static.
      evaluate: ``(params, data) -> metrics``.
      score: ``means of the metrics -> number``, higher for better params.
    """

    init: Callable[[Any], TrainState]
    train: Callable[[TrainState, Any, Any, int], tuple[TrainState, Metrics]]
    evaluate: Callable[[Any, Any], Metrics]
    score: Callable[[dict[str, Any]], Any]
