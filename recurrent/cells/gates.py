"""Build a cell from affine maps of x_t and h_{t-1} and a gate function of the results.

Such a cell has a fast backward pass. Autodiff of `jax.lax.scan` adds a rank-B update to
every weight gradient in each step. Here the backward loop carries the gradient of the state only
and emits the gradients of the pre-activations; each weight gradient is then one product over all
T * B rows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import Cell, Params, Shape, as_input, check_sizes, in_one_type, sequence
from recurrent.cells._gated_loop import Blocks, Gate, GatedSequence, GateVJP, split_blocks
from recurrent.errors import ArgumentError
from recurrent.initializers import GateBias, Initializer, init_bias, init_blocks, resolve
from recurrent.linear_map import Maps, dense_maps


class Hidden(NamedTuple):
    """Hold the state of a cell that remembers only its output: ``hidden`` is h, ``[..., H]``."""

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
    """Build a cell from its gate function.

    Equation: ``zx_t = x_t W_x + b_x``, ``zh_t = h_{t-1} W_h [+ b_h]``,
    ``state_t = gate(zx_t, zh_t, state_{t-1})``, ``y_t = state_t.hidden``.

    Whole sequences run with a fast backward pass, which is derived from the gate alone unless
    ``gate_vjp`` is given.

    Args:
      gate: ``(zx, zh, state) -> state``, where zx is a list of ``gates`` arrays ``[..., H]``, and
        zh one of ``recurrent_gates``. It must treat each batch element independently. What is
        trained in it must be passed by ``gate_params``: JAX takes no gradient of arrays that the
        gate closes over, and its error message is obscure.
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      gates: the number of blocks of H columns in the kernels, or the names of the blocks in order,
        which `recurrent.initializers.chrono` needs.
      recurrent_gates: the number of blocks in the recurrent kernel, which belong to the first
        gates; ``gates`` by default.
      state: a NamedTuple of arrays ``[..., H]``, one of them called ``hidden``; initially zero.
      recurrent_bias: whether h has a bias of its own, as in cuDNN and torch. It makes a
        difference only if the gate does not simply add zx and zh.
      input_init: draws each gate's block ``[D, H]``; a function ``(key, shape) -> array`` or the
        name of one in `recurrent.initializers`.
      recurrent_init: draws each gate's block ``[H, H]``.
      bias_init: draws each gate's bias ``[H]``, or is a `recurrent.initializers.GateBias`, which
        draws b_x, and b_h is then zero.
      gate_params: ``key -> dict`` of further parameters (peepholes, gains), which are passed to
        the gate as keyword arguments, and are stored in the params under ``"gate"``.
      gate_vjp: the same gate with a backward pass written by hand, where that is faster than the
        one that is derived from ``gate``; only for gates without params.
      compute_dtype: the type of both products' operands, such as ``jnp.bfloat16``; by default that
        of the params. The products accumulate in the params' type, and state and gates keep it.

    Returns:
      The cell. Its params are ``{"input": {"kernel": [D, gates * H], "bias": [gates * H]},
      "recurrent": {"kernel": [H, gates * H]}}``, with a ``"bias"`` in the latter if
      ``recurrent_bias`` is set. Inputs and state have the params' type; params of several types
      are cast to the one that holds them all.

    Raises:
      ValueError: for a size below 1, a state without the field ``hidden``, an unknown
        initializer, ``recurrent_gates`` outside 1 to ``gates``, or ``gate_vjp`` together with
        ``gate_params``. The cell raises it for a gate that returns anything but a state of the
        same structure and shapes, and for inputs of another size or that are not floating-point
        numbers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import Hidden, gated, unroll
      >>> def gate(zx, zh, state):  # a leaky integrator of one weighted input
      ...     return Hidden(0.5 * state.hidden + zx[0])
      >>> cell = gated(gate, input_size=1, hidden_size=1, gates=1, input_init="identity")
      >>> params = cell.init(jax.random.key(0))
      >>> unroll(cell, params, jnp.array([[1.0], [0.0], [2.0]]))[1].tolist()
      [[1.0], [0.5], [2.25]]
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    fields: tuple[str, ...] = state._fields
    if "hidden" not in fields:
        raise ArgumentError(f"state: expected a field called hidden, got the fields {fields}.")
    names = tuple(f"gate {i}" for i in range(gates)) if isinstance(gates, int) else tuple(gates)
    check_sizes(gates=len(names))
    if recurrent_gates is not None and not 1 <= recurrent_gates <= len(names):
        raise ArgumentError(f"recurrent_gates: expected 1 to {len(names)}, got {recurrent_gates}.")
    if gate_params and gate_vjp:
        raise ArgumentError("gate_vjp: expected a gate without params, got gate_params too.")
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
    run = cast(GatedSequence, cell.sequence)
    return cell._replace(sequence=run._replace(vjp=gate_vjp, block_per_gate=True))


