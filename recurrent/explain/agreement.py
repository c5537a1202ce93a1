"""Compare maps by the order in which they put the elements."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.errors import ArgumentError
from recurrent.explain._inputs import real_steps


def rank_correlation(first: Any, second: Any, *, lengths: Any = None) -> Array:
    """Return Spearman's rank correlation of two maps of each example.

    Args:
      first: ``[B, ...]``.
      second: of the same shape.
      lengths: integers ``[B]``, of maps ``[B, T, ...]``; padding does not count.

    Returns:
      ``[B]``, from -1 to 1; ties have their mean rank. 0 where a map is constant, NaN where it
      has NaN.

    Raises:
      ValueError: for maps of two shapes, or lengths that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import rank_correlation
      >>> first, second = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[-1.0, 0.0, 9.0]])
      >>> rank_correlation(first, second).round(4).tolist()
      [1.0]
    """
    return agreement_matrix([first, second], lengths=lengths)[0, 1]


def agreement_matrix(maps: Sequence[Any], *, lengths: Any = None) -> Array:
    """Return Spearman's rank correlation of each map with each other map.

    Args:
      maps: M of them, each ``[B, ...]`` of one shape.
      lengths: integers ``[B]``, of maps ``[B, T, ...]``; padding does not count.

    Returns:
      ``[M, M, B]``; 0 with a map that is constant, NaN with one that has NaN.

    Raises:
      ValueError: for maps of several shapes or none, or lengths that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import agreement_matrix
      >>> maps = jnp.array([[[1.0, 2.0, 3.0]], [[9.0, 4.0, 1.0]]])  # M = 2, B = 1
      >>> agreement_matrix(maps)[..., 0].round(4).tolist()
      [[1.0, -1.0], [-1.0, 1.0]]
    """
    maps = [getattr(each, "map", each) for each in maps]
    shapes = {jnp.shape(each) for each in maps}
    if len(shapes) != 1 or len(next(iter(shapes))) < 2:
        raise ArgumentError(
            f"maps: expected maps [B, ...] of one shape, got {sorted(map(list, shapes))}."
        )
    stacked = jnp.stack([jnp.asarray(each) for each in maps])
    count, batch = stacked.shape[:2]
    mask = real_steps(lengths, stacked[0])
    if mask is None:
        mask = jnp.ones((batch, 1), bool)
    real = mask.reshape(*mask.shape, *[1] * (stacked.ndim - 3))
    real = jnp.broadcast_to(real, stacked.shape[1:]).reshape(batch, -1)
    ranks = jax.vmap(jax.vmap(_ranks), (0, None))(stacked.reshape(count, batch, -1), real)
    far = jnp.where(real, ranks - jnp.mean(ranks, -1, where=real, keepdims=True), 0)
    size = jnp.sqrt(jnp.square(far).sum(-1, keepdims=True))
    unit = far / jnp.where(size > 0, size, 1)
    unknown = (real & jnp.isnan(stacked.reshape(count, batch, -1))).any(-1)  # NaN has no rank
    unit = jnp.where(unknown[..., None], jnp.nan, unit)
    return jnp.einsum("ibn,jbn->ijb", unit, unit, precision="highest")


def _ranks(values: Array, real: Array) -> Array:
    """Return the mean rank of each value ``[N]`` among the real ones, counted from the middle."""
    found = jnp.sort(jnp.where(real, values, jnp.inf))
    below = jnp.searchsorted(found, values)
    upto = jnp.searchsorted(found, values, side="right")
    # differences from the middle, so that float32 holds the squares of many
    return (below + upto).astype(jnp.float32) / 2 - real.sum() / 2
