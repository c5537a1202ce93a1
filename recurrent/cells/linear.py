"""Build cells whose state follows a linear recurrence, from the coefficients of the recurrence.

Such a cell can run step by step, like any other, and runs whole sequences by `linear_scan`.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import Cell, Params, Shape, as_input, check_sizes, in_one_type, where_flag
from recurrent.cells._linear import (
    _affine,
    _dtype,
    _uniform,
    _wide,
    check_projection,
    init_affine,
)
from recurrent.cells._named import named
from recurrent.cells.classic import check_forget_bias
from recurrent.cells.gates import Hidden
from recurrent.errors import ArgumentError
from recurrent.initializers import (
    GateBias,
    Initializer,
    init_bias,
    init_blocks,
    resolve,
)
from recurrent.linear_scans import Method, linear_scan

Read = Callable[[Array], Array]
Recurrence = Callable[[Params, Array], tuple[Array, Array, Read]]


class ComplexHidden(NamedTuple):
    """Hold a complex state as two real arrays ``[..., N]``, which casts and optimizers support."""

    real: Array
    imag: Array


def linear_cell(
    init: Callable[[Array], Params],
    recurrence: Recurrence,
    input_size: int,
    state_shape: Shape,
    *,
    complex_state: bool = False,
    method: Method = "auto",
) -> Cell:
    """Build a cell from the coefficients of its linear recurrence.

    Equation: ``a_t, b_t, read_t = recurrence(params, x_t)``, ``h_t = a_t * h_{t-1} + b_t``,
    ``y_t = read_t(h_t)``.

    Args:
      init: ``key -> params``, real floating-point arrays. The recurrence gets them in one type,
        the one that holds them all.
      recurrence: ``(params, x) -> (a, b, read)`` for x ``[..., D]`` with any leading axes; b is
        ``[..., *state_shape]`` and a broadcasts against it. It is called on single steps and on
        whole sequences, so the result for each step must depend on the x of that step alone. The
        same holds for ``read``, which may use the x that it closes over.
      input_size: D.
      state_shape: the shape of h without batch axes; h starts at zero.
      complex_state: whether h is complex.
      method: of `linear_scan`, for whole sequences.

    Returns:
      The cell. Its state is `Hidden` or `ComplexHidden`; the state and the outputs have the type
      of the params. The recurrence itself is computed in at least float32; for bfloat16 params
      the state is rounded at each call of ``step``, but only once when a whole sequence is run.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import linear_cell, unroll
      >>> def leaky_sum(params, x):
      ...     return params["decay"], x, lambda h: h
      >>> cell = linear_cell(lambda key: {"decay": jnp.array([0.5])}, leaky_sum, 1, (1,))
      >>> params = cell.init(jax.random.key(0))
      >>> state, ys = unroll(cell, params, jnp.array([[4.0], [0.0], [8.0]]))
      >>> ys[:, 0].tolist()
      [4.0, 2.0, 9.0]
    """

    def initial_state(params: Params, batch_shape: Shape) -> Any:
        zeros = jnp.zeros((*batch_shape, *state_shape), _dtype(params))
        return ComplexHidden(zeros, zeros) if complex_state else Hidden(zeros)

    def step(params: Params, state: Any, x: Array) -> tuple[Any, Array]:
        params = in_one_type(params)
        a, b, read = recurrence(params, as_input(x, (input_size,), _dtype(params)))
        h = a * _number(state) + b
        return _state(h, _dtype(params)), read(h).astype(_dtype(params))

    def sequence(
        params: Params, state: Any, xs: Array, *, mask: Any, reset: Any, reverse: bool
    ) -> tuple[Any, Array]:
        params = in_one_type(params)
        if mask is not None:
            xs = where_flag(mask, xs, jnp.zeros_like(xs))
        a, b, read = recurrence(params, as_input(xs, (input_size,), _dtype(params)))
        a = a.reshape((1,) * (b.ndim - a.ndim) + a.shape)  # axes of size 1 in front
        if mask is not None:
            real = mask.reshape(mask.shape + (1,) * (b.ndim - mask.ndim))
            a, b = jnp.where(real, a, 1), jnp.where(real, b, 0)  # padding holds the state
        h0 = _number(state)
        hs = linear_scan(a, b, h0, reset=reset, reverse=reverse, method=method)  # [T, ..., N]
        ys = read(hs).astype(_dtype(params))
        if mask is not None:
            ys = where_flag(mask, ys, jnp.zeros_like(ys))
        last = h0 if hs.shape[0] == 0 else hs[0 if reverse else -1]
        return _state(last, _dtype(params)), ys

    return Cell(init, initial_state, step, (input_size,), sequence)


def min_gru(
    input_size: int,
    hidden_size: int,
    *,
    candidate: Literal["linear", "positive"] = "linear",
    kernel_init: Initializer | str = "lecun_normal",
    bias_init: Initializer | GateBias | str = "zeros",
    compute_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """Build the minGRU cell: a gated recurrent unit without recurrent matrix products.

    Equation: ``z_t = sigmoid(W_z x_t + b_z)``, ``c_t = g(W_h x_t + b_h)``,
    ``h_t = (1 - z_t) h_{t-1} + z_t c_t``, ``y_t = h_t``.

    Args:
      input_size: D.
      hidden_size: H.
      candidate: g; ``"linear"`` is the identity, as in the main text of the paper; ``"positive"``
        is the g of its log-space form, ``u + 0.5`` for u >= 0 and ``sigmoid(u)`` below.
      kernel_init: draws each block ``[D, H]``.
      bias_init: draws each block ``[H]``, as in `recurrent.gated`.
      compute_dtype: the type of the operands of matrix products, such as ``jnp.bfloat16``.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, 2 H], "bias": [2 H]}}`` in the order
      z, h, and the state `Hidden`.

    Raises:
      ValueError: for a size below 1, an unknown candidate or an unknown initializer.

    References:
      Feng et al. 2024, Were RNNs all we needed?, arXiv:2410.01201. Departures: nothing is computed
      in log space (`linear_scan` needs neither that nor a positive state); h starts at zero; and
      since the paper gives no initialization, kernels are LeCun normal and biases zero.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import min_gru, unroll
      >>> cell = min_gru(input_size=3, hidden_size=4)
      >>> params = cell.init(jax.random.key(0))
      >>> state, ys = unroll(cell, params, jnp.linspace(-1, 1, 30).reshape(5, 2, 3))
      >>> ys.shape, bool((state.hidden == ys[-1]).all())
      ((5, 2, 4), True)
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    activation = _candidate(candidate)
    draw = resolve(kernel_init, "kernel_init")
    draw_bias = bias_init if isinstance(bias_init, GateBias) else resolve(bias_init, "bias_init")

    def init(key: Array) -> Params:
        kernel_key, bias_key = jax.random.split(key)
        kernel = init_blocks(draw, kernel_key, (input_size, hidden_size), 2)
        bias = init_bias(draw_bias, bias_key, ("input", "candidate"), hidden_size)
        return {"input": {"kernel": kernel, "bias": bias}}

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        update, new = jnp.split(_affine(params["input"], x, compute_dtype), 2, axis=-1)
        keep = named("keep", jax.nn.sigmoid, -update)
        return keep, named("update", jax.nn.sigmoid, update) * activation(new), _same

    return linear_cell(init, recurrence, input_size, (hidden_size,), method=method)


