"""Run causal self-attention as a recurrent cell, with past keys and values as its state."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.attention import (
    dot_product_attention,
    head_sizes,
    init_heads,
    rotary,
    split_heads,
)
from recurrent.cell import Cell, Params, Shape, as_input, check_sizes, in_one_type, is_known
from recurrent.cells.sliding_window import Steps, join, latest, without_padding
from recurrent.errors import ArgumentError
from recurrent.linear_map import affine


class KeyValueCache(NamedTuple):
    """Hold the keys and values of the last ``window - 1`` steps, oldest first.

    Attributes:
      keys: ``[..., window - 1, K, F]``, before rotary positions are applied.
      values: ``[..., window - 1, K, F]``.
      filled: ``[..., window - 1]``, 1 where a step is stored and 0 where none is yet. Floats, so
        that the whole state has one dtype.
    """

    keys: Array
    values: Array
    filled: Array


def attention_cell(
    input_size: int,
    hidden_size: int,
    *,
    heads: int = 4,
    window: int = 256,
    key_value_heads: int | None = None,
    head_size: int | None = None,
    rotary_base: float | None = 10_000.0,
    bias: bool = False,
) -> Cell:
    """Build causal self-attention as a recurrent cell whose state is a key-value cache.

    Equation: that of `recurrent.multi_head_attention`, where step t attends to itself and to the
    real steps before it, back to the last reset, ``window`` steps in all. Reading one step at a
    time needs memory O(window). A whole sequence of T steps is computed in blocks, in memory
    O(T * window), if T >= window, and at once otherwise. For full attention, choose a window of at
    least the length of the longest sequence.

    Args:
      input_size: D.
      hidden_size: H, the size of the output.
      heads: N.
      window: the number of steps that a step attends to, itself included; at least 2.
      key_value_heads: K, a divisor of N; N by default.
      head_size: F; H / N by default.
      rotary_base: the base of `recurrent.attention.rotary` positions; None for no positions, so
        that the order of the earlier steps makes no difference.
      bias: whether the affine maps have biases.

    Returns:
      The cell. Params are those of `recurrent.multi_head_attention`, with E = D and outputs of
      size H.

    Raises:
      ValueError: for a size below 1, a window below 2, a number of heads that does not divide H (if
        ``head_size`` is None), a number of key-value heads that does not divide N, or an odd head
        size with rotary positions.

    References:
      Vaswani et al. 2017, arXiv:1706.03762; Beltagy et al. 2020, arXiv:2004.05150 (windows); Su
      et al. 2021, arXiv:2104.09864. The cache holds keys before their rotation, which is applied
      relative to the window, so positions do not grow with the length of the stream.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import attention_cell, unroll
      >>> cell = attention_cell(input_size=3, hidden_size=4, heads=2, window=8)
      >>> def run(key, xs):
      ...     return unroll(cell, cell.init(key), xs)
      >>> cache, ys = jax.eval_shape(run, jax.random.key(0), jnp.ones((5, 2, 3)))  # xs [T, B, D]
      >>> ys.shape, cache.keys.shape
      ((5, 2, 4), (2, 7, 2, 2))
    """
    sizes = head_sizes(hidden_size, heads, key_value_heads, head_size, rotary_base is not None)
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    if window < 2:
        raise ArgumentError(f"window: expected at least 2, got {window}.")
    past = window - 1

    def init(key):
        return init_heads(key, input_size, input_size, hidden_size, sizes, bias)

    def initial_state(params: Params, batch_shape: Shape) -> KeyValueCache:
        dtype = in_one_type(params)["query"]["kernel"].dtype
        stored = jnp.zeros((*batch_shape, past, sizes.key_value_heads, sizes.size), dtype)
        return KeyValueCache(stored, stored, stored[..., 0, 0])

    def read(params: Params, cache: KeyValueCache, xs: Array) -> tuple[Array, KeyValueCache]:
        """Return the queries ``[B, T, N, F]`` and the cache extended by all new steps."""
        xs = as_input(xs, (input_size,), params["query"]["kernel"].dtype)
        queries, keys, values = (
            split_heads(params[name], xs, sizes.size) for name in ("query", "key", "value")
        )
        new = KeyValueCache(keys, values, jnp.ones(xs.shape[:2]))
        return jnp.moveaxis(queries, 1, 0), jax.tree.map(join, cache, new)

    def write(params: Params, contexts: Array) -> Array:
        contexts = jnp.moveaxis(contexts, 0, 1)  # [T, B, N, F]
        width = math.prod(contexts.shape[2:])
        return affine(params["output"], contexts.reshape(*contexts.shape[:2], width))

    def run(params: Params, cache: KeyValueCache, xs: Array, steps: Steps):
        params = in_one_type(params)
        queries, joined = read(params, cache, xs)
        since = None if steps.since is None else steps.since.T
        if not is_known(xs.shape[0]) or xs.shape[0] > past:  # blocks are right for any length
            contexts = _attend_in_blocks(queries, joined, since, window, rotary_base)
        else:
            new = jax.tree.map(lambda leaf: leaf[:, past:], joined)
            # In most training the cache is empty at first; then only the new steps need computing.
            contexts = lax.cond(
                jnp.any(cache.filled > 0.5),
                lambda: _attend_to_window(queries, joined, since, window, rotary_base),
                lambda: _attend_to_window(queries, new, since, window, rotary_base),
            )
        cache = jax.tree.map(lambda leaf: latest(leaf, past, steps), joined)
        return cache, write(params, contexts)

    def step(params: Params, state: KeyValueCache, x: Array) -> tuple[KeyValueCache, Array]:
        params = in_one_type(params)
        cache = jax.tree.map(lambda leaf: _flat(leaf, x.ndim - 1), state)
        queries, joined = read(params, cache, _flat(x, x.ndim - 1)[None])
        ys = write(params, _attend_to_window(queries, joined, None, window, rotary_base))
        cache = jax.tree.map(lambda old, leaf: leaf[:, 1:].reshape(old.shape), state, joined)
        return cache, ys.reshape(*x.shape[:-1], hidden_size)

    return Cell(init, initial_state, step, (input_size,), without_padding(run))


def _attend_in_blocks(
    queries: Array, joined: KeyValueCache, since: Array | None, window: int, base: float | None
) -> Array:
    """Do what `_attend_to_window` does, in blocks of ``window - 1`` steps.

    The steps of a block attend to that block and the one before it.
    """
    past = window - 1
    rows, time = queries.shape[:2]
    count = -(-time // past)

    def blocks(leaf: Array, number: int) -> Array:
        padding = number * past - leaf.shape[1]
        leaf = jnp.pad(leaf, [(0, 0), (0, padding), *[(0, 0)] * (leaf.ndim - 2)])
        return leaf.reshape(rows, number, past, *leaf.shape[2:])  # [B, blocks, window - 1, ...]

    def with_the_block_before(leaf: Array) -> Array:
        before, own = blocks(leaf, count + 1)[:, :-1], blocks(leaf, count + 1)[:, 1:]
        pairs = jnp.concatenate([before, own], axis=2)
        return pairs.reshape(rows * count, 2 * past, *leaf.shape[2:])

    if since is not None:
        starts = past * jnp.arange(count)[:, None]
        since = (blocks(since, count) - starts).reshape(rows * count, past)
    queries = blocks(queries, count).reshape(rows * count, past, *queries.shape[2:])
    joined = jax.tree.map(with_the_block_before, joined)
    contexts = _attend_to_window(queries, joined, since, window, base)
    return contexts.reshape(rows, count * past, *contexts.shape[2:])[:, :time]


def _attend_to_window(
    queries: Array, joined: KeyValueCache, since: Array | None, window: int, base: float | None
) -> Array:
    """Let the last steps of the extended cache attend to themselves and to the steps before.

    Args:
      queries: ``[B, T, N, F]``, of the last T steps of the cache.
      joined: the cache ``[B, P + T, ...]``, of P earlier and T new steps.
      since: ``[B, T]``, the earliest step that each step may attend to, counted from the first of
        the T steps; None for no limit.
      window: the number of steps that a step may attend to, itself included.
      base: the base of the rotary positions; None for no positions.

    Returns:
      The contexts ``[B, T, N, F]``.
    """
    time = queries.shape[1]
    key_steps = jnp.arange(time - joined.keys.shape[1], time)
    distance = jnp.arange(time)[:, None] - key_steps
    seen = ((distance >= 0) & (distance < window)) & (joined.filled > 0.5)[:, None, :]
    if since is not None:
        seen &= key_steps >= since[..., None]
    keys = joined.keys
    if base is not None:
        queries = rotary(queries, jnp.arange(time), base=base)
        keys = rotary(keys, key_steps, base=base)
    return dot_product_attention(queries, keys, joined.values, seen[:, None])


def _flat(leaf: Array, batch_axes: int) -> Array:
    return leaf.reshape(math.prod(leaf.shape[:batch_axes]), *leaf.shape[batch_axes:])
