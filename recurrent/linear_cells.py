"""Cells whose state is a linear recurrence: write its coefficients, get a cell of two forms.

Step by step they stream like any other cell; whole sequences run through `linear_scan`.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from recurrent.cell import Cell, Params, Shape, as_input, check_sizes, where_flag
from recurrent.cells import check_forget_bias
from recurrent.gated import Hidden, affine
from recurrent.initializers import (
    GateBias,
    Initializer,
    drawn_bias,
    drawn_blocks,
    lecun_normal,
    named,
)
from recurrent.linear import Method, gated_delta_scan, linear_scan

Read = Callable[[Array], Array]
Recurrence = Callable[[Params, Array], tuple[Array, Array, Read]]


class ComplexHidden(NamedTuple):
    """A complex state as two arrays ``[..., N]``, which casts and optimisers understand."""

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
    """A cell from the coefficients of its recurrence.

    Equation: ``a_t, b_t, read_t = recurrence(params, x_t)``, ``h_t = a_t * h_{t-1} + b_t``,
    ``y_t = read_t(h_t)``.

    Args:
      init: ``key -> params``, real arrays of one floating-point type.
      recurrence: ``(params, x) -> (a, b, read)`` for x of any leading axes, ``[..., D]``; b is
        ``[..., *state_shape]`` and a broadcasts against it. It is called on one step and on
        whole sequences, so each step must depend on its own x alone; so must ``read``, which
        may use the x that it closes over.
      input_size: D.
      state_shape: of h without batch axes. It is zero at first.
      complex_state: whether h is complex.
      method: of `linear_scan`, for whole sequences.

    Returns:
      The cell. Its state is `Hidden` or `ComplexHidden`; that and the outputs have the params'
      type. The recurrence itself is computed in float32 at least; for bfloat16 the state is
      rounded at each call of ``step``, and once per sequence in the whole form.
    """

    def initial_state(params: Params, batch_shape: Shape) -> Any:
        zeros = jnp.zeros((*batch_shape, *state_shape), _dtype(params))
        return ComplexHidden(zeros, zeros) if complex_state else Hidden(zeros)

    def step(params: Params, state: Any, x: Array) -> tuple[Any, Array]:
        a, b, read = recurrence(params, as_input(x, (input_size,), _dtype(params)))
        h = a * _number(state) + b
        return _state(h, _dtype(params)), read(h).astype(_dtype(params))

    def sequence(
        params: Params, state: Any, xs: Array, *, mask: Any, reset: Any, reverse: bool
    ) -> tuple[Any, Array]:
        if mask is not None:
            xs = where_flag(mask, xs, jnp.zeros_like(xs))
        a, b, read = recurrence(params, as_input(xs, (input_size,), _dtype(params)))
        a = a.reshape((1,) * (b.ndim - a.ndim) + a.shape)
        if mask is not None:
            real = mask.reshape(mask.shape + (1,) * (b.ndim - mask.ndim))
            a, b = jnp.where(real, a, 1), jnp.where(real, b, 0)
        h0 = _number(state)
        hs = linear_scan(a, b, h0, reset=reset, reverse=reverse, method=method)
        ys = read(hs).astype(_dtype(params))
        if mask is not None:
            ys = where_flag(mask, ys, jnp.zeros_like(ys))
        last = hs[0 if reverse else -1] if len(hs) else h0
        return _state(last, _dtype(params)), ys

    return Cell(init, initial_state, step, (input_size,), sequence)


def min_gru(
    input_size: int,
    hidden_size: int,
    *,
    candidate: Literal["linear", "positive"] = "linear",
    kernel_init: Initializer | str = "lecun_normal",
    bias_init: Initializer | GateBias | str = "zeros",
    product_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """The gated recurrent unit without its recurrent products.

    Equation: ``z_t = sigmoid(W_z x_t + b_z)``, ``c_t = g(W_h x_t + b_h)``,
    ``h_t = (1 - z_t) h_{t-1} + z_t c_t``, ``y_t = h_t``.

    Args:
      input_size: D.
      hidden_size: H.
      candidate: g; ``"linear"`` is the identity, as in the paper's main text; ``"positive"``
        is the g of its log-space form, ``u + 0.5`` for u >= 0 and ``sigmoid(u)`` below.
      kernel_init: draws each block ``[D, H]``.
      bias_init: draws each block ``[H]``, as in `recurrent.gated`.
      product_dtype: such as ``jnp.bfloat16``, for the operands of matrix products.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, 2 H], "bias": [2 H]}}`` in the order
      z, h, and the state `Hidden`.

    Raises:
      ValueError: for a size below 1, an unknown candidate or an unknown initialiser.

    References:
      Feng et al. 2024, Were RNNs all we needed?, arXiv:2410.01201. Departures: no log space
      (`linear_scan` needs none, nor a positive state), h starts at zero, and since the paper
      gives no initialisation, kernels are LeCun normal and biases zero.
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    activation = _candidate(candidate)
    draw = named(kernel_init, "kernel_init")
    draw_bias = bias_init if isinstance(bias_init, GateBias) else named(bias_init, "bias_init")

    def init(key: Array) -> Params:
        kernel_key, bias_key = jax.random.split(key)
        kernel = drawn_blocks(draw, kernel_key, (input_size, hidden_size), 2)
        bias = drawn_bias(draw_bias, bias_key, ("write", "candidate"), hidden_size)
        return {"input": {"kernel": kernel, "bias": bias}}

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        update, new = jnp.split(_affine(params["input"], x, product_dtype), 2, axis=-1)
        return jax.nn.sigmoid(-update), jax.nn.sigmoid(update) * activation(new), _same

    return linear_cell(init, recurrence, input_size, (hidden_size,), method=method)


