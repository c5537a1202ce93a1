"""Nonlinear cells evaluated in parallel over time: Newton's method on the whole trajectory."""

import math
from functools import partial
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import Cell, Params, State, scan_sequence, unroll, where_flag
from recurrent.cells._gated_loop import gated_sequence, split_blocks
from recurrent.linear_scans import linear_scan

Jacobian = Literal["full", "diagonal"]
Method = Literal["auto", "serial", "associative"]


class DeerInfo(NamedTuple):
    """What became of a parallel evaluation; scalars, traced under jit.

    Attributes:
      iterations: how many sweeps of Newton's method were done.
      residual: ``max |s_t - step(s_{t-1}, x_t)|`` over all steps after the last of them, as a
        share of the largest state of the same field and example over time. NaN or infinity
        where the iteration ran away.
      converged: whether the residual is within the tolerance.
      fell_back: whether the states are those of the serial loop instead.
    """

    iterations: Array
    residual: Array
    converged: Array
    fell_back: Array


def deer(
    cell: Cell,
    params: Params,
    xs: Any,
    state: State | None = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    reverse: bool = False,
    jacobian: Jacobian = "full",
    max_iterations: int = 100,
    tolerance: float | None = None,
    damping: float = 0.0,
    fallback: bool = True,
    method: Method = "auto",
) -> tuple[State, Any, DeerInfo]:
    """`recurrent.unroll` of a nonlinear cell, in parallel over time.

    The states of a whole sequence solve ``s_t - step(s_{t-1}, x_t) = 0``. Newton's method
    guesses them all, takes the Jacobians ``A_t`` of every step at once, and corrects the guess
    by one linear scan: ``d_t = A_t d_{t-1} + step(s_{t-1}, x_t) - s_t``, ``s_t += d_t``. It
    starts from the state before the first input, held; sweep k makes the first k states right
    whatever the Jacobians, and contracting cells need a few sweeps for any T. Cells whose
    states move apart exponentially need up to T; for these the serial loop is the faster way.
    So it is on a CPU for any cell: there this took 3 to 120 times as long as
    `jax.lax.scan` (2 busy cores, H = 4, T from 1,000 to 10,000). On a GPU it is not measured.

    The result is never silently inexact: the residual is checked, and where it is not within
    ``tolerance`` after ``max_iterations``, or is not finite, the serial loop is run instead
    (`lax.cond`; under `jax.vmap` both are run). The distance to the serial loop's states is at
    most about the residual times how much the cell amplifies a small change over time.

    The gradient is that of the implicit function, in one reverse linear scan of the transposed
    full Jacobians at the solution, then one vector-Jacobian product of all steps at once. It
    is exact whatever ``jacobian`` the iteration used, so it takes the memory of ``"full"``. It
    has no forward mode; `unroll` with ``method="scan"`` has. It is taken by params, state and
    xs: of what the cell closes over JAX takes none, and says so.

    Args:
      cell: a cell whose state is made of real floating-point arrays; N numbers an example.
      params: its parameters.
      xs: inputs ``[T, ..., *cell.input_shape]``.
      state: the state before the first input read; the cell's initial state by default.
      lengths: see `recurrent.unroll`, as are the next three.
      mask: booleans ``[T, ...]``; a masked step has the identity for its Jacobian.
      reset: booleans ``[T, ...]``; a reset has a Jacobian of zero.
      reverse: read from the last step to the first.
      jacobian: ``"full"`` is Newton's method: few sweeps, of ``T B N^2`` numbers and, where the
        scan is associative, ``T B N^3`` work. ``"diagonal"`` keeps the diagonal alone: more
        sweeps of ``T B N`` numbers. A cell of `recurrent.gated` without a matrix in its
        gate gives its diagonal for one Jacobian-vector product of the gate per field of the
        state; any other cell for N of its step.
      max_iterations: at most so many sweeps.
      tolerance: on the residual; by default 16 units of rounding of the state's type (3.6e-15,
        1.9e-6), and 0.01 where that is more (bfloat16, float16).
      damping: k from 0 to 1: the Jacobians are scaled by 1 - k, except those of masked steps.
        It keeps early corrections from running away, for more sweeps; with 1 a sweep evaluates
        the steps and no more.
      fallback: with False, the last state and the outputs (and so the gradients) of an
        evaluation that did not converge are NaN, and no serial loop is compiled.
      method: of the linear scans; see `matrix_scan`.

    Returns:
      The state after the last input read, the outputs ``[T, ..., H]``, and a `DeerInfo`.

    Raises:
      ValueError: as `recurrent.unroll`; for a state with other than real floating-point
        arrays; for an impossible option.

    References:
      Lim et al. 2023, arXiv:2309.12252 (DEER); Gonzalez et al. 2024, arXiv:2407.19115 (the
      diagonal form, and damping as their scale-ELK); Danieli et al. 2025, arXiv:2510.21450.
      Departures: it solves for the correction, not for the states, so that rounding in the
      scan does not limit the residual; entries that overflow take the step's own value.
    """
    options = _checked(jacobian, max_iterations, tolerance, damping, fallback, method)
    solve = partial(_sequence, cell, options)
    flags: Any = {"lengths": lengths, "mask": mask, "reset": reset, "reverse": reverse}
    (state, info), ys = unroll(cell._replace(sequence=solve), params, xs, state, **flags)
    return state, ys, info


