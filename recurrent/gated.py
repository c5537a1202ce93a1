"""Cells that are affine in x_t and in h_{t-1}, then pointwise: write the gate, get the cell.

And get its fast backward pass. Autodiff of `jax.lax.scan` adds a rank-B update to every weight
gradient in each step. Here the backward loop carries the gradient of the state only and emits the
gradients of the pre-activations; each weight gradient is then one product over all T * B rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import Cell, Params, Shape, scan_sequence, where_flag

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
    state: Any = Hidden,
    recurrent_bias: bool = False,
    input_init: Initializer = jax.nn.initializers.glorot_uniform(),
    recurrent_init: Initializer = jax.nn.initializers.orthogonal(),
    bias_init: Initializer = jax.nn.initializers.zeros,
    gate_params: Callable[[Array], dict[str, Array]] | None = None,
    product_dtype: Any = None,
) -> Cell:
    """A cell from its gate function.

    Equation: ``zx_t = x_t W_x + b_x``, ``zh_t = h_{t-1} W_h [+ b_h]``,
    ``state_t = gate(zx_t, zh_t, state_{t-1})``, ``y_t = state_t.hidden``.

    Whole sequences run by `gated_sequence`, whose backward pass is derived from the gate alone.

    Args:
      gate: ``(zx, zh, state) -> state``, where zx and zh are sequences of ``gates`` arrays
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
      gate_params: ``key -> dict`` of further parameters (peepholes, gains), which reach the gate
        as keyword arguments and stand in the params under ``"gate"``.
      product_dtype: such as ``jnp.bfloat16``: both products take operands of this type and
        accumulate in the params' own; state and gates keep the params' type.

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
        input_key, recurrent_key, *bias_keys, gate_key = jax.random.split(key, 5)
        recurrent = {"kernel": blocks(recurrent_init, recurrent_key, hidden_size)}
        if recurrent_bias:
            recurrent["bias"] = bias_init(bias_keys[1], (width,))
        kernel = blocks(input_init, input_key, input_size)
        params = {
            "input": {"kernel": kernel, "bias": bias_init(bias_keys[0], (width,))},
            "recurrent": recurrent,
        }
        return params | ({"gate": gate_params(gate_key)} if gate_params else {})

    def blocks(draw: Initializer, key: Array, rows: int) -> Array:
        keys = jax.random.split(key, gates)
        return jnp.concatenate([draw(k, (rows, hidden_size)) for k in keys], axis=1)

    def initial_state(params: Params, batch_shape: Shape) -> Any:
        dtype = params["recurrent"]["kernel"].dtype
        return state(*[jnp.zeros((*batch_shape, hidden_size), dtype) for _ in fields])

    def apply_gate(extra: dict[str, Array], zx: Array, zh: Array, state: Any) -> Any:
        return gate(jnp.split(zx, gates, -1), jnp.split(zh, gates, -1), state, **extra)

    def step(params: Params, state: Any, x: Array) -> tuple[Any, Array]:
        zx = affine(params["input"], x, product_dtype)
        zh = affine(params["recurrent"], state.hidden, product_dtype)
        state = apply_gate(params.get("gate", {}), zx, zh, state)
        return state, state.hidden

    cell = Cell(init, initial_state, step, (input_size,))
    return cell._replace(sequence=partial(gated_sequence, cell, apply_gate, product_dtype))


def affine(params: Params, x: Array, product_dtype: Any = None) -> Array:
    """``x W + b``, or ``x W`` where there is no bias; the product's operands may be narrower."""
    z = product(x, params["kernel"], product_dtype)
    return z + params["bias"] if "bias" in params else z


def product(a: Array, b: Array, dtype: Any = None) -> Array:
    """``a @ b`` with operands of ``dtype``, accumulated in the type of ``b``."""
    if dtype is None:
        return a @ b
    return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=b.dtype)


class Steps(NamedTuple):
    """What one step of a gated loop reads, or all of them with a leading T.

    Attributes:
      zx: the input's part of the pre-activations ``[..., gates * H]``.
      real: False where the step is padding, ``[...]``; None for never.
      fresh: True where the state is reset first, ``[...]``; None for never.
    """

    zx: Array
    real: Array | None
    fresh: Array | None


