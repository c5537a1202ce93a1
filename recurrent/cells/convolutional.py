"""Build cells that convolve: over lines, images or volumes in each step, or over time."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import (
    Cell,
    Params,
    Shape,
    as_input,
    check_sizes,
    in_one_type,
    where_flag,
)
from recurrent.cells._gated_loop import Blocks
from recurrent.cells.classic import LSTM_GATES, LSTMState, check_forget_bias, lstm_gate
from recurrent.cells.gates import gated_cell
from recurrent.cells.sliding_window import Steps, join, latest, without_padding
from recurrent.convolution import convolve_same
from recurrent.errors import ArgumentError
from recurrent.initializers import GateBias, Initializer, init_bias, init_blocks, resolve
from recurrent.linear_map import Maps, derived_map


def convolutional_lstm(
    input_shape: Shape,
    features: int,
    *,
    kernel_size: int | Sequence[int] = 3,
    forget_bias: float = 1.0,
    peepholes: bool = False,
    input_init: Initializer | str = "glorot_uniform",
    recurrent_init: Initializer | str = "orthogonal",
    bias_init: Initializer | GateBias | str = "zeros",
    compute_dtype: Any = None,
) -> Cell:
    """Build the convolutional LSTM, whose inputs and states are lines, images or volumes.

    Equation, with ``z = W_x * x_t + W_h * h_{t-1} + b`` (``*`` being a convolution with zero
    padding that keeps the sizes) in the gate order i, f, g, o:
    ``c_t = sigmoid(f + forget_bias) c_{t-1} + sigmoid(i) tanh(g)``,
    ``h_t = sigmoid(o) tanh(c_t)``, ``y_t = h_t``; peepholes as in `recurrent.lstm`.

    Args:
      input_shape: ``(*sizes, C)``, the shape of one input, with one to three sizes.
      features: F; state fields and outputs are ``[..., *sizes, F]``.
      kernel_size: the size of both convolutions' kernels, one for each axis or one for all axes.
      forget_bias: as in `recurrent.lstm`.
      peepholes: whether the gates also depend on c, through ``params["gate"]`` ``{"input",
        "forget", "output"}``, with one weight for each position and feature; they start at zero.
      input_init: draws each gate's block ``[*kernel sizes, C, F]``.
      recurrent_init: draws each gate's block ``[*kernel sizes, F, F]``; an orthogonal block is a
        matrix of F orthonormal columns.
      bias_init: draws each gate's bias ``[F]``, as in `recurrent.gated`.
      compute_dtype: as in `recurrent.gated`.

    Returns:
      The cell, with params ``{"input": {"kernel": [*kernel sizes, C, 4 F], "bias": [4 F]},
      "recurrent": {"kernel": [*kernel sizes, F, 4 F]}}`` and the state `LSTMState`. Its sequence
      function convolves all inputs at once, and has the backward pass of `recurrent.gated`.

    Raises:
      ValueError: for an input shape of another rank, a size below 1, an unknown initializer, or a
        nonzero ``forget_bias`` together with `recurrent.initializers.chrono`, which sets that bias.

    References:
      Shi et al. 2015, Convolutional LSTM network, arXiv:1506.04214. Departures: peepholes, which
      the paper has, are off by default; the constant forget bias.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import convolutional_lstm, unroll
      >>> cell = convolutional_lstm(input_shape=(4, 5, 1), features=2)
      >>> def run(key, xs):
      ...     return unroll(cell, cell.init(key), xs)
      >>> video = jnp.ones((3, 2, 4, 5, 1))  # [T, B, height, width, C]
      >>> state, ys = jax.eval_shape(run, jax.random.key(0), video)  # shapes only
      >>> ys.shape
      (3, 2, 4, 5, 2)
    """
    *sizes, channels = input_shape
    kernel_sizes = _kernel_sizes(kernel_size, sizes)
    check_sizes(features=features, channels=channels, sizes=min(sizes))
    check_forget_bias(forget_bias, {"bias_init": bias_init})
    input_init = resolve(input_init, "input_init")
    recurrent_init = resolve(recurrent_init, "recurrent_init")
    bias_init = bias_init if isinstance(bias_init, GateBias) else resolve(bias_init, "bias_init")
    state_shape = (*sizes, features)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 3)
        shapes = [(*kernel_sizes, rows, features) for rows in (channels, features)]
        params = {
            "input": {
                "kernel": init_blocks(input_init, keys[0], shapes[0], 4),
                "bias": init_bias(bias_init, keys[1], LSTM_GATES, features),
            },
            "recurrent": {"kernel": init_blocks(recurrent_init, keys[2], shapes[1], 4)},
        }
        names = ("input", "forget", "output") if peepholes else ()
        gate = {name: jnp.zeros(state_shape) for name in names}
        return params | ({"gate": gate} if gate else {})

    def gate(extra: dict[str, Array], zx: Blocks, zh: Blocks, state: LSTMState) -> LSTMState:
        return lstm_gate(jnp.split(zx[0] + zh[0], 4, -1), state, forget_bias, **extra)

    convolve = partial(_convolve, compute_dtype=compute_dtype)
    maps = Maps(derived_map(convolve), derived_map(convolve))
    return gated_cell(init, gate, tuple(input_shape), LSTMState, [state_shape] * 2, maps)


def _kernel_sizes(kernel_size: int | Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    if not 1 <= len(sizes) <= 3:
        raise ArgumentError(
            "input_shape: expected one to three sizes and the channels, "
            f"got {len(sizes) + 1} numbers."
        )
    each = (kernel_size,) * len(sizes) if isinstance(kernel_size, int) else tuple(kernel_size)
    if len(each) != len(sizes) or min(each) < 1:
        raise ArgumentError(
            f"kernel_size: expected {len(sizes)} sizes of at least 1, got {kernel_size}."
        )
    return each


def _convolve(params: Params, x: Array, compute_dtype: Any) -> Array:
    z = convolve_same(x, params["kernel"], compute_dtype)
    return z + params["bias"] if "bias" in params else z


class ConvolutionState(NamedTuple):
    """Hold the last inputs of `causal_conv`, ``[..., width - 1, D]``, oldest first."""

    inputs: Array


def causal_conv(size: int, width: int = 4) -> Cell:
    """Build a causal depthwise convolution over time, as a cell.

    Equation: ``y_t = sum_j kernel_j * x_{t - (width - 1) + j} + bias``, j from 0 to width - 1,
    elementwise, so that features do not mix. Inputs before the first step or before a reset count
    as zero.

    Args:
      size: D.
      width: the number of steps that an output depends on, its own included.

    Returns:
      The cell, with params ``{"kernel": [width, D], "bias": [D]}`` and the last ``width - 1``
      inputs as its state. The kernel is drawn uniformly within ``+-1 / sqrt(width)``, and the bias
      starts at zero.

    Raises:
      ValueError: for a size or width below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import causal_conv, unroll
      >>> cell = causal_conv(size=1, width=2)
      >>> params = {"kernel": jnp.array([[1.0], [10.0]]), "bias": jnp.zeros(1)}
      >>> state, ys = unroll(cell, params, jnp.array([[1.0], [2.0], [3.0]]))
      >>> ys[:, 0].tolist(), state.inputs.tolist()
      ([10.0, 21.0, 32.0], [[3.0]])
    """
    check_sizes(size=size, width=width)
    past = width - 1

    def init(key):
        kernel = jax.random.uniform(key, (width, size), minval=-1, maxval=1) / width**0.5
        return {"kernel": kernel, "bias": jnp.zeros(size)}

    def initial_state(params: Params, batch_shape: Shape) -> ConvolutionState:
        dtype = in_one_type(params)["kernel"].dtype
        return ConvolutionState(jnp.zeros((*batch_shape, past, size), dtype))

    def step(params: Params, state: ConvolutionState, x: Array) -> tuple[ConvolutionState, Array]:
        params = in_one_type(params)
        x = as_input(x, (size,), params["kernel"].dtype)
        inputs = jnp.concatenate([state.inputs, x[..., None, :]], axis=-2)  # [..., width, D]
        y = (inputs * params["kernel"]).sum(axis=-2) + params["bias"]
        return ConvolutionState(inputs[..., 1:, :]), y

    def run(params: Params, state: ConvolutionState, xs: Array, steps: Steps):
        params, time = in_one_type(params), xs.shape[0]
        # [B, width - 1 + T, D]
        inputs = join(state.inputs, as_input(xs, (size,), params["kernel"].dtype))
        index = jnp.arange(time)[:, None]
        ys = params["bias"]
        for lag in range(width):
            shifted = jnp.moveaxis(inputs[:, past - lag : past - lag + time], 1, 0)  # [T, B, D]
            if steps.since is not None:
                shifted = where_flag(index - lag >= steps.since, shifted, jnp.zeros_like(shifted))
            ys = ys + shifted * params["kernel"][past - lag]
        return ConvolutionState(latest(inputs, past, steps)), ys

    return Cell(init, initial_state, step, (size,), without_padding(run))
