"""Cells that are affine in x_t and in h_{t-1}, then pointwise: write the gate, get the cell.

And get its fast backward pass. Autodiff of `jax.lax.scan` adds a rank-B update to every weight
gradient in each step. Here the backward loop carries the gradient of the state only and emits the
gradients of the pre-activations; each weight gradient is then one product over all T * B rows.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import Cell, Params, Shape, as_input, check_sizes
from recurrent.cells._gated_loop import (
    Blocks,
    Gate,
    GateVJP,
    _gated_loop_backward,
    _gated_loop_forward,
    gated_loop,
    gated_sequence,
    mapped_sequence,
    split_blocks,
)
from recurrent.initializers import GateBias, Initializer, init_bias, init_blocks, resolve
from recurrent.linear_map import (
    Maps,
    dense_maps,
)


class Hidden(NamedTuple):
    """The state of a cell that remembers its output only: ``hidden`` is h, ``[..., H]``."""

    hidden: Array


def gated(
    gate: Gate,
    input_size: int,
    hidden_size: int,
    *,
    gates: int | Sequence[str],
    recurrent_gates: int | None = None,
    state: Any = Hidden,
    recurrent_bias: bool = False,
    input_init: Initializer | str = "glorot_uniform",
    recurrent_init: Initializer | str = "orthogonal",
    bias_init: Initializer | GateBias | str = "zeros",
    gate_params: Callable[[Array], dict[str, Any]] | None = None,
    gate_vjp: GateVJP | None = None,
    compute_dtype: Any = None,
) -> Cell:
    """A cell from its gate function.

    Equation: ``zx_t = x_t W_x + b_x``, ``zh_t = h_{t-1} W_h [+ b_h]``,
    ``state_t = gate(zx_t, zh_t, state_{t-1})``, ``y_t = state_t.hidden``.

    Whole sequences run by `gated_sequence`, whose backward pass is derived from the gate
    alone, unless ``gate_vjp`` is given.

    Args:
      gate: ``(zx, zh, state) -> state``, where zx and zh are sequences of ``gates`` arrays
        ``[..., H]``. It must act on each batch element alone, and what is trained in it must come
        by ``gate_params``: of what it closes over JAX takes no gradient, and says so obscurely.
      input_size: D.
      hidden_size: H.
      gates: how many blocks of H columns the kernels have, or their names in order, which is what
        `recurrent.initializers.chrono` needs.
      recurrent_gates: how many of them h has too, the first ones; all by default.
      state: a NamedTuple of arrays ``[..., H]``, one of them called ``hidden``; zero at first.
      recurrent_bias: whether h has a bias of its own, as in cuDNN and torch. It makes a
        difference only where the gate does not simply add zx and zh.
      input_init: draws each gate's block ``[D, H]``; a function ``(key, shape) -> array`` or the
        name of one in `recurrent.initializers`.
      recurrent_init: draws each gate's block ``[H, H]``.
      bias_init: draws each gate's bias ``[H]``, or is a `recurrent.initializers.GateBias`, which
        draws b_x, b_h then being zero.
      gate_params: ``key -> dict`` of further parameters (peepholes, gains), which reach the gate
        as keyword arguments and stand in the params under ``"gate"``.
      gate_vjp: the same gate with a backward pass written by hand, where that is faster than the
        one that is derived from ``gate``; for gates without params.
      compute_dtype: such as ``jnp.bfloat16``: both products take operands of this type and
        accumulate in the params' own; state and gates keep the params' type.

    Returns:
      The cell. Its params are ``{"input": {"kernel": [D, gates * H], "bias": [gates * H]},
      "recurrent": {"kernel": [H, gates * H]}}``, with ``"bias"`` in the latter on request. Inputs
      are cast to the params' type.

    Raises:
      ValueError: for a size below 1, a state without the field ``hidden``, an unknown
        initialiser, or ``gate_vjp`` beside ``gate_params``; by the cell, for a gate that returns
        something else than such a state, and for inputs of another size or that are no
        floating-point numbers.
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    fields: tuple[str, ...] = state._fields
    if "hidden" not in fields:
        raise ValueError(f"state: expected a field called hidden, got the fields {fields}.")
    names = tuple(f"gate {i}" for i in range(gates)) if isinstance(gates, int) else tuple(gates)
    check_sizes(gates=len(names))
    if recurrent_gates is not None and not 1 <= recurrent_gates <= len(names):
        raise ValueError(f"recurrent_gates: expected 1 to {len(names)}, got {recurrent_gates}.")
    if gate_params and gate_vjp:
        raise ValueError("gate_vjp: expected a gate without params, got gate_params too.")
    recurrent_names = names[:recurrent_gates]
    input_init = resolve(input_init, "input_init")
    recurrent_init = resolve(recurrent_init, "recurrent_init")
    bias_init = bias_init if isinstance(bias_init, GateBias) else resolve(bias_init, "bias_init")

    def init(key: Array) -> Params:
        input_key, recurrent_key, *bias_keys, gate_key = jax.random.split(key, 5)
        square = hidden_size, hidden_size
        recurrent = {
            "kernel": init_blocks(recurrent_init, recurrent_key, square, len(recurrent_names))
        }
        if recurrent_bias:
            own = resolve("zeros", "bias_init") if isinstance(bias_init, GateBias) else bias_init
            recurrent["bias"] = init_bias(own, bias_keys[1], recurrent_names, hidden_size)
        params = {
            "input": {
                "kernel": init_blocks(input_init, input_key, (input_size, hidden_size), len(names)),
                "bias": init_bias(bias_init, bias_keys[0], names, hidden_size),
            },
            "recurrent": recurrent,
        }
        return params | ({"gate": gate_params(gate_key)} if gate_params else {})

    def apply_gate(extra: dict[str, Any], zx: Blocks, zh: Blocks, state: Any) -> Any:
        return gate(zx, zh, state, **extra)

    maps = dense_maps(compute_dtype)._replace(
        input_blocks=len(names), recurrent_blocks=len(recurrent_names)
    )
    shapes = [(hidden_size,)] * len(fields)
    cell = gated_cell(init, apply_gate, (input_size,), state, shapes, maps)
    return cell._replace(
        sequence=partial(gated_sequence, cell, _checked(apply_gate), maps, gate_vjp)
    )


