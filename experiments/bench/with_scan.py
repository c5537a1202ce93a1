"""Run a hand-written `jax.lax.scan`, with the product of all inputs before the loop."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from experiments.bench.cases import Case
from experiments.bench.program import Network, layered
from experiments.bench.weights import Weights

CELLS = ("lstm", "gru", "elman")


def build(case: Case, weights: Weights) -> Network:
    """Build the network with the given weights, which serve as its parameters unchanged."""
    step = {"lstm": lstm_step, "gru": gru_step, "elman": elman_step}[case.cell]

    def layer(w: dict[str, Array], xs: Array, backwards: bool) -> Array:
        zeros = jnp.zeros((xs.shape[1], case.shape.hidden), xs.dtype)
        state = (zeros, zeros) if case.cell == "lstm" else (zeros,)
        z = xs @ w["w_x"] + w["b"]  # [T, B, gates H]

        def body(state: Any, z: Array) -> tuple[Any, Array]:
            state = step(w, state, z)
            return state, state[0]

        return lax.scan(body, state, z, reverse=backwards)[1]

    return Network(layered(layer), weights, lambda params: params)


def lstm_step(w: dict[str, Array], state: Any, z: Array) -> Any:
    """Compute one step of an LSTM, given z = x W_x + b."""
    h, c = state
    return lstm_gate(z + h @ w["w_h"], c)


def lstm_gate(z: Array, c: Array) -> tuple[Array, Array]:
    """Compute the next h and c from the pre-activations z and c."""
    i, f, g, o = jnp.split(z, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_step(w: dict[str, Array], state: Any, z: Array) -> Any:
    """Compute one step of a GRU that resets after the product, given z = x W_x + b."""
    (h,) = state
    x_r, x_z, x_n = jnp.split(z, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ w["w_h"], 3, axis=-1)
    update = jax.nn.sigmoid(x_z + h_z)
    candidate = jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * (h_n + w["b_n"]))
    return ((1 - update) * candidate + update * h,)


def elman_step(w: dict[str, Array], state: Any, z: Array) -> Any:
    """Compute one step of an Elman network, given z = x W_x + b."""
    return (jnp.tanh(z + state[0] @ w["w_h"]),)