def parallel(cell: Cell, **options: Any) -> Cell:
    """The cell, evaluated over whole sequences by `deer`; steps and params are its own.

    It falls back to the serial loop where it must, without a word: call `deer` for its
    `DeerInfo`.

    Args:
      cell: see `deer`.
      **options: those of `deer`, from ``jacobian`` on.

    Raises:
      ValueError: for an impossible option.
    """
    solve = partial(_sequence, cell, _checked(**options))

    def sequence(params, state, xs, *, mask, reset, reverse):
        (state, _), ys = solve(params, state, xs, mask=mask, reset=reset, reverse=reverse)
        return state, ys

    return cell._replace(sequence=sequence)


def matrix_scan(a: Array, b: Array, *, reverse: bool = False, method: Method = "auto") -> Array:
    """All states of ``h_t = A_t h_{t-1} + b_t`` from ``h_0 = 0``, with full matrices.

    Args:
      a: ``[T, ..., N, N]``.
      b: ``[T, ..., N]``.
      reverse: read from the last step to the first: ``h_t = A_t h_{t+1} + b_t``.
      method: ``"serial"`` is a `jax.lax.scan` of T products by a vector; ``"associative"`` a
        `jax.lax.associative_scan` of depth 2 log2(T), of about 2 T products of two matrices.
        ``"auto"`` is serial where the default backend is a CPU, associative elsewhere, as in
        `recurrent.linear_scan`.

    Returns:
      The states ``[T, ..., N]``. Products have full float32 precision on every platform.

    Raises:
      ValueError: for shapes that do not fit, or an unknown method.
    """
    if a.ndim < 3 or a.shape != (*b.shape, b.shape[-1]):
        raise ValueError(
            "a, b: expected the shapes [T, ..., N, N] and [T, ..., N], "
            f"got {list(a.shape)} and {list(b.shape)}."
        )
    if _known("method", method, Method) == "auto":
        method = "serial" if jax.default_backend() == "cpu" else "associative"
    if method == "associative":
        return lax.associative_scan(_compose, (a, b), reverse=reverse)[1]

    def body(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        a_t, b_t = inputs
        h = _times(a_t, h) + b_t
        return h, h

    return lax.scan(body, jnp.zeros_like(b[0]), (a, b), reverse=reverse)[1]


def _compose(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
    a_1, b_1 = earlier
    a_2, b_2 = later
    return jnp.matmul(a_2, a_1, precision="highest"), _times(a_2, b_1) + b_2


def _times(a: Array, h: Array) -> Array:
    return jnp.matmul(a, h[..., None], precision="highest")[..., 0]


class _Options(NamedTuple):
    jacobian: Jacobian
    max_iterations: int
    tolerance: float | None
    damping: float
    fallback: bool
    method: Method


def _checked(
    jacobian: Jacobian = "full",
    max_iterations: int = 100,
    tolerance: float | None = None,
    damping: float = 0.0,
    fallback: bool = True,
    method: Method = "auto",
) -> _Options:
    _known("jacobian", jacobian, Jacobian)
    _known("method", method, Method)
    if max_iterations < 1:
        raise ValueError(f"max_iterations: expected at least 1, got {max_iterations}.")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: expected a number above 0, got {tolerance}.")
    if not 0 <= damping <= 1:
        raise ValueError(f"damping: expected a number from 0 to 1, got {damping}.")
    return _Options(jacobian, max_iterations, tolerance, damping, fallback, method)


def _known(name: str, value: str, choices: Any) -> str:
    if value not in get_args(choices):
        raise ValueError(f"{name}: expected one of {list(get_args(choices))}, got {value!r}.")
    return value


class _Layout(NamedTuple):
    """How the fields of a state lie side by side in one vector ``[..., N]``.

    The vectors are float32 at least: sums over time mean nothing in narrower types.
    """

    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @property
    def dtype(self) -> Any:
        return jnp.promote_types(jnp.result_type(*self.dtypes), jnp.float32)

    def join(self, state: State) -> Array:
        leaves = zip(jax.tree.leaves(state), self.shapes, strict=True)
        parts = [
            leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], math.prod(shape))
            for leaf, shape in leaves
        ]
        return jnp.concatenate([part.astype(self.dtype) for part in parts], axis=-1)

    def split(self, vectors: Array) -> State:
        ends = [sum(map(math.prod, self.shapes[: i + 1])) for i in range(len(self.shapes) - 1)]
        parts = zip(jnp.split(vectors, ends, axis=-1), self.shapes, self.dtypes, strict=True)
        leaves = [part.reshape(*part.shape[:-1], *shape).astype(d) for part, shape, d in parts]
        return jax.tree.unflatten(self.tree, leaves)