def min_lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    candidate: Literal["linear", "positive"] = "linear",
    kernel_init: Initializer | str = "lecun_normal",
    bias_init: Initializer | GateBias | str = "zeros",
    product_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """Long short-term memory without its recurrent products, with gates that sum to one.

    Equation: ``f_t = sigmoid(W_f x_t + b_f + forget_bias)``, ``i_t = sigmoid(W_i x_t + b_i)``,
    ``c_t = g(W_h x_t + b_h)``, ``h_t = (f_t h_{t-1} + i_t c_t) / (f_t + i_t)``, ``y_t = h_t``.

    Args:
      input_size: D.
      hidden_size: H.
      forget_bias: a constant added to the forget gate, apart from the trained bias.
      candidate: g, as in `min_gru`.
      kernel_init: draws each block ``[D, H]``.
      bias_init: draws each block ``[H]``, as in `recurrent.gated`.
      product_dtype: such as ``jnp.bfloat16``, for the operands of matrix products.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, 3 H], "bias": [3 H]}}`` in the order
      f, i, h, and the state `Hidden`.

    Raises:
      ValueError: for a size below 1, an unknown candidate or an unknown initialiser, or a forget
        bias beside `chrono`'s.

    References:
      Feng et al. 2024, Were RNNs all we needed?, arXiv:2410.01201. Departures: those of
      `min_gru`, and the forget bias of 1, which the paper tries as one of several.
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    check_forget_bias(forget_bias, {"bias_init": bias_init})
    activation = _candidate(candidate)
    draw = named(kernel_init, "kernel_init")
    draw_bias = bias_init if isinstance(bias_init, GateBias) else named(bias_init, "bias_init")

    def init(key: Array) -> Params:
        kernel_key, bias_key = jax.random.split(key)
        kernel = drawn_blocks(draw, kernel_key, (input_size, hidden_size), 3)
        bias = drawn_bias(draw_bias, bias_key, ("keep", "write", "candidate"), hidden_size)
        return {"input": {"kernel": kernel, "bias": bias}}

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        forget, write, new = jnp.split(_affine(params["input"], x, product_dtype), 3, axis=-1)
        log_ratio = jax.nn.log_sigmoid(forget + forget_bias) - jax.nn.log_sigmoid(write)
        return jax.nn.sigmoid(log_ratio), jax.nn.sigmoid(-log_ratio) * activation(new), _same

    return linear_cell(init, recurrence, input_size, (hidden_size,), method=method)


def lru(
    input_size: int,
    hidden_size: int,
    *,
    state_size: int | None = None,
    min_radius: float = 0.0,
    max_radius: float = 1.0,
    max_phase: float = 2 * math.pi,
    product_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """The linear recurrent unit: a diagonal complex state, stable by its parametrisation.

    Equation: ``lambda = exp(-exp(nu) + i exp(theta))``,
    ``h_t = lambda h_{t-1} + exp(gamma) (B x_t)``, ``y_t = Re(C h_t) + D x_t``, with nu, theta
    and gamma real vectors, B and C complex matrices and D a real one, all trained.

    Args:
      input_size: D.
      hidden_size: H, the size of the output.
      state_size: N complex numbers; H by default.
      min_radius: of the ring from which lambda is drawn uniformly (by area), 0 or more.
      max_radius: of the ring, above min_radius, 1 at most.
      max_phase: the phases are drawn uniformly from 0 to this; radians.
      product_dtype: such as ``jnp.bfloat16``, for the operands of matrix products.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"eigenvalues": {"log_decay": [N] (nu), "log_phase": [N] (theta)},
      "input": {"kernel": [D, 2 N] (Re B, Im B), "log_gain": [N] (gamma)},
      "output": {"kernel": [2 N, H] (Re C over -Im C)}, "skip": {"kernel": [D, H]}}``, and the
      state `ComplexHidden`.

    Raises:
      ValueError: for a size below 1 or a ring that is none.

    References:
      Orvieto et al. 2023, Resurrecting recurrent neural networks for long sequences,
      arXiv:2303.06349; gamma starts as ``log sqrt(1 - |lambda|^2)``, B and C are complex
      normal of variance 1 / D and 2 / N as there. Departure: D is a matrix of variance 1 / D,
      since input and output may differ in size; the paper's is a diagonal of variance 1.
    """
    states = hidden_size if state_size is None else state_size
    check_sizes(input_size=input_size, hidden_size=hidden_size, state_size=states)
    if not 0 <= min_radius < max_radius <= 1:
        raise ValueError(
            "min_radius, max_radius: expected 0 <= min_radius < max_radius <= 1, "
            f"got {min_radius} and {max_radius}."
        )

    def init(key: Array) -> Params:
        radius_key, phase_key, input_key, output_key, skip_key = jax.random.split(key, 5)
        area = _uniform(radius_key, states) * (max_radius**2 - min_radius**2) + min_radius**2
        area = jnp.minimum(area, 1 - 1e-6)  # rounding may give 1, and then no finite logarithm
        return {
            "eigenvalues": {
                "log_decay": jnp.log(-0.5 * jnp.log(area)),
                "log_phase": jnp.log(_uniform(phase_key, states) * max_phase),
            },
            "input": {
                "kernel": _normal(input_key, (input_size, 2 * states), 0.5 / input_size),
                "log_gain": 0.5 * jnp.log1p(-area),
            },
            "output": {"kernel": _normal(output_key, (2 * states, hidden_size), 1 / states)},
            "skip": {"kernel": lecun_normal(skip_key, (input_size, hidden_size))},
        }

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        logs = jax.tree.map(_wide, params["eigenvalues"])
        a = jnp.exp(lax.complex(-jnp.exp(logs["log_decay"]), jnp.exp(logs["log_phase"])))
        drive = _complex(_affine(params["input"], x, product_dtype))
        gain = jnp.exp(_wide(params["input"]["log_gain"]))
        return a, gain * drive, _real_readout(params, x, product_dtype)

    return linear_cell(init, recurrence, input_size, (states,), complex_state=True, method=method)


def diagonal_s5(
    input_size: int,
    hidden_size: int,
    *,
    state_size: int | None = None,
    blocks: int = 1,
    min_step: float = 0.001,
    max_step: float = 0.1,
    product_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """The simplified state space layer: a discretised diagonal system with one long memory.

    Equation, with the eigenvalues lambda of one half of a conjugate-symmetric system and
    learned step sizes ``delta = exp(log_step)`` (zero-order hold):
    ``a = exp(lambda delta)``, ``h_t = a h_{t-1} + ((a - 1) / lambda) (B x_t)``,
    ``y_t = 2 Re(C h_t) + D x_t``.

    Args:
      input_size: D.
      hidden_size: H, the size of the output.
      state_size: N, the even size of the real system, kept as N / 2 complex numbers; H, or
        H + 1 if that is odd, by default. A multiple of ``2 * blocks``.
      blocks: how many HiPPO systems of size N / blocks stand side by side at first.
      min_step: the smallest initial delta, above 0.
      max_step: the largest; log_step is drawn uniformly between their logarithms.
      product_dtype: such as ``jnp.bfloat16``, for the operands of matrix products.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"eigenvalues": {"log_decay": [N/2], "frequency": [N/2]},
      "step": {"log_step": [N/2]}, "input": {"kernel": [D, N] (Re B, Im B)},
      "output": {"kernel": [N, H] (Re C over -Im C)}, "skip": {"kernel": [D, H]}}``, where
      ``lambda = -exp(log_decay) + i frequency``, and the state `ComplexHidden`.

    Raises:
      ValueError: for a size below 1, a state size that does not divide, or steps not in order.

    References:
      Smith et al. 2022, Simplified state space layers for sequence modeling, arXiv:2208.04933:
      lambda starts as the eigenvalues of HiPPO-N, the normal part of HiPPO-LegS, and B and C
      as LeCun-normal real matrices in its eigenbasis. Departures: the real part of lambda is
      minus an exponential, so that no training makes it unstable; D is a LeCun-normal matrix,
      since input and output may differ in size, where the paper has a diagonal; no activation.
    """
    states = hidden_size + hidden_size % 2 if state_size is None else state_size
    check_sizes(input_size=input_size, hidden_size=hidden_size, state_size=states, blocks=blocks)
    if states % (2 * blocks):
        raise ValueError(
            f"state_size: expected a multiple of 2 * blocks = {2 * blocks}, got {states}."
        )
    _check_steps(min_step, max_step)

    def init(key: Array) -> Params:
        input_key, output_key, step_key, skip_key = jax.random.split(key, 4)
        frequency, basis = _hippo_normal(states // blocks)
        into = jax.scipy.linalg.block_diag(*[jnp.asarray(basis.conj())] * blocks)
        kernel = lecun_normal(input_key, (input_size, states)) @ into
        out = into.conj().T @ lecun_normal(output_key, (states, hidden_size))
        log_step = jax.random.uniform(
            step_key, (states // 2,), minval=math.log(min_step), maxval=math.log(max_step)
        )
        return {
            "eigenvalues": {
                "log_decay": jnp.full(states // 2, math.log(0.5)),
                "frequency": jnp.tile(jnp.asarray(frequency, log_step.dtype), blocks),
            },
            "step": {"log_step": log_step},
            "input": {"kernel": jnp.concatenate([kernel.real, kernel.imag], axis=1)},
            "output": {"kernel": jnp.concatenate([out.real, -out.imag], axis=0)},
            "skip": {"kernel": lecun_normal(skip_key, (input_size, hidden_size))},
        }

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        parts = jax.tree.map(_wide, params["eigenvalues"])
        eigenvalues = lax.complex(-jnp.exp(parts["log_decay"]), parts["frequency"])
        exponents = eigenvalues * jnp.exp(_wide(params["step"]["log_step"]))
        drive = _complex(_affine(params["input"], x, product_dtype))
        read = _real_readout(params, x, product_dtype, scale=2)
        return jnp.exp(exponents), jnp.expm1(exponents) / eigenvalues * drive, read

    return linear_cell(
        init, recurrence, input_size, (states // 2,), complex_state=True, method=method
    )


def rg_lru(
    input_size: int,
    hidden_size: int,
    *,
    projection: bool = True,
    min_decay: float = 0.9,
    max_decay: float = 0.999,
    kernel_init: Initializer | str = "lecun_normal",
    product_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """The real-gated linear recurrent unit of Griffin.

    Equation, with ``u_t = W x_t + b``: ``r_t = sigmoid(W_r u_t + b_r)``,
    ``i_t = sigmoid(W_i u_t + b_i)``, ``a_t = sigmoid(Lambda)^(8 r_t)``,
    ``h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t)``, ``y_t = h_t``.

    Args:
      input_size: D.
      hidden_size: H.
      projection: whether ``u_t`` is an affine map of x_t, as the layer before the unit is in
        the paper; without it ``u_t = x_t``, the unit alone, and D must be H.
      min_decay: ``sigmoid(Lambda)^8`` starts uniform between this, above 0,
      max_decay: and this, below 1.
      kernel_init: draws each kernel.
      product_dtype: such as ``jnp.bfloat16``, for the operands of matrix products.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, H], "bias": [H]} (with the projection),
      "gates": {"kernel": [H, 2 H], "bias": [2 H]} (r, i), "decay": {"logit": [H] (Lambda)}}``,
      and the state `Hidden`.

    Raises:
      ValueError: for a size below 1, decays out of order, an unknown initialiser, or sizes that
        need a projection.

    References:
      De et al. 2024, Griffin, arXiv:2402.19427. Departures: the gates' kernels are dense;
      the convolution and the gated branch around the unit are left to other cells; the first
      input of a sequence is scaled by ``sqrt(1 - a^2)`` as all others are.
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    _check_projection(projection, input_size, hidden_size)
    if not 0 < min_decay <= max_decay < 1:
        raise ValueError(
            "min_decay, max_decay: expected 0 < min_decay <= max_decay < 1, "
            f"got {min_decay} and {max_decay}."
        )
    draw = named(kernel_init, "kernel_init")

    def init(key: Array) -> Params:
        input_key, gates_key, decay_key = jax.random.split(key, 3)
        log_a = jnp.log(_uniform(decay_key, hidden_size, min_decay, max_decay)) / 8
        gates = _affine_params(gates_key, draw, hidden_size, hidden_size, blocks=2)
        params = {"gates": gates, "decay": {"logit": log_a - jnp.log(-jnp.expm1(log_a))}}
        if projection:
            params["input"] = _affine_params(input_key, draw, input_size, hidden_size)
        return params

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        u = _affine(params["input"], x, product_dtype) if projection else _wide(x)
        gates = jax.nn.sigmoid(_affine(params["gates"], u, product_dtype))
        r, i = jnp.split(gates, 2, axis=-1)
        log_a = 8 * r * jax.nn.log_sigmoid(_wide(params["decay"]["logit"]))
        return jnp.exp(log_a), _root(-jnp.expm1(2 * log_a)) * i * u, _same

    return linear_cell(init, recurrence, input_size, (hidden_size,), method=method)


