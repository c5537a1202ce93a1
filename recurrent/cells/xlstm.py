"""The two cells of the xLSTM, whose gates are exponentials kept in range by a stabiliser."""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import Cell, Params, Shape, as_input, check_sizes, where_flag
from recurrent.cells._gated_loop import Blocks
from recurrent.cells.gates import gated_cell
from recurrent.initializers import Initializer, init_blocks, resolve
from recurrent.linear_map import Maps, affine, dense_maps, derived_map

Forget = Literal["sigmoid", "exponential"]


class SLSTMState(NamedTuple):
    """``hidden`` is h; ``cell``, ``normalizer`` and ``log_scale`` are c, n and m, all ``[..., H]``.

    The cell and the normaliser of the equation are those of the state times ``exp(log_scale)``.
    """

    hidden: Array
    cell: Array
    normalizer: Array
    log_scale: Array


def slstm(
    input_size: int,
    hidden_size: int,
    *,
    heads: int = 1,
    forget: Forget = "sigmoid",
    forget_bias: float | None = None,
    input_init: Initializer | str = "glorot_uniform",
    recurrent_init: Initializer | str = "orthogonal",
    bias_init: Initializer | str = "zeros",
    compute_dtype: Any = None,
) -> Cell:
    """The scalar LSTM of the xLSTM: exponential input gates and a normaliser.

    Equation, with u = x_t W + h_{t-1} R + b in the gate order z, i, f, o:
    ``c_t = s(f + forget_bias) c_{t-1} + exp(i) tanh(z)``,
    ``n_t = s(f + forget_bias) n_{t-1} + exp(i)``, ``h_t = sigmoid(o) c_t / n_t``, ``y_t = h_t``,
    where s is the sigmoid or the exponential. The state holds ``c_t exp(-m_t)`` and
    ``n_t exp(-m_t)``, with ``m_t = max(log s(f + forget_bias) + m_{t-1}, i)``, which is exact: no
    gate, however large, overflows, and n is 1 at least.

    Args:
      input_size: D.
      hidden_size: H.
      heads: R has this many blocks ``[H / heads, H / heads]`` on the diagonal of each gate's
        kernel, so that a head sees its own state alone.
      forget: s, ``"sigmoid"`` or ``"exponential"``.
      forget_bias: a constant added to the forget gate, apart from the trained bias; 1 for the
        sigmoid and 0 for the exponential by default.
      input_init: draws each gate's block ``[D, H]``.
      recurrent_init: draws each gate's and head's block ``[H / heads, H / heads]``.
      bias_init: draws each gate's bias ``[H]``.
      compute_dtype: as in `recurrent.gated`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, 4 H], "bias": [4 H]}, "recurrent":
      {"kernel": [H, 4 H]}}``, or with heads ``[heads, H / heads, 4 H / heads]`` for the latter,
      and the state `SLSTMState`. For params in bfloat16 the gate itself is computed in float32.

    Raises:
      ValueError: for a size below 1, heads that do not divide H, or an unknown name.

    References:
      Beck et al. 2024, xLSTM: extended long short-term memory, arXiv:2405.04517, section 2.2 and
      appendix A. Departures: one head by default; m_1 is i_1, since there is nothing to scale
      before the first input, where the paper leaves m_0 open; the constant forget bias.
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size, heads=heads)
    _check_heads(hidden_size, heads)
    log_forget = _log_forget(forget)
    shift = (1.0 if forget == "sigmoid" else 0.0) if forget_bias is None else forget_bias
    input_init, bias_init = resolve(input_init, "input_init"), resolve(bias_init, "bias_init")
    recurrent_init = resolve(recurrent_init, "recurrent_init")
    head = hidden_size // heads

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 3)
        blocks = init_blocks(recurrent_init, keys[2], (head, head), 4 * heads)
        by_head = jnp.stack(jnp.split(blocks, heads, axis=-1))
        return {
            "input": {
                "kernel": init_blocks(input_init, keys[0], (input_size, hidden_size), 4),
                "bias": init_blocks(bias_init, keys[1], (hidden_size,), 4),
            },
            "recurrent": {"kernel": by_head if heads > 1 else by_head[0]},
        }

    def gate(_: Any, zx: Blocks, zh: Blocks, state: SLSTMState) -> SLSTMState:
        z, i, f, o = jnp.split(_wide(zx[0] + zh[0]), 4, -1)
        cell, normalizer, log_scale = map(_wide, state[1:])
        kept = jnp.where(normalizer == 0, i, log_forget(f + shift) + log_scale)
        dtype = state.log_scale.dtype
        log_scale = _wide(jnp.maximum(kept, i).astype(dtype))
        keep, write = jnp.exp(kept - log_scale), jnp.exp(i - log_scale)
        cell = keep * cell + write * jnp.tanh(z)
        normalizer = keep * normalizer + write
        hidden = jax.nn.sigmoid(o) * cell / normalizer
        new = SLSTMState(hidden, cell, normalizer, log_scale)
        return jax.tree.map(lambda leaf: leaf.astype(dtype), new)

    maps = dense_maps(compute_dtype)
    if heads > 1:
        by_head = partial(_by_head, compute_dtype=compute_dtype)
        maps = Maps(maps.input, derived_map(by_head))
    return gated_cell(init, gate, (input_size,), SLSTMState, [(hidden_size,)] * 4, maps)


def _by_head(params: Params, h: Array, compute_dtype: Any) -> Array:
    """``[..., H] -> [..., 4 H]``: each gate's H numbers side by side, each head's among them."""
    kernel = params["kernel"]
    heads, size, width = kernel.shape
    kernel = kernel.reshape(heads, size, 4, width // 4)
    h = h.reshape(*h.shape[:-1], heads, size)
    dtype = compute_dtype or kernel.dtype
    z = jnp.einsum(
        "...nd,ndge->...gne",
        h.astype(dtype),
        kernel.astype(dtype),
        preferred_element_type=kernel.dtype,
    )
    return z.reshape(*z.shape[:-3], heads * width)


class MLSTMState(NamedTuple):
    """A matrix memory for each of N heads.

    Attributes:
      memory: C, ``[..., N, K, V]``, keys by values.
      normalizer: n, ``[..., N, K]``.
      log_scale: m, ``[..., N]``; the memory and the normaliser of the equation are those of the
        state times ``exp(log_scale)``.
    """

    memory: Array
    normalizer: Array
    log_scale: Array


class _MemoryInputs(NamedTuple):
    """What the memory reads: ``[..., N, K]`` twice, ``[..., N, V]``, and ``[..., N]`` twice."""

    query: Array
    key: Array
    value: Array
    log_write: Array
    log_keep: Array


def mlstm(
    input_size: int,
    hidden_size: int,
    *,
    heads: int = 1,
    key_size: int | None = None,
    forget: Forget = "sigmoid",
    forget_bias: tuple[float, float] | None = None,
    kernel_init: Initializer | str = "glorot_uniform",
    chunk_size: int = 64,
    compute_dtype: Any = None,
) -> Cell:
    """The matrix LSTM of the xLSTM: a memory of key-value pairs, which h does not feed.

    Equation, for each head, with ``q, k, v`` affine in x_t, ``k`` divided by ``sqrt(K)``, and
    scalars i and f affine in x_t:
    ``C_t = s(f) C_{t-1} + exp(i) k v^T``, ``n_t = s(f) n_{t-1} + exp(i) k``,
    ``y_t = sigmoid(W_o x_t + b_o) * C_t^T q / max(|n_t q|, 1)``, where s is the sigmoid or the
    exponential. The state holds ``C_t exp(-m_t)`` and ``n_t exp(-m_t)``, with
    ``m_t = max(log s(f) + m_{t-1}, i, 0)``, which is exact: no gate, however large, overflows.

    Step by step it streams; whole sequences run chunk by chunk, as causal attention with decay
    inside each and with the memory from one to the next, with the same numbers.

    Args:
      input_size: D.
      hidden_size: H, all heads' values, V each.
      heads: N, a divisor of H.
      key_size: K of each head; V by default.
      forget: s, ``"sigmoid"`` or ``"exponential"``.
      forget_bias: at first the bias of f goes in even steps from one to the other over the heads;
        ``(3, 6)`` for the sigmoid and ``(0, 0)`` for the exponential by default.
      kernel_init: draws the kernels of q, k, v, of i and f, and of o.
      chunk_size: how many steps are done at once in a whole sequence; memory grows with it.
      compute_dtype: such as ``jnp.bfloat16``, for the products with kernels. The memory keeps the
        params' type, and is computed in float32 at least.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, N (2 K + V)] (q, k, v), "bias"}, "gates":
      {"kernel": [D, 2 N] (i, f), "bias"}, "output_gate": {"kernel": [D, H], "bias"}}`` and the
      state `MLSTMState`.

    Raises:
      ValueError: for a size below 1, heads that do not divide H, or an unknown name.

    References:
      Beck et al. 2024, xLSTM: extended long short-term memory, arXiv:2405.04517, section 2.3 and
      appendix A; the initial forget biases are those of the authors' code. Departure: m_t is 0 at
      least, beside which the paper's ``max(|n q|, exp(-m))`` overflows; so a memory below
      ``exp(-88)`` of float32 counts as none.
    """
    keys_of = hidden_size // max(heads, 1) if key_size is None else key_size
    check_sizes(input_size=input_size, hidden_size=hidden_size, heads=heads, key_size=keys_of)
    check_sizes(chunk_size=chunk_size)
    _check_heads(hidden_size, heads)
    values_of = hidden_size // heads
    log_forget = _log_forget(forget)
    kernel_init = resolve(kernel_init, "kernel_init")
    width = heads * keys_of
    first_bias, last_bias = forget_bias or ((3.0, 6.0) if forget == "sigmoid" else (0.0, 0.0))

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 5)
        queries = init_blocks(kernel_init, keys[0], (input_size, width), 2)
        values = kernel_init(keys[1], (input_size, hidden_size))
        gates = init_blocks(kernel_init, keys[2], (input_size, heads), 2)
        biases = jnp.concatenate([jnp.zeros(heads), jnp.linspace(first_bias, last_bias, heads)])
        output = kernel_init(keys[3], (input_size, hidden_size))
        into = jnp.concatenate([queries, values], axis=-1)
        return {
            "input": {"kernel": into, "bias": jnp.zeros(into.shape[-1])},
            "gates": {"kernel": gates, "bias": biases},
            "output_gate": {"kernel": output, "bias": jnp.zeros(hidden_size)},
        }

    def initial_state(params: Params, batch_shape: Shape) -> MLSTMState:
        shapes = (heads, keys_of, values_of), (heads, keys_of), (heads,)
        dtype = params["input"]["kernel"].dtype
        return MLSTMState(*[jnp.zeros((*batch_shape, *shape), dtype) for shape in shapes])

    def read(params: Params, x: Array) -> tuple[_MemoryInputs, Array]:
        """The inputs of the memory and the output gate, in float32 at least."""
        x = as_input(x, (input_size,), params["input"]["kernel"].dtype)
        into, gates, output = (
            _wide(affine(params[name], x, compute_dtype))
            for name in ("input", "gates", "output_gate")
        )
        query, key, value = (
            part.reshape(*x.shape[:-1], heads, part.shape[-1] // heads)
            for part in jnp.split(into, [width, 2 * width], -1)
        )
        log_write, f = jnp.split(gates, 2, -1)
        key = key / math.sqrt(keys_of)
        inputs = _MemoryInputs(query, key, value, log_write, log_forget(f))
        return inputs, jax.nn.sigmoid(output)

    def step(params: Params, state: MLSTMState, x: Array) -> tuple[MLSTMState, Array]:
        inputs, output = read(params, x)
        new, values = _memory_step(state, inputs)
        y = output * values.reshape(output.shape)
        return new, y.astype(state.memory.dtype)

    def run(
        params: Params, state: MLSTMState, xs: Array, *, mask: Any, reset: Any, reverse: bool
    ) -> tuple[MLSTMState, Array]:
        if mask is not None:
            xs = where_flag(mask, xs, jnp.zeros_like(xs))
        inputs, output = read(params, xs)
        new, values = _memory_sequence(state, inputs, mask, reset, reverse, chunk_size)
        ys = (output * values.reshape(output.shape)).astype(state.memory.dtype)
        return new, ys if mask is None else where_flag(mask, ys, jnp.zeros_like(ys))

    return Cell(init, initial_state, step, (input_size,), run)


def _memory_step(state: MLSTMState, inputs: _MemoryInputs) -> tuple[MLSTMState, Array]:
    """The state after, and what the query reads ``[..., N, V]``."""
    memory, normalizer, before = map(_wide, state)
    query, key, value, log_write, log_keep = inputs
    after = jnp.maximum(log_keep + before, jax.nn.relu(log_write))
    keep = jnp.exp(log_keep + before - after)[..., None]
    written = jnp.exp(log_write - after)[..., None] * key
    memory = keep[..., None] * memory + written[..., None] * value[..., None, :]
    normalizer = keep * normalizer + written
    read = jnp.einsum("...kv,...k->...v", memory, query)
    weight = jnp.einsum("...k,...k->...", normalizer, query)
    new = _rounded(MLSTMState(memory, normalizer, after), state.log_scale.dtype)
    return new, read / _divisor(weight, after)[..., None]


def _divisor(weight: Array, log_scale: Array) -> Array:
    """``max(|weight|, exp(-log_scale))``, and of a finite inverse square where both vanish."""
    floor = jnp.maximum(jnp.exp(-log_scale), math.sqrt(jnp.finfo(weight.dtype).tiny))
    return jnp.maximum(jnp.abs(weight), floor)


class _Chunk(NamedTuple):
    """Some steps of all that `_memory_sequence` reads, time first, flags ``[L, ...]``."""

    inputs: _MemoryInputs
    real: Array
    fresh: Array


def _memory_sequence(
    state: MLSTMState, inputs: _MemoryInputs, mask: Any, reset: Any, reverse: bool, most: int
) -> tuple[MLSTMState, Array]:
    """`_memory_step` over time, chunk by chunk; values ``[T, ..., N, V]``."""
    dtype = state.log_scale.dtype
    shape = inputs.log_write.shape[:-1]
    real = jnp.ones(shape, bool) if mask is None else mask
    chunk = _Chunk(inputs, real, jnp.zeros(shape, bool) if reset is None else reset)
    time = shape[0]
    size = max(1, min(most, time))
    padded_time = time + -time % size

    def cut(leaf: Array) -> Array:
        leaf = leaf[::-1] if reverse else leaf
        padded = jnp.pad(leaf, [(0, padded_time - time)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(padded_time // size, size, *leaf.shape[1:])

    last, values = lax.scan(_memory_chunk, jax.tree.map(_wide, state), jax.tree.map(cut, chunk))
    values = values.reshape(padded_time, *values.shape[2:])[:time]
    return _rounded(last, dtype), values[::-1] if reverse else values


def _rounded(state: MLSTMState, dtype: Any) -> MLSTMState:
    """The state in a type, scaled by the scale as it is after rounding."""
    if state.log_scale.dtype == dtype:
        return state
    log_scale = state.log_scale.astype(dtype)
    factor = jnp.exp(state.log_scale - _wide(log_scale))[..., None]
    memory, normalizer = factor[..., None] * state.memory, factor * state.normalizer
    return MLSTMState(memory.astype(dtype), normalizer.astype(dtype), log_scale)


def _memory_chunk(state: MLSTMState, chunk: _Chunk) -> tuple[MLSTMState, Array]:
    """L steps at once: row t of a matrix ``[L, L, ..., N]`` says what t reads of each s."""
    query, key, value, log_write, log_keep = chunk.inputs
    real, fresh = chunk.real[..., None], chunk.fresh[..., None]
    log_keep = jnp.where(real, log_keep, 0)
    steps = jnp.arange(len(real))
    segment = jnp.cumsum(fresh, axis=0)
    together = segment[:, None] == segment[None]
    past = (steps[:, None] >= steps).reshape(len(steps), len(steps), *[1] * (real.ndim - 1))
    seen = together & past & real[None]

    decay = _decay_between(log_keep)
    start = jnp.where(segment == 0, state.log_scale, 0)
    start += jnp.where(together & past, log_keep[None], 0).sum(axis=1)
    floor = jnp.where(seen, decay + jax.nn.relu(log_write)[None], -jnp.inf)
    log_scale = jnp.maximum(start, floor.max(axis=1))

    held = jnp.where(segment == 0, jnp.exp(start - log_scale), 0)
    weights = jnp.exp(jnp.where(seen, decay + log_write[None] - log_scale[:, None], -jnp.inf))
    scores = weights * jnp.einsum("t...k,s...k->ts...", query, key)
    from_memory = jnp.einsum("...kv,t...k->t...v", state.memory, query)
    read = held[..., None] * from_memory + jnp.einsum("ts...,s...v->t...v", scores, value)
    weight = held * jnp.einsum("...k,t...k->t...", state.normalizer, query) + scores.sum(axis=1)

    written = weights[-1][..., None] * key
    memory = jnp.einsum("s...k,s...v->...kv", written, value)
    new = MLSTMState(
        held[-1][..., None, None] * state.memory + memory,
        held[-1][..., None] * state.normalizer + written.sum(axis=0),
        log_scale[-1],
    )
    touched = (chunk.real | chunk.fresh).any(axis=0)
    new = where_flag(touched, new, state)  # or a rounding of the scale's gradient would be left
    return new, read / _divisor(weight, log_scale)[..., None]


def _decay_between(log_keep: Array) -> Array:
    """``[L, L, ...]``: the sum of the steps after s, up to t, without a difference of sums."""
    steps = jnp.arange(len(log_keep))
    later = (steps[:, None] > steps).reshape(len(steps), len(steps), *[1] * (log_keep.ndim - 1))
    return jnp.cumsum(jnp.where(later, log_keep[:, None], 0), axis=0)


def _log_forget(forget: str) -> Any:
    known = {"sigmoid": jax.nn.log_sigmoid, "exponential": lambda f: f}
    if forget not in known:
        raise ValueError(f'forget: expected "sigmoid" or "exponential", got {forget!r}.')
    return known[forget]


def _check_heads(hidden_size: int, heads: int) -> None:
    if hidden_size % heads:
        raise ValueError(f"heads: expected a divisor of hidden_size={hidden_size}, got {heads}.")


def _wide(x: Array) -> Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
