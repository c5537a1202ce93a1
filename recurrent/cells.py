"""The classic cells, each a gate function: a few lines of its paper's equation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import Cell
from recurrent.gated import Hidden, gated

_ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}


def elman(
    input_size: int, hidden_size: int, *, activation: str = "tanh", **initializers: Any
) -> Cell:
    """The vanilla recurrent network of Elman.

    Equation: ``h_t = f(W_hh h_{t-1} + W_xh x_t + b_h)``, ``y_t = h_t``.

    Args:
      input_size: D.
      hidden_size: H.
      activation: f, one of ``"tanh"``, ``"relu"``, ``"sigmoid"``.
      **initializers: `input_init`, `recurrent_init`, `bias_init` of `recurrent.gated`.

    Raises:
      ValueError: for an unknown activation or a size below 1.

    References:
      Elman, Finding structure in time, Cognitive Science 14, 1990. Departure: no separate
      read-out; see `recurrent.dense`.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of {list(_ACTIVATIONS)}, got {activation!r}.")
    f: Callable[[Array], Array] = _ACTIVATIONS[activation]

    def gate(zx, zh, state):
        return Hidden(f(zx[0] + zh[0]))

    return gated(gate, input_size, hidden_size, gates=1, **initializers)


class LSTMState(NamedTuple):
    """``hidden`` is h and ``cell`` is c, each ``[..., H]``."""

    hidden: Array
    cell: Array


def lstm(
    input_size: int, hidden_size: int, *, forget_bias: float = 1.0, **initializers: Any
) -> Cell:
    """Long short-term memory.

    Equation, with z = x_t W_x + h_{t-1} W_h + b in the gate order i, f, g, o:
    ``c_t = sigmoid(f + forget_bias) c_{t-1} + sigmoid(i) tanh(g)``,
    ``h_t = sigmoid(o) tanh(c_t)``, ``y_t = h_t``.

    Args:
      input_size: D.
      hidden_size: H.
      forget_bias: a constant added to the forget gate, apart from the trained bias.
      **initializers: `input_init`, `recurrent_init`, `bias_init` of `recurrent.gated`.

    References:
      Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000; its bias of 1: Jozefowicz
      et al. 2015. Departures: one bias where torch and cuDNN have two; no peepholes.
    """

    def gate(zx, zh, state):
        i, f, g, o = map(jnp.add, zx, zh)
        cell = jax.nn.sigmoid(f + forget_bias) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)

    return gated(gate, input_size, hidden_size, gates=4, state=LSTMState, **initializers)


def gru(input_size: int, hidden_size: int, **initializers: Any) -> Cell:
    """Gated recurrent unit, with the reset gate applied after the product.

    Equation, in the gate order r, u, n:
    ``r = sigmoid(zx_r + zh_r)``, ``u = sigmoid(zx_u + zh_u)``, ``n = tanh(zx_n + r zh_n)``,
    ``h_t = (1 - u) n + u h_{t-1}``, ``y_t = h_t``, where zx and zh have a bias each.

    Args:
      input_size: D.
      hidden_size: H.
      **initializers: `input_init`, `recurrent_init`, `bias_init` of `recurrent.gated`.

    References:
      Cho et al. 2014. Departure: the reset gate multiplies ``h W_n + b_n``, not h, as in
      version 1 of the paper, in cuDNN and in torch.
    """

    def gate(zx, zh, state):
        reset = jax.nn.sigmoid(zx[0] + zh[0])
        update = jax.nn.sigmoid(zx[1] + zh[1])
        candidate = jnp.tanh(zx[2] + reset * zh[2])
        return Hidden((1 - update) * candidate + update * state.hidden)

    return gated(gate, input_size, hidden_size, gates=3, recurrent_bias=True, **initializers)