def selective_ssm(
    input_size: int,
    hidden_size: int,
    *,
    state_size: int = 16,
    step_rank: int | None = None,
    projection: bool = True,
    min_step: float = 0.001,
    max_step: float = 0.1,
    kernel_init: Initializer | str = "lecun_normal",
    product_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """A state space model whose step, input and output matrices depend on the input (Mamba).

    Equation, with ``u_t = W x_t``: ``delta_t = softplus(W_d2 W_d1 u_t + b_d)`` ``[H]``,
    ``B_t = W_B u_t`` and ``C_t = W_C u_t`` ``[N]``; for each channel h and each of its N states,
    ``s_t[h, n] = exp(-delta_t[h] rate[h, n]) s_{t-1}[h, n] + delta_t[h] B_t[n] u_t[h]``,
    ``y_t[h] = sum_n C_t[n] s_t[h, n] + gain[h] u_t[h]``.

    Whole sequences hold all states, ``[T, ..., H, N]``, in memory.

    Args:
      input_size: D.
      hidden_size: H channels.
      state_size: N states a channel.
      step_rank: R, the rank of W_d2 W_d1; H / 16 rounded up by default.
      projection: whether ``u_t`` is a linear map of x_t, as in Mamba's block; without it
        ``u_t = x_t``, the selective model alone, and D must be H.
      min_step: b_d starts so that ``softplus(b_d)`` is log-uniform between this, above 0,
      max_step: and this.
      kernel_init: draws W, W_d1, W_B and W_C.
      product_dtype: such as ``jnp.bfloat16``, for the operands of matrix products.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, H]} (with the projection),
      "select": {"kernel": [H, R + 2 N]} (W_d1, W_B, W_C), "step": {"kernel": [R, H],
      "bias": [H]}, "decay": {"log_rate": [H, N]}, "skip": {"gain": [H]}}``, and the state
      `Hidden` of shape ``[..., H, N]``.

    Raises:
      ValueError: for a size below 1, steps out of order, an unknown initialiser, or sizes that
        need a projection.

    References:
      Gu & Dao 2023, Mamba, arXiv:2312.00752: the rates start at 1 to N, the gain at 1, W_d2
      uniform in ``+-R^-0.5``; B is discretised as ``delta B``, as in the authors' code, where
      the paper writes the zero-order hold. Departure: the convolution, the SiLU and the gated
      branch around the model are left to other cells.
    """
    rank = -(-hidden_size // 16) if step_rank is None else step_rank
    check_sizes(
        input_size=input_size, hidden_size=hidden_size, state_size=state_size, step_rank=rank
    )
    _check_projection(projection, input_size, hidden_size)
    _check_steps(min_step, max_step)
    draw = named(kernel_init, "kernel_init")

    def init(key: Array) -> Params:
        input_key, select_key, kernel_key, bias_key = jax.random.split(key, 4)
        widths = rank, state_size, state_size
        keys = jax.random.split(select_key, 3)
        select = [draw(k, (hidden_size, n)) for k, n in zip(keys, widths, strict=True)]
        spread = jax.random.uniform(kernel_key, (rank, hidden_size), minval=-1.0)
        rates = jnp.log(jnp.arange(1.0, state_size + 1))
        params = {
            "select": {"kernel": jnp.concatenate(select, axis=1)},
            "step": {
                "kernel": spread * rank**-0.5,
                "bias": _step_bias(bias_key, hidden_size, min_step, max_step),
            },
            "decay": {"log_rate": jnp.tile(rates, (hidden_size, 1))},
            "skip": {"gain": jnp.ones(hidden_size)},
        }
        if projection:
            params["input"] = {"kernel": draw(input_key, (input_size, hidden_size))}
        return params

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        u = _affine(params["input"], x, product_dtype) if projection else _wide(x)
        selected = _affine(params["select"], u, product_dtype)
        low, write, readout = jnp.split(selected, [rank, rank + state_size], axis=-1)
        delta = jax.nn.softplus(_affine(params["step"], low, product_dtype))
        a = jnp.exp(-delta[..., None] * jnp.exp(_wide(params["decay"]["log_rate"])))

        def read(h: Array) -> Array:
            return jnp.einsum("...hn,...n->...h", h, readout) + params["skip"]["gain"] * u

        return a, (delta * u)[..., None] * write[..., None, :], read

    shape = hidden_size, state_size
    return linear_cell(init, recurrence, input_size, shape, method=method)


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
    product_dtype: Any = None,
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
      product_dtype: such as ``jnp.bfloat16``, for the operands of the products with x.
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
    _check_steps(min_step, max_step)
    widths = heads * keys_of, heads * keys_of, heads * value_size
    draw = named(kernel_init, "kernel_init")

    def init(key: Array) -> Params:
        gates_key, bias_key, rate_key, *input_keys = jax.random.split(key, 6)
        kernels = [draw(k, (input_size, n)) for k, n in zip(input_keys, widths, strict=True)]
        gates = _affine_params(gates_key, draw, input_size, heads, blocks=2)
        forget_bias = _step_bias(bias_key, heads, min_step, max_step)
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
        mixed = jax.nn.silu(_affine(params["input"], x, product_dtype))
        q, k, v = jnp.split(mixed, np.cumsum(widths)[:2], axis=-1)
        q, k = (u.reshape(*u.shape[:-1], heads, keys_of) for u in (q, k))
        v = v.reshape(*v.shape[:-1], heads, value_size)
        forget, write = jnp.split(_affine(params["gates"], x, product_dtype), 2, axis=-1)
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


def _dtype(params: Params) -> Any:
    return jnp.result_type(*jax.tree.leaves(params))


def _wide(x: Array) -> Array:
    """At least float32: a decay close to 1 has no meaning in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _affine(params: Params, x: Array, product_dtype: Any) -> Array:
    return _wide(affine(params, x, product_dtype))


def _number(state: Any) -> Array:
    if isinstance(state, ComplexHidden):
        return lax.complex(_wide(state.real), _wide(state.imag))
    return _wide(state.hidden)


def _state(h: Array, dtype: Any) -> Any:
    if jnp.iscomplexobj(h):
        return ComplexHidden(h.real.astype(dtype), h.imag.astype(dtype))
    return Hidden(h.astype(dtype))


def _complex(parts: Array) -> Array:
    return lax.complex(*jnp.split(parts, 2, axis=-1))


def _real_readout(params: Params, x: Array, product_dtype: Any, scale: float = 1) -> Read:
    def read(h: Array) -> Array:
        parts = jnp.concatenate([h.real, h.imag], axis=-1)
        through = _affine(params["output"], parts, product_dtype)
        return scale * through + _affine(params["skip"], x, product_dtype)

    return read


def _same(h: Array) -> Array:
    return h


def _candidate(name: str) -> Callable[[Array], Array]:
    activations = {"linear": _same, "positive": _positive}
    if name not in activations:
        raise ValueError(f'candidate: expected "linear" or "positive", got {name!r}.')
    return activations[name]


def _positive(u: Array) -> Array:
    return jnp.where(u >= 0, u + 0.5, jax.nn.sigmoid(u))


def _root(u: Array) -> Array:
    """The square root of u >= 0 with a gradient of zero at zero, where it would be infinite."""
    return jnp.where(u > 0, jnp.sqrt(jnp.where(u > 0, u, 1)), 0)


def _unit(u: Array) -> Array:
    return u * lax.rsqrt(jnp.sum(u * u, axis=-1, keepdims=True) + 1e-6)


def _affine_params(
    key: Array, draw: Initializer, rows: int, columns: int, blocks: int = 1
) -> dict[str, Array]:
    kernel = drawn_blocks(draw, key, (rows, columns), blocks)
    return {"kernel": kernel, "bias": jnp.zeros(blocks * columns)}


def _normal(key: Array, shape: Shape, variance: float) -> Array:
    return math.sqrt(variance) * jax.random.normal(key, shape)


def _uniform(key: Array, size: int, low: float = 0, high: float = 1) -> Array:
    """Never zero, so that its logarithm is finite."""
    return jax.random.uniform(key, (size,), minval=max(low, 1e-6), maxval=high)


def _step_bias(key: Array, size: int, low: float, high: float) -> Array:
    """The inverse of softplus at log-uniform numbers."""
    steps = jnp.exp(jax.random.uniform(key, (size,), minval=math.log(low), maxval=math.log(high)))
    return steps + jnp.log(-jnp.expm1(-steps))


def _hippo_normal(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The positive frequencies of HiPPO-N, ``[size / 2]``, and eigenvectors as columns.

    HiPPO-LegS plus ``p p^T``, with ``p_n = sqrt(n + 1/2)``, is minus one half of the identity
    plus a skew-symmetric matrix.
    """
    roots = np.sqrt(2 * np.arange(size) + 1)
    lower = np.tril(np.outer(roots, roots), -1)
    skew = (lower.T - lower) / 2
    frequency, basis = np.linalg.eigh(-1j * skew)
    return frequency[size // 2 :], basis[:, size // 2 :]


def _check_projection(projection: bool, input_size: int, hidden_size: int) -> None:
    if not projection and input_size != hidden_size:
        raise ValueError(
            "projection: expected True where input_size and hidden_size differ, "
            f"got False for {input_size} and {hidden_size}."
        )


def _check_steps(low: float, high: float) -> None:
    if not 0 < low <= high:
        raise ValueError(
            f"min_step, max_step: expected 0 < min_step <= max_step, got {low} and {high}."
        )
