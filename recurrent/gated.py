"""Cells that are affine in x_t and in h_{t-1}, then pointwise: write the gate, get the cell.

And get its fast backward pass. Autodiff of `jax.lax.scan` adds a rank-B update to every weight
gradient in each step. Here the backward loop carries the gradient of the state only and emits the
gradients of the pre-activations; each weight gradient is then one product over all T * B rows.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import Cell, Params, Shape, as_input, check_sizes, scan_sequence, where_flag
from recurrent.initializers import GateBias, Initializer, drawn_bias, drawn_blocks, named

Gate = Callable[..., Any]
Apply = Callable[[Params, Array], Array]
Blocks = list[Array]

CACHED = 2**20  # numbers that a CPU's caches hold
TURNED = 7 * 2**19  # numbers of a kernel that is better transposed for a single row too


class Hidden(NamedTuple):
    """The state of a cell that remembers its output only: ``hidden`` is h, ``[..., H]``."""

    hidden: Array


class GateVJP(NamedTuple):
    """A gate with a backward pass of its own, in the manner of `jax.custom_vjp`.

    Its residuals lie where their gradients will: ``sums`` has a block of the shape and type of each
    of zx, and ``own`` of each of zh but those that the gate adds to that of zx. What stands in them
    is the gate's affair: the pre-activations, or what it made of them.

    Its forward must compute what the gate does, which alone runs where nothing is differentiated,
    and under ``method="scan"``: compare the gradients of the two methods.

    Attributes:
      forward: ``(zx, zh, state) -> (state, sums, own)``.
      backward: ``(sums, own, state before, d_state after) -> (d_sums, d_own, d_state before)``,
        where d_sums are the gradients of zx, and d_own those of the other blocks of zh.
      shared: the blocks of zx and zh that the gate adds and uses in no other way.
    """

    forward: Callable[[Blocks, Blocks, Any], tuple[Any, Blocks, Blocks]]
    backward: Callable[[Blocks, Blocks, Any, Any], tuple[Blocks, Blocks, Any]]
    shared: frozenset[int]


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
    product_dtype: Any = None,
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
      product_dtype: such as ``jnp.bfloat16``: both products take operands of this type and
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
    input_init = named(input_init, "input_init")
    recurrent_init = named(recurrent_init, "recurrent_init")
    bias_init = bias_init if isinstance(bias_init, GateBias) else named(bias_init, "bias_init")

    def init(key: Array) -> Params:
        input_key, recurrent_key, *bias_keys, gate_key = jax.random.split(key, 5)
        square = hidden_size, hidden_size
        recurrent = {
            "kernel": drawn_blocks(recurrent_init, recurrent_key, square, len(recurrent_names))
        }
        if recurrent_bias:
            own = named("zeros", "bias_init") if isinstance(bias_init, GateBias) else bias_init
            recurrent["bias"] = drawn_bias(own, bias_keys[1], recurrent_names, hidden_size)
        params = {
            "input": {
                "kernel": drawn_blocks(
                    input_init, input_key, (input_size, hidden_size), len(names)
                ),
                "bias": drawn_bias(bias_init, bias_keys[0], names, hidden_size),
            },
            "recurrent": recurrent,
        }
        return params | ({"gate": gate_params(gate_key)} if gate_params else {})

    def apply_gate(extra: dict[str, Any], zx: Blocks, zh: Blocks, state: Any) -> Any:
        return gate(zx, zh, state, **extra)

    maps = dense_maps(product_dtype)._replace(
        input_blocks=len(names), recurrent_blocks=len(recurrent_names)
    )
    shapes = [(hidden_size,)] * len(fields)
    cell = gated_cell(init, apply_gate, (input_size,), state, shapes, maps)
    return cell._replace(
        sequence=partial(gated_sequence, cell, _checked(apply_gate), maps, gate_vjp)
    )


class LinearMap(NamedTuple):
    """An affine map and its gradients.

    Attributes:
      apply: ``(params, x) -> z``.
      to_input: ``params -> (x, d_z) -> d_x``; what it makes of the params is made once for a loop.
      to_params: ``(params, x, d_z) -> d_params``, with any leading axes.
    """

    apply: Apply
    to_input: Callable[[Params], Callable[[Array, Array], Array]]
    to_params: Callable[[Params, Array, Array], Params]


class Maps(NamedTuple):
    """How x_t and h_{t-1} reach the pre-activations of a gated cell: zx and zh.

    Attributes:
      input: from x to zx.
      recurrent: from h to zh.
      input_blocks: into how many arrays, along the last axis, zx is cut for the gate.
      recurrent_blocks: the same for zh.
    """

    input: LinearMap
    recurrent: LinearMap
    input_blocks: int = 1
    recurrent_blocks: int = 1


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
        state = gate(params.get("gate", {}), *cut_to_blocks(maps, zx, zh), state)
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


def cut_to_blocks(maps: Maps, zx: Array, zh: Array) -> tuple[Blocks, Blocks]:
    """The arrays that a gate gets."""
    return jnp.split(zx, maps.input_blocks, -1), jnp.split(zh, maps.recurrent_blocks, -1)


def dense_maps(product_dtype: Any = None) -> Maps:
    """`affine` for both x and h."""
    return Maps(dense_map(product_dtype), dense_map(product_dtype))


def dense_map(product_dtype: Any = None) -> LinearMap:
    """`affine`, with the products of its gradients narrowed like its own."""

    def to_input(params: Params) -> Callable[[Array, Array], Array]:
        kernel, transposed = params["kernel"], params["kernel"].T

        def apply(x: Array, d_z: Array) -> Array:
            # Transposed before a loop, it is read row by row in each step: on a CPU up to three
            # times as fast, but slower by up to a half for the product with a single row.
            small = _is_single_row(d_z) and kernel.size <= TURNED
            return product(d_z, kernel.T if small else transposed, product_dtype)

        return apply

    def to_params(params: Params, x: Array, d_z: Array) -> Params:
        rows = tuple(range(d_z.ndim - 1))
        kernel = product(x, d_z, product_dtype, axes=(rows, rows))
        bias = {"bias": d_z.sum(rows)} if "bias" in params else {}
        return {"kernel": kernel, **bias}

    return LinearMap(partial(affine, product_dtype=product_dtype), to_input, to_params)


def derived_map(apply: Apply) -> LinearMap:
    """A map with the gradients that `jax.vjp` derives."""

    def to_input(params: Params) -> Callable[[Array, Array], Array]:
        return lambda x, d_z: jax.vjp(partial(apply, params), x)[1](d_z)[0]

    def to_params(params: Params, x: Array, d_z: Array) -> Params:
        return jax.vjp(lambda params: apply(params, x), params)[1](d_z)[0]

    return LinearMap(apply, to_input, to_params)


def affine(params: Params, x: Array, product_dtype: Any = None) -> Array:
    """``x W + b``, or ``x W`` where there is no bias; the product's operands may be narrower."""
    kernel = params["kernel"]
    if len(kernel) == 1:
        # A product by a single row becomes a multiplication, which XLA on a CPU fuses with the
        # gate and then does not vectorise. With a row of zeros it stays a product.
        x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, 1)])
        kernel = jnp.pad(kernel, [(0, 1), (0, 0)])
    z = product(x, kernel, product_dtype)
    return z + params["bias"] if "bias" in params else z


