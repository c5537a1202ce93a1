"""Explain by Shapley values: what each group adds, averaged over the orders in which they come.

Groups are players, and a coalition is worth f of the input that shows them alone, with a baseline
in place of the others; of several baselines, the mean. Axis letters: B examples, G groups, K
coalitions, N baselines.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from recurrent.cell import check_sizes
from recurrent.errors import ArgumentError
from recurrent.explain._inputs import (
    Groups,
    Problem,
    Score,
    baselines_of,
    check_key,
    coalition_values,
    drawn_by_part,
    groups_of,
    prepare,
    wide,
)
from recurrent.explain.saliency import Attribution, path_gradients, with_gap

MOST = 12  # groups of which all coalitions are tried: 4096
RIDGE = 1e-6  # of sampled coalitions, as a share of the mean of the diagonal


class Shapley(NamedTuple):
    """Hold what each group adds to f.

    Attributes:
      map: of the inputs' shape ``[B, ...]``: at each element, the value of its group; 0 in padding.
      values: ``[B, G]``, by group; 0 of a group that lies in padding.
      gap: ``[B]``, ``f(x) - f(baseline) - sum of values``: 0 but for rounding.
    """

    map: Array
    values: Array
    gap: Array


def exact_shapley(
    f: Score,
    xs: Any,
    *,
    labels: Any = None,
    count: int | None = None,
    baseline: Any = None,
    background: Any = None,
    lengths: Any = None,
    batch_size: int = 64,
) -> Shapley:
    """Compute Shapley values from all 2^G coalitions of up to 12 groups.

    Equation: ``phi_g = sum over S without g of |S|! (G - |S| - 1)! / G! (v(S + g) - v(S))``.

    Args:
      f: ``xs -> [B]``, or ``(xs, mask) -> [B]`` where lengths are given.
      xs: inputs ``[B, ...]``; tokens, too.
      labels: integers that broadcast to the inputs, the group of each element, such as
        `grid_labels`; every element alone by default.
      count: the number of groups, needed where labels are traced.
      baseline: broadcasts to the inputs; 0 by default.
      background: several baselines ``[N, ...]``, over which v is averaged.
      lengths: integers ``[B]``, of sequences ``[B, T, ...]``.
      batch_size: how many coalitions are computed at once, of the whole batch.

    Raises:
      ValueError: for more than 12 groups, or inputs, labels, baselines or lengths that do not fit.
      TypeError: where f returns anything but ``[B]``.

    References:
      Shapley 1953, A value for n-person games; as an explanation: Lundberg & Lee 2017,
      arXiv:1705.07874.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import exact_shapley
      >>> f = lambda xs: xs[:, 0] * xs[:, 1] + xs[:, 2]
      >>> exact_shapley(f, jnp.array([[2.0, 3.0, 5.0]])).values.round(4).tolist()
      [[3.0, 3.0, 5.0]]
    """
    problem, groups, baselines = _game(f, xs, labels, count, baseline, background, lengths)
    if groups.size > MOST:
        raise ArgumentError(
            f"labels: expected at most {MOST} groups, since each doubles the coalitions, got "
            f"{groups.size}; take larger groups, `kernel_shap` or `permutation_shap`."
        )
    keeps = all_coalitions(groups.size)
    values = coalition_values(problem, groups, baselines, jnp.asarray(keeps)[:, None], batch_size)
    values = values.astype(wide(values.dtype))
    gains = values - values[0]  # over nothing
    found = jnp.einsum(
        "kg,kb->bg", _exact_weights(keeps).astype(gains.dtype), gains, precision="highest"
    )
    return _shapley(problem, groups, found, values[-1] - values[0])


def kernel_shap(
    f: Score,
    xs: Any,
    key: Array | None = None,
    *,
    labels: Any = None,
    count: int | None = None,
    baseline: Any = None,
    background: Any = None,
    lengths: Any = None,
    samples: int | None = None,
    batch_size: int = 64,
) -> Shapley:
    """Estimate Shapley values by a weighted regression on coalitions.

    Equation: the phi that minimize ``sum over S of w(|S|) (v(S) - v() - sum of phi_g in S)^2``
    with ``w(s) = (G - 1) / (C(G, s) s (G - s))``, such that the sum of all phi is exactly ``v(all)
    - v()``. Over all coalitions they are the Shapley values.

    Args:
      f: as in `exact_shapley`.
      xs: inputs ``[B, ...]``.
      key: the random key of the coalitions; None where all of them are taken.
      labels: as in `exact_shapley`.
      count: as in `exact_shapley`.
      baseline: as in `exact_shapley`.
      background: as in `exact_shapley`.
      lengths: as in `exact_shapley`.
      samples: how many coalitions are drawn, with probabilities as w and each with its complement;
        rounded up to an even number. None takes all, of up to 12 groups.
      batch_size: how many coalitions are computed at once, of the whole batch.

    Raises:
      ValueError: for samples without a key or fewer than twice the groups, no samples for more than
        12 groups, and as `exact_shapley` does.
      TypeError: where f returns anything but ``[B]``.

    References:
      Lundberg & Lee 2017, arXiv:1705.07874; pairs: Covert & Lee 2021, arXiv:2012.01536.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.explain import kernel_shap
      >>> f = lambda xs: xs[:, 0] * xs[:, 1] + xs[:, 2:].sum(1)
      >>> found = kernel_shap(f, jnp.ones((1, 20)), jax.random.key(0), samples=400)
      >>> found.values[0, :3].round(2).tolist(), bool(abs(found.gap[0]) < 1e-4)
      ([0.5, 0.5, 1.0], True)
    """
    problem, groups, baselines = _game(f, xs, labels, count, baseline, background, lengths)
    keeps, weights, ridge = _coalitions(key, groups, samples)
    ends = jnp.array([False, True])[:, None, None] & jnp.ones_like(keeps[:1])  # nothing and all
    every = jnp.concatenate([ends, keeps])
    values = coalition_values(problem, groups, baselines, every, batch_size)
    values = values.astype(wide(values.dtype))
    start, end = values[:2]
    shown = keeps & groups.active
    found = _regression(shown, weights, values[2:] - start, end - start, groups.active, ridge)
    return _shapley(problem, groups, found, end - start)


def permutation_shap(
    f: Score,
    xs: Any,
    key: Array,
    *,
    labels: Any = None,
    count: int | None = None,
    baseline: Any = None,
    background: Any = None,
    lengths: Any = None,
    permutations: int = 10,
    batch_size: int = 64,
) -> Shapley:
    """Estimate Shapley values by what each group adds along random orders, each taken both ways.

    Equation: the mean over orders of ``v(groups up to g) - v(groups before g)``. Sums are exact.

    Args:
      f: as in `exact_shapley`.
      xs: inputs ``[B, ...]``.
      key: the random key of the orders.
      labels: as in `exact_shapley`.
      count: as in `exact_shapley`.
      baseline: as in `exact_shapley`.
      background: as in `exact_shapley`.
      lengths: as in `exact_shapley`.
      permutations: how many orders, besides their reverses; each pair takes 2 (G + 1) evaluations.
      batch_size: how many evaluations are computed at once, of the whole batch.

    Raises:
      ValueError: as `exact_shapley` does, but for any number of groups.
      TypeError: where f returns anything but ``[B]``.

    References:
      Castro, Gomez & Tejada 2009, Polynomial calculation of the Shapley value; reverses: Mitchell
      et al. 2022, Sampling permutations for Shapley value estimation, arXiv:2104.12199.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.explain import permutation_shap
      >>> f = lambda xs: xs[:, 0] * xs[:, 1] + xs[:, 2:].sum(1)
      >>> found = permutation_shap(f, jnp.ones((1, 5)), jax.random.key(0), permutations=1)
      >>> found.values.round(4).tolist()  # exact, by reverses, of what has pairs at most
      [[0.5, 0.5, 1.0, 1.0, 1.0]]
    """
    problem, groups, baselines = _game(f, xs, labels, count, baseline, background, lengths)
    check_sizes(permutations=permutations)
    check_key(key)
    size = groups.size
    drawn = drawn_by_part(jax.random.uniform, key, size, (permutations,)).T
    places = jnp.argsort(jnp.argsort(drawn, 1), 1)
    places = jnp.concatenate([places, size - 1 - places])  # [P, G], and the reverses
    keeps = places[:, None] < jnp.arange(size + 1)[:, None]  # [P, G + 1, G]
    values = coalition_values(
        problem, groups, baselines, keeps.reshape(-1, 1, size), batch_size
    ).reshape(len(places), size + 1, -1)
    values = values.astype(wide(values.dtype))
    added = jnp.take_along_axis(values[:, 1:] - values[:, :-1], places[..., None], 1)  # [P, G, B]
    return _shapley(problem, groups, added.mean(0).T, values[0, -1] - values[0, 0])


def gradient_shap(
    f: Score,
    xs: Any,
    key: Array,
    *,
    baseline: Any = None,
    background: Any = None,
    lengths: Any = None,
    samples: int = 100,
    batch_size: int = 16,
) -> Attribution:
    """Estimate expected gradients: of random points between the input and random baselines.

    Equation: the mean of ``(x - b) * grad f(b + a (x - b))``, with a uniform on [0, 1], one in
    each of as many equal parts as there are samples, and each baseline as often as the others.

    Args:
      f: as in `recurrent.explain.gradient`.
      xs: inputs ``[B, ...]``.
      key: the random key of a, and of which baseline goes with it.
      baseline: broadcasts to the inputs; 0 by default.
      background: several baselines ``[N, ...]``.
      lengths: integers ``[B]``, of sequences ``[B, T, ...]``.
      samples: points for each example; at least N for all baselines to be seen.
      batch_size: how many points are computed at once, of the whole batch.

    Returns:
      The map, and its gap, which falls as samples are added.

    Raises:
      ValueError: as `recurrent.explain.integrated_gradients` does.
      TypeError: where f returns anything but ``[B]``.

    References:
      Lundberg & Lee's package `shap`; Erion et al. 2021, arXiv:1906.10670.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.explain import gradient_shap
      >>> f = lambda xs: xs @ jnp.array([1.0, -2.0])
      >>> gradient_shap(f, jnp.array([[2.0, 3.0]]), jax.random.key(0)).map.round(4).tolist()
      [[2.0, -6.0]]
    """
    problem = prepare(f, xs, lengths, floating=True)
    check_sizes(samples=samples)
    check_key(key)
    baselines = baselines_of(problem, baseline, background)
    place_key, which_key = jax.random.split(key)
    drawn = jax.random.uniform(place_key, (samples,), problem.xs.dtype)  # for all examples
    places = (jnp.arange(samples) + drawn) / samples
    which = jax.random.permutation(which_key, jnp.arange(samples) % len(baselines))
    weights = np.full(samples, 1 / samples)
    found = path_gradients(problem, baselines, places, which, weights, batch_size)
    return with_gap(problem, baselines, found, batch_size)


def all_coalitions(count: int) -> np.ndarray:
    """Return booleans ``[2^G, G]``, from none of the groups to all."""
    return (np.arange(2**count)[:, None] >> np.arange(count)) % 2 == 1


def _game(
    f: Score, xs: Any, labels: Any, count: Any, baseline: Any, background: Any, lengths: Any
) -> tuple[Problem, Groups, Array]:
    problem = prepare(f, xs, lengths)
    groups = groups_of(problem, labels, count)
    return problem, groups, baselines_of(problem, baseline, background)


def _shapley(problem: Problem, groups: Groups, found: Array, change: Array) -> Shapley:
    found = jnp.where(groups.active, found, 0)
    gap = change - found.sum(1)
    dtype = jax.eval_shape(problem.score, problem.xs).dtype
    found, gap = found.astype(dtype), gap.astype(dtype)
    spread = jnp.broadcast_to(groups.spread(found), problem.xs.shape)
    return Shapley(problem.without_padding(spread), found, gap)


def _exact_weights(keeps: np.ndarray) -> np.ndarray:
    """Return how each coalition's value enters each group's, ``[K, G]``."""
    count = keeps.shape[1]
    weight = np.array([1 / (count * math.comb(count - 1, size)) for size in range(count)] + [0.0])
    sizes = keeps.sum(1)
    joined, left = weight[sizes - 1], weight[np.minimum(sizes, count)]
    return np.where(keeps, joined[:, None], -left[:, None])


def _coalitions(key: Any, groups: Groups, samples: int | None) -> tuple[Array, Array, float]:
    """Return coalitions ``[K, 1 or B, G]``, their weights ``[K, 1 or B]``, and a ridge.

    Of all coalitions the equations have one solution, the Shapley values, and need no ridge.
    """
    count = groups.size
    if samples is None or (count <= MOST and samples >= 2**count):
        if count > MOST:
            raise ArgumentError(
                f"samples: expected a number for more than {MOST} groups, got None for {count}."
            )
        keeps = jnp.asarray(all_coalitions(count))[:, None]
        sizes = (keeps & groups.active).sum(-1)
        return keeps, _kernel(count)[groups.active.sum(-1), sizes], 0.0
    check_sizes(samples=samples)
    if key is None or samples < 2 * count:
        raise ArgumentError(
            f"samples: expected a key and at least {2 * count}, twice the groups, got {samples} "
            f"and {'no' if key is None else 'a'} key."
        )
    check_key(key)
    keeps = _draw(key, groups.active, -(-samples // 2))
    sizes = keeps.sum(-1)
    inside = (sizes > 0) & (sizes < groups.active.sum(-1))
    return keeps, inside.astype(jnp.result_type(float)), RIDGE


def _kernel(count: int) -> Array:
    """Return the weights of coalitions by number of players and size, ``[G + 1, G + 1]``."""
    table = np.zeros((count + 1, count + 1))
    for players in range(2, count + 1):
        for size in range(1, players):
            ways = math.comb(players, size)
            table[players, size] = (players - 1) / (ways * size * (players - size))
    return jnp.asarray(table, jnp.result_type(float))


def _draw(key: Array, active: Array, pairs: int) -> Array:
    """Draw coalitions of the active groups and their complements, ``[2 * pairs, 1 or B, G]``.

    Sizes are spread evenly over their distribution. All examples see the same draws, each group by
    a key of its own, so that what is found for an example depends neither on its batch nor on how
    far it was padded.
    """
    order_key, size_key = jax.random.split(key)
    count = active.shape[-1]
    drawn = drawn_by_part(jax.random.uniform, order_key, count, (pairs,)).T[:, None]
    order = jnp.argsort(jnp.where(active, drawn, 2), -1)
    places = jnp.argsort(order, -1)  # of each group, the active ones first
    even = (jnp.arange(pairs) + jax.random.uniform(size_key, (pairs,))) / pairs
    below = _size_distribution(count)[active.sum(-1)]  # [1 or B, G]
    sizes = 1 + (even[:, None, None] >= below).sum(-1)
    keeps = (places < sizes[..., None]) & active
    return jnp.concatenate([keeps, active & ~keeps])


def _size_distribution(count: int) -> Array:
    """Return the cumulative probabilities of sizes 1, 2, ... by number of players."""
    table = np.ones((count + 1, count))
    for players in range(2, count + 1):
        sizes = np.arange(1, players)
        odds = 1 / (sizes * (players - sizes))
        table[players, : players - 1] = np.cumsum(odds) / odds.sum()
        table[players, players - 2] = 1
    return jnp.asarray(table, jnp.float32)


def _regression(
    shown: Array, weights: Array, gains: Array, change: Array, active: Array, ridge: float
) -> Array:
    """Solve the least squares under the constraint on the sum, for each example.

    Args:
      shown: booleans ``[K, 1 or B, G]``.
      weights: ``[K, 1 or B]``.
      gains: ``[K, B]``, over nothing.
      change: ``[B]``, which the solution adds up to.
      active: booleans ``[1 or B, G]``.
      ridge: a share of the mean of the diagonal, added to it.

    Returns:
      ``[B, G]``.
    """
    dtype = gains.dtype
    players = jnp.maximum(active.sum(-1), 1).astype(dtype)  # [1 or B]
    share = shown.sum(-1) / players
    # About the mean of each row, the constraint is that the rest adds up to 0, and the matrix of
    # all coalitions is a multiple of the identity there.
    rows = jnp.where(active, shown - share[..., None], 0).astype(dtype)
    weights = (weights / jnp.maximum(weights.sum(0), 1e-30)).astype(dtype)
    rest = gains - share * change
    if len(active) == 1:  # all examples have the same equations, but for what they are to explain
        found = _solve(rows[:, 0], weights[:, 0], rest, active[0], ridge).T
    else:
        solve: Callable[..., Array] = jax.vmap(partial(_solve, ridge=ridge), (1, 1, 1, 0))
        found = solve(rows, weights, rest[..., None], active)[..., 0]
    return jnp.where(active, change[:, None] / players[:, None] + found, 0)


def _solve(rows: Array, weights: Array, rest: Array, active: Array, ridge: float) -> Array:
    """Solve equations of rows ``[K, G]`` for each of the columns of ``rest [K, N]``: ``[G, N]``.

    Rows have mean 0, and so has the solution.
    """
    scaled = rows * weights[:, None]
    matrix = jnp.matmul(scaled.T, rows, precision="highest")
    players = jnp.maximum(active.sum(), 1)
    # the mean's direction, and the groups that are not there, are free: make the matrix invertible
    free = jnp.outer(active, active) / players + jnp.diag(~active)
    scale = jnp.maximum(jnp.trace(matrix) / players, 1e-30)
    matrix += scale * (free + ridge * jnp.eye(len(matrix), dtype=matrix.dtype))
    found = jnp.linalg.solve(matrix, jnp.matmul(scaled.T, rest, precision="highest"))
    found = jnp.where(active[:, None], found, 0)
    return jnp.where(active[:, None], found - found.sum(0) / players, 0)
