"""Build layer-normalized cells, whose gates have a gain and a bias for each normalization."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import Cell, Params, check_sizes
from recurrent.cells._gated_loop import Blocks
from recurrent.cells._named import named
from recurrent.cells.classic import LSTM_GATES, LSTMState, check_forget_bias
from recurrent.cells.gates import Hidden, gated_cell
from recurrent.initializers import GateBias, Initializer, init_bias, init_blocks, resolve
from recurrent.layers import layer_norm
from recurrent.linear_map import dense_maps


def layer_norm_lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    epsilon: float = 1e-5,
    input_init: Initializer | str = "glorot_uniform",
    recurrent_init: Initializer | str = "orthogonal",
    bias_init: Initializer | GateBias | str = "zeros",
    compute_dtype: Any = None,
) -> Cell:
    """Build a long short-term memory with layer normalization of both products and of its memory.

    Equation, with LN over the last axis and the gates i, f, g, o side by side in z:
    ``z = LN_x(x_t W_x) + LN_h(h_{t-1} W_h)``,
    ``c_t = sigmoid(f + forget_bias) c_{t-1} + sigmoid(i) tanh(g)``,
    ``h_t = sigmoid(o) tanh(LN_c(c_t))``, ``y_t = h_t``.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      forget_bias: a constant added to the forget gate, as in `recurrent.lstm`.
      epsilon: added to the variance in each normalization.
      input_init: draws each gate's block ``[D, H]``.
      recurrent_init: draws each gate's block ``[H, H]``.
      bias_init: draws the bias of LN_x for each gate, ``[H]``, as in `recurrent.gated`.
      compute_dtype: the type of the products' operands, as in `recurrent.gated`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, 4 H]}, "recurrent": {"kernel": [H, 4 H]},
      "gate": {"input_norm", "recurrent_norm": {"scale": [4 H], "bias": [4 H]}, "cell_norm":
      {"scale": [H], "bias": [H]}}}`` and the state `LSTMState`.

    Raises:
      ValueError: for a size below 1, an unknown initializer, or a constant forget bias together
        with `recurrent.initializers.chrono`.

    References:
      Ba et al. 2016, Layer normalization, arXiv:1607.06450, in its supplement. Departures: the
      further bias b of z is omitted, since the biases of LN_x and LN_h make it redundant; there is
      a constant forget bias.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import layer_norm_lstm, unroll
      >>> cell = layer_norm_lstm(input_size=3, hidden_size=4)
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> state, ys = unroll(cell, params, xs)
      >>> ys.shape, state.cell.shape
      ((5, 2, 4), (2, 4))
    """
    check_forget_bias(forget_bias, {"bias_init": bias_init})
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    width = 4 * hidden_size
    norms = {"input_norm": width, "recurrent_norm": width, "cell_norm": hidden_size}
    init = _init(
        (input_size, hidden_size), LSTM_GATES, norms, input_init, recurrent_init, bias_init
    )

    def gate(extra: Params, zx: Blocks, zh: Blocks, state: LSTMState) -> LSTMState:
        norm = partial(_normalized, extra, epsilon)
        i, f, g, o = jnp.split(norm("input_norm", zx[0]) + norm("recurrent_norm", zh[0]), 4, -1)
        kept = named("forget", jax.nn.sigmoid, f + forget_bias) * state.cell
        write = named("input", jax.nn.sigmoid, i)
        cell = kept + write * named("candidate", jnp.tanh, g)
        read = named("output", jax.nn.sigmoid, o)
        return LSTMState(read * named("cell", jnp.tanh, norm("cell_norm", cell)), cell)

    maps = dense_maps(compute_dtype)
    return gated_cell(init, gate, (input_size,), LSTMState, [(hidden_size,)] * 2, maps)


def layer_norm_gru(
    input_size: int,
    hidden_size: int,
    *,
    epsilon: float = 1e-5,
    input_init: Initializer | str = "glorot_uniform",
    recurrent_init: Initializer | str = "orthogonal",
    bias_init: Initializer | GateBias | str = "zeros",
    compute_dtype: Any = None,
) -> Cell:
    """Build a gated recurrent unit with layer normalization of both products.

    Equation, with LN over the last axis and the gates r, u side by side:
    ``r, u = sigmoid(LN_x(x_t W_x) + LN_h(h_{t-1} W_h))``,
    ``n = tanh(LN_xn(x_t W_xn) + r LN_hn(h_{t-1} W_hn))``,
    ``h_t = (1 - u) n + u h_{t-1}``, ``y_t = h_t``.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      epsilon: added to the variance in each normalization.
      input_init: draws each gate's block ``[D, H]``.
      recurrent_init: draws each gate's block ``[H, H]``.
      bias_init: draws the biases of LN_x and LN_xn for each gate, ``[H]``.
      compute_dtype: the type of the products' operands, as in `recurrent.gated`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, 3 H]}, "recurrent": {"kernel": [H, 3 H]},
      "gate": {"input_norm", "recurrent_norm": {"scale": [2 H], "bias": [2 H]},
      "input_candidate_norm", "recurrent_candidate_norm": {"scale": [H], "bias": [H]}}}``, in the
      order r, u, n, and the state `recurrent.Hidden`.

    Raises:
      ValueError: for a size below 1 or an unknown initializer.

    References:
      Ba et al. 2016, Layer normalization, arXiv:1607.06450, in its supplement. Departure: u
      multiplies the old state, as in `recurrent.gru`, instead of the candidate.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import layer_norm_gru, unroll
      >>> cell = layer_norm_gru(input_size=3, hidden_size=4)
      >>> params = cell.init(jax.random.key(0))
      >>> sorted(params["gate"])
      ['input_candidate_norm', 'input_norm', 'recurrent_candidate_norm', 'recurrent_norm']
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> unroll(cell, params, xs)[1].shape
      (5, 2, 4)
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    norms = {
        "input_norm": 2 * hidden_size,
        "recurrent_norm": 2 * hidden_size,
        "input_candidate_norm": hidden_size,
        "recurrent_candidate_norm": hidden_size,
    }
    gates = ("reset", "update", "candidate")
    init = _init((input_size, hidden_size), gates, norms, input_init, recurrent_init, bias_init)

    def gate(extra: Params, zx: Blocks, zh: Blocks, state: Hidden) -> Hidden:
        norm = partial(_normalized, extra, epsilon)
        (x_gates, x_new), (h_gates, h_new) = (
            jnp.split(z, [2 * hidden_size], -1) for z in (zx[0], zh[0])
        )
        z = norm("input_norm", x_gates) + norm("recurrent_norm", h_gates)
        both = named("reset_and_update", jax.nn.sigmoid, z)
        reset, update = jnp.split(both, 2, -1)  # [..., 2 H] -> two [..., H]
        old = norm("recurrent_candidate_norm", h_new)
        z = norm("input_candidate_norm", x_new) + reset * old
        candidate = named("candidate", jnp.tanh, z)
        return Hidden((1 - update) * candidate + update * state.hidden)

    return gated_cell(
        init, gate, (input_size,), Hidden, [(hidden_size,)], dense_maps(compute_dtype)
    )