def product(a: Array, b: Array, dtype: Any = None, precision: Any = None, axes: Any = 1) -> Array:
    """`jax.numpy.tensordot` with operands of ``dtype``, accumulated in the type of ``b``."""
    if dtype is None:
        return jnp.tensordot(a, b, axes, precision=precision)
    return jnp.tensordot(a.astype(dtype), b.astype(dtype), axes, preferred_element_type=b.dtype)


class Steps(NamedTuple):
    """What one step of a gated loop reads, or all of them with a leading T.

    Attributes:
      x: the input.
      real: False where the step is padding, ``[...]``; None for never.
      fresh: True where the state is reset first, ``[...]``; None for never.
    """

    x: Any
    real: Array | None
    fresh: Array | None


class Weights(NamedTuple):
    """The params of a gated cell: of its two maps and of its gate."""

    input: Params
    recurrent: Params
    gate: dict[str, Any]


def gated_sequence(*args: Any, **flags: Any) -> tuple[Any, Array]:
    """`mapped_sequence`, by a name that tells the cells of `gated`; see `scan_sequence`."""
    return mapped_sequence(*args, **flags)


def mapped_sequence(
    cell: Cell,
    gate: Gate,
    maps: Maps,
    vjp: GateVJP | None,
    params: Params,
    state: Any,
    xs: Array,
    *,
    mask: Array | None,
    reset: Array | None,
    reverse: bool,
) -> tuple[Any, Array]:
    """The fast sequence function of a `gated_cell`."""
    if xs.shape[0] == 0:
        return scan_sequence(cell, params, state, xs, mask=mask, reset=reset, reverse=reverse)
    xs = as_input(xs, cell.input_shape, params["input"]["kernel"].dtype)
    if mask is not None:
        xs = where_flag(mask, xs, jnp.zeros_like(xs))
    batch_shape = xs.shape[1 : xs.ndim - len(cell.input_shape)]
    initial = None if reset is None else cell.initial_state(params, batch_shape)
    weights = Weights(params["input"], params["recurrent"], params.get("gate", {}))
    steps = Steps(xs, mask, reset)
    ran: Any = gated_loop(gate, maps, vjp, reverse, weights, state, initial, steps)
    state, ys = ran
    return state, ys if mask is None else where_flag(mask, ys, jnp.zeros_like(ys))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def gated_loop(
    gate: Gate,
    maps: Maps,
    vjp: GateVJP | None,
    reverse: bool,
    weights: Weights,
    state: Any,
    initial: Any,
    steps: Steps,
) -> tuple[Any, Array]:
    """Steps a gated cell through a sequence.

    Args:
      gate: ``(gate params, zx, zh, state) -> state``.
      maps: of x and of h.
      vjp: the gate's backward pass; None to derive it.
      reverse: from the last step to the first.
      weights: the params of the maps and the gate.
      state: before the first step.
      initial: what a reset puts back; None where nothing resets.
      steps: the inputs, time first.

    Returns:
      The state after the last step, and h of every step.
    """
    return _plain_loop(gate, maps, reverse, weights, state, initial, steps)


