"""Explain by what f loses where a part of the input is hidden."""

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from recurrent.cell import check_sizes
from recurrent.errors import ArgumentError
from recurrent.explain._inputs import (
    Score,
    baselines_of,
    coalition_values,
    groups_of,
    in_batches,
    prepare,
    weighted_sum,
)


def occlusion_map(
    f: Score,
    xs: Any,
    *,
    labels: Any = None,
    count: int | None = None,
    baseline: Any = None,
    background: Any = None,
    lengths: Any = None,
    batch_size: int = 32,
) -> Array:
    """Return how much f falls where one group of elements is replaced by a baseline.

    Equation: ``f(x) - f(x with the group replaced)``, shown at each element of the group.

    Args:
      f: ``xs -> [B]``, or ``(xs, mask) -> [B]`` where lengths are given.
      xs: inputs ``[B, ...]``; tokens, too.
      labels: integers that broadcast to the inputs, the group of each element, such as
        `grid_labels`; every element alone by default.
      count: the number of groups, needed where labels are traced.
      baseline: broadcasts to the inputs; 0 by default.
      background: several baselines ``[N, ...]``, over which f is averaged.
      lengths: integers ``[B]``, of sequences ``[B, T, ...]``.
      batch_size: how many groups are computed at once, of the whole batch.

    Returns:
      ``[B, ...]``, 0 in padding.

    Raises:
      ValueError: for inputs, labels, baselines or lengths that do not fit.
      TypeError: where f returns anything but ``[B]``.

    References:
      Zeiler & Fergus 2014, Visualizing and understanding convolutional networks, arXiv:1311.2901.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import grid_labels, occlusion_map
      >>> f, xs = lambda xs: xs.sum((1, 2)), jnp.array([[[1.0, 2.0], [3.0, 4.0]]])  # [B, T, F]
      >>> occlusion_map(f, xs, labels=grid_labels((2, 2), (1, None))).tolist()  # by steps
      [[[3.0, 3.0], [7.0, 7.0]]]
    """
    problem = prepare(f, xs, lengths)
    groups = groups_of(problem, labels, count)
    baselines = baselines_of(problem, baseline, background)
    keeps = ~jnp.eye(groups.size, dtype=bool)[:, None]  # all but one
    values = coalition_values(problem, groups, baselines, keeps, batch_size)
    drops = jnp.where(groups.active, problem.score(problem.xs)[:, None] - values.T, 0)
    return problem.without_padding(jnp.broadcast_to(groups.spread(drops), problem.xs.shape))


def sliding_occlusion(
    f: Score,
    xs: Any,
    *,
    window: Sequence[int | None],
    stride: Sequence[int] | None = None,
    baseline: Any = None,
    lengths: Any = None,
    batch_size: int = 32,
) -> Array:
    """Return how much f falls where a window is replaced, averaged over the windows on an element.

    Args:
      f: as in `occlusion_map`.
      xs: inputs ``[B, ...]``.
      window: its sizes along the axes of one example; None for the whole axis. Of images ``[B, H,
        W, C]`` ``(4, 4, None)`` are patches; of sequences ``[B, T, F]`` ``(5, None)`` are steps,
        ``(None, 1)`` features, and ``(5, 2)`` boxes of both.
      stride: steps from one window to the next along each axis, 1 by default. The last window ends
        at the end of the axis, whatever the stride.
      baseline: broadcasts to the inputs; 0 by default.
      lengths: as in `occlusion_map`.
      batch_size: how many windows are computed at once, of the whole batch.

    Returns:
      ``[B, ...]``, 0 in padding.

    Raises:
      ValueError: as `occlusion_map` does, and for a window larger than an example.
      TypeError: where f returns anything but ``[B]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import sliding_occlusion
      >>> f, xs = lambda xs: xs.sum(1), jnp.array([[1.0, 0.0, 4.0]])
      >>> sliding_occlusion(f, xs, window=(2,)).tolist()  # the middle: (1 + 4) / 2
      [[1.0, 2.5, 4.0]]
    """
    problem = prepare(f, xs, lengths)
    xs, base = problem.xs, baselines_of(problem, baseline)[0]
    shape = xs.shape[1:]
    sizes = _window(window, shape)
    starts = [_starts(*each) for each in zip(shape, sizes, _stride(stride, shape), strict=True)]
    real = problem.real(xs.ndim)
    whole = problem.score(xs)

    def inside(start: Array) -> Array:
        places = jnp.indices(shape, sparse=True)
        along = [(s <= i) & (i < s + size) for i, s, size in zip(places, start, sizes, strict=True)]
        return reduce(jnp.logical_and, along)

    def drop(start: Array) -> Array:
        hidden = inside(start)
        found = whole - problem.score(jnp.where(hidden & real, base, xs))
        return found.reshape(-1, *[1] * len(shape)) * hidden

    corners = jnp.asarray(list(itertools.product(*starts)))
    total = weighted_sum(drop, corners, np.ones(len(corners), whole.dtype), batch_size)
    windows = reduce(np.multiply.outer, map(_cover, shape, sizes, starts))  # on each element
    return problem.without_padding(total / windows)


