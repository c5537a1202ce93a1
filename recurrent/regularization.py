"""Regularize with random masks: dropout, weight drop and zoneout.

The rate may be traced and the key is explicit: without a key the same cell runs in evaluation.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from recurrent.cell import (
    Cell,
    Params,
    Shape,
    State,
    check_sizes,
    output_shape,
    sequence,
    weighted,
    where_flag,
    zero_padding,
)
from recurrent.combinators import check_state_not_scaled
from recurrent.errors import ArgumentError


def dropout(x: Array, rate: Any, key: Array | None) -> Array:
    """Set each entry to zero with probability ``rate``, and scale the rest by 1 / (1 - rate).

    Args:
      x: an array of any shape.
      rate: at least 0 and below 1; may be traced.
      key: the random key of the mask, one draw for the whole array; None in evaluation, which
        returns ``x``.

    Returns:
      An array like ``x``.

    Raises:
      ValueError: for a rate below 0 or not below 1, unless it is traced.

    References:
      Srivastava et al. 2014.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import dropout
      >>> sorted(set(dropout(jnp.ones(100), 0.5, jax.random.key(0)).tolist()))
      [0.0, 2.0]
      >>> dropout(jnp.arange(3), 0.5, None).tolist()
      [0, 1, 2]
    """
    check_rate(rate)
    if key is None:
        return x
    return dropped(jax.random.bernoulli(key, 1 - rate, x.shape), x, rate)


def dropped(keep: Array, x: Array, rate: Any) -> Array:
    """Return ``x / (1 - rate)`` in the type of x where ``keep`` is True, zero elsewhere."""
    return jnp.where(keep, (x / (1 - rate)).astype(x.dtype), 0)


def check_rate(rate: Any) -> None:
    """Check that a rate is at least 0 and below 1; a traced one is not checked.

    Raises:
      ValueError: if it is not.
    """
    # float(), since inside jit even a comparison with a constant array is traced
    if not isinstance(rate, Tracer) and not 0 <= float(rate) < 1:
        raise ArgumentError(f"rate: expected 0 to below 1, got {rate}.")


Path = tuple[str, ...]


class Clock(NamedTuple):
    """Hold ``time``: how many real steps each example has read, integers ``[...]``."""

    time: Array


class Kept(NamedTuple):
    """Hold ``keep``: booleans ``[..., D]``, False where an entry is dropped."""

    keep: Array


class ZoneoutState(NamedTuple):
    """Hold ``cell``, the state of the inner cell, and ``time`` as in `Clock`."""

    cell: State
    time: Array


def step_dropout(size: int, rate: Any, key: Array | None) -> Cell:
    """Build dropout with a new mask per step, as a cell without params to put into a stack.

    Equation: ``y_t = keep_t * x_t / (1 - rate)``, with each entry of keep_t 1 with probability
    1 - rate, else 0. Without a key, ``y_t = x_t``.

    Args:
      size: D, the size of inputs and outputs.
      rate: at least 0 and below 1; may be traced.
      key: the random key of the masks, drawn for every example and step; None in evaluation.

    Returns:
      The cell, with the state `Clock`: the mask depends on the number of real steps read.

    Raises:
      ValueError: for a size below 1, or a rate below 0 or not below 1.

    References:
      Srivastava et al. 2014; on the connections between recurrent layers: Zaremba et al. 2014,
      arXiv:1409.2329.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import step_dropout, unroll
      >>> cell = step_dropout(20, 0.5, jax.random.key(0))
      >>> state, ys = unroll(cell, {}, jnp.ones((4, 20)))  # [T, D]
      >>> sorted(set(ys.ravel().tolist())), bool((ys == ys[0]).all()), int(state.time)
      ([0.0, 2.0], False, 4)
    """
    check_sizes(size=size)
    check_rate(rate)

    def initial_state(params: Params, batch_shape: Shape) -> Clock:
        return Clock(jnp.zeros(batch_shape, jnp.int32))

    def drop(time: Array, x: Array) -> Array:
        if key is None:
            return x
        return dropped(_draw(key, time, (size,), 1 - _float32(rate)), x, rate)

    def step(params: Params, state: Clock, x: Array) -> tuple[Clock, Array]:
        return Clock(state.time + 1), drop(state.time, x)

    def run(params: Params, state: Clock, xs: Array, *, mask: Any, reset: Any, reverse: bool):
        times, last = _times(state.time, xs.shape[0], mask, reset, reverse)
        return Clock(last), jax.vmap(drop)(times, zero_padding(mask, xs))

    return Cell(lambda key: {}, initial_state, step, (size,), run)


def variational_dropout(size: int, rate: Any, key: Array | None) -> Cell:
    """Build dropout with one mask per sequence, as a cell without params to put into a stack.

    Equation: ``y_t = keep * x_t / (1 - rate)``, with each entry of keep 1 with probability
    1 - rate, else 0, drawn once for each example. Without a key, ``y_t = x_t``.

    The mask is drawn with the initial state and kept in it. A state that is carried over to another
    call keeps its mask, whatever the key of that call; a reset restores the mask of the initial
    state of the current call.

    Args:
      size: D, the size of inputs and outputs.
      rate: at least 0 and below 1; may be traced.
      key: the random key of the mask, used by the initial state; None in evaluation, which ignores
        the mask in the state.

    Returns:
      The cell, with the state `Kept`.

    Raises:
      ValueError: for a size below 1, or a rate below 0 or not below 1.

    References:
      Gal & Ghahramani 2016, arXiv:1512.05287, for inputs and outputs; for the recurrent
      connections see `weight_drop`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import unroll, variational_dropout
      >>> cell = variational_dropout(20, 0.5, jax.random.key(0))
      >>> xs = jnp.arange(1.0, 5.0)[:, None] * jnp.ones(20)  # [T, D]
      >>> state, ys = unroll(cell, {}, xs)
      >>> bool((ys == jnp.where(state.keep, 2 * xs, 0)).all())
      True
    """
    check_sizes(size=size)
    check_rate(rate)

    def initial_state(params: Params, batch_shape: Shape) -> Kept:
        shape = (*batch_shape, size)
        if key is None:
            return Kept(jnp.ones(shape, bool))
        return Kept(jax.random.bernoulli(key, 1 - _float32(rate), shape))

    def drop(keep: Array, x: Array) -> Array:
        return x if key is None else dropped(keep, x, rate)

    def step(params: Params, state: Kept, x: Array) -> tuple[Kept, Array]:
        return state, drop(state.keep, x)

    def run(params: Params, state: Kept, xs: Array, *, mask: Any, reset: Any, reverse: bool):
        xs = zero_padding(mask, xs)
        if reset is None:
            return state, drop(state.keep, xs)
        initial = initial_state(params, xs.shape[1:-1])
        was_reset = lax.associative_scan(jnp.logical_or, reset, reverse=reverse)
        shape = (xs.shape[0], *state.keep.shape)  # [T, ..., D]
        before, after = (jnp.broadcast_to(kept.keep, shape) for kept in (state, initial))
        keeps = where_flag(was_reset, after, before)
        return where_flag(reset.any(axis=0), initial, state), drop(keeps, xs)

    return Cell(lambda key: {}, initial_state, step, (size,), run)


def renewed_masks(state: State, fresh: State) -> State:
    """Return a state with the masks of `variational_dropout` in it taken from another.

    So each window of a long sequence can have masks of its own, while all else is carried on.

    Args:
      state: of a cell, such as the one after the window before.
      fresh: of the same structure, such as the cell's initial state with a new key.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import lstm, renewed_masks, stack, unroll, variational_dropout
      >>> def cell(number):
      ...     return stack(lstm(2, 20), variational_dropout(20, 0.5, jax.random.key(number)))
      >>> params = cell(0).init(jax.random.key(0))
      >>> state, _ = unroll(cell(0), params, jnp.ones((3, 2)))
      >>> renewed = renewed_masks(state, cell(1).initial_state(params, ()))
      >>> bool((renewed.layers[0].hidden == state.layers[0].hidden).all())
      True
      >>> bool((renewed.layers[1].keep == state.layers[1].keep).all())
      False
    """

    def take(old: Any, new: Any) -> Any:
        return new if isinstance(new, Kept) else old

    return jax.tree.map(take, state, fresh, is_leaf=lambda leaf: isinstance(leaf, Kept))


def zoneout(cell: Cell, rate: Any, key: Array | None) -> Cell:
    """Keep random entries of a cell's state from the step before, chosen anew at each step.

    Equation, for each array of the state, with s'_t the new state of the inner cell:
    ``s_t = keep_t * s_{t-1} + (1 - keep_t) * s'_t``, ``y_t = s_t.hidden``, with each entry of
    keep_t 1 with probability rate, else 0. Without a key, keep_t is its expectation, rate.

    Sequences run by the plain scan of the step.

    Args:
      cell: a cell whose output is the ``hidden`` of its state.
      rate: 0 to 1, may be traced; or a rate for each array, in the type of the state, such as
        ``LSTMState(hidden=0.05, cell=0.5)``, the paper's choice.
      key: the random key of the masks, drawn for every example and step; None in evaluation.

    Returns:
      The cell, with the params of ``cell`` and the state `ZoneoutState`.

    Raises:
      ValueError: for a rate outside 0 to 1, a cell whose output is something else, or a state
        with a common scale, such as that of `recurrent.slstm`.

    References:
      Krueger et al. 2016, arXiv:1606.01305.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import elman, unroll, zoneout
      >>> cell = zoneout(elman(3, 4), 1.0, jax.random.key(0))  # keeps all of the initial state
      >>> shapes = jax.eval_shape(cell.init, jax.random.key(1))
      >>> params = jax.tree.map(jnp.ones_like, shapes)
      >>> unroll(cell, params, jnp.arange(6.0).reshape(2, 3))[1].tolist()  # [T, H]
      [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    for one in jax.tree.leaves(rate):
        if not isinstance(one, Tracer) and not 0 <= float(one) <= 1:
            raise ArgumentError(f"rate: expected 0 to 1, got {one}.")
    check_state_not_scaled(cell, "zoneout")

    def initial_state(params: Params, batch_shape: Shape) -> ZoneoutState:
        time = jnp.zeros(batch_shape, jnp.int32)
        return ZoneoutState(cell.initial_state(params, batch_shape), time)

    def step(params: Params, state: ZoneoutState, x: Any) -> tuple[ZoneoutState, Array]:
        new, y = cell.step(params, state.cell, x)
        if getattr(new, "hidden", None) is not y:
            raise ArgumentError(
                "zoneout: expected a cell that returns its state's hidden as its output, got "
                f"another output beside {type(new).__name__}; zone out the cells inside of it."
            )
        mixed = _mix(key, rate, state.time, state.cell, new)
        return ZoneoutState(mixed, state.time + 1), mixed.hidden

    zoned = Cell(cell.init, initial_state, step, cell.input_shape)
    output_shape(zoned)
    return zoned


def recurrent_kernels(path: Path) -> bool:
    """Tell whether a path in the params ends at a kernel that multiplies h.

    These are the kernels named ``recurrent`` and those within a gate.

    Example:
      >>> from recurrent.regularization import recurrent_kernels
      >>> [recurrent_kernels((name, "kernel")) for name in ("input", "recurrent", "gate")]
      [False, True, True]
    """
    return path[-2:] in (("recurrent", "kernel"), ("gate", "kernel"))


def weight_drop(
    cell: Cell,
    rate: Any,
    key: Array | None,
    *,
    chosen: Callable[[Path], bool] = recurrent_kernels,
    unit: Literal["weight", "row"] = "weight",
) -> Cell:
    """Set random weights of a cell to zero, the same ones at all steps and for all examples.

    Equation: ``W' = keep * W / (1 - rate)``, with each entry of keep 1 with probability
    1 - rate, else 0. Without a key, ``W' = W``. Whole sequences still run by the cell's own
    sequence function.

    Args:
      cell: the cell, or a stack of cells.
      rate: at least 0 and below 1; may be traced.
      key: the random key of the masks, drawn once; None in evaluation.
      chosen: returns whether to drop the weights at a path in the params, such as
        ``("recurrent", "kernel")``; by default the kernels of h, by `recurrent_kernels`.
      unit: ``"weight"`` drops single entries (DropConnect); ``"row"`` drops whole rows, which for
        a recurrent kernel is the variational dropout of h, with one mask for all gates.

    Returns:
      The cell, with the same params and state.

    Raises:
      ValueError: for a rate below 0 or not below 1, an unknown unit, or if nothing is chosen.

    References:
      Wan et al. 2013 (DropConnect); Merity et al. 2017, arXiv:1708.02182; rows: Gal & Ghahramani
      2016, arXiv:1512.05287, with the departure that the examples of a batch share a mask.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import irnn, unroll, weight_drop
      >>> key, chosen = jax.random.key(0), lambda path: path == ("input", "kernel")
      >>> cell = weight_drop(irnn(1, 20), 0.5, key, chosen=chosen)
      >>> params = jax.tree.map(jnp.zeros_like, jax.eval_shape(cell.init, jax.random.key(0)))
      >>> params["input"]["kernel"] = jnp.ones((1, 20))
      >>> ys = unroll(cell, params, jnp.array([[1.0], [3.0]]))[1]  # [T, H]
      >>> sorted(set(ys[0].tolist())), bool((ys[1] == 3 * ys[0]).all())
      ([0.0, 2.0], True)
    """
    check_rate(rate)
    if unit not in ("weight", "row"):
        raise ArgumentError(f'unit: expected "weight" or "row", got {unit!r}.')
    paths = [path for path, _ in _with_paths(jax.eval_shape(cell.init, jax.random.key(0)))]
    thinned = [path for path in paths if chosen(path)]
    if not thinned:
        raise ArgumentError(f"chosen: expected it to choose one of {paths}, it chose none.")

    def drop(key: Array, path: Path, leaf: Array) -> Array:
        if path not in thinned:
            return leaf
        shape = leaf.shape if unit == "weight" else (*leaf.shape[:-1], 1)  # rows: [H, 1]
        own_key = jax.random.fold_in(key, thinned.index(path))
        return dropped(jax.random.bernoulli(own_key, 1 - _float32(rate), shape), leaf, rate)

    def thin(params: Params) -> Params:
        if key is None:
            return params
        leaves = [drop(key, path, leaf) for path, leaf in _with_paths(params)]
        return jax.tree.unflatten(jax.tree.structure(params), leaves)

    def initial_state(params: Params, batch_shape: Shape) -> State:
        return cell.initial_state(thin(params), batch_shape)

    def step(params: Params, state: State, x: Any) -> tuple[State, Any]:
        return cell.step(thin(params), state, x)

    def run(params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool):
        return sequence(cell, thin(params), state, xs, mask=mask, reset=reset, reverse=reverse)

    return Cell(cell.init, initial_state, step, cell.input_shape, run)


def _mix(key: Array | None, rates: Any, time: Array, old: State, new: State) -> State:
    """Take each entry from the old state with probability rate, or average both without a key."""
    leaves, structure = jax.tree.flatten(new)
    rates = jax.tree.leaves(jax.tree.broadcast(rates, new))

    def mix(index: int, rate: Any, old: Array, new: Array) -> Array:
        if key is None:
            return (weighted(rate, old) + weighted(1 - rate, new)).astype(new.dtype)
        own_key = jax.random.fold_in(key, index)
        kept = _draw(own_key, time, new.shape[time.ndim :], _float32(rate))
        return jnp.where(kept, old, new)

    indices = range(len(leaves))
    return jax.tree.unflatten(
        structure, list(map(mix, indices, rates, jax.tree.leaves(old), leaves))
    )


def _draw(key: Array, time: Array, shape: Shape, probability: Array) -> Array:
    """Draw booleans ``[..., *shape]``, one draw for each example and time ``[...]``."""

    def draw(example: Array, time: Array) -> Array:
        own_key = jax.random.fold_in(jax.random.fold_in(key, example), time)
        return jax.random.bernoulli(own_key, probability, shape)

    drawn = jax.vmap(draw)(jnp.arange(time.size), time.reshape(-1))  # [examples, *shape]
    return drawn.reshape(*time.shape, *shape)


def _times(
    first: Array, steps: int, mask: Array | None, reset: Array | None, reverse: bool
) -> tuple[Array, Array]:
    """Count the real steps read before each step ``[T, ...]``, and after the last one."""
    real = jnp.ones((steps, *first.shape), bool) if mask is None else mask
    before = jnp.cumsum(real, axis=0, dtype=jnp.int32) - real
    after = real.sum(axis=0, dtype=jnp.int32)
    if reverse:
        before = after - before - real
    if reset is None:
        return first + before, first + after
    start = jnp.where(reset, before, -1)  # [T, ...]; -1 where no sequence starts
    last_start = lax.cummax(start, axis=0, reverse=reverse)
    final_start = start.max(axis=0, initial=-1)
    times = jnp.where(last_start < 0, first + before, before - last_start)
    return times, jnp.where(final_start < 0, first + after, after - final_start)


def _float32(rate: Any) -> Array:
    """Convert a rate to float32, so that params of all precisions draw the same masks."""
    return jnp.asarray(rate, jnp.float32)


def _with_paths(tree: Any) -> list[tuple[Path, Any]]:
    def names(path: Any) -> Path:
        return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)

    return [(names(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]
