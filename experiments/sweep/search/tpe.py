"""Let optuna propose static fields, one program after the other, by what came of those before."""

import importlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from experiments.harness.config import Option
from experiments.harness.errors import UserError
from experiments.harness.plan import Values
from experiments.sweep.axes import Axis, grid, rounded
from experiments.sweep.search import Batch, Tried

TRIES = 50  # of a sampler that proposes what is known, before one of the others is taken


def ask_tpe(
    axes: Sequence[Axis],
    options: Mapping[str, Option],
    members: Sequence[Values],
    programs: int,
    seed: int,
) -> Callable[[Sequence[Tried]], Batch | None]:
    """Return the function that proposes static fields, and trains all of ``members`` by each.

    The same scores are followed by the same proposals, so a sweep that was killed goes on as it
    would have.

    Args:
      axes: the swept static fields; a range without a count is drawn from, all else listed.
      options: of the Config.
      members: the swept traced fields of the members of each program.
      programs: how many are proposed, those that the experiment refuses left out.
      seed: of optuna's sampler, a tree-structured Parzen estimator.
    """

    def ask(tried: Sequence[Tried]) -> Batch | None:
        number = sum(not each.refused for each in tried)
        if number == programs:
            return None
        points = proposed(axes, options, seed)
        try:
            static = next(points)
            for each in tried:
                static = points.send(each.score)
        except StopIteration:
            return None
        first = number * len(members)
        names = list(range(first, first + len(members)))
        return Batch(static, [static | own for own in members], names)

    return ask


def proposed(
    axes: Sequence[Axis], options: Mapping[str, Option], seed: int
) -> Generator[Values, float | None, None]:
    """Yield values of the axes, each once; take in the score of each, None for a failure.

    Where nothing is left it ends.

    Raises:
      UserError: where optuna is not installed.
    """
    optuna = _optuna()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    asked = {axis.field: _distribution(optuna, axis, options[axis.field]) for axis in axes}
    listed = grid(axes) if all(axis.values for axis in axes) else []
    known: list[Values] = []
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