def _plain_loop(gate, maps, reverse, weights, state, initial, steps):
    """`gated_loop` without its backward pass."""

    def apply(zx, zh, state):
        return gate(weights.gate, zx, zh, state), [], []

    last, hidden = _run(apply, False, maps, reverse, weights, state, initial, steps)
    return last, hidden


def _run(forward, keeps, maps, reverse, weights, state, initial, steps) -> tuple[Any, ...]:
    """The last state and every h; if it keeps them also the states before each step and residuals.

    Of those states h is left out, since it is that of the step before.
    """

    def body(project, state, step):
        state = state if step.fresh is None else where_flag(step.fresh, initial, state)
        zx, zh = project(step.x), maps.recurrent.apply(weights.recurrent, state.hidden)
        new, sums, own = forward(*cut_to_blocks(maps, zx, zh), state)
        new = new if step.real is None else where_flag(step.real, new, state)
        kept = (state._replace(hidden=None), (_joined(sums), _joined(own))) if keeps else ()
        return new, (new.hidden, *kept)

    def project_inside(state, steps):
        project = partial(maps.input.apply, weights.input)
        return lax.scan(partial(body, project), state, steps, reverse=reverse)

    def project_outside(state, steps):
        zx = maps.input.apply(weights.input, steps.x)

        def of_step(state, inputs):
            t, step = inputs
            project = partial(_apart, t) if maps.input_blocks > 1 else lambda z: z
            return body(project, state, step)

        inputs = jnp.arange(len(zx)), steps._replace(x=zx)
        return lax.scan(of_step, state, inputs, reverse=reverse)

    def project_outside_and_keep(state, steps):
        zx = maps.input.apply(weights.input, steps.x)

        def of_step(carry, inputs):
            (state, zx), (t, step) = carry, inputs
            new, (h, before, (sums, own)) = body(partial(_at, zx), state, step._replace(x=t))
            return (new, _put(zx, sums, t)), (h, before, own)  # what is kept over what was read

        inputs = jnp.arange(len(zx)), steps._replace(x=None)
        (last, zx), (h, before, own) = lax.scan(of_step, (state, zx), inputs, reverse=reverse)
        return last, (h, before, (zx, own))

    outside = project_outside_and_keep if keeps else project_outside
    if _is_read_once(weights, state, steps.x):
        last, stacked = outside(state, steps)
    else:
        last, stacked = lax.platform_dependent(state, steps, cpu=project_inside, default=outside)
    return last, *stacked


