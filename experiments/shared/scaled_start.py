"""Begin with recurrent weights of another size."""

from typing import Any

import jax
from jax import Array


def scaled(params: Any, gain: Any) -> Any:
    """Multiply the recurrent weights of a network, those called ``recurrent/kernel``, by a gain.

    Args:
      params: of the network.
      gain: a number, which may be traced.

    Example:
      >>> import jax.numpy as jnp
      >>> scaled({"recurrent": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}, 3.0)["recurrent"]
      {'bias': Array([1., 1.], dtype=float32), 'kernel': Array([3., 3.], dtype=float32)}
    """

    def each(path: Any, leaf: Array) -> Array:
        return gain * leaf if is_recurrent(path) else leaf

    return jax.tree_util.tree_map_with_path(each, params)


def is_recurrent(path: Any) -> bool:
    """Return whether a leaf of params holds recurrent weights."""
    return jax.tree_util.keystr(path, simple=True, separator="/").endswith("recurrent/kernel")


def has_recurrent(init: Any) -> bool:
    """Return whether a network has recurrent weights of that name."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    return any(is_recurrent(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes))
