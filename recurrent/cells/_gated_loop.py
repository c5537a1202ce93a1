"""Run a gated cell over a sequence, with a backward pass that is derived from the gate."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import (
    Cell,
    Params,
    as_input,
    in_one_type,
    is_known,
    scan_sequence,
    varying_alike,
    where_flag,
)
from recurrent.closures import closed_over
from recurrent.errors import ArgumentError
from recurrent.linear_map import (
    CPU_CACHE_SIZE,
    LinearMap,
    Maps,
    derived_map,
    joined_affine,
)

Gate = Callable[..., Any]


Blocks = list[Array]

# Steps in one turn of the loop on an accelerator. Its kernels are so short that the control of the
# loop takes as long: with four steps in a turn an H100 needs 0.5 to 0.7 of the time. Longer turns
# take longer to compile and are no faster.
UNROLL = 4
# Where a CPU multiplies x, and what that is chosen by.
WAYS = OUTSIDE, INSIDE, TOGETHER = "outside", "inside", "together"
MANY_INPUTS = 48
MANY_STEPS = 32
# Elements of two kernels that are copied in the time that one product in place of two saves a step.
COPIED_A_STEP = 2**12


class GateVJP(NamedTuple):
    """Hold a gate with a backward pass written by hand, in the manner of `jax.custom_vjp`.

    The residuals have the layout of the gradients that will replace them: ``sums`` has one block
    for each block of zx, of the same shape and type, and ``own`` one for each block of zh that is
    not in ``shared``. They may hold the pre-activations or anything computed from them.

    ``forward`` must compute the same state as the gate function, which runs without it when
    nothing is differentiated, and under ``method="scan"``. To test a backward pass, compare the
    gradients of the two methods of `recurrent.unroll`.

    Attributes:
      forward: ``(zx, zh, state) -> (state, sums, own)``.
      backward: ``(sums, own, state before, d_state after) -> (d_sums, d_own, d_state before)``,
        where d_sums are the gradients of zx, and d_own those of the blocks of zh that are not in
        ``shared``.
      shared: the indices of the blocks that the gate uses only as the sum of that of zx and that
        of zh, so that the two have the same gradient.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import GateVJP, Hidden, gated, unroll
      >>> def forward(zx, zh, state):
      ...     h = jnp.tanh(zx[0] + zh[0])
      ...     return Hidden(h), [h], []  # h is all that the backward pass needs
      >>> def backward(sums, own, before, d_new):
      ...     d_z = d_new.hidden * (1 - sums[0] ** 2)
      ...     return [d_z], [], Hidden(jnp.zeros_like(d_z))
      >>> vjp = GateVJP(forward, backward, shared=frozenset({0}))
      >>> cell = gated(lambda *args: forward(*args)[0], 3, 4, gates=1, gate_vjp=vjp)
      >>> loss = lambda params: unroll(cell, params, jnp.linspace(-1, 1, 15).reshape(5, 3))[1].sum()
      >>> gradient = jax.eval_shape(jax.grad(loss), cell.init(jax.random.key(0)))
      >>> gradient["recurrent"]["kernel"].shape
      (4, 4)
    """

    forward: Callable[[Blocks, Blocks, Any], tuple[Any, Blocks, Blocks]]
    backward: Callable[[Blocks, Blocks, Any, Any], tuple[Blocks, Blocks, Any]]
    shared: frozenset[int]


def split_blocks(maps: Maps, zx: Array, zh: Array) -> tuple[Blocks, Blocks]:
    """Split zx and zh along the last axis into the lists of blocks that a gate gets."""
    return jnp.split(zx, maps.input_blocks, -1), jnp.split(zh, maps.recurrent_blocks, -1)


class Steps(NamedTuple):
    """Hold what one step of a gated loop reads, or what all steps read, with a leading axis T.

    Attributes:
      x: the input.
      real: False where the step is padding, ``[...]``; None if no step is.
      fresh: True where the state is reset before the step, ``[...]``; None if it never is.
    """

    x: Any
    real: Array | None
    fresh: Array | None


class Weights(NamedTuple):
    """Hold the params of a gated cell: those of its two maps and of its gate."""

    input: Params
    recurrent: Params
    gate: dict[str, Any]


class GatedSequence(NamedTuple):
    """Hold the parts of a gated cell, and run it over whole sequences when called.

    Attributes:
      cell: the cell itself, without a sequence function.
      gate: ``(gate params, zx, zh, state) -> state``.
      maps: the maps from x to zx and from h to zh.
      vjp: the gate with its backward pass; None to derive that.
      block_per_gate: whether both maps are dense, and zx and zh have a block of H columns for each
        gate, as in the cells of `recurrent.gated`. `recurrent.deer` then reads the diagonal of the
        Jacobian off the recurrent kernel.
    """

    cell: Cell
    gate: Gate
    maps: Maps
    vjp: GateVJP | None = None
    block_per_gate: bool = False

    def __call__(
        self,
        params: Params,
        state: Any,
        xs: Array,
        *,
        mask: Array | None,
        reset: Array | None,
        reverse: bool,
    ) -> tuple[Any, Array]:
        """Run the cell over a whole sequence; the arguments and results are `scan_sequence`'s."""
        cell = self.cell
        if xs.shape[0] == 0:
            return scan_sequence(cell, params, state, xs, mask=mask, reset=reset, reverse=reverse)
        params = in_one_type(params)
        xs = as_input(xs, cell.input_shape, params["input"]["kernel"].dtype)
        if mask is not None:
            xs = where_flag(mask, xs, jnp.zeros_like(xs))
        batch_shape = xs.shape[1 : xs.ndim - len(cell.input_shape)]
        initial = None if reset is None else cell.initial_state(params, batch_shape)
        weights = Weights(params["input"], params["recurrent"], params.get("gate", {}))
        steps = Steps(xs, mask, reset)
        opened, weights = _opened(self, weights, state, xs)
        ran: Any = gated_loop(
            opened.gate, opened.maps, opened.vjp, reverse, weights, state, initial, steps
        )
        state, ys = ran
        return state, ys if mask is None else where_flag(mask, ys, jnp.zeros_like(ys))