def _layout(state: State, batch_rank: int) -> _Layout:
    leaves, tree = jax.tree.flatten(state)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                "cell: expected a state of real floating-point arrays, to take derivatives by, "
                f"got one of {leaf.dtype}; use unroll without deer or parallel."
            )
    shapes = tuple(leaf.shape[batch_rank:] for leaf in leaves)
    return _Layout(tree, shapes, tuple(leaf.dtype for leaf in leaves))


class _Problem(NamedTuple):
    """The arrays that determine a trajectory, and that its gradient is taken by."""

    params: Params
    first: State
    initial: State | None
    xs: Array
    mask: Array | None
    reset: Array | None


class _Static(NamedTuple):
    """What else determines it; not arrays."""

    cell: Cell
    options: _Options
    layout: _Layout
    reverse: bool


class _Iterate(NamedTuple):
    """A guess of all states ``[T, ..., N]``, and where the steps take the ones before them."""

    states: Array
    images: Array
    residual: Array
    sweeps: Array


def _sequence(cell, options, params, state, xs, *, mask, reset, reverse):
    """A `recurrent.cell.Sequence` but for the `DeerInfo` beside the last state."""
    batch_shape = xs.shape[1 : xs.ndim - len(cell.input_shape)]
    static = _Static(cell, options, _layout(state, len(batch_shape)), reverse)
    if xs.shape[0] == 0:
        flags: Any = {"mask": mask, "reset": reset, "reverse": reverse}
        state, ys = scan_sequence(cell, params, state, xs, **flags)
        exact = jnp.zeros((), static.layout.dtype)
        return (state, DeerInfo(jnp.int32(0), exact, jnp.array(True), jnp.array(False))), ys
    if mask is not None:
        xs = where_flag(mask, xs, jnp.zeros_like(xs))
    initial = None if reset is None else cell.initial_state(params, batch_shape)
    problem = _Problem(params, state, initial, xs, mask, reset)
    trajectory: Any = _trajectory(static, problem)
    states, info = trajectory
    ys = _advance(static, problem, _befores(static, problem, states))[1]
    last = static.layout.split(states[0 if reverse else -1])
    if not options.fallback:
        last, ys = _nan_unless(info.converged, (last, ys))
    return (last, info), ys


def _nan_unless(fine: Array, tree: Any) -> Any:
    """By a product, so that gradients become NaN too."""
    return jax.tree.map(lambda leaf: leaf * jnp.where(fine, 1, jnp.nan).astype(leaf.dtype), tree)


def _advance(static: _Static, problem: _Problem, befores: Array) -> tuple[Array, Any]:
    """One step, or all at once, from the states before: the states after, and the outputs."""
    state = static.layout.split(befores)
    if problem.reset is not None:
        state = where_flag(problem.reset, problem.initial, state)
    after, ys = static.cell.step(problem.params, state, problem.xs)
    if problem.mask is not None:
        after = where_flag(problem.mask, after, state)
        ys = where_flag(problem.mask, ys, jax.tree.map(jnp.zeros_like, ys))
    return static.layout.join(after), ys


