"""Rescale a map of a sequence by steps first and features second."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from recurrent.errors import ArgumentError
from recurrent.explain._inputs import (
    Explain,
    Problem,
    baselines_of,
    check_number,
    in_batches,
    map_of,
    prepare,
)


def two_step_map(
    explain: Explain,
    xs: Any,
    *,
    baseline: Any = None,
    lengths: Any = None,
    quantile: float | None = None,
    each_step: bool = True,
    batch_size: int = 32,
) -> Array:
    """Multiply how much a map depends on a step by how much it depends on a feature there.

    Maps of recurrent networks often tell when without telling which feature, or the reverse
    (temporal saliency rescaling).

    Equation: with ``R(x)`` the map of any method, ``R'[t, i] = time[t] * feature[t, i]``, where
    ``time[t] = sum of |R(x) - R(x with all of step t replaced)|``, and ``feature[t, i]`` the same
    with feature i of step t replaced alone.

    Args:
      explain: R, ``xs -> map [B, ...]``, or what holds one as its ``map``, such as ``lambda
        xs: gradient(f, xs, lengths=lengths)``.
      xs: sequences ``[B, T, F]``.
      baseline: broadcasts to the inputs, what is seen instead; 0 by default.
      lengths: integers ``[B]``, which R should be given as well.
      quantile: of each example's ``time``: steps that do not exceed it get 0; None for all steps.
      each_step: False replaces feature i at all steps at once, which takes T + F maps instead of T
        (1 + F), and gives one number for each feature.
      batch_size: how many maps are computed at once, of the whole batch.

    Returns:
      ``[B, T, F]``, from 0 up; 0 in padding.

    Raises:
      ValueError: for inputs other than ``[B, T, F]``, a quantile that is not from 0 to 1, or a
        baseline or lengths that do not fit.
      TypeError: where R gives no map.

    References:
      Ismail et al. 2020, Benchmarking deep learning interpretability in time series predictions,
      arXiv:2010.13924, algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import gradient, two_step_map
      >>> f = lambda xs: xs[:, 1, 0] ** 2  # of step 1 and feature 0 alone
      >>> two_step_map(lambda xs: gradient(f, xs), jnp.ones((1, 2, 2))).tolist()
      [[[0.0, 0.0], [4.0, 0.0]]]
    """
    problem = prepare(lambda *_: jnp.zeros(0), xs, lengths)
    xs = problem.xs
    if xs.ndim != 3:
        raise ArgumentError(f"xs: expected sequences [B, T, F], got {list(xs.shape)}.")
    if quantile is not None:
        check_number("quantile", quantile, lambda q: (q >= 0) & (q <= 1), "0 to 1")
    _, time, features = xs.shape
    base = baselines_of(problem, baseline)[0]
    whole = map_of("explain", explain(xs), xs)
    places = jnp.indices((time, features), sparse=True)

    def change(item: tuple[Array, Array]) -> Array:
        """Return what the map loses without a step and a feature, -1 for all of them."""
        step, feature = item
        hidden = ((step < 0) | (places[0] == step)) & ((feature < 0) | (places[1] == feature))
        found = map_of("explain", explain(jnp.where(hidden & problem.real(3), base, xs)), xs)
        return abs(problem.without_padding(whole - found)).sum(tuple(range(1, whole.ndim)))

    steps = in_batches(change, (jnp.arange(time), jnp.full(time, -1)), batch_size).T  # [B, T]
    rows = jnp.repeat(jnp.arange(time), features) if each_step else jnp.full(features, -1)
    columns = jnp.tile(jnp.arange(features), time if each_step else 1)
    parts = in_batches(change, (rows, columns), batch_size).T.reshape(len(xs), -1, features)
    steps = _above(problem, steps, quantile)
    return problem.without_padding(steps[..., None] * parts)


def _above(problem: Problem, steps: Array, quantile: float | None) -> Array:
    if quantile is None:
        return steps
    real = jnp.where(problem.real(2), steps, jnp.nan)
    bound = jnp.nanquantile(real, quantile, axis=1, keepdims=True)
    return jnp.where(steps <= bound, 0, steps)  # NaN stays