def _opened(
    parts: GatedSequence, weights: Weights, state: Any, xs: Array
) -> tuple[GatedSequence, Weights]:
    """Move traced numbers that the gate or a map closes over to the weights, for their gradients.

    A gate of which any are moved loses its `GateVJP`, which knows nothing of them.
    """
    x = jax.eval_shape(lambda xs: xs[0], xs)
    of_x, of_h = _shapes_of_blocks(parts.maps, weights, state, x)
    gate, values = closed_over(parts.gate, weights.gate, of_x, of_h, state)
    to_x, of_input = _opened_map(parts.maps.input, weights.input, x)
    to_h, of_recurrent = _opened_map(parts.maps.recurrent, weights.recurrent, state.hidden)
    maps = parts.maps._replace(input=to_x, recurrent=to_h)
    weights = weights._replace(input=of_input, recurrent=of_recurrent)
    if not values:
        return parts._replace(maps=maps), weights

    def apply(extra: dict[str, Any], zx: Blocks, zh: Blocks, state: Any) -> Any:
        return gate(extra["own"], zx, zh, state, extra["closed_over"])

    values = varying_alike((values, xs))[0]
    extra = {"own": weights.gate, "closed_over": values}
    return parts._replace(gate=apply, maps=maps, vjp=None), weights._replace(gate=extra)


def _opened_map(linear: LinearMap, params: Params, x: Any) -> tuple[LinearMap, Params]:
    apply, values = closed_over(linear.apply, params, x)
    if not values:
        return linear, params

    def of_params(params: Params, x: Array) -> Array:
        own = {name: leaf for name, leaf in params.items() if name != "closed_over"}
        return apply(own, x, params["closed_over"])

    return derived_map(of_params), params | {"closed_over": values}


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
    """Step a gated cell through a sequence.

    Args:
      gate: ``(gate params, zx, zh, state) -> state``.
      maps: the maps from x to zx and from h to zh.
      vjp: the gate with its backward pass; None to derive that.
      reverse: run from the last step to the first.
      weights: the params of the maps and the gate.
      state: the state before the first step.
      initial: the state that a reset restores; None if no step resets.
      steps: the inputs and flags of all steps, time first.

    Returns:
      The state after the last step, and h of every step ``[T, ..., H]``.
    """
    return _plain_loop(gate, maps, reverse, weights, state, initial, steps)


