"""Dropout whose rate may be traced and whose key is explicit."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def dropout(x: Array, rate: Any, key: Array | None) -> Array:
    """Sets each entry to zero with probability ``rate`` and scales the rest by 1 / (1 - rate).

    Args:
      x: any shape.
      rate: 0 to below 1; may be traced.
      key: drawn from once for the whole array; None in evaluation, which returns ``x``.

    References:
      Srivastava et al. 2014.
    """
    if key is None:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)