def held_steps(f: Score, xs: Any, lengths: Any, *, width: int = 1, batch_size: int = 32) -> Array:
    """Return how much f falls where some steps are never read, so that the state is held.

    A baseline is an input like any other, and moves the state of a recurrent network; a step that
    is masked does not.

    Equation: ``f(x, mask) - f(x, mask without the steps)``.

    Args:
      f: ``(xs, mask) -> [B]``; steps where the mask is False must have no effect, as of
        `recurrent.unroll`. Read the state after the last step, or a mean over the mask: the output
        of `unroll` is 0 at a step that is masked.
      xs: sequences ``[B, T, ...]``.
      lengths: integers ``[B]``; T for all where nothing is padding.
      width: steps held together, from 0 on in segments of so many.
      batch_size: how many segments are computed at once, of the whole batch.

    Returns:
      ``[B, T]``, 0 in padding.

    Raises:
      ValueError: for inputs or lengths that do not fit, a width below 1, or lengths of None.
      TypeError: where f returns anything but ``[B]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import held_steps, occlusion_map
      >>> xs = jnp.array([[[3.0], [0.0], [6.0]]])
      >>> def mean(xs, mask):
      ...     return (xs[..., 0] * mask).sum(1) / mask.sum(1)
      >>> held_steps(mean, xs, [3]).tolist()  # 3 less the mean of the two others
      [[0.0, -1.5, 1.5]]
      >>> occlusion_map(mean, xs, lengths=[3])[..., 0].tolist()  # zeros enter the mean
      [[1.0, 0.0, 2.0]]
    """
    if lengths is None:
        raise ArgumentError("lengths: expected one for each sequence, got None; give T for all.")
    problem = prepare(f, xs, lengths)
    check_sizes(width=width)
    mask, time = problem.real(2), problem.xs.shape[1]
    segment = jnp.arange(time) // width

    def drop(index: Array) -> Array:
        return whole - problem.score(problem.xs, mask & (segment != index))

    whole = problem.score(problem.xs)
    drops = in_batches(drop, jnp.arange(-(-time // width)), batch_size)  # [segments, B]
    return problem.without_padding(drops[segment].T)


def _window(window: Sequence[int | None], shape: tuple[int, ...]) -> list[int]:
    """Return the sizes of a window in numbers."""
    if len(window) != len(shape):
        raise ArgumentError(
            f"window: expected a size for each axis of {list(shape)}, got {list(window)}."
        )
    sizes = [length if size is None else size for size, length in zip(window, shape, strict=True)]
    for size, length in zip(sizes, shape, strict=True):
        check_sizes(window=size)
        if size > length:
            raise ArgumentError(f"window: expected at most {list(shape)}, got {sizes}.")
    return sizes


def _stride(stride: Sequence[int] | None, shape: tuple[int, ...]) -> Sequence[int]:
    if stride is None:
        return [1] * len(shape)
    if len(stride) != len(shape):
        raise ArgumentError(
            f"stride: expected a step for each axis of {list(shape)}, got {list(stride)}."
        )
    check_sizes(**{f"stride[{axis}]": step for axis, step in enumerate(stride)})
    return stride


def _starts(length: int, size: int, stride: int) -> list[int]:
    return sorted({*range(0, length - size + 1, stride), length - size})


def _cover(length: int, size: int, starts: list[int]) -> np.ndarray:
    """Count the windows on each place of an axis."""
    places = np.arange(length)[:, None] - np.array(starts)
    return ((places >= 0) & (places < size)).sum(1)
