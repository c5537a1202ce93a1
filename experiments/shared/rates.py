"""Measure in an evaluation at which rates gradients travel, and small differences grow."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import recurrent
from recurrent.gradients import log_gradient_by_lag, lyapunov_exponents
from recurrent.losses import masked_average
from recurrent.training.task import Metrics

AGAINST = ("exponent", "slope")  # what a population is drawn against
SPECTRAL = ("remembered",)  # and this, where the whole spectrum is measured
LEAST = math.log(1e-37)  # a step; where nothing comes through at all, it is minus infinity
WHOLE = 64  # numbers of a state; the spectrum of more takes longer than the training


def rates(cell: recurrent.Cell, params: Any, xs: Array, mask: Array) -> Metrics:
    """Return how gradients travel through the cell, in nats a step.

    ``"slope"`` is the mean rate at which one from the last output grows from each step to the one
    before, ``"exponent"`` that at which small differences between states grow from step to step.
    See `spectrum` for further ones.
    """
    own = params["layer_0"]
    logs = log_gradient_by_lag(cell, own, xs, jax.random.key(0))
    slopes = jnp.where(jnp.isfinite(logs[-1]), (logs[-1] - logs[0]) / (len(xs) - 1), LEAST)
    exponents = lyapunov_exponents(cell, own, xs, jax.random.key(0), count=1)[..., 0]
    found = {
        "slope": masked_average(slopes, mask),
        "exponent": masked_average(jnp.maximum(exponents, LEAST), mask),
    }
    return found | (spectrum(cell, own, xs[:, 0], mask[0]) if has_spectrum(cell) else {})


def spectrum(cell: recurrent.Cell, params: Any, xs: Array, real: Array) -> Metrics:
    """Return what the whole Lyapunov spectrum of one sequence says.

    ``"exponent_median"`` is the middle one of all exponents, ``"remembered"`` the share of the
    directions in which a small difference fades to no less than 1/e from the first to the last
    step.

    Args:
      cell: the cell.
      params: of the cell.
      xs: inputs ``[T, D]``.
      real: whether the sequence is no padding ``[]``.
    """
    found = jnp.maximum(lyapunov_exponents(cell, params, xs, jax.random.key(0)), LEAST)
    return {
        "exponent_median": masked_average(jnp.median(found), real),
        "remembered": masked_average((found >= -1 / len(xs)).mean(), real),
    }


def has_spectrum(cell: recurrent.Cell) -> bool:
    """Return whether the state is so small that its whole spectrum is measured."""

    def first(key: Array) -> Any:
        return cell.initial_state(cell.init(key), ())

    leaves = jax.tree.leaves(jax.eval_shape(first, jax.random.key(0)))
    return sum(leaf.size for leaf in leaves) <= WHOLE