def gated_cell(
    init: Callable[[Array], Params],
    gate: Gate,
    input_shape: Shape,
    state: Any,
    state_shapes: Sequence[Shape],
    maps: Maps,
) -> Cell:
    """What `gated` is made of: a cell from its gate and any two affine maps.

    Args:
      init: ``key -> params`` with the keys ``"input"`` and ``"recurrent"``, each with a
        ``"kernel"``, and ``"gate"`` where the gate has params.
      gate: ``(gate params, zx, zh, state) -> state`` with zx and zh lists of arrays. It must act
        on each batch element alone.
      input_shape: of one input.
      state: a NamedTuple with a field called ``hidden``; zero at first.
      state_shapes: of its fields, without batch axes.
      maps: of x and of h.
    """
    gate = _checked(gate)

    def initial_state(params: Params, batch_shape: Shape) -> Any:
        dtype = params["recurrent"]["kernel"].dtype
        zeros = [jnp.zeros((*batch_shape, *shape), dtype) for shape in state_shapes]
        return state(*zeros)

    def step(params: Params, state: Any, x: Array) -> tuple[Any, Array]:
        x = as_input(x, input_shape, params["input"]["kernel"].dtype)
        zx = maps.input.apply(params["input"], x)
        zh = maps.recurrent.apply(params["recurrent"], state.hidden)
        state = gate(params.get("gate", {}), *split_blocks(maps, zx, zh), state)
        return state, state.hidden

    cell = Cell(init, initial_state, step, input_shape)
    return cell._replace(sequence=partial(mapped_sequence, cell, gate, maps, None))


def _checked(gate: Gate) -> Gate:
    """The gate, whose result is compared with the state that it gets, at trace time."""

    def apply(extra: dict[str, Any], zx: Blocks, zh: Blocks, state: Any) -> Any:
        new = gate(extra, zx, zh, state)
        shapes, expected = (jax.tree.map(jnp.shape, tree) for tree in (new, state))
        if jax.tree.structure(new) != jax.tree.structure(state) or shapes != expected:
            raise ValueError(f"gate: expected it to return a state {expected}, got {shapes}.")
        return new

    return apply


gated_loop.defvjp(_gated_loop_forward, _gated_loop_backward)
