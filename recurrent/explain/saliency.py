"""Explain by gradients with respect to the inputs.

All take ``f``: inputs ``[B, ...]`` to one number for each example, ``[B]``. Where lengths are
given, f gets a mask ``[B, T]`` too, False in padding. f must treat the examples of a batch apart.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from recurrent.cell import as_array, check_sizes
from recurrent.explain._inputs import (
    Problem,
    Score,
    baselines_of,
    check_key,
    check_number,
    drawn_by_part,
    in_batches,
    prepare,
    slope,
    weighted_sum,
)


class Attribution(NamedTuple):
    """Hold how much each element contributed.

    Attributes:
      map: of the inputs' shape ``[B, ...]``, 0 in padding.
      gap: ``[B]``, ``f(x) - f(baseline) - sum of map``, which is 0 where the map is complete.
    """

    map: Array
    gap: Array


def gradient(f: Score, xs: Any, *, lengths: Any = None) -> Array:
    """Return the gradient of each example's number with respect to that example.

    Args:
      f: ``xs -> [B]``, or ``(xs, mask) -> [B]`` where lengths are given.
      xs: inputs ``[B, ...]``.
      lengths: integers ``[B]``, of sequences ``[B, T, ...]``; None where nothing is padding.

    Returns:
      ``[B, ...]``, signed; 0 in padding, of which nothing, not even NaN, reaches f.

    Raises:
      ValueError: for inputs or lengths that do not fit.
      TypeError: where f returns anything but ``[B]``.

    References:
      Simonyan, Vedaldi & Zisserman 2014, Deep inside convolutional networks, arXiv:1312.6034.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import gradient
      >>> gradient(lambda xs: xs[:, 0] * xs[:, 1], jnp.array([[2.0, 3.0]])).tolist()
      [[3.0, 2.0]]
    """
    problem = prepare(f, xs, lengths, floating=True)
    return problem.without_padding(slope(problem, problem.xs))


def gradient_times_input(f: Score, xs: Any, *, baseline: Any = None, lengths: Any = None) -> Array:
    """Return the gradient times how far the input is from a baseline.

    It is what each element contributes if f were linear.

    Args:
      f: as in `gradient`.
      xs: inputs ``[B, ...]``.
      baseline: broadcasts to the inputs; 0 by default.
      lengths: as in `gradient`.

    Returns:
      ``[B, ...]``, 0 in padding.

    Raises:
      ValueError: as `gradient` does, and for a baseline that does not fit.
      TypeError: where f returns anything but ``[B]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import gradient_times_input
      >>> f = lambda xs: xs @ jnp.array([1.0, -2.0])
      >>> gradient_times_input(f, jnp.array([[2.0, 3.0]])).tolist()
      [[2.0, -6.0]]
    """
    problem = prepare(f, xs, lengths, floating=True)
    away = problem.xs - baselines_of(problem, baseline)[0]
    return problem.without_padding(slope(problem, problem.xs) * away)


def smooth_grad(
    f: Score,
    xs: Any,
    key: Array,
    *,
    lengths: Any = None,
    samples: int = 50,
    noise: float = 0.15,
    batch_size: int = 16,
) -> Array:
    """Return the gradient, averaged over inputs with Gaussian noise.

    Args:
      f: as in `gradient`.
      xs: inputs ``[B, ...]``.
      key: the random key of the noise.
      lengths: as in `gradient`.
      samples: how many noisy copies of each example.
      noise: standard deviation, as a share of the range of each example's values.
      batch_size: how many copies of the whole batch are computed at once.

    Returns:
      ``[B, ...]``, 0 in padding.

    Raises:
      ValueError: as `gradient` does, and for a noise below 0.
      TypeError: where f returns anything but ``[B]``.

    References:
      Smilkov et al. 2017, SmoothGrad, arXiv:1706.03825.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.explain import smooth_grad
      >>> xs = jnp.array([[-1.0, 1.0]])
      >>> kink = lambda xs: jax.nn.relu(xs).sum(1)
      >>> bool((smooth_grad(kink, xs, jax.random.key(0), noise=1.0)[0, 0] > 0.1).all())
      True
    """
    problem = prepare(f, xs, lengths, floating=True)
    check_sizes(samples=samples)
    check_key(key)
    check_number("noise", noise, lambda n: n >= 0, "0 or more")
    xs, real = problem.xs, problem.real(problem.xs.ndim)
    axes = tuple(range(1, xs.ndim))
    top = jnp.where(real, xs, -jnp.inf).max(axes, keepdims=True)
    spread = noise * (top - jnp.where(real, xs, jnp.inf).min(axes, keepdims=True))

    def noisy(key: Array) -> Array:
        drawn = drawn_by_part(jax.random.normal, key, xs.shape[1], xs.shape[2:], xs.dtype)
        return slope(problem, xs + jnp.where(real, spread * drawn, 0))

    weights = np.full(samples, 1 / samples, xs.dtype)
    keys = jax.random.split(key, samples)
    return problem.without_padding(weighted_sum(noisy, keys, weights, batch_size))


def integrated_gradients(
    f: Score,
    xs: Any,
    *,
    baseline: Any = None,
    background: Any = None,
    lengths: Any = None,
    steps: int = 50,
    batch_size: int = 16,
) -> Attribution:
    """Integrate the gradient along the straight line from a baseline to the input.

    Equation: ``(x - b) * integral from 0 to 1 of grad f(b + a (x - b)) da``, by Gauss-Legendre
    quadrature. The sum is f(x) - f(b) where enough steps are taken; the gap says how far off it is.

    Args:
      f: as in `gradient`.
      xs: inputs ``[B, ...]``.
      baseline: b, which broadcasts to the inputs; 0 by default.
      background: several baselines ``[N, ...]`` in place of one, over which results are averaged
        (expected gradients); f(b) in the gap is averaged as well.
      lengths: as in `gradient`.
      steps: points on the line.
      batch_size: how many points are computed at once, of the whole batch.

    Raises:
      ValueError: as `gradient` does, and for baselines that do not fit.
      TypeError: where f returns anything but ``[B]``.

    References:
      Sundararajan, Taly & Yan 2017, Axiomatic attribution, arXiv:1703.01365; several baselines:
      Erion et al. 2021, arXiv:1906.10670. `gradient_shap` draws points on many lines instead.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import integrated_gradients
      >>> found = integrated_gradients(lambda xs: xs[:, 0] * xs[:, 1], jnp.array([[2.0, 3.0]]))
      >>> found.map.round(4).tolist(), bool(abs(found.gap[0]) < 1e-4)
      ([[3.0, 3.0]], True)
    """
    problem = prepare(f, xs, lengths, floating=True)
    check_sizes(steps=steps)
    baselines = baselines_of(problem, baseline, background)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    dtype, count = problem.xs.dtype, len(baselines)
    places = np.tile((nodes + 1) / 2, count).astype(dtype)
    which = np.repeat(np.arange(count), steps)
    found = path_gradients(
        problem, baselines, places, which, np.tile(weights / 2 / count, count), batch_size
    )
    return with_gap(problem, baselines, found, batch_size)


def path_gradients(
    problem: Problem, baselines: Array, places: Any, which: Any, weights: Any, batch_size: int
) -> Array:
    """Return the weighted sum of ``(x - b) * grad f(b + a (x - b))``.

    Args:
      problem: inputs and f.
      baselines: ``[N, 1 or B, ...]``.
      places: a, ``[K]`` or ``[K, B]``.
      which: the indices of the baselines ``[K]``, or ``[K, B]`` where a baseline has no axis of B.
      weights: ``[K]``.
      batch_size: how many of K are computed at once.
    """
    xs = problem.xs

    def at(item: tuple[Array, Array]) -> Array:
        place, index = item
        chosen = baselines[index] if index.ndim == 0 else baselines[index, 0]
        away = problem.without_padding(xs - chosen)
        place = place.reshape(-1, *[1] * (xs.ndim - 1))
        return away * slope(problem, xs - (1 - place) * away)

    items = jnp.asarray(places), jnp.asarray(which)
    weights = np.asarray(weights, xs.dtype)
    return problem.without_padding(weighted_sum(at, items, weights, batch_size))


def with_gap(problem: Problem, baselines: Array, found: Array, batch_size: int) -> Attribution:
    """Say how far the sum of a map is from the change of f."""

    def start(baseline: Array) -> Array:
        whole = jnp.broadcast_to(baseline, problem.xs.shape)
        return problem.score(problem.without_padding(whole))

    change = problem.score(problem.xs) - in_batches(start, baselines, batch_size).mean(0)
    return Attribution(found, change - found.sum(tuple(range(1, found.ndim))))


def completeness_gap(
    f: Score,
    xs: Any,
    map: Any,
    *,
    baseline: Any = None,
    background: Any = None,
    lengths: Any = None,
) -> Array:
    """Return how much of the change of f from the baseline a map does not account for.

    Equation: ``f(x) - f(b) - sum of map``.

    Args:
      f: as in `gradient`.
      xs: inputs ``[B, ...]``.
      map: contributions ``[B, ...]``, any shape after B.
      baseline: as in `integrated_gradients`.
      background: as in `integrated_gradients`.
      lengths: as in `gradient`.

    Returns:
      ``[B]``.

    Raises:
      ValueError: as `integrated_gradients` does.
      TypeError: where f returns anything but ``[B]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import completeness_gap, gradient_times_input
      >>> f, xs = lambda xs: xs[:, 0] * xs[:, 1], jnp.array([[2.0, 3.0]])
      >>> completeness_gap(f, xs, gradient_times_input(f, xs)).tolist()  # f(x) = 6, the sum 12
      [-6.0]
    """
    problem = prepare(f, xs, lengths)
    baselines = baselines_of(problem, baseline, background)
    map = as_array("map", getattr(map, "map", map))
    return with_gap(problem, baselines, map, batch_size=len(baselines)).gap
