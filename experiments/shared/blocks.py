"""Stack residual blocks of a cell that a flag names."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

import recurrent
from experiments.harness.errors import UserError
from experiments.shared.cell_flag import make_cell
from recurrent.layers import init_all


def block(name: str, size: int, options: dict[str, Any] | None = None) -> recurrent.Cell:
    """Return a residual block of the cell of that name, followed by a gated perceptron.

    Equation, with RMS norms: ``x' = x + cell(norm(x))``, ``y = x' + mlp(norm(x'))``.

    Args:
      name: of the cell.
      size: H, of inputs, states and outputs.
      options: of the cell.

    Raises:
      UserError: where the cell is none, or changes the size of what it reads.
    """
    cell = make_cell(name, size, size, **(options or {}))
    if recurrent.output_shape(cell) != cell.input_shape:
        raise UserError(
            f"--blocks: expected a cell that returns as many numbers as it reads; {name} reads "
            f"{size} and returns {list(recurrent.output_shape(cell))}; take another --cell."
        )
    return recurrent.pre_norm_block(cell, recurrent.mlp(size, size, kind="swiglu"))


def deep(input_size: int, blocks: list[recurrent.Cell]) -> recurrent.Cell:
    """Return an affine map of the input, the blocks, and a last RMS norm, as one cell."""
    (size,) = blocks[0].input_shape
    return recurrent.stack(
        recurrent.dense(input_size, size),
        *blocks,
        recurrent.rms_norm(size),
        input_shape=(input_size,),
    )


class Pyramid(NamedTuple):
    """Hold layers of whole sequences.

    Attributes:
      init: ``key -> params``.
      apply: ``(params, xs [T, B, D]) -> ys [T', B, H]``.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any, Array], Array]


def pyramid(input_size: int, blocks: list[recurrent.Cell], pool: int) -> Pyramid:
    """Return `deep` with fewer steps in each block than in the one below.

    Args:
      input_size: D.
      blocks: one or more, all of one size H.
      pool: how many steps are averaged into one between two blocks; 1 gives `deep`.

    References:
      Chan et al. 2016, Listen, attend and spell, arXiv:1508.01211, section 3.1. Departure: steps
      are averaged, where the paper puts two side by side.
    """
    (size,) = blocks[0].input_shape
    widened = recurrent.dense(input_size, size)
    levels = [recurrent.stack(widened, blocks[0], input_shape=(input_size,)), *blocks[1:]]
    levels[-1] = recurrent.stack(levels[-1], recurrent.rms_norm(size))

    def apply(params: Any, xs: Array) -> Array:
        for k, level in enumerate(levels):
            xs = averaged_steps(xs, pool) if k else xs
            _, xs = recurrent.unroll(level, params[f"level_{k}"], xs)
        return xs

    init = partial(init_all, {f"level_{k}": level for k, level in enumerate(levels)})
    return Pyramid(init, apply)


def averaged_steps(xs: Array, pool: int) -> Array:
    """Average each ``pool`` steps of ``[T, ...]`` into one; the last may be of fewer.

    Example:
      >>> import jax.numpy as jnp
      >>> averaged_steps(jnp.array([1.0, 3.0, 5.0]), 2).tolist()
      [2.0, 5.0]
    """
    steps = len(xs)
    padding = [(0, -steps % pool)] + [(0, 0)] * (xs.ndim - 1)
    sums = jnp.pad(xs, padding).reshape(-1, pool, *xs.shape[1:]).sum(1)
    counts = jnp.minimum(pool, steps - pool * jnp.arange(len(sums)))
    return sums / counts.reshape(-1, *[1] * (xs.ndim - 1))