def _plain_loop(gate, maps, reverse, weights, state, initial, steps):
    """Compute `gated_loop` without its own backward pass."""

    def apply(zx, zh, state):
        return gate(weights.gate, zx, zh, state), [], []

    last, hidden = _run(apply, False, maps, reverse, weights, state, initial, steps)
    return last, hidden


def _run(forward, keeps, maps, reverse, weights, state, initial, steps) -> tuple[Any, ...]:
    """Run the loop, and return the last state and every h.

    With ``keeps``, also return the states before each step and the residuals. Those states lack
    h, which is the output of the step before.
    """
    way = way_on_cpu(forward, keeps, maps, weights, state, steps)

    def apart(project):
        return lambda x, h: (project(x), maps.recurrent.apply(weights.recurrent, h))

    def body(products, state, step):
        state = state if step.fresh is None else where_flag(step.fresh, initial, state)
        zx, zh = products(step.x, state.hidden)
        new, sums, own = forward(*split_blocks(maps, zx, zh), state)
        new = new if step.real is None else where_flag(step.real, new, state)
        kept = (state._replace(hidden=None), (_joined(sums), _joined(own))) if keeps else ()
        return new, (new.hidden, *kept)

    def project_inside(state, steps):
        products = apart(partial(maps.input.apply, weights.input))
        if way == TOGETHER:
            products = _together(maps, weights) or products
        return lax.scan(partial(body, products), state, steps, reverse=reverse)

    def project_outside(state, steps):
        zx = maps.input.apply(weights.input, steps.x)  # [T, ..., D] -> [T, ..., blocks * H]

        def of_step(state, inputs):
            t, step = inputs
            project = partial(_apart, t) if maps.input_blocks > 1 else lambda z: z
            return body(apart(project), state, step)

        inputs = jnp.arange(zx.shape[0]), steps._replace(x=zx)
        return lax.scan(of_step, state, inputs, reverse=reverse)

    def project_outside_and_keep(state, steps):
        zx = maps.input.apply(weights.input, steps.x)  # [T, ..., D] -> [T, ..., blocks * H]

        def of_step(carry, inputs):
            (state, zx), (t, step) = carry, inputs
            new, (h, before, (sums, own)) = body(apart(partial(_at, zx)), state, step._replace(x=t))
            return (new, _put(zx, sums, t)), (h, before, own)  # sums overwrite the zx just read

        inputs = jnp.arange(zx.shape[0]), steps._replace(x=None)
        (last, zx), (h, before, own) = lax.scan(of_step, (state, zx), inputs, reverse=reverse)
        return last, (h, before, (zx, own))

    def on_accelerator(state, steps):
        zx = maps.input.apply(weights.input, steps.x)  # [T, ..., D] -> [T, ..., blocks * H]
        of_step, inputs = partial(body, apart(lambda z: z)), steps._replace(x=zx)
        return lax.scan(of_step, state, inputs, reverse=reverse, unroll=_unroll(zx))

    outside = project_outside_and_keep if keeps else project_outside
    on_cpu = outside if way == OUTSIDE else project_inside
    last, stacked = lax.platform_dependent(state, steps, cpu=on_cpu, default=on_accelerator)
    return last, *stacked


def way_on_cpu(forward, keeps, maps, weights, state, steps) -> str:
    """Return where a CPU multiplies x: `OUTSIDE` the loop, `INSIDE` it, or `TOGETHER` with h.

    Rules choose it, which were fitted to times of shapes drawn at random, with JAX 0.10.2 and
    0.12.0; `experiments.bench.drawn` tells by how much they miss. Other platforms always multiply
    all inputs before the loop. On a CPU that is faster

    - if the kernel does not fit into the caches, where each step would read it anew;
    - if there are many inputs, and the results of all steps fit: all cores share a large product;
    - if the pre-activations are kept for the backward pass and x and h cannot share a product, for
      then the results have a place to stay.

    Else one product of x and h saves a call in each step, and the sum of the two results.
    """
    if _is_read_once(weights, steps.x):
        return OUTSIDE
    if not _is_one_product(forward, maps, weights, state, steps):
        return OUTSIDE if keeps and weights.input["kernel"].ndim == 2 else INSIDE
    return TOGETHER if _pays_to_join(weights, steps.x) else INSIDE


def _is_read_once(weights: Weights, x: Array) -> bool:
    kernel = weights.input["kernel"]
    size = math.prod(x.shape[:-1]) * kernel.shape[-1]
    fits = is_known(size) and size <= 4 * CPU_CACHE_SIZE
    return kernel.size > CPU_CACHE_SIZE or (kernel.shape[0] >= MANY_INPUTS and fits)