def _is_read_once(weights: Weights, state: Any, x: Array) -> bool:
    """Whether the input's kernel is better read once, in a product before the loop, on a CPU too.

    Elsewhere it always is. On a CPU the product inside the loop costs no more, and its result is
    still at hand; but not where the kernel does not fit into the caches. Nor where the results of
    all steps do, and much of a step's work is on its inputs: these are many and no fewer than the
    hidden units, for then all cores share one large product, or some beside a single row, whose
    product takes no longer than to read the kernel.
    """
    kernel, hidden = weights.input["kernel"], state.hidden.shape[-1]
    inputs, columns = kernel.shape[0], kernel.shape[-1]
    many = 64 if _is_single_row(x[0]) else max(128, hidden)
    fits = math.prod(x.shape[:-1]) * columns <= 2 * CACHED
    return kernel.size > CACHED or (inputs >= many and fits)


def _is_single_row(x: Array) -> bool:
    return math.prod(x.shape[:-1]) == 1


def _apart(t, z):
    """Of step t, not fused with what reads it: XLA on a CPU would not vectorise that."""

    def branch(t, z):
        return lax.cond(t >= 0, lambda z: z, jnp.zeros_like, z)

    return lax.platform_dependent(t, z, cpu=branch, default=lambda t, z: z)


def _gated_loop_forward(gate, maps, vjp, reverse, weights, state, initial, steps):
    if vjp:
        of_x, of_h = _shapes_of_blocks(maps, weights, state, steps)
        _check_vjp(vjp, of_x, of_h, state)
    inputs = weights, state, initial, steps
    last, hidden, befores, kept = _keeping_loop(gate, maps, vjp, reverse, *inputs)
    return (last, hidden), (inputs, (hidden, befores, kept))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _keeping_loop(gate, maps, vjp, reverse, weights, state, initial, steps):
    """`_plain_loop`, with all that `_gradients` needs."""
    forward = (vjp or _derived(gate, maps, weights, state, steps)).forward
    return _run(forward, True, maps, reverse, weights, state, initial, steps)


@_keeping_loop.defjvp
def _keeping_loop_jvp(gate, maps, vjp, reverse, primals, tangents):
    # It writes over what it read, as the loop below does, and the same is true of its derivative.
    # Nothing reads the tangents of the residuals.
    (*rest, steps), (*t_rest, t_steps) = primals, tangents
    loop = _loop_of_inputs(gate, maps, reverse, steps)
    t_last, t_hidden = jax.jvp(loop, (*rest, steps.x), (*t_rest, t_steps.x))[1]
    outputs = _keeping_loop(gate, maps, vjp, reverse, *primals)
    return outputs, (t_last, t_hidden, *jax.tree.map(jnp.zeros_like, outputs[2:]))


def _loop_of_inputs(gate, maps, reverse, steps):
    """`_plain_loop` as a function of what may be differentiated alone."""

    def loop(weights, state, initial, xs):
        return _plain_loop(gate, maps, reverse, weights, state, initial, steps._replace(x=xs))

    return loop


