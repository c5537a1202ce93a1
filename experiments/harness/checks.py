"""Check what an experiment hands to the harness, before anything is compiled or written."""

import dataclasses
import functools
import sys
from collections.abc import Iterable
from typing import Any

import jax

from experiments.harness.catalogue import Experiment
from experiments.harness.config import hparams_of, options
from experiments.harness.errors import UserError
from experiments.harness.mistakes import explained, in_words
from experiments.harness.program import Program
from experiments.harness.user_files import describe_error
from recurrent.losses import Average

SPLITS = ("train", "valid", "test")


def checked_program(experiment: Experiment, config: Any, swept: Iterable[str] = ()) -> Program:
    """Return the program of an experiment.

    Args:
      experiment: what is trained.
      config: its Config.
      swept: traced fields that differ between the members of one program, which it therefore must
        not read from the Config.

    Raises:
      UserError: where its splits, task and metrics do not fit together, and for whatever a file
        of the user's raises.
    """
    try:
        program = made_program(experiment, guarded(config, swept) if swept else config)
        check_program(program, config)
    except UserError:
        raise
    except Exception as error:
        if experiment.file is None:
            raise
        said = explained(error) or f"{experiment.word}: {in_words(error)}. --traceback shows all."
        raise UserError(said) from error
    return program


def guarded(config: Any, fields: Iterable[str]) -> Any:
    """Return a Config like this one that refuses to be asked for some of its fields."""
    values = {name: getattr(config, name) for name in options(config)}
    return _guarding(type(config), frozenset(fields))(**values)


@functools.cache
def _guarding(cls: type, fields: frozenset[str]) -> type:
    def get(self: Any, name: str) -> Any:
        if name in fields and sys._getframe(1).f_code.co_filename not in _OF_DATACLASSES:
            raise UserError(
                f"The field {name!r} is traced and swept, but the experiment reads it from its "
                f"Config, where all members have one value: read hparams[{name!r}] where a batch "
                "is measured, or declare it without traced=True."
            )
        return object.__getattribute__(self, name)

    return type(cls.__name__, (cls,), {"__getattribute__": get})


# What compares, copies and prints a Config may see all of it; methods are made from a string.
_OF_DATACLASSES = (dataclasses.__file__, "<string>")


def made_program(experiment: Experiment, config: Any) -> Program:
    """Call an experiment's ``program``.

    Raises:
      UserError: where a file of the user's returns something else, or exits.
    """
    try:
        program = experiment.module.program(config)
    except SystemExit as error:
        reason = describe_error(error, experiment.word)
        raise UserError(f"program of {experiment.word}: {reason}.") from error
    if not isinstance(program, Program):
        raise UserError(
            f"program of {experiment.word}: expected it to return an "
            f"experiments.harness.program.Program, got {type(program).__name__}."
        )
    return program


def check_program(program: Program, config: Any) -> None:
    """Raise `UserError` where a program's splits, task and metrics do not fit together."""
    missing = [split for split in SPLITS if split not in program.data]
    if missing:
        raise UserError(
            f"Program.data: expected the splits {', '.join(SPLITS)}, got none called "
            f"{missing[0]!r}; give () where the task makes its own data."
        )
    hparams = {name: value[0] for name, value in hparams_of(config).items()}
    try:
        found = jax.eval_shape(lambda hparams: evaluated(program, hparams), hparams)
    except ValueError as error:
        said = explained(error) or f"The program cannot be evaluated: {error}"
        raise UserError(said) from error
    check_metrics(program, found)


def evaluated(program: Program, hparams: Any) -> Any:
    """Return what an evaluation of an untrained state on the validation split gives."""
    task = program.task
    state = task.init(hparams)
    task.failures(state)
    return task.evaluate(task.keep(state), hparams, program.data["valid"])


def check_metrics(program: Program, found: Any) -> None:
    """Raise `UserError` where an evaluation does not give the metrics that the program names."""
    for name, value in found.items():
        if not isinstance(value, Average) or value.total.shape or value.weight.shape:
            raise UserError(
                f"Task.evaluate: expected {name!r} to be a recurrent.losses.Average of two "
                f"scalars, such as recurrent.losses.masked_average returns, got {value}."
            )
    for metric in program.metrics:
        if metric.name not in found:
            raise UserError(
                f"Program.select, Program.report: there is no metric {metric.name!r} among those "
                f"that the task evaluates: {', '.join(found)}."
            )