def _is_one_product(forward, maps, weights, state, steps) -> bool:
    """Return whether a gate uses zx and zh only as their sum, of operands of one type."""
    kernels = weights.input["kernel"], weights.recurrent["kernel"]
    if len({each.dtype for each in (*kernels, steps.x, state.hidden)}) > 1:
        return False
    of_x, of_h = _shapes_of_blocks(maps, weights, state, steps.x[0])
    return len(of_x) == len(of_h) == len(_sums_alone(forward, of_x, of_h, state))


def _pays_to_join(weights: Weights, x: Array) -> bool:
    """Return whether the steps are enough to make up for a copy of the kernels before them."""
    copied, time = weights.input["kernel"].size + weights.recurrent["kernel"].size, x.shape[0]
    return is_known(time) and time >= MANY_STEPS and copied <= COPIED_A_STEP * time


def _together(maps, weights):
    """Return ``(x, h) -> (zx + zh, 0)`` by one product; None for maps that are not dense."""
    joined = joined_affine(maps, weights.input, weights.recurrent)
    if joined is None:
        return None

    def products(x, h):
        z = joined(x, h)
        return z, jnp.zeros_like(z)

    return products


def _unroll(stacked):
    """Return the steps in one turn of the loop on an accelerator: 1 where T is a symbol."""
    return UNROLL if is_known(stacked.shape[0]) else 1


def _apart(t, z):
    """Return the slice z of step t through a branch, which keeps XLA from fusing it.

    XLA on a CPU does not vectorize what it fuses with a slice of a stacked array.
    """
    return lax.cond(t >= 0, lambda z: z, jnp.zeros_like, z)


def _gated_loop_forward(gate, maps, vjp, reverse, weights, state, initial, steps):
    if vjp:
        of_x, of_h = _shapes_of_blocks(maps, weights, state, steps.x[0])
        _check_vjp(vjp, of_x, of_h, state)
    inputs = weights, state, initial, steps
    last, hidden, befores, kept = _keeping_loop(gate, maps, vjp, reverse, *inputs)
    return (last, hidden), (inputs, (hidden, befores, kept))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _keeping_loop(gate, maps, vjp, reverse, weights, state, initial, steps):
    """Compute `_plain_loop` and everything that `_gradients` needs."""
    forward = (vjp or _derived(gate, maps, weights, state, steps)).forward
    return _run(forward, True, maps, reverse, weights, state, initial, steps)


@_keeping_loop.defjvp
def _keeping_loop_jvp(gate, maps, vjp, reverse, primals, tangents):
    # As in `_gradients`, each step overwrites what it read, so the derivative of this loop would
    # keep a copy of it all for each step; that of the plain loop does not. The tangents of the
    # residuals may be zero, since nothing reads them.
    (*rest, steps), (*t_rest, t_steps) = primals, tangents
    loop = _loop_of_inputs(gate, maps, reverse, steps)
    t_last, t_hidden = jax.jvp(loop, (*rest, steps.x), (*t_rest, t_steps.x))[1]
    outputs = _keeping_loop(gate, maps, vjp, reverse, *primals)
    return outputs, (t_last, t_hidden, *jax.tree.map(jnp.zeros_like, outputs[2:]))


def _loop_of_inputs(gate, maps, reverse, steps):
    """Return `_plain_loop` as a function of only the arguments that may be differentiated."""

    def loop(weights, state, initial, xs):
        return _plain_loop(gate, maps, reverse, weights, state, initial, steps._replace(x=xs))

    return loop


def _gated_loop_backward(gate, maps, vjp, reverse, saved, gradients):
    *d_inputs, d_xs = _gradients(gate, maps, vjp, reverse, *saved, gradients)
    return *d_inputs, Steps(d_xs, None, None)


