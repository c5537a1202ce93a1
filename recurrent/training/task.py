"""Describe a training as pure functions over a state that only they can read.

Supervised learning, a game of two networks and reinforcement learning differ in what a state
holds and in what a step does with it; to whoever runs them, all of them are a `Task`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from recurrent.errors import ArgumentError
from recurrent.losses import Average

State = Any  # whatever a task needs from step to step: params, moments, keys, environments
HParams = dict[str, Any]  # traced hyperparameters by name, the seed among them
Data = Any  # a tree of arrays, () for a task that makes its own
Kept = Any  # what an evaluation needs and the best of which is kept
Metrics = dict[str, Average]


def weights_of(state: Any) -> Any:
    """Return the weights to evaluate, for a task whose state is a `TrainState`.

    Raises:
      ValueError: for another state, whose task must say what to keep.
    """
    if not hasattr(state, "weights"):
        raise ArgumentError(
            f"keep: expected a TrainState, got {type(state).__name__}; give the Task one."
        )
    return state.weights


def skipped_steps(state: Any) -> Array:
    """Return how many steps in a row were skipped, for a task whose state is a `TrainState`.

    Raises:
      ValueError: for another state, whose task must say what a failure is.
    """
    if not hasattr(state, "skipped"):
        raise ArgumentError(
            f"failures: expected a TrainState, got {type(state).__name__}; give the Task one."
        )
    return state.skipped


class Task(NamedTuple):
    """Hold the functions of one training; hyperparameters are traced, so any of them sweeps.

    Attributes:
      init: ``hparams -> state``, before the first step.
      train: ``(state, hparams, data, steps) -> (state, metrics)``: take ``steps`` steps (a Python
        integer). How many updates a step makes is the task's own affair. The state, not the
        caller, knows how far it has come.
      evaluate: ``(kept, hparams, data) -> metrics``.
      keep: ``state -> kept``: what evaluation needs, the best of which is kept. By default the
        weights of a `TrainState`; with a GAN perhaps the generator's average, in reinforcement
        learning the policy and the statistics of its observations.
      failures: ``state -> []``, an integer: the bad steps in a row up to now. By default the
        skipped steps of a `TrainState`.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.losses import Average
      >>> def train(state, hparams, data, steps):
      ...     return state - steps * hparams["rate"] * state, {}
      >>> task = Task(
      ...     init=lambda hparams: jnp.float32(1),
      ...     train=train,
      ...     evaluate=lambda kept, hparams, data: {"size": Average(kept, jnp.float32(1))},
      ...     keep=lambda state: state,
      ...     failures=lambda state: jnp.int32(0),
      ... )
      >>> state, _ = task.train(task.init({}), {"rate": 0.25}, (), 2)
      >>> float(task.evaluate(task.keep(state), {}, ())["size"].mean)
      0.5
    """

    init: Callable[[HParams], State]
    train: Callable[[State, HParams, Data, int], tuple[State, Metrics]]
    evaluate: Callable[[Kept, HParams, Data], Metrics]
    keep: Callable[[State], Kept] = weights_of
    failures: Callable[[State], Array] = skipped_steps


class Metric(NamedTuple):
    """Name a metric, say which direction is better, and how people read its value.

    Attributes:
      name: its key among the metrics that a task returns.
      higher_is_better: True for an accuracy or a return, False for a loss.
      format: how a value is written, such as ``"{:.2%}"`` for an accuracy, with the unit in words
        where there is one.

    Example:
      >>> accuracy = Metric("accuracy", higher_is_better=True, format="{:.1%}")
      >>> accuracy.text(0.5), accuracy.score(0.5), accuracy.text(None)
      ('50.0%', 0.5, 'not finite')
      >>> loss = Metric("loss", higher_is_better=False, format="{:.3f} nats a word")
      >>> loss.text(3.5), loss.number(3.5), loss.unit
      ('3.500 nats a word', '3.500', 'nats a word')
    """

    name: str
    higher_is_better: bool
    format: str = "{:.4g}"

    def score(self, value: Any) -> Any:
        """Return the value with the sign that makes higher better."""
        return value if self.higher_is_better else -value

    def text(self, value: float | None) -> str:
        """Write a value for people; None is a value that was not finite."""
        return "not finite" if value is None else self.format.format(value)

    def number(self, value: float | None) -> str:
        """Write a value as `text` does, without its unit in words."""
        return "not finite" if value is None else self.format.partition(" ")[0].format(value)

    @property
    def unit(self) -> str:
        """Return the unit in words, or an empty text."""
        return self.format.partition(" ")[2]
