"""The gated delta rule as a cell, and its scan in chunks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from recurrent.cell import Cell, Params, Shape, as_input, check_sizes, where_flag
from recurrent.cells._linear import (
    _affine,
    _dtype,
    _uniform,
    _wide,
    check_step_sizes,
    init_affine,
    step_bias,
)
from recurrent.initializers import (
    Initializer,
    resolve,
)
from recurrent.linear_scans import (
    _chosen,
    chunked,
)


class _Chunks(NamedTuple):
    """What chunks ``[chunks, ..., C, features]`` of the delta rule need beside their first state.

    With S the state before a chunk, the values that it really writes are
    ``written - forgotten S`` and its outputs ``queries S + attention (written - forgotten S)``.
    """

    queries: Array
    attention: Array
    written: Array
    forgotten: Array
    keys: Array
    decay: Array


def gated_delta_scan(
    queries: Array,
    keys: Array,
    values: Array,
    log_decay: Array,
    rate: Array,
    state: Array,
    *,
    reset: Array | None = None,
    reverse: bool = False,
    chunk_size: int = 64,
) -> tuple[Array, Array]:
    """The gated delta rule over a sequence, by chunks of matrix products.

    Equation, with the decay ``alpha_t = exp(log_decay_t)`` and the rate ``beta_t``:
    ``S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T``, ``o_t = S_t^T q_t``.

    Within a chunk S_t is a decayed S_0 plus a sum of outer products of keys and "pseudo values",
    which solve one unit triangular system (the WY or UT form); only the states between chunks
    are sequential. It is exact: the order of summation differs, the numbers otherwise do not.
    Decays are differences of sums of logarithms taken one by one, so none is ever divided by.

    Args:
      queries: ``[T, ..., K]``.
      keys: ``[T, ..., K]``, of norm 1 at most if the state is to stay bounded.
      values: ``[T, ..., V]``.
      log_decay: ``[T, ...]``, 0 at most.
      rate: ``[T, ...]``; with 0 and a log decay of 0 a step holds the state.
      state: ``[..., K, V]``, before the first step read.
      reset: booleans ``[T, ...]``; where True the state is zero before the step.
      reverse: read from the last step to the first.
      chunk_size: C; the work is T C (K + V), the sequential part T / C products.

    Returns:
      The state after the last step read ``[..., K, V]``, and the outputs ``[T, ..., V]``.

    Raises:
      ValueError: for a chunk below 1.

    References:
      Yang et al. 2024, arXiv:2412.06464, section 3.3, with the state transposed. Departure:
      the triangular system is solved, its matrix not inverted.
    """
    _chosen("serial", chunk_size)
    time = values.shape[0]
    if values.size == 0:
        return state, values
    if reset is not None:
        log_decay = jnp.where(reset, -jnp.inf, log_decay)
    inputs = queries, keys, values, log_decay[..., None], rate[..., None]
    if reverse:
        inputs = jax.tree.map(jnp.flip, inputs, (0,) * len(inputs))
    size = min(chunk_size, time)
    chunks = _delta_chunks(*[jnp.moveaxis(chunked(x, size), 1, -2) for x in inputs])
    state, outputs = lax.scan(_delta_chunk, state, chunks)
    outputs = jnp.moveaxis(outputs, -2, 1).reshape(-1, *values.shape[1:])[:time]
    return state, outputs[::-1] if reverse else outputs


def _delta_chunks(q: Array, k: Array, v: Array, log_decay: Array, rate: Array) -> _Chunks:
    between = jnp.exp(_log_decay_between(log_decay[..., 0]))
    since_start = jnp.exp(jnp.cumsum(log_decay, axis=-2))
    overlap = jnp.tril(rate * between * (k @ k.mT), -1)
    targets = rate * jnp.concatenate([v, since_start * k], axis=-1)
    solved = jax.scipy.linalg.solve_triangular(overlap, targets, lower=True, unit_diagonal=True)
    written, forgotten = jnp.split(solved, [v.shape[-1]], axis=-1)
    until_end = between[..., -1, :, None]
    attention = between * (q @ k.mT)
    return _Chunks(
        since_start * q, attention, written, forgotten, until_end * k, since_start[..., -1:, :]
    )


def _delta_chunk(state: Array, chunk: _Chunks) -> tuple[Array, Array]:
    values = chunk.written - chunk.forgotten @ state
    outputs = chunk.queries @ state + chunk.attention @ values
    return chunk.decay * state + chunk.keys.mT @ values, outputs


def _log_decay_between(log_decay: Array) -> Array:
    """``[..., t, i]``: the sum of the log decays after i up to t; -inf where i > t."""
    size = log_decay.shape[-1]
    later = jnp.tri(size, k=-1, dtype=bool)
    terms = jnp.where(later, log_decay[..., :, None], 0)
    return jnp.where(jnp.tri(size, dtype=bool), jnp.cumsum(terms, axis=-2), -jnp.inf)


class DeltaMemory(NamedTuple):
    """``memory`` is S, ``[..., heads, K, V]``: a linear map from keys to values."""

    memory: Array


def gated_deltanet(
    input_size: int,
    hidden_size: int,
    *,
    heads: int = 1,
    key_size: int | None = None,
    min_step: float = 0.001,
    max_step: float = 0.1,
    kernel_init: Initializer | str = "lecun_normal",
    compute_dtype: Any = None,
    chunk_size: int = 64,
) -> Cell:
    """A linear memory that forgets by a gate and corrects by the delta rule.

    Equation, for each head, with q and k of norm 1 and ``V = H / heads``:
    ``q_t, k_t, v_t = silu(W_q x_t), silu(W_k x_t), silu(W_v x_t)``, q and k then normalised,
    ``alpha_t = exp(-rate softplus(W_a x_t + b_a))``, ``beta_t = sigmoid(W_b x_t + b_b)``,
    ``S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T``, ``o_t = S_t^T q_t``;
    ``y_t`` is all heads' o_t in a row. S ``[K, V]`` is the transpose of the paper's.

    Whole sequences run by `gated_delta_scan`, in chunks of matrix products.

    Args:
      input_size: D.
      hidden_size: H, a multiple of ``heads``.
      heads: the number of memories.
      key_size: K; V by default.
      min_step: b_a starts so that ``softplus(b_a)`` is log-uniform between this, above 0,
      max_step: and this.
      kernel_init: draws each of W_q, W_k, W_v, W_a, W_b.
      compute_dtype: such as ``jnp.bfloat16``, for the operands of the products with x.
      chunk_size: of `gated_delta_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, heads (2 K + V)]} (q, k, v),
      "gates": {"kernel": [D, 2 heads], "bias": [2 heads]} (a, b),
      "decay": {"log_rate": [heads]}}``, and the state `DeltaMemory`.

    Raises:
      ValueError: for a size below 1, a hidden size that heads do not divide, steps out of
        order, or an unknown initialiser.

    References:
      Yang et al. 2024, Gated delta networks, arXiv:2412.06464; rates and b_a as in Mamba 2
      (rates uniform from 1 to 16). Departures: no short convolutions, and no gated norm and
      projection after the memory: wrap the cell; beta has a bias, zero at first; norms are
      ``sqrt(|u|^2 + 1e-6)``.
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size, heads=heads)
    if hidden_size % heads:
        raise ValueError(f"heads: expected a divisor of {hidden_size}, got {heads}.")
    value_size = hidden_size // heads
    keys_of = value_size if key_size is None else key_size
    check_sizes(key_size=keys_of, chunk_size=chunk_size)
    check_step_sizes(min_step, max_step)
    widths = heads * keys_of, heads * keys_of, heads * value_size
    draw = resolve(kernel_init, "kernel_init")

    def init(key: Array) -> Params:
        gates_key, bias_key, rate_key, *input_keys = jax.random.split(key, 6)
        kernels = [draw(k, (input_size, n)) for k, n in zip(input_keys, widths, strict=True)]
        gates = init_affine(gates_key, draw, input_size, heads, blocks=2)
        forget_bias = step_bias(bias_key, heads, min_step, max_step)
        return {
            "input": {"kernel": jnp.concatenate(kernels, axis=1)},
            "gates": gates | {"bias": gates["bias"].at[:heads].set(forget_bias)},
            "decay": {"log_rate": jnp.log(_uniform(rate_key, heads, 1, 16))},
        }

    def initial_state(params: Params, batch_shape: Shape) -> DeltaMemory:
        return DeltaMemory(jnp.zeros((*batch_shape, heads, keys_of, value_size), _dtype(params)))

    def inputs(params: Params, x: Array) -> tuple[Array, ...]:
        """q, k ``[..., heads, K]``, v ``[..., heads, V]``, log alpha and beta ``[..., heads]``."""
        x = as_input(x, (input_size,), _dtype(params))
        mixed = jax.nn.silu(_affine(params["input"], x, compute_dtype))
        q, k, v = jnp.split(mixed, np.cumsum(widths)[:2], axis=-1)
        q, k = (u.reshape(*u.shape[:-1], heads, keys_of) for u in (q, k))
        v = v.reshape(*v.shape[:-1], heads, value_size)
        forget, write = jnp.split(_affine(params["gates"], x, compute_dtype), 2, axis=-1)
        log_decay = -jnp.exp(_wide(params["decay"]["log_rate"])) * jax.nn.softplus(forget)
        return _unit(q), _unit(k), v, log_decay, jax.nn.sigmoid(write)

    def step(params: Params, state: DeltaMemory, x: Array) -> tuple[DeltaMemory, Array]:
        q, k, v, log_decay, rate = inputs(params, x)
        memory = jnp.exp(log_decay)[..., None, None] * _wide(state.memory)
        error = v - jnp.einsum("...kv,...k->...v", memory, k)
        memory = memory + k[..., None] * (rate[..., None] * error)[..., None, :]
        y = jnp.einsum("...kv,...k->...v", memory, q).reshape(*x.shape[:-1], hidden_size)
        return DeltaMemory(memory.astype(_dtype(params))), y.astype(_dtype(params))

    def sequence(
        params: Params, state: DeltaMemory, xs: Array, *, mask: Any, reset: Any, reverse: bool
    ) -> tuple[DeltaMemory, Array]:
        if mask is not None:
            xs = where_flag(mask, xs, jnp.zeros_like(xs))
        q, k, v, log_decay, rate = inputs(params, xs)
        if mask is not None:
            log_decay, rate = (jnp.where(mask[..., None], u, 0) for u in (log_decay, rate))
        memory, ys = gated_delta_scan(
            *(q, k, v, log_decay, rate, _wide(state.memory)),
            reset=None if reset is None else reset[..., None],
            reverse=reverse,
            chunk_size=chunk_size,
        )
        ys = ys.reshape(*xs.shape[:-1], hidden_size).astype(_dtype(params))
        if mask is not None:
            ys = where_flag(mask, ys, jnp.zeros_like(ys))
        return DeltaMemory(memory.astype(_dtype(params))), ys

    return Cell(init, initial_state, step, (input_size,), sequence)


def _unit(u: Array) -> Array:
    return u * lax.rsqrt(jnp.sum(u * u, axis=-1, keepdims=True) + 1e-6)