gated_loop.defvjp(_gated_loop_forward, _gated_loop_backward)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _gradients(gate, maps, vjp, reverse, inputs, residuals, gradients):
    """Return the gradients of the loss.

    They are with respect to the weights, the state before the first step, the state that a reset
    restores, and the inputs.
    """
    weights, state, initial, steps = inputs
    (hidden, befores, kept), first = residuals, state.hidden
    d_last, d_hidden = gradients
    befores = befores._replace(hidden=_hidden_before(first, initial, hidden, steps.fresh, reverse))
    vjp = vjp or _derived(gate, maps, weights, d_last, steps)
    to_hidden = maps.recurrent.to_input(weights.recurrent)

    def body(carry, kept, inputs):
        (d_state, d_initial), (real, fresh, before, d_h) = carry, inputs
        d_state = d_state._replace(hidden=d_state.hidden + d_h)
        d_new, d_held = (d_state, None) if real is None else _split(d_state, real)
        d_sums, d_own, d_before = vjp.backward(*_cut(maps, vjp.shared, *kept), before, d_new)
        d_kept = _joined(d_sums), _joined(d_own)
        d_zh = _recurrent_part(maps, vjp.shared, *d_kept)
        through = to_hidden(before.hidden, d_zh)
        d_before = _plus(d_before._replace(hidden=d_before.hidden + through), d_held)
        d_reset, d_before = (None, d_before) if fresh is None else _split(d_before, fresh)
        return (d_before, _plus(d_initial, d_reset)), d_kept, d_new if weights.gate else None

    def on_cpu(carry, kept, inputs):
        def in_place(carry, inputs):
            (carry, buffers), (t, *rest) = carry, inputs
            carry, d_kept, d_new = body(carry, _at(buffers, t), rest)
            return (carry, _put(buffers, d_kept, t)), d_new

        inputs = jnp.arange(hidden.shape[0]), *inputs
        (carry, buffers), d_news = lax.scan(in_place, (carry, kept), inputs, reverse=not reverse)
        return carry, buffers, d_news

    def on_accelerator(carry, kept, inputs):
        def of_step(carry, inputs):
            carry, d_kept, d_new = body(carry, *inputs)
            return carry, (d_kept, d_new)

        both, unroll = (kept, inputs), _unroll(hidden)
        carry, (d_kept, d_news) = lax.scan(of_step, carry, both, reverse=not reverse, unroll=unroll)
        return carry, d_kept, d_news

    carry = d_last, jax.tree.map(jnp.zeros_like, initial)
    inputs = steps.real, steps.fresh, befores, d_hidden
    ran: Any = lax.platform_dependent(carry, kept, inputs, cpu=on_cpu, default=on_accelerator)
    (d_first, d_initial), (d_zx, d_own), d_news = ran
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
    # The loop above overwrites what it read, so its derivative would keep a copy of it all for
    # each step. The derivative of the plain loop's gradient does not. It needs the inputs only,
    # since the residuals are computed from them.
    inputs, residuals, gradients = primals
    (t_weights, t_state, t_initial, t_steps), _, t_gradients = tangents
    *rest, steps = inputs

    def gradient(given, gradients):
        return jax.vjp(_loop_of_inputs(gate, maps, reverse, steps), *given)[1](gradients)

    given, t_given = (*rest, steps.x), (t_weights, t_state, t_initial, t_steps.x)
    of_loop = jax.jvp(gradient, (given, gradients), (t_given, t_gradients))[1]
    return _gradients(gate, maps, vjp, reverse, inputs, residuals, gradients), of_loop


def _at(stacked, t):
    """Return step t of the stacked arrays, as copies where the stacks are overwritten later."""

    # XLA on a CPU fuses a slice into whatever reads it. A reader that runs after the stack is
    # overwritten would make each step copy the whole stack first. The result of a branch is not
    # fused; and since this branch returns the slices of all stacks, a write to any of them waits
    # until all have been read.
    def zeros(stacked, t):
        return jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), stacked)

    return lax.cond(t >= 0, _slices, zeros, stacked, t)


def _slices(stacked, t):
    return jax.tree.map(partial(lax.dynamic_index_in_dim, index=t, keepdims=False), stacked)


def _put(stacked, values, t):
    put = partial(lax.dynamic_update_index_in_dim, index=t, axis=0)
    return jax.tree.map(put, stacked, values)


def _shared_blocks(gate, maps, weights, state, steps) -> frozenset[int]:
    """Return the indices of the blocks that the gate's trace uses only as the sum zx + zh.

    For these only the sum need be kept, and zx and zh have the same gradient.
    """
    of_x, of_h = _shapes_of_blocks(maps, weights, state, steps.x[0])
    return _sums_alone(partial(gate, weights.gate), of_x, of_h, state)


