"""Build the two cells of the xLSTM, whose exponential gates are kept in range by a stabilizer."""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import (
    Cell,
    Params,
    Shape,
    as_input,
    check_sizes,
    in_one_type,
    is_known,
    where_flag,
)
from recurrent.cells._gated_loop import Blocks
from recurrent.cells._named import named
from recurrent.cells.gates import gated_cell
from recurrent.errors import ArgumentError
from recurrent.initializers import Initializer, init_blocks, resolve
from recurrent.linear_map import Maps, affine, dense_maps, derived_map

Forget = Literal["sigmoid", "exponential"]


class SLSTMState(NamedTuple):
    """Hold the state of `slstm`: ``[..., H]`` for each field.

    The c and n of the equation are ``cell`` and ``normalizer`` times ``exp(log_scale)``.

    Attributes:
      hidden: h.
      cell: c, scaled.
      normalizer: n, scaled.
      log_scale: m.
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
    """Build the scalar LSTM (sLSTM) of the xLSTM: exponential input gates and a normalizer.

    Equation, with u = x_t W + h_{t-1} R + b in the gate order z, i, f, o:
    ``c_t = s(f + forget_bias) c_{t-1} + exp(i) tanh(z)``,
    ``n_t = s(f + forget_bias) n_{t-1} + exp(i)``, ``h_t = sigmoid(o) c_t / n_t``, ``y_t = h_t``,
    where s is the sigmoid or the exponential. The state holds ``c_t exp(-m_t)`` and
    ``n_t exp(-m_t)``, with ``m_t = max(log s(f + forget_bias) + m_{t-1}, i)``. This is exact:
    no gate overflows, however large, and the n of the equation times ``exp(-m_t)`` is at least 1.

    Args:
      input_size: D.
      hidden_size: H.
      heads: the number of heads. The recurrent kernel of each gate is block-diagonal, with one
        block ``[H / heads, H / heads]`` per head, so that each head reads only its own state.
      forget: s, ``"sigmoid"`` or ``"exponential"``.
      forget_bias: a constant added to the forget gate's pre-activation, besides the trained bias;
        by default 1 for the sigmoid and 0 for the exponential.
      input_init: draws each gate's block ``[D, H]``.
      recurrent_init: draws each gate's and head's block ``[H / heads, H / heads]``.
      bias_init: draws each gate's bias ``[H]``.
      compute_dtype: as in `recurrent.gated`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, 4 H], "bias": [4 H]}, "recurrent":
      {"kernel": [H, 4 H]}}`` and the state `SLSTMState`. With more than one head the recurrent
      kernel is ``[heads, H / heads, 4 H / heads]``. For params in bfloat16 the gate itself is
      computed in float32.

    Raises:
      ValueError: for a size below 1, ``heads`` that does not divide H, an unknown initializer, or
        another ``forget``.

    References:
      Beck et al. 2024, xLSTM: extended long short-term memory, arXiv:2405.04517, section 2.2 and
      appendix A. Departures: one head by default; m_1 is i_1, since there is nothing to scale
      before the first input, where the paper leaves m_0 unspecified; the constant forget bias.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import slstm, unroll
      >>> cell = slstm(input_size=3, hidden_size=4, heads=2)
      >>> def run(key, xs):
      ...     return unroll(cell, cell.init(key), xs)
      >>> state, ys = jax.eval_shape(run, jax.random.key(0), jnp.ones((5, 2, 3)))  # shapes only
      >>> ys.shape, state.normalizer.shape
      ((5, 2, 4), (2, 4))
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
        by_head = jnp.stack(jnp.split(blocks, heads, axis=-1))  # [heads, H / heads, 4 H / heads]
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
        # The normalizer is zero only before the first input, when there is nothing to keep.
        kept = jnp.where(normalizer == 0, i, log_forget(f + shift) + log_scale)
        dtype = state.log_scale.dtype
        log_scale = _wide(jnp.maximum(kept, i).astype(dtype))  # rounded as the state will hold it
        keep, write = jnp.exp(kept - log_scale), jnp.exp(i - log_scale)
        cell = keep * cell + write * named("candidate", jnp.tanh, z)
        normalizer = keep * normalizer + write
        hidden = named("output", jax.nn.sigmoid, o) * cell / normalizer
        new = SLSTMState(hidden, cell, normalizer, log_scale)
        return jax.tree.map(lambda leaf: leaf.astype(dtype), new)

    maps = dense_maps(compute_dtype)
    if heads > 1:
        by_head = partial(_by_head, compute_dtype=compute_dtype)
        maps = Maps(maps.input, derived_map(by_head))
    return gated_cell(init, gate, (input_size,), SLSTMState, [(hidden_size,)] * 4, maps)


