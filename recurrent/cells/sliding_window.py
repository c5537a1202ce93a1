"""Build the sequence functions of cells whose state is a window of the last steps.

Such cells (attention, causal convolution) count only real steps: padding inside a sequence takes up
no room in the window. So the padding is first moved to the end, the window then slides over
adjacent real steps, and the outputs are moved back to the steps of their inputs.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import Params, Sequence, State, where_flag

_NEVER = -(2**30)


class Steps(NamedTuple):
    """Describe the steps of a sequence without its padding, counted from its first real step.

    Attributes:
      real: ``[B]``, the number of real steps; None if all are.
      since: ``[T, B]``, the earliest step that each step may depend on: that of the last reset, or
        a number far below zero if there was none; None without resets.
      last_since: ``[B]``, the same for a step that follows the last; None without resets.
    """

    real: Array | None
    since: Array | None
    last_since: Array | None


def without_padding(
    run: Callable[[Params, State, Array, Steps], tuple[State, Array]],
) -> Sequence:
    """Make a cell's sequence function from one that only reads forward and handles no mask.

    Args:
      run: ``(params, state, xs, steps) -> (state, ys)`` with xs ``[T, B, D]``, T at least 1 and
        one batch axis. If ``steps.real`` is given, the steps after that many are padding: their
        inputs are zeros, their outputs are ignored, and the state must not depend on them.

    Returns:
      The sequence function, for any T and any number of batch axes; see `recurrent.Cell`.
    """

    def sequence(
        params: Params, state: State, xs: Array, *, mask: Any, reset: Any, reverse: bool
    ) -> tuple[State, Array]:
        if xs.shape[0] == 0:  # one padded step gives the output shape
            one = jnp.zeros((1, *xs.shape[1:]), xs.dtype)
            state, ys = sequence(
                params, state, one, mask=jnp.zeros(one.shape[:2], bool), reset=None, reverse=False
            )
            return state, ys[:0]
        if reverse:
            xs, mask, reset = jax.tree.map(lambda a: a[::-1], (xs, mask, reset))
        order = None
        if mask is not None:
            order = jnp.argsort(~mask, axis=0, stable=True)  # real steps first
            xs = _take(where_flag(mask, xs, jnp.zeros_like(xs)), order)
        state, ys = run(params, state, xs, _steps(order, mask, reset))
        if mask is not None:
            ys = where_flag(mask, _take(ys, _real_steps_before(mask)), jnp.zeros_like(ys))
        return state, ys[::-1] if reverse else ys

    return _with_one_batch_axis(sequence)


def _with_one_batch_axis(run: Sequence) -> Sequence:
    def sequence(
        params: Params, state: State, xs: Array, *, mask: Any, reset: Any, reverse: bool
    ) -> tuple[State, Array]:
        time, *batch, features = xs.shape
        rows = prod(batch)
        if rows == 0:  # a run may assume at least one row
            one = partial(sequence, params, mask=None, reset=None, reverse=False)
            ys = jax.eval_shape(one, *_one_row(state, xs, len(batch)))[1]
            return state, jnp.zeros((time, *batch, *ys.shape[2:]), ys.dtype)
        mask, reset = jax.tree.map(lambda flags: flags.reshape(time, rows), (mask, reset))
        flat = jax.tree.map(lambda leaf: leaf.reshape(rows, *leaf.shape[len(batch) :]), state)
        flat, ys = run(
            params, flat, xs.reshape(time, rows, features), mask=mask, reset=reset, reverse=reverse
        )
        state = jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), flat)
        return state, ys.reshape(time, *batch, *ys.shape[2:])

    return sequence


def _one_row(state: State, xs: Array, batch_axes: int) -> tuple[State, Any]:
    """Return the shapes of the state and inputs, with one batch axis of size 1."""

    def of_state(leaf: Array) -> Any:
        return jax.ShapeDtypeStruct((1, *leaf.shape[batch_axes:]), leaf.dtype)

    inputs = jax.ShapeDtypeStruct((xs.shape[0], 1, xs.shape[-1]), xs.dtype)
    return jax.tree.map(of_state, state), inputs


def join(past: Array, new: Array) -> Array:
    """Append new steps ``[T, B, ...]`` to past ones ``[B, P, ...]``, giving ``[B, P + T, ...]``."""
    return jnp.concatenate([past, jnp.moveaxis(new, 0, 1).astype(past.dtype)], axis=1)


def latest(joined: Array, size: int, steps: Steps) -> Array:
    """Return the last ``size`` real steps of the joined ones, zero if they precede a reset.

    Args:
      joined: ``[B, size + T, ...]``, from `join`.
      size: the number of steps of the window that are kept.
      steps: describes the T new steps.

    Returns:
      ``[B, size, ...]``.
    """
    time = joined.shape[1] - size
    if steps.real is None:
        last, count = joined[:, time:], time
    else:
        count = steps.real[:, None]
        index = (count + jnp.arange(size)).reshape(count.shape[0], size, *[1] * (joined.ndim - 2))
        last = jnp.take_along_axis(joined, index, axis=1)
    if steps.last_since is None:
        return last
    kept = count - size + jnp.arange(size) >= steps.last_since[:, None]
    return where_flag(kept, last, jnp.zeros_like(last))


def _steps(order: Array | None, mask: Array | None, reset: Array | None) -> Steps:
    count = None if mask is None else mask.sum(axis=0)
    if reset is None:
        return Steps(count, None, None)
    index = _real_steps_before(jnp.ones_like(reset) if mask is None else mask)
    since = lax.cummax(jnp.where(reset, index, _NEVER))
    return Steps(count, since if order is None else _take(since, order), since[-1])


def _real_steps_before(mask: Array) -> Array:
    return jnp.cumsum(mask, axis=0) - mask


def _take(values: Array, index: Array) -> Array:
    index = index.reshape(index.shape + (1,) * (values.ndim - index.ndim))
    return jnp.take_along_axis(values, index, axis=0)