def _sums_alone(gate, of_x, of_h, state) -> frozenset[int]:
    """Return the indices of the blocks whose zx and zh a function uses only as their sum."""
    trace = jax.make_jaxpr(gate)(of_x, of_h, state).jaxpr
    pairs = zip(trace.invars[: len(of_x)], trace.invars[len(of_x) :][: len(of_h)], strict=False)
    return frozenset(k for k, pair in enumerate(pairs) if _is_sum_alone(trace, pair))


def _shapes_of_blocks(maps, weights, state, x):
    """Return the shapes and types of the blocks of zx and zh in one step, which reads x."""

    def apply(x: Array) -> tuple[Blocks, Blocks]:
        zx = maps.input.apply(weights.input, x)
        return split_blocks(maps, zx, maps.recurrent.apply(weights.recurrent, state.hidden))

    return jax.eval_shape(apply, x)


def _check_vjp(vjp: GateVJP, of_x: Blocks, of_h: Blocks, state: Any) -> None:
    """Check that a `GateVJP` returns blocks and states of the shapes and types it was given.

    Raises:
      ValueError: if it does not.
    """
    own = [block for k, block in enumerate(of_h) if k not in vjp.shared]
    forward = jax.eval_shape(vjp.forward, of_x, of_h, state)
    _check_shapes("forward", forward, (state, of_x, own))
    backward = jax.eval_shape(vjp.backward, of_x, own, state, state)
    _check_shapes("backward", backward, (of_x, own, state))


def _check_shapes(name: str, actual: Any, expected: Any) -> None:
    got, due = (jax.tree.map(lambda leaf: (leaf.dtype, leaf.shape), t) for t in (actual, expected))
    if got != due:
        raise ArgumentError(f"gate_vjp: expected {name} to return {due}, got {got}.")


def _is_sum_alone(trace: Any, pair: tuple[Any, Any]) -> bool:
    def among(values: Any) -> list[bool]:
        return [any(value is of for value in values) for of in pair]

    uses = [equation for equation in trace.eqns if any(among(equation.invars))]
    sums = [each for each in uses if each.primitive.name == "add" and all(among(each.invars))]
    return len(sums) == len(uses) and not any(among(trace.outvars))


def _derived(gate, maps, weights, state, steps) -> GateVJP:
    """Derive the backward pass of a gate by `jax.vjp`, with the pre-activations as residuals.

    For the blocks that the gate uses only as the sum zx + zh, that sum is kept.
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
    """Split residuals, or their gradients, into blocks."""
    rest = maps.recurrent_blocks - len(shared)
    return jnp.split(sums, maps.input_blocks, -1), [] if own is None else jnp.split(own, rest, -1)


def _of_gate(maps: Maps, shared: frozenset[int], sums: Blocks, own: Blocks):
    """Return the blocks of zx and zh for a gate from the residuals that `_derived` keeps.

    Of a shared block only the sum is known, so it stands in zx, with zero in zh.
    """
    rest, zeros = iter(own), jnp.zeros_like(sums[0])
    return sums, [zeros if k in shared else next(rest) for k in range(maps.recurrent_blocks)]


def _recurrent_part(maps, shared, d_zx, d_own):
    """Return the gradient of zh: the shared blocks from that of zx, the others from d_own."""
    if len(shared) == maps.input_blocks == maps.recurrent_blocks:
        return d_zx
    of_x, of_h = _cut(maps, shared, d_zx, d_own)
    own = iter(of_h)
    return _joined([of_x[k] if k in shared else next(own) for k in range(maps.recurrent_blocks)])


def _hidden_before(first, initial, hidden, fresh, reverse):
    """Return the h that each step starts from, after any reset."""
    parts = [hidden[1:], first[None]] if reverse else [first[None], hidden[:-1]]
    before = jnp.concatenate(parts)  # [T, ..., H]
    if fresh is None:
        return before
    return where_flag(fresh, jnp.broadcast_to(initial.hidden, before.shape), before)


def _split(gradient, flag):
    """Split a gradient into the parts where the flag is True and where it is False.

    Each part is zero elsewhere.
    """
    zeros = jax.tree.map(jnp.zeros_like, gradient)
    return where_flag(flag, gradient, zeros), where_flag(flag, zeros, gradient)


def _plus(gradient, more):
    return gradient if more is None else jax.tree.map(jnp.add, gradient, more)