def min_lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    candidate: Literal["linear", "positive"] = "linear",
    kernel_init: Initializer | str = "lecun_normal",
    bias_init: Initializer | GateBias | str = "zeros",
    compute_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """Build the minLSTM cell: an LSTM without recurrent matrix products, its gates normalized.

    Equation: ``f_t = sigmoid(W_f x_t + b_f + forget_bias)``, ``i_t = sigmoid(W_i x_t + b_i)``,
    ``c_t = g(W_h x_t + b_h)``, ``h_t = (f_t h_{t-1} + i_t c_t) / (f_t + i_t)``, ``y_t = h_t``.

    Args:
      input_size: D.
      hidden_size: H.
      forget_bias: a constant added to the forget gate's pre-activation, besides the trained bias.
      candidate: g, as in `min_gru`.
      kernel_init: draws each block ``[D, H]``.
      bias_init: draws each block ``[H]``, as in `recurrent.gated`.
      compute_dtype: the type of the operands of matrix products, such as ``jnp.bfloat16``.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, 3 H], "bias": [3 H]}}`` in the order
      f, i, h, and the state `Hidden`.

    Raises:
      ValueError: for a size below 1, an unknown candidate, an unknown initializer, or a nonzero
        ``forget_bias`` together with `recurrent.initializers.chrono`, which sets that bias.

    References:
      Feng et al. 2024, Were RNNs all we needed?, arXiv:2410.01201. Departures: those of
      `min_gru`, and the forget bias of 1, one of several values that the paper tries.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import min_lstm, unroll
      >>> cell = min_lstm(input_size=3, hidden_size=4, candidate="positive")
      >>> params = cell.init(jax.random.key(0))
      >>> state, ys = unroll(cell, params, jnp.linspace(-1, 1, 30).reshape(5, 2, 3))
      >>> ys.shape, bool((ys > 0).all())
      ((5, 2, 4), True)
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    check_forget_bias(forget_bias, {"bias_init": bias_init})
    activation = _candidate(candidate)
    draw = resolve(kernel_init, "kernel_init")
    draw_bias = bias_init if isinstance(bias_init, GateBias) else resolve(bias_init, "bias_init")

    def init(key: Array) -> Params:
        kernel_key, bias_key = jax.random.split(key)
        kernel = init_blocks(draw, kernel_key, (input_size, hidden_size), 3)
        bias = init_bias(draw_bias, bias_key, ("forget", "input", "candidate"), hidden_size)
        return {"input": {"kernel": kernel, "bias": bias}}

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        forget, write, new = jnp.split(_affine(params["input"], x, compute_dtype), 3, axis=-1)
        # f / (f + i) = sigmoid(log f - log i), which neither overflows nor divides by zero.
        log_ratio = jax.nn.log_sigmoid(forget + forget_bias) - jax.nn.log_sigmoid(write)
        keep = named("forget", jax.nn.sigmoid, log_ratio)
        return keep, named("input", jax.nn.sigmoid, -log_ratio) * activation(new), _same

    return linear_cell(init, recurrence, input_size, (hidden_size,), method=method)


def rg_lru(
    input_size: int,
    hidden_size: int,
    *,
    projection: bool = True,
    min_decay: float = 0.9,
    max_decay: float = 0.999,
    kernel_init: Initializer | str = "lecun_normal",
    compute_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """Build the real-gated linear recurrent unit (RG-LRU) of Griffin.

    Equation, with ``u_t = W x_t + b``: ``r_t = sigmoid(W_r u_t + b_r)``,
    ``i_t = sigmoid(W_i u_t + b_i)``, ``a_t = sigmoid(Lambda)^(8 r_t)``,
    ``h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t)``, ``y_t = h_t``.

    Args:
      input_size: D.
      hidden_size: H.
      projection: whether ``u_t`` is an affine map of x_t, like the layer before the unit in the
        paper. If False, ``u_t = x_t``, so the cell is the unit alone, and D must equal H.
      min_decay: the lower bound, above 0, of the uniform distribution from which
        ``sigmoid(Lambda)^8`` is initialized.
      max_decay: the upper bound of that distribution, below 1.
      kernel_init: draws each kernel.
      compute_dtype: the type of the operands of matrix products, such as ``jnp.bfloat16``.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, H], "bias": [H]} (with the projection),
      "gates": {"kernel": [H, 2 H], "bias": [2 H]} (r, i), "decay": {"logit": [H] (Lambda)}}``,
      and the state `Hidden`.

    Raises:
      ValueError: for a size below 1, decays out of order, an unknown initializer, or
        ``projection=False`` with D other than H.

    References:
      De et al. 2024, Griffin, arXiv:2402.19427. Departures: the gates' kernels are dense;
      the convolution and the gated branch around the unit are left to other cells; the first
      input of a sequence is scaled by ``sqrt(1 - a^2)`` like all others.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import rg_lru, unroll
      >>> cell = rg_lru(input_size=3, hidden_size=4)
      >>> params = cell.init(jax.random.key(0))
      >>> state, ys = unroll(cell, params, jnp.linspace(-1, 1, 30).reshape(5, 2, 3))
      >>> ys.shape, params["decay"]["logit"].shape
      ((5, 2, 4), (4,))
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    check_projection(projection, input_size, hidden_size)
    if not 0 < min_decay <= max_decay < 1:
        raise ArgumentError(
            "min_decay, max_decay: expected 0 < min_decay <= max_decay < 1, "
            f"got {min_decay} and {max_decay}."
        )
    draw = resolve(kernel_init, "kernel_init")

    def init(key: Array) -> Params:
        input_key, gates_key, decay_key = jax.random.split(key, 3)
        log_a = jnp.log(_uniform(decay_key, hidden_size, min_decay, max_decay)) / 8
        # The logit of a is log(a / (1 - a)); expm1 stays accurate for a close to 1.
        gates = init_affine(gates_key, draw, hidden_size, hidden_size, blocks=2)
        params = {"gates": gates, "decay": {"logit": log_a - jnp.log(-jnp.expm1(log_a))}}
        if projection:
            params["input"] = init_affine(input_key, draw, input_size, hidden_size)
        return params

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        u = _affine(params["input"], x, compute_dtype) if projection else _wide(x)
        z = _affine(params["gates"], u, compute_dtype)
        gates = named("recurrence_and_input", jax.nn.sigmoid, z)
        r, i = jnp.split(gates, 2, axis=-1)
        log_a = 8 * r * jax.nn.log_sigmoid(_wide(params["decay"]["logit"]))
        return jnp.exp(log_a), _root(-jnp.expm1(2 * log_a)) * i * u, _same

    return linear_cell(init, recurrence, input_size, (hidden_size,), method=method)


def _state(h: Array, dtype: Any) -> Any:
    if jnp.iscomplexobj(h):
        return ComplexHidden(h.real.astype(dtype), h.imag.astype(dtype))
    return Hidden(h.astype(dtype))


def _same(h: Array) -> Array:
    return h


def _candidate(name: str) -> Callable[[Array], Array]:
    activations = {"linear": _same, "positive": _positive}
    if name not in activations:
        raise ArgumentError(f'candidate: expected "linear" or "positive", got {name!r}.')
    return activations[name]


def _positive(u: Array) -> Array:
    return jnp.where(u >= 0, u + 0.5, jax.nn.sigmoid(u))


def _number(state: Any) -> Array:
    if isinstance(state, ComplexHidden):
        return lax.complex(_wide(state.real), _wide(state.imag))
    return _wide(state.hidden)


def _root(u: Array) -> Array:
    """Return the square root of u >= 0, with a gradient of zero at zero instead of infinity."""
    return jnp.where(u > 0, jnp.sqrt(jnp.where(u > 0, u, 1)), 0)