def _befores(static: _Static, problem: _Problem, states: Array) -> Array:
    return _shifted(static.layout.join(problem.first), states, static.reverse)


def _shifted(first: Array, states: Array, reverse: bool) -> Array:
    parts = [states[1:], first[None]] if reverse else [first[None], states[:-1]]
    return jnp.concatenate(parts)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _trajectory(static: _Static, problem: _Problem) -> tuple[Array, DeerInfo]:
    """All states as vectors ``[T, ..., N]``."""
    time = problem.xs.shape[0]
    options, first = static.options, static.layout.join(problem.first)
    tolerance = options.tolerance
    if tolerance is None:
        rounding = max(float(jnp.finfo(dtype).eps) for dtype in static.layout.dtypes)
        tolerance = min(16 * rounding, 0.01)

    def is_unfinished(iterate: _Iterate) -> Array:
        is_useful = (iterate.residual > tolerance) & jnp.isfinite(iterate.residual)
        return is_useful & (iterate.sweeps < options.max_iterations)

    guess = jnp.broadcast_to(first, (time, *first.shape))
    iterate = _measured(static, problem, guess, jnp.int32(0))
    iterate = lax.while_loop(is_unfinished, partial(_newton_sweep, static, problem), iterate)
    converged = iterate.residual <= tolerance
    fell_back = ~converged & options.fallback
    states = iterate.states
    if options.fallback:
        states = lax.cond(converged, lambda: states, partial(_serial, static, problem))
    return states, DeerInfo(iterate.sweeps, iterate.residual, converged, fell_back)


def _measured(static: _Static, problem: _Problem, states: Array, sweeps: Array) -> _Iterate:
    images = _advance(static, problem, _befores(static, problem, states))[0]
    residual = _residual(static.layout, states, images)
    return _Iterate(states, images, residual, sweeps)


def _residual(layout: _Layout, states: Array, images: Array) -> Array:
    batch_rank = states.ndim - 2
    wide = layout._replace(dtypes=(states.dtype,) * len(layout.dtypes))

    def of_field(state: Array, image: Array) -> Array:
        axes = 0, *range(1 + batch_rank, state.ndim)
        distance = jnp.max(abs(state - image), axes, initial=0)
        scale = jnp.max(jnp.maximum(abs(state), abs(image)), axes, initial=0)
        return jnp.max(distance / jnp.where(scale == 0, 1, scale), initial=0)

    residuals = jax.tree.map(of_field, wide.split(states), wide.split(images))
    return jnp.stack(jax.tree.leaves(residuals)).max()


def _newton_sweep(static: _Static, problem: _Problem, iterate: _Iterate) -> _Iterate:
    befores = _befores(static, problem, iterate.states)
    wrong = iterate.images - iterate.states
    method, reverse = static.options.method, static.reverse
    if static.options.jacobian == "full":
        jacobians = _with_flags(static, problem, _full_jacobians(static, problem, befores), 2)
        scan, times = matrix_scan, _times
    else:
        jacobians = _with_flags(static, problem, _diagonals(static, problem, befores), 1)
        scan, times = linear_scan, jnp.multiply
    corrections = scan(jacobians, wrong, reverse=reverse, method=method)
    # states + corrections but for rounding: where a guess went far off it does not count.
    moved = times(jacobians, _shifted(jnp.zeros_like(wrong[0]), corrections, reverse))
    states = iterate.images + moved
    states = jnp.where(jnp.isfinite(states), states, iterate.images)
    return _measured(static, problem, states, iterate.sweeps + 1)


def _with_flags(static: _Static, problem: _Problem, jacobians: Array, axes: int) -> Array:
    """Damped, but for masked steps, which hold the state, and resets, which forget it."""
    size = jacobians.shape[-1]
    jacobians = (1 - static.options.damping) * jacobians
    if problem.mask is not None:
        held = jnp.eye(size) if axes == 2 else jnp.ones(size)
        held = jnp.broadcast_to(held.astype(jacobians.dtype), jacobians.shape)
        jacobians = where_flag(problem.mask, jacobians, held)
    if problem.reset is not None:
        jacobians = where_flag(problem.reset, jnp.zeros_like(jacobians), jacobians)
    return jacobians


def _full_jacobians(static: _Static, problem: _Problem, befores: Array) -> Array:
    """``[T, ..., N, N]``: the derivatives of the states after by the states before."""
    push = jax.linearize(lambda v: _advance(static, problem, v)[0], befores)[1]
    columns = jax.vmap(lambda unit: push(jnp.broadcast_to(unit, befores.shape)))
    return jnp.moveaxis(columns(jnp.eye(befores.shape[-1], dtype=befores.dtype)), 0, -1)


