"""Check what an experiment hands to the harness, before anything is compiled or written."""

import dataclasses
import functools
import sys
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.harness.catalogue import Experiment
from experiments.harness.config import hparams_of, options
from experiments.harness.errors import UserError
from experiments.harness.mistakes import explained, in_words
from experiments.harness.program import Program
from experiments.harness.user_files import describe_error, place_of_function
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
        return with_checked_training(program)
    except UserError:
        raise
    except Exception as error:
        if experiment.file is None:
            raise
        said = explained(error) or f"{experiment.word}: {in_words(error)}. --traceback shows all."
        raise UserError(said) from error


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
    who = spoken_of("Task.evaluate", program.task.evaluate)
    check_averages(who, found)
    check_names(who, found, [*(metric.name for metric in program.metrics), *program.against])


def evaluated(program: Program, hparams: Any) -> Any:
    """Return what an evaluation of an untrained state on the validation split gives."""
    task = program.task
    state = task.init(hparams)
    task.failures(state)
    valid = program.data["valid"]
    return task.evaluate(program.calibrate(task.keep(state), hparams, valid), hparams, valid)


def with_checked_training(program: Program) -> Program:
    """Return a program whose training raises a sentence where it returns something else."""
    train = program.task.train
    who = spoken_of("Task.train", train)

    @functools.wraps(train)
    def checked(*arguments: Any) -> Any:
        found = train(*arguments)
        if not isinstance(found, tuple) or len(found) != 2:
            raise UserError(
                f"{who}: expected it to return (state, metrics), got {in_shapes(found)}."
            )
        check_averages(who, found[1])
        return found

    return program._replace(task=program.task._replace(train=checked))


def spoken_of(role: str, function: Any) -> str:
    """Return what a function is to the experiment, with the place where it is defined."""
    place = place_of_function(function)
    return f"{role} ({place})" if place else role


def check_averages(who: str, found: Any) -> None:
    """Raise `UserError` where what a function has returned are no metrics.

    Args:
      who: the function, from `spoken_of`.
      found: what it has returned.
    """
    if not isinstance(found, dict):
        raise UserError(
            f"{who}: expected it to return a dict of metrics, such as "
            f'{{"error": masked_average(errors, mask)}}, got {in_shapes(found)}.'
        )
    for name, value in found.items():
        is_average = isinstance(value, Average)
        if not is_average or jnp.shape(value.total) or jnp.shape(value.weight):
            raise UserError(
                f"{who}: expected {name!r} to be a recurrent.losses.Average of two scalars, such "
                f"as recurrent.losses.masked_average makes of an array, got {in_shapes(value)}."
            )


def check_names(who: str, found: dict[str, Any], names: Iterable[str]) -> None:
    """Raise `UserError` where a metric that people compare is not among those returned."""
    for name in names:
        if name not in found:
            raise UserError(
                f"{who}: there is no metric {name!r} among those that it returns: "
                f"{', '.join(found)}. Give it the name that Metric has."
            )


def in_shapes(tree: Any) -> str:
    """Write what a function has returned in a line: structure, types and shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> in_shapes({"error": jnp.ones(3)}), in_shapes(None), in_shapes("low")
      ('{error: float32[3]}', 'None', 'str')
    """
    leaves, structure = jax.tree.flatten(tree)
    shapes = [
        f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
        for leaf in leaves
    ]
    return str(jax.tree.unflatten(structure, shapes)).replace("'", "")
