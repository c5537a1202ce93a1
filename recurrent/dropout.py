"""Dropout whose rate may be traced and whose key is explicit."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer


def dropout(x: Array, rate: Any, key: Array | None) -> Array:
    """Sets each entry to zero with probability ``rate`` and scales the rest by 1 / (1 - rate).

    Args:
      x: any shape.
      rate: 0 to below 1; may be traced.
      key: drawn from once for the whole array; None in evaluation, which returns ``x``.

    Raises:
      ValueError: for a rate outside 0 to below 1, unless it is traced.

    References:
      Srivastava et al. 2014.
    """
    check_rate(rate)
    if key is None:
        return x
    return dropped(jax.random.bernoulli(key, 1 - rate, x.shape), x, rate)


def dropped(keep: Array, x: Array, rate: Any) -> Array:
    """``x / (1 - rate)`` in the type of x where ``keep``, zero elsewhere."""
    return jnp.where(keep, (x / (1 - rate)).astype(x.dtype), 0)


def check_rate(rate: Any) -> None:
    """Raises `ValueError` for a rate outside 0 to below 1, unless it is traced."""
    # float() of an array that is known, since comparing it while a function is traced is traced too
    if not isinstance(rate, Tracer) and not 0 <= float(rate) < 1:
        raise ValueError(f"rate: expected 0 to below 1, got {rate}.")