def _by_head(params: Params, h: Array, compute_dtype: Any) -> Array:
    """Multiply h by a block-diagonal kernel: ``[..., H] -> [..., 4 H]``, gates outermost.

    The H pre-activations of each gate are adjacent, and within them those of each head.
    """
    kernel = params["kernel"]
    heads, size, width = kernel.shape
    kernel = kernel.reshape(heads, size, 4, width // 4)
    h = h.reshape(*h.shape[:-1], heads, size)  # [..., heads, H / heads]
    dtype = compute_dtype or kernel.dtype
    z = jnp.einsum(  # [..., 4, heads, H / heads]
        "...nd,ndge->...gne",
        h.astype(dtype),
        kernel.astype(dtype),
        preferred_element_type=kernel.dtype,
    )
    return z.reshape(*z.shape[:-3], heads * width)


class MLSTMState(NamedTuple):
    """Hold the state of `mlstm`: a matrix memory for each of N heads.

    The C and n of the equation are ``memory`` and ``normalizer`` times ``exp(log_scale)``.

    Attributes:
      memory: C, scaled, ``[..., N, K, V]``, keys by values.
      normalizer: n, scaled, ``[..., N, K]``.
      log_scale: m, ``[..., N]``.
    """

    memory: Array
    normalizer: Array
    log_scale: Array


class _MemoryInputs(NamedTuple):
    """Hold the inputs of the memory.

    Query and key are ``[..., N, K]`` and the value ``[..., N, V]``; ``log_write`` and ``log_keep``
    are the logarithms of the input and the forget gate, ``[..., N]``.
    """

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
    """Build the matrix LSTM (mLSTM) of the xLSTM: a memory of key-value pairs.

    The gates, keys, values and queries depend on x_t alone, not on h_{t-1}.

    Equation, for each head, with ``q, k, v`` affine in x_t, ``k`` divided by ``sqrt(K)``, and
    scalars i and f affine in x_t:
    ``C_t = s(f) C_{t-1} + exp(i) k v^T``, ``n_t = s(f) n_{t-1} + exp(i) k``,
    ``y_t = sigmoid(W_o x_t + b_o) * C_t^T q / max(|n_t q|, 1)``, where s is the sigmoid or the
    exponential. The state holds ``C_t exp(-m_t)`` and ``n_t exp(-m_t)``, with
    ``m_t = max(log s(f) + m_{t-1}, i, 0)``. This is exact: no gate overflows, however large.

    The cell can run step by step. Whole sequences run chunk by chunk and give the same result:
    within a chunk as causal attention with decay, and from one chunk to the next through the
    memory.

    Args:
      input_size: D.
      hidden_size: H; the value of each head has V = H / N entries.
      heads: N, a divisor of H.
      key_size: K of each head; V by default.
      forget: s, ``"sigmoid"`` or ``"exponential"``.
      forget_bias: the initial biases of f for the first and the last head, with even steps over
        the heads between them; by default ``(3, 6)`` for the sigmoid and ``(0, 0)`` for the
        exponential.
      kernel_init: draws the kernels of q, k, v, of i and f, and of o.
      chunk_size: the number of steps computed at once when a whole sequence is run; memory grows
        with it.
      compute_dtype: the type of the operands of products with kernels, such as ``jnp.bfloat16``.
        The memory keeps the type of the params, and is computed in at least float32.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, N (2 K + V)] (q, k, v), "bias"}, "gates":
      {"kernel": [D, 2 N] (i, f), "bias"}, "output_gate": {"kernel": [D, H], "bias"}}`` and the
      state `MLSTMState`.

    Raises:
      ValueError: for a size below 1, ``heads`` that does not divide H, an unknown initializer, or
        another ``forget``.

    References:
      Beck et al. 2024, xLSTM: extended long short-term memory, arXiv:2405.04517, section 2.3 and
      appendix A; the initial forget biases are those of the authors' code. Departure: m_t is at
      least 0, since with a lower m the paper's ``max(|n q|, exp(-m))`` can overflow; as a result,
      in float32 a memory smaller than ``exp(-88)`` counts as zero.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import mlstm, unroll
      >>> cell = mlstm(input_size=3, hidden_size=4, heads=2, key_size=5)
      >>> def run(key, xs):
      ...     return unroll(cell, cell.init(key), xs)
      >>> state, ys = jax.eval_shape(run, jax.random.key(0), jnp.ones((5, 2, 3)))  # shapes only
      >>> ys.shape, state.memory.shape
      ((5, 2, 4), (2, 2, 5, 2))
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size, heads=heads)
    keys_of = max(hidden_size // heads, 1) if key_size is None else key_size
    check_sizes(key_size=keys_of, chunk_size=chunk_size)
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
        dtype = in_one_type(params)["input"]["kernel"].dtype
        return MLSTMState(*[jnp.zeros((*batch_shape, *shape), dtype) for shape in shapes])

    def read(params: Params, x: Array) -> tuple[_MemoryInputs, Array]:
        """Compute the inputs of the memory and the output gate, in at least float32."""
        params = in_one_type(params)
        x = as_input(x, (input_size,), params["input"]["kernel"].dtype)
        into, gates, output = (
            _wide(affine(params[name], x, compute_dtype))
            for name in ("input", "gates", "output_gate")
        )
        query, key, value = (
            part.reshape(*x.shape[:-1], heads, part.shape[-1] // heads)
            for part in jnp.split(into, [width, 2 * width], -1)
        )  # [..., N, K], [..., N, K], [..., N, V]
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
    """Update the memory by one step, and return it with what the query reads ``[..., N, V]``."""
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
    """Return ``max(|weight|, exp(-log_scale))``, bounded below so that its gradient is finite.

    The gradient of a quotient divides by the square of this, which must not be zero.
    """
    floor = jnp.maximum(jnp.exp(-log_scale), math.sqrt(jnp.finfo(weight.dtype).tiny))
    return jnp.maximum(jnp.abs(weight), floor)


class _Chunk(NamedTuple):
    """Hold what `_memory_sequence` reads in some steps, time-major.

    Attributes:
      inputs: the inputs of the memory.
      real: ``[L, ...]``, False for padded steps.
      fresh: ``[L, ...]``, True for steps that begin with an empty memory.
    """

    inputs: _MemoryInputs
    real: Array
    fresh: Array


def _memory_sequence(
    state: MLSTMState, inputs: _MemoryInputs, mask: Any, reset: Any, reverse: bool, most: int
) -> tuple[MLSTMState, Array]:
    """Compute what scanning `_memory_step` does, chunk by chunk; values are ``[T, ..., N, V]``."""
    dtype = state.log_scale.dtype
    shape = inputs.log_write.shape[:-1]
    real = jnp.ones(shape, bool) if mask is None else mask
    chunk = _Chunk(inputs, real, jnp.zeros(shape, bool) if reset is None else reset)
    time = shape[0]
    size = max(1, min(most, time)) if is_known(time) else most
    count = -(-time // size)

    def cut(leaf: Array) -> Array:
        leaf = leaf[::-1] if reverse else leaf
        padded = jnp.pad(leaf, [(0, count * size - time)] + [(0, 0)] * (leaf.ndim - 1))
        return padded.reshape(count, size, *leaf.shape[1:])  # [chunks, L, ...]

    last, values = lax.scan(_memory_chunk, jax.tree.map(_wide, state), jax.tree.map(cut, chunk))
    values = values.reshape(count * size, *values.shape[2:])[:time]
    return _rounded(last, dtype), values[::-1] if reverse else values


def _rounded(state: MLSTMState, dtype: Any) -> MLSTMState:
    """Cast the state, after rescaling it by the scale as it is after rounding."""
    if state.log_scale.dtype == dtype:
        return state
    log_scale = state.log_scale.astype(dtype)
    factor = jnp.exp(state.log_scale - _wide(log_scale))[..., None]
    memory, normalizer = factor[..., None] * state.memory, factor * state.normalizer
    return MLSTMState(memory.astype(dtype), normalizer.astype(dtype), log_scale)


def _memory_chunk(state: MLSTMState, chunk: _Chunk) -> tuple[MLSTMState, Array]:
    """Compute L steps at once, by matrices ``[L, L, ..., N]`` of what step t reads of step s."""
    query, key, value, log_write, log_keep = chunk.inputs
    real, fresh = chunk.real[..., None], chunk.fresh[..., None]
    log_keep = jnp.where(real, log_keep, 0)
    steps = jnp.arange(len(real))
    segment = jnp.cumsum(fresh, axis=0)  # 0 before the first reset
    together = segment[:, None] == segment[None]  # [L, L, ..., 1]
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
    # A chunk of padding must hold the state exactly, without a rounding error in the gradient.
    new = where_flag(touched, new, state)
    return new, read / _divisor(weight, log_scale)[..., None]


def _decay_between(log_keep: Array) -> Array:
    """Return ``[t, s, ...]``: the sum of the log decays after step s up to step t.

    Each is summed by itself, since a difference of cumulative sums would lose precision.
    """
    steps = jnp.arange(len(log_keep))
    later = (steps[:, None] > steps).reshape(len(steps), len(steps), *[1] * (log_keep.ndim - 1))
    return jnp.cumsum(jnp.where(later, log_keep[:, None], 0), axis=0)


def _log_forget(forget: str) -> Any:
    known = {"sigmoid": jax.nn.log_sigmoid, "exponential": lambda f: f}
    if forget not in known:
        raise ArgumentError(f'forget: expected "sigmoid" or "exponential", got {forget!r}.')
    return known[forget]


def _check_heads(hidden_size: int, heads: int) -> None:
    if hidden_size % heads:
        raise ArgumentError(f"heads: expected a divisor of hidden_size={hidden_size}, got {heads}.")


def _wide(x: Array) -> Array:
    """Cast to at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
