"""Explain by a linear model of f near the input, in what is shown and what is hidden (LIME)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import check_sizes
from recurrent.explain._inputs import (
    Score,
    baselines_of,
    check_key,
    check_number,
    coalition_values,
    drawn_by_part,
    groups_of,
    prepare,
    wide,
)


class LocalModel(NamedTuple):
    """Hold a linear model of f in which groups are shown.

    Attributes:
      map: of the inputs' shape ``[B, ...]``: at each element, the weight of its group; 0 in
        padding.
      weights: ``[B, G]``, by group; 0 of a group that lies in padding.
      intercept: ``[B]``.
      fit: ``[B]``, the weighted R^2 on the samples; where it is low, the weights explain little.
    """

    map: Array
    weights: Array
    intercept: Array
    fit: Array


def lime_weights(
    f: Score,
    xs: Any,
    key: Array,
    *,
    labels: Any = None,
    count: int | None = None,
    baseline: Any = None,
    background: Any = None,
    lengths: Any = None,
    samples: int = 1000,
    kernel_width: float = 0.25,
    ridge: float = 1.0,
    batch_size: int = 64,
) -> LocalModel:
    """Fit a linear model to f where random halves of the groups are hidden.

    Equation: the weights that minimize ``sum of k(z) (f(z) - intercept - z . weights)^2 + ridge
    |weights|^2``, where z, zeros and ones, says which groups are shown, ``k(z) = exp(-d^2 / 2
    width^2)``, and d is the cosine distance of z to all ones. The first z is all ones.

    Args:
      f: ``xs -> [B]``, or ``(xs, mask) -> [B]`` where lengths are given.
      xs: inputs ``[B, ...]``; tokens, too, each a group by default.
      key: the random key of z.
      labels: integers that broadcast to the inputs, the group of each element, such as superpixels
        or `grid_labels`; every element alone by default.
      count: the number of groups, needed where labels are traced.
      baseline: broadcasts to the inputs, what is seen in place of a hidden group, such as gray, a
        mean, or the token of unknown words; 0 by default.
      background: several baselines ``[N, ...]``, over which f is averaged.
      lengths: integers ``[B]``, of sequences ``[B, T, ...]``.
      samples: how many z.
      kernel_width: width.
      ridge: the weight of the penalty.
      batch_size: how many z are computed at once, of the whole batch.

    Raises:
      ValueError: for a kernel width that is not above 0, a ridge below 0, and for inputs, labels,
        baselines or lengths that do not fit.
      TypeError: where f returns anything but ``[B]``.

    References:
      Ribeiro, Singh & Guestrin 2016, "Why should I trust you?", arXiv:1602.04938. Kernel, distance,
      ridge and defaults are those of the package `lime` for images; for text it has
      ``kernel_width=25`` of 100 times the distance, which is the same. All groups are kept.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.explain import lime_weights
      >>> f = lambda xs: xs @ jnp.array([1.0, -2.0, 0.0])
      >>> found = lime_weights(f, jnp.ones((1, 3)), jax.random.key(0), ridge=1e-3)
      >>> (found.weights.round(2) + 0).tolist(), found.fit.round(2).tolist()
      ([[1.0, -2.0, 0.0]], [1.0])
    """
    problem = prepare(f, xs, lengths)
    check_sizes(samples=samples)
    check_key(key)
    check_number("kernel_width", kernel_width, lambda width: width > 0, "above 0")
    check_number("ridge", ridge, lambda ridge: ridge >= 0, "0 or more")
    groups = groups_of(problem, labels, count)
    baselines = baselines_of(problem, baseline, background)
    drawn = drawn_by_part(jax.random.bernoulli, key, groups.size, 0.5, (samples,)).T
    drawn = drawn.at[0].set(True)
    values = coalition_values(problem, groups, baselines, drawn[:, None], batch_size)  # [K, B]

    def fit(values: Array, active: Array) -> tuple[Array, Array, Array]:
        shown = (drawn & active).astype(values.dtype)
        share = shown.sum(1) / jnp.maximum(active.sum(), 1)
        distance = 1 - jnp.sqrt(share)  # cosine, of zeros and ones to all ones
        near = jnp.exp(-jnp.square(distance / kernel_width) / 2)
        return ridge_regression(shown, values, near, ridge)

    targets = values.astype(wide(values.dtype))
    if len(groups.active) == 1:  # all examples have the same equations, but for the targets
        weights, intercept, found = fit(targets, groups.active[0])
        weights = weights.T
    else:
        weights, intercept, found = jax.vmap(fit)(targets.T, groups.active)
    weights = jnp.where(groups.active, weights, 0)
    weights, intercept, found = (each.astype(values.dtype) for each in (weights, intercept, found))
    spread = jnp.broadcast_to(groups.spread(weights), problem.xs.shape)
    return LocalModel(problem.without_padding(spread), weights, intercept, found)


def ridge_regression(
    inputs: Array, targets: Array, weights: Array, ridge: Any
) -> tuple[Array, Array, Array]:
    """Solve a weighted ridge regression with an intercept that is not penalized.

    Args:
      inputs: ``[K, G]``.
      targets: ``[K]``, or ``[K, N]`` of N regressions on the same inputs.
      weights: of the rows ``[K]``.
      ridge: of the penalty.

    Returns:
      Coefficients ``[G]`` or ``[G, N]``, intercept, and weighted R^2: 1 where the targets do not
      vary, NaN where they are.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain.lime import ridge_regression
      >>> xs = jnp.array([[0.0], [1.0], [2.0]])
      >>> found = ridge_regression(xs, 3 * xs[:, 0] + 1, jnp.ones(3), 0.0)
      >>> [round(float(each.sum()), 4) for each in found]
      [3.0, 1.0, 1.0]
    """
    total = weights.sum()
    mean_in, mean_out = weights @ inputs / total, weights @ targets / total
    rows, rest = inputs - mean_in, targets - mean_out
    scaled = rows * weights[:, None]
    matrix = jnp.matmul(scaled.T, rows, precision="highest")
    alone = jnp.diagonal(matrix) == 0  # inputs that never vary, whose coefficient is 0
    matrix += jnp.diag(ridge + alone)
    found = jnp.linalg.solve(matrix, jnp.matmul(scaled.T, rest, precision="highest"))
    missed = weights @ jnp.square(rest - rows @ found)
    varied = weights @ jnp.square(rest)
    fit = jnp.where(varied == 0, 1, 1 - missed / jnp.where(varied == 0, 1, varied))
    return found, mean_out - mean_in @ found, fit
