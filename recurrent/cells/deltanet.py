"""Build a cell on the gated delta rule, and scan the rule over sequences in chunks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
from recurrent.cells._linear import (
    _affine,
    _dtype,
    _uniform,
    _wide,
    check_step_sizes,
    init_affine,
    step_bias,
)
from recurrent.cells._named import named
from recurrent.errors import ArgumentError
from recurrent.initializers import (
    Initializer,
    resolve,
)
from recurrent.linear_scans import (
    choose_method,
    chunked,
)


class _Chunks(NamedTuple):
    """Hold what each chunk needs beside the state before it, ``[chunks, ..., C, features]``.

    With S the state before a chunk, the values that the chunk effectively writes are
    ``written - forgotten S``, and its outputs ``queries S + attention (written - forgotten S)``.
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
    """Run the gated delta rule over a sequence, in chunks of matrix products.

    Equation, with the decay ``alpha_t = exp(log_decay_t)`` and the rate ``beta_t``:
    ``S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T``, ``o_t = S_t^T q_t``.

    Within a chunk, S_t is a decayed S_0 plus a sum of outer products of keys and "pseudo values",
    which solve one unit triangular system (the WY or UT form); only the states between chunks
    are computed sequentially. The result is exact: it differs from the step-by-step rule in the
    order of summation alone. The decay between two steps is the exponential of the summed log
    decays between them, summed for each pair of steps, so that nothing is divided by a decay.

    Args:
      queries: ``[T, ..., K]``.
      keys: ``[T, ..., K]``, of norm 1 at most if the state is to stay bounded.
      values: ``[T, ..., V]``.
      log_decay: ``[T, ...]``, 0 at most.
      rate: ``[T, ...]``; a step with a rate of 0 and a log decay of 0 holds the state.
      state: ``[..., K, V]``, the state before the first step read.
      reset: booleans ``[T, ...]``; True sets the state to zero before the step.
      reverse: read from the last step to the first.
      chunk_size: C, the number of steps in a chunk; the work is T C (K + V), of which T / C
        products are sequential.

    Returns:
      The state after the last step read ``[..., K, V]``, and the outputs ``[T, ..., V]``.

    Raises:
      ValueError: for a chunk size below 1.

    References:
      Yang et al. 2024, arXiv:2412.06464, section 3.3, with the state transposed. Departure:
      the triangular system is solved instead of inverting its matrix.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import gated_delta_scan
      >>> keys = jnp.eye(2)[jnp.array([0, 1, 0])]  # [T, K]; the third step overwrites the first
      >>> queries = jnp.eye(2)[jnp.array([0, 0, 0])]
      >>> values, zeros, ones = jnp.array([[3.0], [5.0], [7.0]]), jnp.zeros(3), jnp.ones(3)
      >>> run = jax.jit(gated_delta_scan)
      >>> state, ys = run(queries, keys, values, zeros, ones, jnp.zeros((2, 1)))
      >>> ys[:, 0].round().tolist(), state[:, 0].round().tolist()
      ([3.0, 3.0, 7.0], [7.0, 5.0])
    """
    choose_method("serial", chunk_size)
    time = values.shape[0]
    if values.size == 0:
        return state, values
    if reset is not None:
        log_decay = jnp.where(reset, -jnp.inf, log_decay)
    inputs = queries, keys, values, log_decay[..., None], rate[..., None]
    if reverse:
        inputs = jax.tree.map(jnp.flip, inputs, (0,) * len(inputs))
    size = min(chunk_size, time) if is_known(time) else chunk_size
    # [T, ..., features] -> [chunks, C, ..., features] -> [chunks, ..., C, features]
    chunks = _delta_chunks(*[jnp.moveaxis(chunked(x, size), 1, -2) for x in inputs])
    state, outputs = lax.scan(_delta_chunk, state, chunks)  # [chunks, ..., C, V]
    padded = outputs.shape[0] * size
    outputs = jnp.moveaxis(outputs, -2, 1).reshape(padded, *values.shape[1:])[:time]
    return state, outputs[::-1] if reverse else outputs


def _delta_chunks(q: Array, k: Array, v: Array, log_decay: Array, rate: Array) -> _Chunks:
    between = jnp.exp(_log_decay_between(log_decay[..., 0]))  # [..., C, C]
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
    """Return ``[..., t, i]``: the sum of the log decays after i up to t; -inf where i > t."""
    size = log_decay.shape[-1]
    later = jnp.tri(size, k=-1, dtype=bool)
    terms = jnp.where(later, log_decay[..., :, None], 0)
    return jnp.where(jnp.tri(size, dtype=bool), jnp.cumsum(terms, axis=-2), -jnp.inf)


