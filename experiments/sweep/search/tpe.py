"""Static fields that optuna proposes, one program after the other, by what came of those before."""

import importlib
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from experiments.harness.config import Option
from experiments.harness.errors import UserError
from experiments.sweep.axes import Axis, Point, grid, rounded

TRIES = 50  # of a sampler that proposes what is known, before one of the others is taken


def proposed(
    axes: Sequence[Axis], options: Mapping[str, Option], seed: int
) -> Generator[Point, float | None, None]:
    """Yields values of the axes, each once, and is sent the score of each, None for a failure.

    Where nothing is left it ends. The same scores are followed by the same values, so a sweep that
    was killed is proposed the same again.

    Args:
      axes: the swept static fields; a range without a count is drawn from, all else listed.
      options: of the Config.
      seed: of optuna's sampler, a tree-structured Parzen estimator.

    Raises:
      UserError: where optuna is not installed.
    """
    optuna = _optuna()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    asked = {axis.field: _distribution(optuna, axis, options[axis.field]) for axis in axes}
    listed = grid(axes) if all(axis.values for axis in axes) else []
    known: list[Point] = []
    repeats = 0
    while repeats < 2 * TRIES and len(known) < (len(listed) or math.inf):
        if listed and repeats == TRIES:
            study.enqueue_trial(next(point for point in listed if point not in known))
        trial = study.ask(asked)
        point = {name: _written(options[name], value) for name, value in trial.params.items()}
        if point in known:
            repeats += 1
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        score = yield point
        study.tell(trial, score, None if score is not None else optuna.trial.TrialState.FAIL)
        known.append(point)
        repeats = 0


def _optuna() -> Any:
    try:
        optuna: Any = importlib.import_module("optuna")
    except ImportError as error:
        raise UserError(
            "--propose: optuna is not installed; RECURRENT_EXTRAS=search ./launch.sh ... brings it."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _distribution(optuna: Any, axis: Axis, option: Option) -> Any:
    kinds = optuna.distributions
    if isinstance(axis.values, range):
        return kinds.IntDistribution(axis.values[0], axis.values[-1])
    if axis.values or axis.bounds is None:
        return kinds.CategoricalDistribution(axis.values)
    kind = kinds.IntDistribution if option.type is int else kinds.FloatDistribution
    return kind(axis.bounds.low, axis.bounds.high, log=axis.bounds.scale == "log")


def _written(option: Option, value: Any) -> Any:
    return rounded(option, value) if option.type is float else value
