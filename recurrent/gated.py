"""Cells that are affine in x_t and in h_{t-1}, then pointwise: write the gate, get the cell."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import Cell, Params, Shape

Initializer = Callable[..., Array]
Gate = Callable[..., Any]


class Hidden(NamedTuple):
    """The state of a cell that remembers its output only: ``hidden`` is h, ``[..., H]``."""

    hidden: Array


def gated(
    gate: Gate,
    input_size: int,
    hidden_size: int,
    *,
    gates: int,
    state: type = Hidden,
    recurrent_bias: bool = False,
    input_init: Initializer = jax.nn.initializers.glorot_uniform(),
    recurrent_init: Initializer = jax.nn.initializers.orthogonal(),
    bias_init: Initializer = jax.nn.initializers.zeros,
) -> Cell:
    """A cell from its gate function.

    Equation: ``zx_t = x_t W_x + b_x``, ``zh_t = h_{t-1} W_h [+ b_h]``,
    ``state_t = gate(zx_t, zh_t, state_{t-1})``, ``y_t = state_t.hidden``.

    Args:
      gate: ``(zx, zh, state) -> state``, where zx and zh are tuples of ``gates`` arrays
        ``[..., H]``. It must act on each batch element alone.
      input_size: D.
      hidden_size: H.
      gates: how many blocks of H columns the kernels have.
      state: a NamedTuple of arrays ``[..., H]``, one of them called ``hidden``; zero at first.
      recurrent_bias: whether h has a bias of its own, as in cuDNN and torch. It makes a
        difference only where the gate does not simply add zx and zh.
      input_init: draws each gate's block ``[D, H]``.
      recurrent_init: draws each gate's block ``[H, H]``.
      bias_init: draws the biases ``[gates * H]``.

    Returns:
      The cell. Its params are ``{"input": {"kernel": [D, gates * H], "bias": [gates * H]},
      "recurrent": {"kernel": [H, gates * H]}}``, with ``"bias"`` in the latter on request.

    Raises:
      ValueError: for a size below 1, or a state without the field ``hidden``.
    """
    for name, size in {"input_size": input_size, "hidden_size": hidden_size}.items():
        if size < 1:
            raise ValueError(f"{name}: expected at least 1, got {size}.")
    fields: tuple[str, ...] = state._fields
    if "hidden" not in fields:
        raise ValueError(f"state: expected a field called hidden, got the fields {fields}.")
    width = gates * hidden_size

    def init(key: Array) -> Params:
        input_key, recurrent_key, *bias_keys = jax.random.split(key, 4)
        recurrent = {"kernel": blocks(recurrent_init, recurrent_key, hidden_size, hidden_size)}
        if recurrent_bias:
            recurrent["bias"] = bias_init(bias_keys[1], (width,))
        kernel = blocks(input_init, input_key, input_size, hidden_size)
        return {
            "input": {"kernel": kernel, "bias": bias_init(bias_keys[0], (width,))},
            "recurrent": recurrent,
        }

    def blocks(draw: Initializer, key: Array, rows: int, columns: int) -> Array:
        keys = jax.random.split(key, gates)
        return jnp.concatenate([draw(k, (rows, columns)) for k in keys], axis=1)

    def initial_state(params: Params, batch_shape: Shape) -> Any:
        dtype = params["recurrent"]["kernel"].dtype
        return state(*[jnp.zeros((*batch_shape, hidden_size), dtype) for _ in fields])

    def step(params: Params, state: Any, x: Array) -> tuple[Any, Array]:
        zx = jnp.split(affine(params["input"], x), gates, axis=-1)
        zh = jnp.split(affine(params["recurrent"], state.hidden), gates, axis=-1)
        state = gate(zx, zh, state)
        return state, state.hidden

    return Cell(init, initial_state, step, (input_size,))


def affine(params: Params, x: Array) -> Array:
    """``x W + b``, or ``x W`` where there is no bias."""
    z = x @ params["kernel"]
    return z + params["bias"] if "bias" in params else z
