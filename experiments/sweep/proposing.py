"""Static fields that optuna proposes, one program after the other, by what came of those before."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config import Option
from experiments.errors import UserError
from experiments.sweep.axes import Axis, Point

TRIES = 200  # after which what is proposed again and again is taken for all that there is


def proposed(
    axes: Sequence[Axis],
    options: Mapping[str, Option],
    scores: Sequence[float | None],
    seed: int,
) -> Point | None:
    """The values of the next program; None where all have been tried.

    It is a function of its arguments alone, since a sweep that was killed must be proposed the same
    again: the study is made anew, and asked and told all that came before.

    Args:
      axes: the swept static fields.
      options: of the Config.
      scores: of the programs so far, in their order: that of the best setting, None without one.
      seed: of optuna's sampler, a tree-structured Parzen estimator.

    Raises:
      UserError: where optuna is not installed.
    """
    optuna = _optuna()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    asked = {axis.field: _distribution(optuna, axis, options[axis.field]) for axis in axes}
    known: dict[tuple[Any, ...], float | None] = {}
    for score in [*scores, None]:
        trial = _new_trial(study, asked, known)
        if trial is None or len(known) == len(scores):
            return trial and dict(trial.params)
        known[tuple(trial.params.items())] = score
        _tell(study, trial, score)
    return None


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
    if axis.bounds is None and not isinstance(axis.values, range):
        return kinds.CategoricalDistribution(axis.values)
    scale, low, high = axis.bounds or ("linear", axis.values[0], axis.values[-1])
    kind = kinds.IntDistribution if option.type is int else kinds.FloatDistribution
    return kind(low, high, log=scale == "log")


def _new_trial(study: Any, asked: Any, known: Mapping[tuple[Any, ...], float | None]) -> Any:
    """A trial of values that are not known; those that are get their scores again."""
    for _ in range(TRIES):
        trial = study.ask(asked)
        values = tuple(trial.params.items())
        if values not in known:
            return trial
        _tell(study, trial, known[values])
    return None


def _tell(study: Any, trial: Any, score: float | None) -> None:
    if score is None:
        study.tell(trial, state=_optuna().trial.TrialState.FAIL)
    else:
        study.tell(trial, score)