class DeltaMemory(NamedTuple):
    """Hold S as ``memory``, ``[..., heads, K, V]``: a linear map from keys to values."""

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
    """Build the gated DeltaNet cell: a linear memory with a forget gate and the delta rule.

    The gate scales down all that is stored; the delta rule then corrects the value stored for the
    current key.

    Equation, for each head, with q and k of norm 1 and ``V = H / heads``:
    ``q_t, k_t, v_t = silu(W_q x_t), silu(W_k x_t), silu(W_v x_t)``, q and k then normalized,
    ``alpha_t = exp(-rate softplus(W_a x_t + b_a))``, ``beta_t = sigmoid(W_b x_t + b_b)``,
    ``S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T``, ``o_t = S_t^T q_t``;
    ``y_t`` is the concatenation of o_t over the heads. S ``[K, V]`` is the transpose of the
    paper's.

    Whole sequences run by `gated_delta_scan`, in chunks of matrix products.

    Args:
      input_size: D.
      hidden_size: H, a multiple of ``heads``.
      heads: the number of heads, each with a memory of its own.
      key_size: K; V by default.
      min_step: the lower bound, above 0, of the log-uniform distribution from which
        ``softplus(b_a)`` is initialized.
      max_step: the upper bound of that distribution.
      kernel_init: draws each of W_q, W_k, W_v, W_a, W_b.
      compute_dtype: the type of the operands of the products with x, such as ``jnp.bfloat16``.
      chunk_size: of `gated_delta_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, heads (2 K + V)]} (q, k, v),
      "gates": {"kernel": [D, 2 heads], "bias": [2 heads]} (a, b),
      "decay": {"log_rate": [heads]}}``, and the state `DeltaMemory`.

    Raises:
      ValueError: for a size below 1, a hidden size that is not a multiple of ``heads``, step sizes
        out of order, or an unknown initializer.

    References:
      Yang et al. 2024, Gated delta networks, arXiv:2412.06464; rates and b_a are initialized as in
      Mamba 2 (rates uniform from 1 to 16). Departures: there are no short convolutions, and no
      gated norm and projection after the memory (wrap the cell to add them); beta has a bias,
      zero at first; norms are ``sqrt(|u|^2 + 1e-6)``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import gated_deltanet, unroll
      >>> cell = gated_deltanet(input_size=3, hidden_size=4, heads=2)
      >>> def run(key, xs):
      ...     return unroll(cell, cell.init(key), xs)
      >>> state, ys = jax.eval_shape(run, jax.random.key(0), jnp.ones((5, 2, 3)))  # shapes only
      >>> ys.shape, state.memory.shape
      ((5, 2, 4), (2, 2, 2, 2))
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size, heads=heads)
    if hidden_size % heads:
        raise ArgumentError(f"heads: expected a divisor of {hidden_size}, got {heads}.")
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
        """Return q and k ``[..., heads, K]``, v ``[..., heads, V]``, and log alpha and beta.

        The last two are ``[..., heads]``.
        """
        params = in_one_type(params)
        x = as_input(x, (input_size,), _dtype(params))
        mixed = jax.nn.silu(_affine(params["input"], x, compute_dtype))
        q, k, v = jnp.split(mixed, np.cumsum(widths)[:2], axis=-1)
        q, k = (u.reshape(*u.shape[:-1], heads, keys_of) for u in (q, k))  # [..., heads, K]
        v = v.reshape(*v.shape[:-1], heads, value_size)
        forget, write = jnp.split(_affine(params["gates"], x, compute_dtype), 2, axis=-1)
        log_decay = -jnp.exp(_wide(params["decay"]["log_rate"])) * jax.nn.softplus(forget)
        return _unit(q), _unit(k), v, log_decay, named("write", jax.nn.sigmoid, write)

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
        if mask is not None:  # padding holds the state
            log_decay, rate = (jnp.where(mask[..., None], u, 0) for u in (log_decay, rate))
        memory, ys = gated_delta_scan(
            queries=q,
            keys=k,
            values=v,
            log_decay=log_decay,
            rate=rate,
            state=_wide(state.memory),
            reset=None if reset is None else reset[..., None],
            reverse=reverse,
            chunk_size=chunk_size,
        )
        ys = ys.reshape(*xs.shape[:-1], hidden_size).astype(_dtype(params))  # [T, ..., H]
        if mask is not None:
            ys = where_flag(mask, ys, jnp.zeros_like(ys))
        return DeltaMemory(memory.astype(_dtype(params))), ys

    return Cell(init, initial_state, step, (input_size,), sequence)


def _unit(u: Array) -> Array:
    return u * lax.rsqrt(jnp.sum(u * u, axis=-1, keepdims=True) + 1e-6)
