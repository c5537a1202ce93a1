"""Share helpers among the linear cells: projections, initial step sizes, dtypes and checks."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import Params, Shape
from recurrent.errors import ArgumentError
from recurrent.initializers import (
    Initializer,
    init_blocks,
)
from recurrent.linear_map import affine


def _dtype(params: Params) -> Any:
    return jnp.result_type(*jax.tree.leaves(params))


def _wide(x: Array) -> Array:
    """Cast to at least float32, since bfloat16 cannot represent a decay close to 1."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _affine(params: Params, x: Array, compute_dtype: Any) -> Array:
    return _wide(affine(params, x, compute_dtype))


def init_affine(
    key: Array, draw: Initializer, rows: int, columns: int, blocks: int = 1
) -> dict[str, Array]:
    """Draw an affine map: a kernel ``[rows, blocks * columns]`` and a bias of zeros.

    Args:
      key: the random key.
      draw: the initializer of each block ``[rows, columns]``.
      rows: the input size.
      columns: the output size of one block.
      blocks: the number of blocks side by side, each drawn on its own.

    Returns:
      The params ``{"kernel", "bias"}``.
    """
    kernel = init_blocks(draw, key, (rows, columns), blocks)
    return {"kernel": kernel, "bias": jnp.zeros(blocks * columns)}


def _normal(key: Array, shape: Shape, variance: float) -> Array:
    return math.sqrt(variance) * jax.random.normal(key, shape)


def _uniform(key: Array, size: int, low: float = 0, high: float = 1) -> Array:
    """Draw uniformly, but never below 1e-6, so that the logarithm is finite."""
    return jax.random.uniform(key, (size,), minval=max(low, 1e-6), maxval=high)


def step_bias(key: Array, size: int, low: float, high: float) -> Array:
    """Draw biases ``[size]`` whose softplus is log-uniform between ``low`` and ``high``."""
    steps = jnp.exp(jax.random.uniform(key, (size,), minval=math.log(low), maxval=math.log(high)))
    return steps + jnp.log(-jnp.expm1(-steps))  # the inverse of softplus


def check_projection(projection: bool, input_size: int, hidden_size: int) -> None:
    """Check that the sizes are equal where there is no projection from one to the other.

    Raises:
      ValueError: if they differ and ``projection`` is False.
    """
    if not projection and input_size != hidden_size:
        raise ArgumentError(
            "projection: expected True where input_size and hidden_size differ, "
            f"got False for {input_size} and {hidden_size}."
        )


def check_step_sizes(low: float, high: float) -> None:
    """Check the bounds of the initial step sizes.

    Raises:
      ValueError: unless ``0 < low <= high``.
    """
    if not 0 < low <= high:
        raise ArgumentError(
            f"min_step, max_step: expected 0 < min_step <= max_step, got {low} and {high}."
        )