def _init(sizes, gates, norms, input_init, recurrent_init, bias_init):
    """Return an ``init`` whose only biases are those of the norms.

    The gates' biases, drawn by ``bias_init``, become the biases of the input's norms.
    """
    input_size, hidden_size = sizes
    input_init = resolve(input_init, "input_init")
    recurrent_init = resolve(recurrent_init, "recurrent_init")
    bias_init = bias_init if isinstance(bias_init, GateBias) else resolve(bias_init, "bias_init")

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 3)
        extra = {name: layer_norm(width).init(key) for name, width in norms.items()}
        bias = init_bias(bias_init, keys[2], gates, hidden_size)
        for name in ("input_norm", "input_candidate_norm"):
            if name in extra:
                extra[name]["bias"], bias = jnp.split(bias, [norms[name]])
        blocks = len(gates)
        kernels = {
            "input": init_blocks(input_init, keys[0], (input_size, hidden_size), blocks),
            "recurrent": init_blocks(recurrent_init, keys[1], (hidden_size, hidden_size), blocks),
        }
        return {name: {"kernel": kernel} for name, kernel in kernels.items()} | {"gate": extra}

    return init


def _normalized(extra: Params, epsilon: float, name: str, z: Array) -> Array:
    return layer_norm(z.shape[-1], epsilon=epsilon).apply(extra[name], z)