def _diagonals(static: _Static, problem: _Problem, befores: Array) -> Array:
    """``[T, ..., N]``: their diagonals."""
    if _is_pointwise(static.cell, problem.params):
        return static.layout.join(_gated_diagonals(static, problem, befores))
    push = jax.linearize(lambda v: _advance(static, problem, v)[0], befores)[1]

    def entry(i: Array) -> Array:
        unit = jnp.zeros_like(befores).at[..., i].set(1)
        return push(unit)[..., i]

    return jnp.moveaxis(lax.map(entry, jnp.arange(befores.shape[-1])), 0, -1)


def _is_pointwise(cell: Cell, params: Params) -> bool:
    """Whether it is a cell of `recurrent.gated` with no matrix inside its gate."""
    run = cell.sequence
    if not (isinstance(run, partial) and run.func is gated_sequence):
        return False
    return all(leaf.ndim < 2 for leaf in jax.tree.leaves(params.get("gate", {})))


def _gated_diagonals(static: _Static, problem: _Problem, befores: Array) -> State:
    """For one product of the gate's Jacobian per field.

    They are those of the step where each unit's gates see that unit alone, and near them where
    they do not (layer norm): good enough, for the residual is what is checked.
    """
    _, gate, maps, _ = cast(partial, static.cell.sequence).args
    params, state = problem.params, static.layout.split(befores)
    if problem.reset is not None:
        state = where_flag(problem.reset, problem.initial, state)
    zx = maps.input.apply(params["input"], problem.xs)
    zh = maps.recurrent.apply(params["recurrent"], state.hidden)
    size = state.hidden.shape[-1]
    blocks = params["recurrent"]["kernel"].reshape(size, -1, size)
    own = jnp.diagonal(blocks, axis1=0, axis2=2).reshape(-1)

    def apply_gate(zh: Array, state: State) -> State:
        return gate(params.get("gate", {}), *split_blocks(maps, zx, zh), state)

    def field_by_itself(name: str) -> Array:
        zeros = jax.tree.map(jnp.zeros_like, state)
        state_dot = zeros._replace(**{name: jnp.ones_like(zh[..., :size])})
        zh_dot = jnp.broadcast_to(own if name == "hidden" else jnp.zeros_like(own), zh.shape)
        return getattr(jax.jvp(apply_gate, (zh, state), (zh_dot, state_dot))[1], name)

    return type(state)(*map(field_by_itself, state._fields))


def _serial(static: _Static, problem: _Problem) -> Array:
    """The states by the plain loop."""

    def body(vector: Array, inputs: Any) -> tuple[Array, Array]:
        xs, mask, reset = inputs
        step = problem._replace(xs=xs, mask=mask, reset=reset)
        vector = _advance(static, step, vector)[0]
        return vector, vector

    inputs = problem.xs, problem.mask, problem.reset
    return lax.scan(body, static.layout.join(problem.first), inputs, reverse=static.reverse)[1]


def _trajectory_forward(static, problem):
    trajectory: Any = _trajectory(static, problem)
    return trajectory, (problem, *trajectory)


def _trajectory_backward(static, saved, gradients):
    """The implicit function: ``l_t = g_t + A_{t+1}^T l_{t+1}`` is what a step's image is worth."""
    problem, states, info = saved
    befores = _befores(static, problem, states)
    transposed = _full_jacobians(static, problem, befores).mT
    transposed = _shifted(jnp.zeros_like(transposed[0]), transposed, not static.reverse)
    scans = [
        partial(matrix_scan, reverse=not static.reverse, method=method)
        for method in (static.options.method, "serial")
    ]
    # Where the states move apart, products of Jacobians overflow beside a finite gradient.
    worth = lax.cond(info.converged, *scans, transposed, gradients[0])

    def images(params, first, initial, xs):
        moved = problem._replace(params=params, first=first, initial=initial, xs=xs)
        return _advance(static, moved, _befores(static, moved, states))[0]

    pull_back = jax.vjp(images, problem.params, problem.first, problem.initial, problem.xs)[1]
    return (_Problem(*pull_back(worth), mask=None, reset=None),)


_trajectory.defvjp(_trajectory_forward, _trajectory_backward)