def gated_cell(
    init: Callable[[Array], Params],
    gate: Gate,
    input_shape: Shape,
    state: Any,
    state_shapes: Sequence[Shape],
    maps: Maps,
) -> Cell:
    """Build a cell from its gate and any two affine maps; `gated` is the case of dense ones.

    Args:
      init: ``key -> params`` with the keys ``"input"`` and ``"recurrent"``, each with a
        ``"kernel"``, and ``"gate"`` if the gate has params.
      gate: ``(gate params, zx, zh, state) -> state``, where zx and zh are lists of arrays. It must
        treat each batch element independently.
      input_shape: the shape of one input, without batch axes.
      state: a NamedTuple with a field called ``hidden``; initially zero.
      state_shapes: the shapes of its fields, without batch axes.
      maps: the maps from x to zx and from h to zh.

    Returns:
      The cell, whose sequence function has a fast backward pass derived from gate and maps.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import Hidden, Maps, dense_maps, derived_map, gated_cell, unroll
      >>> elementwise = derived_map(lambda params, h: params["kernel"] * h)
      >>> maps = dense_maps()._replace(recurrent=elementwise)
      >>> params = {"input": {"kernel": jnp.eye(2)}, "recurrent": {"kernel": jnp.array([1.0, 0.5])}}
      >>> gate = lambda gate_params, zx, zh, state: Hidden(zx[0] + zh[0])
      >>> cell = gated_cell(lambda key: params, gate, (2,), Hidden, [(2,)], maps)
      >>> unroll(cell, params, jnp.array([[1.0, 4.0], [2.0, 0.0]]))[1].tolist()
      [[1.0, 4.0], [3.0, 2.0]]
    """
    gate = _checked(gate)

    def initial_state(params: Params, batch_shape: Shape) -> Any:
        dtype = in_one_type(params)["recurrent"]["kernel"].dtype
        zeros = [jnp.zeros((*batch_shape, *shape), dtype) for shape in state_shapes]
        return state(*zeros)

    def step(params: Params, state: Any, x: Array) -> tuple[Any, Array]:
        params = in_one_type(params)
        x = as_input(x, input_shape, params["input"]["kernel"].dtype)
        zx = maps.input.apply(params["input"], x)
        zh = maps.recurrent.apply(params["recurrent"], state.hidden)
        state = gate(params.get("gate", {}), *split_blocks(maps, zx, zh), state)
        return state, state.hidden

    cell = Cell(init, initial_state, step, input_shape)
    return cell._replace(sequence=GatedSequence(cell, gate, maps))


def reparametrized(cell: Cell, to_params: Callable[[Params], Params]) -> Cell:
    """Return a cell whose params ``to_params`` turns into those of ``cell``, once a sequence."""

    def step(params: Params, state: Any, x: Any) -> tuple[Any, Any]:
        return cell.step(to_params(params), state, x)

    def run(params: Params, state: Any, xs: Any, **flags: Any) -> tuple[Any, Any]:
        return sequence(cell, to_params(params), state, xs, **flags)

    return cell._replace(step=step, sequence=run)


def _checked(gate: Gate) -> Gate:
    """Return the gate with a check, at trace time, that it returns a state like the one given."""

    def apply(extra: dict[str, Any], zx: Blocks, zh: Blocks, state: Any) -> Any:
        new = gate(extra, zx, zh, state)
        shapes, expected = (jax.tree.map(jnp.shape, tree) for tree in (new, state))
        if jax.tree.structure(new) != jax.tree.structure(state) or shapes != expected:
            raise ArgumentError(f"gate: expected it to return a state {expected}, got {shapes}.")
        return new

    return apply