def _gated_loop_backward(gate, maps, vjp, reverse, saved, gradients):
    *d_inputs, d_xs = _gradients(gate, maps, vjp, reverse, *saved, gradients)
    return *d_inputs, Steps(d_xs, None, None)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _gradients(gate, maps, vjp, reverse, inputs, residuals, gradients):
    """Of the loss by the weights, the first state, what a reset puts back, and all x."""
    weights, state, initial, steps = inputs
    (hidden, befores, kept), first = residuals, state.hidden
    d_last, d_hidden = gradients
    befores = befores._replace(hidden=_hidden_before(first, initial, hidden, steps.fresh, reverse))
    vjp = vjp or _derived(gate, maps, weights, d_last, steps)
    to_hidden = maps.recurrent.to_input(weights.recurrent)

    def body(carry, inputs):
        d_state, d_initial, buffers = carry
        t, real, fresh, before, d_h = inputs
        d_state = d_state._replace(hidden=d_state.hidden + d_h)
        d_new, d_held = (d_state, None) if real is None else _split(d_state, real)
        kept = _cut(maps, vjp.shared, *_at(buffers, t))
        d_sums, d_own, d_before = vjp.backward(*kept, before, d_new)
        d_kept = _joined(d_sums), _joined(d_own)
        d_zh = _recurrent_part(maps, vjp.shared, *d_kept)
        through = to_hidden(before.hidden, d_zh)
        d_before = _plus(d_before._replace(hidden=d_before.hidden + through), d_held)
        d_reset, d_before = (None, d_before) if fresh is None else _split(d_before, fresh)
        carry = d_before, _plus(d_initial, d_reset), _put(buffers, d_kept, t)
        return carry, d_new if weights.gate else None

    carry = d_last, jax.tree.map(jnp.zeros_like, initial), kept
    inputs = jnp.arange(len(hidden)), steps.real, steps.fresh, befores, d_hidden
    carry, d_news = lax.scan(body, carry, inputs, reverse=not reverse)
    d_first, d_initial, (d_zx, d_own) = carry
    d_gate = weights.gate
    if weights.gate:
        blocks = _of_gate(maps, vjp.shared, *_cut(maps, vjp.shared, *kept))
        d_gate = jax.vjp(lambda extra: gate(extra, *blocks, befores), weights.gate)[1](d_news)[0]
    d_zh = _recurrent_part(maps, vjp.shared, d_zx, d_own)
    d_weights = Weights(
        maps.input.to_params(weights.input, steps.x, d_zx),
        maps.recurrent.to_params(weights.recurrent, befores.hidden, d_zh),
        d_gate,
    )
    return d_weights, d_first, d_initial, maps.input.to_input(weights.input)(steps.x, d_zx)


@_gradients.defjvp
def _gradients_jvp(gate, maps, vjp, reverse, primals, tangents):
    # The loop above writes over what it read, and its own derivative would keep a copy of it all
    # for each step. That of the plain loop's gradient does not; it sees the inputs alone, since
    # the residuals are made of them.
    inputs, residuals, gradients = primals
    (t_weights, t_state, t_initial, t_steps), _, t_gradients = tangents
    *rest, steps = inputs

    def gradient(given, gradients):
        return jax.vjp(_loop_of_inputs(gate, maps, reverse, steps), *given)[1](gradients)

    given, t_given = (*rest, steps.x), (t_weights, t_state, t_initial, t_steps.x)
    of_loop = jax.jvp(gradient, (given, gradients), (t_given, t_gradients))[1]
    return _gradients(gate, maps, vjp, reverse, inputs, residuals, gradients), of_loop


def _at(stacked, t):
    """Step t of what is stacked, as arrays of their own where the stacks are written to after."""
    return lax.platform_dependent(stacked, t, cpu=_copied, default=_slices)


def _slices(stacked, t):
    return jax.tree.map(partial(lax.dynamic_index_in_dim, index=t, keepdims=False), stacked)


def _copied(stacked, t):
    # XLA on a CPU fuses a slice into all that read it. One of them may come after the writing, and
    # then each step copies the whole stack first. What a branch returns is not fused; and since it
    # returns the slices of all stacks, what is written to any of them waits for every one.
    def zeros(stacked, t):
        return jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), stacked)

    return lax.cond(t >= 0, _slices, zeros, stacked, t)


def _put(stacked, values, t):
    put = partial(lax.dynamic_update_index_in_dim, index=t, axis=0)
    return jax.tree.map(put, stacked, values)


def _shared_blocks(gate, maps, weights, state, steps) -> frozenset[int]:
    """Which blocks of zx and zh the gate adds up and uses in no other way, by its trace.

    Of those it needs the sum alone, and their two gradients are one.
    """
    of_x, of_h = _shapes_of_blocks(maps, weights, state, steps)
    trace = jax.make_jaxpr(partial(gate, weights.gate))(of_x, of_h, state).jaxpr
    pairs = zip(trace.invars[: len(of_x)], trace.invars[len(of_x) :][: len(of_h)], strict=False)
    return frozenset(k for k, pair in enumerate(pairs) if _is_sum_alone(trace, pair))


def _shapes_of_blocks(maps, weights, state, steps):
    """Those of the blocks of zx and zh in one step."""

    def apply(x: Array) -> tuple[Blocks, Blocks]:
        zx = maps.input.apply(weights.input, x)
        return cut_to_blocks(maps, zx, maps.recurrent.apply(weights.recurrent, state.hidden))

    return jax.eval_shape(apply, steps.x[0])