def gated_sequence(
    cell: Cell,
    gate: Gate,
    product_dtype: Any,
    params: Params,
    state: Any,
    xs: Array,
    *,
    mask: Array | None,
    reset: Array | None,
    reverse: bool,
) -> tuple[Any, Array]:
    """The fast sequence function of a gated cell; `scan_sequence` is its reference."""
    if xs.shape[0] == 0:
        return scan_sequence(cell, params, state, xs, mask=mask, reset=reset, reverse=reverse)
    if mask is not None:
        xs = where_flag(mask, xs, jnp.zeros_like(xs))
    initial = None if reset is None else cell.initial_state(params, xs.shape[1:-1])
    steps = Steps(affine(params["input"], xs, product_dtype), mask, reset)
    weights = params["recurrent"], params.get("gate", {})
    state, ys = gated_loop(gate, product_dtype, reverse, weights, state, initial, steps)
    return state, ys if mask is None else where_flag(mask, ys, jnp.zeros_like(ys))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def gated_loop(
    gate: Gate,
    product_dtype: Any,
    reverse: bool,
    weights: tuple[Params, dict[str, Array]],
    state: Any,
    initial: Any,
    steps: Steps,
) -> tuple[Any, Array]:
    """Steps a gated cell whose input products are done.

    Args:
      gate: ``(gate params, zx, zh, state) -> state``.
      product_dtype: see `gated`.
      reverse: from the last step to the first.
      weights: the recurrent affine map and the gate's own params.
      state: before the first step.
      initial: what a reset puts back; None where nothing resets.
      steps: the inputs, time first.

    Returns:
      The state after the last step, and h of every step.
    """
    last, states = _loop_states(gate, product_dtype, reverse, weights, state, initial, steps)
    return last, states.hidden


def _loop_states(gate, product_dtype, reverse, weights, state, initial, steps):
    recurrent, extra = weights

    def body(state, step):
        state = state if step.fresh is None else where_flag(step.fresh, initial, state)
        zh = affine(recurrent, state.hidden, product_dtype)
        new = gate(extra, step.zx, zh, state)
        new = new if step.real is None else where_flag(step.real, new, state)
        return new, new

    return lax.scan(body, state, steps, reverse=reverse)


def _gated_loop_forward(gate, product_dtype, reverse, weights, state, initial, steps):
    last, states = _loop_states(gate, product_dtype, reverse, weights, state, initial, steps)
    return (last, states.hidden), (weights, state, initial, steps, states)


def _gated_loop_backward(gate, product_dtype, reverse, saved, gradients):
    weights, first, initial, steps, states = saved
    recurrent, extra = weights
    d_last, d_hidden = gradients
    befores = _states_before(first, initial, states, steps.fresh, reverse)
    zh = affine(recurrent, befores.hidden, product_dtype)

    def body(carry, inputs):
        d_state, d_initial = carry
        step, zh, before, d_h = inputs
        d_state = d_state._replace(hidden=d_state.hidden + d_h)
        d_new, d_held = (d_state, None) if step.real is None else _split(d_state, step.real)
        pullback = jax.vjp(partial(gate, extra), step.zx, zh, before)[1]
        d_zx, d_zh, d_before = pullback(d_new)
        through = product(d_zh, recurrent["kernel"].T, product_dtype)
        d_before = d_before._replace(hidden=d_before.hidden + through)
        d_before = _plus(d_before, d_held)
        d_reset, d_before = (None, d_before) if step.fresh is None else _split(d_before, step.fresh)
        d_initial = _plus(d_initial, d_reset)
        return (d_before, d_initial), (d_zx, d_zh, d_new if extra else None)

    d_initial = jax.tree.map(jnp.zeros_like, initial)
    carry, outputs = lax.scan(
        body, (d_last, d_initial), (steps, zh, befores, d_hidden), reverse=not reverse
    )
    (d_first, d_initial), (d_zx, d_zh, d_news) = carry, outputs
    d_recurrent = _affine_gradient(recurrent, befores.hidden, d_zh, product_dtype)
    d_extra = extra
    if extra:
        d_extra = jax.vjp(lambda extra: gate(extra, steps.zx, zh, befores), extra)[1](d_news)[0]
    return (d_recurrent, d_extra), d_first, d_initial, Steps(d_zx, None, None)


def _states_before(first, initial, states, fresh, reverse):
    """The state that each step starts from, resets done."""

    def shift(first, after):
        parts = [after[1:], first[None]] if reverse else [first[None], after[:-1]]
        return jnp.concatenate(parts)

    befores = jax.tree.map(shift, first, states)
    if fresh is None:
        return befores
    initial = jax.tree.map(lambda leaf, all: jnp.broadcast_to(leaf, all.shape), initial, befores)
    return where_flag(fresh, initial, befores)


def _split(gradient, flag):
    """A gradient where the flag is true, and where it is not; each zero elsewhere."""
    zeros = jax.tree.map(jnp.zeros_like, gradient)
    return where_flag(flag, gradient, zeros), where_flag(flag, zeros, gradient)


def _plus(gradient, more):
    return gradient if more is None else jax.tree.map(jnp.add, gradient, more)


def _affine_gradient(params, inputs, d_outputs, product_dtype):
    rows = d_outputs.reshape(-1, d_outputs.shape[-1])
    kernel = product(inputs.reshape(-1, inputs.shape[-1]).T, rows, product_dtype)
    bias = {"bias": rows.sum(axis=0)} if "bias" in params else {}
    return {"kernel": kernel, **bias}


gated_loop.defvjp(_gated_loop_forward, _gated_loop_backward)
