"""Check what an experiment's own functions return, and say where the one is that will not do.

Their results are looked at while JAX traces them, so a training takes no longer.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.harness.checks import check_averages, check_names, in_shapes, spoken_of
from experiments.harness.config import options
from experiments.harness.errors import UserError
from recurrent.training import minibatch
from recurrent.training.task import Metric

MEASURED = "params, batch, hparams"
LOST = "params, batch, key, hparams"


def checked_measure(
    measure: Callable[..., Any], metrics: Sequence[Metric] = (), *, carries: bool = False
) -> Callable[..., Any]:
    """Return an experiment's ``measure``, which raises a sentence where it returns no metrics.

    Args:
      measure: ``(...) -> metrics``.
      metrics: that must be among them.
      carries: whether it returns ``(metrics, carry)``.
    """
    who = spoken_of("measure", measure)
    check_takes(who, measure, "params, batch, carry, hparams" if carries else MEASURED)

    @functools.wraps(measure)
    def checked(*arguments: Any) -> Any:
        found = measure(*arguments)
        own = check_pair(who, found, "(metrics, carry)")[0] if carries else found
        check_averages(who, own)
        check_names(who, own, (metric.name for metric in metrics))
        return found

    return checked


def checked_loss(loss: Callable[..., Any], *, carries: bool = False) -> Callable[..., Any]:
    """Return an experiment's ``loss``, which raises a sentence where it returns something else.

    Args:
      loss: ``(...) -> (scalar, metrics)``.
      carries: whether it returns ``(scalar, (metrics, carry))``.
    """
    who = spoken_of("loss", loss)
    check_takes(who, loss, "params, batch, key, carry, hparams" if carries else LOST)
    form = "(scalar, (metrics, carry))" if carries else "(scalar, metrics)"

    @functools.wraps(loss)
    def checked(*arguments: Any) -> Any:
        found = loss(*arguments)
        value, rest = check_pair(who, found, form)
        check_scalar(who, value)
        check_averages(who, check_pair(who, rest, "(metrics, carry)")[0] if carries else rest)
        return found

    return checked


def check_takes(who: str, function: Callable[..., Any], names: str) -> None:
    """Raise `UserError` where a function cannot be called with as many arguments as these."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # Python does not know
        return
    try:
        signature.bind(*names.split(", "))
    except TypeError as error:
        taken = ", ".join(signature.parameters)
        raise UserError(f"{who}: expected it to take ({names}), got ({taken}).") from error


def check_metrics(metrics: Sequence[Any]) -> None:
    """Raise `UserError` where something else is given in the place of a `Metric`."""
    for each in metrics:
        if not isinstance(each, Metric):
            raise UserError(
                'select, report: expected a recurrent.training.Metric, such as Metric("error", '
                f"higher_is_better=False), got {each!r}."
            )


def check_pair(who: str, found: Any, form: str) -> Any:
    """Return what a function has returned.

    Raises:
      UserError: where it is no tuple of two.
    """
    if not isinstance(found, tuple) or len(found) != 2 or hasattr(found, "_fields"):
        raise UserError(f"{who}: expected it to return {form}, got {in_shapes(found)}.")
    return found


def check_scalar(who: str, value: Any) -> None:
    """Raise `UserError` where what is to be minimized is not one number."""
    is_one = jax.tree.structure(value) == jax.tree.structure(0) and jnp.shape(value) == ()
    if not is_one or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise UserError(
            f"{who}: expected it to return one floating-point number first, which is minimized, "
            f"such as the mean of an Average, got {in_shapes(value)}."
        )


def try_loss(
    loss: Callable[..., Any],
    init: Callable[..., Any],
    data: dict[str, Any],
    config: Any,
) -> None:
    """Trace a loss of the user's own once, before a run directory is made for its training.

    Raises:
      UserError: where it returns something else than a loss does.
    """
    if str(getattr(loss, "__module__", "")).startswith(("experiments.", "recurrent.")):
        return  # it has tests
    one = {name: array[:1] for name, array in data.items()}
    first = jnp.zeros(config.batch_size, int)

    def arguments() -> Any:
        traced = {name: each for name, each in options(config).items() if each.traced}
        hparams = {name: jnp.asarray(each.type(each.default)) for name, each in traced.items()}
        return minibatch.take(one, first, first == 0), jax.random.key(0), hparams

    def call(batch: Any, key: Any, hparams: Any) -> Any:
        return loss(init(key), batch, key, hparams)

    jax.eval_shape(call, *jax.eval_shape(arguments))