def _check_vjp(vjp: GateVJP, of_x: Blocks, of_h: Blocks, state: Any) -> None:
    """Raises `ValueError` where it returns something else than blocks and states like these."""
    own = [block for k, block in enumerate(of_h) if k not in vjp.shared]
    forward = jax.eval_shape(vjp.forward, of_x, of_h, state)
    _check_shapes("forward", forward, (state, of_x, own))
    backward = jax.eval_shape(vjp.backward, of_x, own, state, state)
    _check_shapes("backward", backward, (of_x, own, state))


def _check_shapes(name: str, actual: Any, expected: Any) -> None:
    got, due = (jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), t) for t in (actual, expected))
    if got != due:
        raise ValueError(f"gate_vjp: expected {name} to return {due}, got {got}.")


def _is_sum_alone(trace: Any, pair: tuple[Any, Any]) -> bool:
    def among(values: Any) -> list[bool]:
        return [any(value is of for value in values) for of in pair]

    uses = [equation for equation in trace.eqns if any(among(equation.invars))]
    sums = [each for each in uses if each.primitive.name == "add" and all(among(each.invars))]
    return len(sums) == len(uses) and not any(among(trace.outvars))


def _derived(gate, maps, weights, state, steps) -> GateVJP:
    """The backward pass that `jax.vjp` derives, from the pre-activations.

    Of the blocks that the gate adds up their sum is kept.
    """
    shared = _shared_blocks(gate, maps, weights, state, steps)
    apply = partial(gate, weights.gate)

    def forward(zx, zh, state):
        sums = [x + zh[k] if k in shared else x for k, x in enumerate(zx)]
        own = [h for k, h in enumerate(zh) if k not in shared]
        return apply(zx, zh, state), sums, own

    def backward(sums, own, before, d_new):
        blocks = _of_gate(maps, shared, sums, own)
        d_zx, d_zh, d_before = jax.vjp(apply, *blocks, before)[1](d_new)
        return d_zx, [d for k, d in enumerate(d_zh) if k not in shared], d_before

    return GateVJP(forward, backward, shared)


def _joined(blocks: Blocks) -> Array | None:
    return jnp.concatenate(blocks, axis=-1) if blocks else None


def _cut(maps: Maps, shared: frozenset[int], sums: Array, own: Array | None):
    """The blocks of residuals, or of their gradients."""
    rest = maps.recurrent_blocks - len(shared)
    return jnp.split(sums, maps.input_blocks, -1), [] if own is None else jnp.split(own, rest, -1)


def _of_gate(maps: Maps, shared: frozenset[int], sums: Blocks, own: Blocks):
    """The pre-activations that a gate gets, from what was kept of them."""
    rest, zeros = iter(own), jnp.zeros_like(sums[0])
    return sums, [zeros if k in shared else next(rest) for k in range(maps.recurrent_blocks)]


def _recurrent_part(maps, shared, d_zx, d_own):
    """The gradient of zh, from that of zx, which has its shared blocks, and its own blocks."""
    if len(shared) == maps.input_blocks == maps.recurrent_blocks:
        return d_zx
    of_x, of_h = _cut(maps, shared, d_zx, d_own)
    own = iter(of_h)
    return _joined([of_x[k] if k in shared else next(own) for k in range(maps.recurrent_blocks)])


def _hidden_before(first, initial, hidden, fresh, reverse):
    """The h that each step starts from, resets done."""
    parts = [hidden[1:], first[None]] if reverse else [first[None], hidden[:-1]]
    before = jnp.concatenate(parts)
    if fresh is None:
        return before
    return where_flag(fresh, jnp.broadcast_to(initial.hidden, before.shape), before)


def _split(gradient, flag):
    """A gradient where the flag is true, and where it is not; each zero elsewhere."""
    zeros = jax.tree.map(jnp.zeros_like, gradient)
    return where_flag(flag, gradient, zeros), where_flag(flag, zeros, gradient)


def _plus(gradient, more):
    return gradient if more is None else jax.tree.map(jnp.add, gradient, more)


gated_loop.defvjp(_gated_loop_forward, _gated_loop_backward)
