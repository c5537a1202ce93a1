"""Evaluate nonlinear cells in parallel over time, by Newton's method on the whole trajectory."""

import math
from functools import partial
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import Cell, Params, State, in_one_type, scan_sequence, unroll, where_flag
from recurrent.cells._gated_loop import GatedSequence, split_blocks
from recurrent.closures import closed_over
from recurrent.errors import ArgumentError
from recurrent.linear_scans import linear_scan

Jacobian = Literal["full", "diagonal"]
Method = Literal["auto", "serial", "associative"]


class DeerInfo(NamedTuple):
    """Report how a parallel evaluation went, in scalars that are traced under jit.

    Attributes:
      iterations: the number of Newton sweeps.
      residual: ``max |s_t - step(s_{t-1}, x_t)|`` over all steps after the last sweep, relative to
        the largest state of the same field and example over time. NaN or infinity if the
        iteration diverged.
      converged: whether the residual is within the tolerance.
      fell_back: whether the states were computed by the serial loop instead.
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
    """Run a nonlinear cell over a sequence as `recurrent.unroll` does, in parallel over time.

    The states of a whole sequence solve ``s_t - step(s_{t-1}, x_t) = 0``. Newton's method
    guesses all of them, computes the Jacobians ``A_t`` of every step at once, and corrects the
    guess by one linear scan: ``d_t = A_t d_{t-1} + step(s_{t-1}, x_t) - s_t``, ``s_t += d_t``.
    The first guess repeats the state before the first input at every step. After k sweeps the
    first k states are right whatever the Jacobians, and contracting cells need a few sweeps for
    any T. Cells whose states diverge exponentially need up to T sweeps; for these the serial loop
    is faster. On a CPU the serial loop is faster for any cell: `deer` took 3 to 120 times as long
    as `jax.lax.scan` (2 busy cores, H = 4, T from 1,000 to 10,000). It has not been measured on a
    GPU.

    The result is never silently inexact: the residual is checked, and if it is not within
    ``tolerance`` after ``max_iterations``, or is not finite, the serial loop is run instead
    (by `lax.cond`; under `jax.vmap` both are run). The distance to the serial loop's states is at
    most about the residual times the factor by which the cell amplifies a small change over time.

    The gradient comes from the implicit function theorem: one reverse linear scan of the
    transposed full Jacobians at the solution, then one vector-Jacobian product of all steps at
    once. It is exact whichever ``jacobian`` the iteration used, so it takes the memory of
    ``"full"``. Forward-mode differentiation is not supported; `unroll` with ``method="scan"``
    supports it. Gradients are with respect to params, state, xs, and traced numbers that the cell
    closes over.

    Args:
      cell: a cell whose state consists of real floating-point arrays, of N entries per example.
      params: its parameters.
      xs: inputs ``[T, ..., *cell.input_shape]``.
      state: the state before the first input read; the cell's initial state by default.
      lengths: integers ``[...]``, as in `recurrent.unroll`.
      mask: booleans ``[T, ...]``, as in `recurrent.unroll`; the Jacobian of a masked step is the
        identity.
      reset: booleans ``[T, ...]``, as in `recurrent.unroll`; the Jacobian of a reset is zero.
      reverse: read from the last step to the first.
      jacobian: ``"full"`` is Newton's method: few sweeps, each with ``T B N^2`` entries and, where
        the scan is associative, ``T B N^3`` work. ``"diagonal"`` keeps only the diagonal: more
        sweeps, each with ``T B N`` entries. The diagonal costs one Jacobian-vector product of
        the gate per field of the state for a cell of `recurrent.gated` without a matrix in its
        gate, and N Jacobian-vector products of the step for any other cell.
      max_iterations: the largest number of sweeps.
      tolerance: the largest residual that counts as converged; by default 16 units of rounding of
        the state's type (3.6e-15 for float64, 1.9e-6 for float32), but at most 0.01, which is
        the default for bfloat16 and float16.
      damping: k from 0 to 1: the Jacobians are scaled by 1 - k, except those of masked steps.
        Damping keeps early corrections from diverging, at the cost of more sweeps; with 1, a
        sweep evaluates the steps and nothing else.
      fallback: if False, no serial loop is compiled, and the last state and the outputs (and so
        the gradients) of an evaluation that did not converge are NaN.
      method: of the linear scans; see `matrix_scan`.

    Returns:
      The state after the last input read, the outputs ``[T, ..., H]``, and a `DeerInfo`.

    Raises:
      ValueError: as `recurrent.unroll`; for a state that holds anything but real floating-point
        arrays; for an invalid option.

    References:
      Lim et al. 2023, arXiv:2309.12252 (DEER); Gonzalez et al. 2024, arXiv:2407.19115 (the
      diagonal form, and damping as their scale-ELK); Danieli et al. 2025, arXiv:2510.21450.
      Departures: the linear scan solves for the correction, not for the states, so that rounding
      in the scan does not limit the residual; entries that overflow take the step's own value.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import deer, elman, unroll
      >>> cell = elman(input_size=1, hidden_size=2)
      >>> params = {"input": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.zeros(2)}}
      >>> params["recurrent"] = {"kernel": 0.5 * jnp.eye(2)}
      >>> xs = jnp.linspace(-1, 1, 8).reshape(8, 1)
      >>> state, ys, info = jax.jit(lambda params, xs: deer(cell, params, xs))(params, xs)
      >>> bool(jnp.allclose(ys, unroll(cell, params, xs)[1], atol=1e-4))
      True
    """
    options = _checked(jacobian, max_iterations, tolerance, damping, fallback, method)
    solving = cell._replace(sequence=partial(_sequence, cell, options))
    last: Any
    last, ys = unroll(
        solving, params, xs, state, lengths=lengths, mask=mask, reset=reset, reverse=reverse
    )
    state, info = last
    return state, ys, info


def parallel(cell: Cell, **options: Any) -> Cell:
    """Make a cell evaluate whole sequences by `deer`; its step and params stay the same.

    Where the iteration does not converge, the serial loop is run instead, without any notice;
    call `deer` itself to get its `DeerInfo`.

    Args:
      cell: a cell whose state consists of real floating-point arrays.
      **options: the arguments of `deer` from ``jacobian`` on.

    Returns:
      The cell, with another sequence function.

    Raises:
      ValueError: for an invalid option.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import elman, parallel, unroll
      >>> cell = parallel(elman(input_size=1, hidden_size=2), jacobian="diagonal")
      >>> def run(key, xs):
      ...     return unroll(cell, cell.init(key), xs)
      >>> state, ys = jax.eval_shape(run, jax.random.key(0), jnp.ones((8, 1)))  # shapes only
      >>> ys.shape
      (8, 2)
    """
    solve = partial(_sequence, cell, _checked(**options))

    def sequence(params, state, xs, *, mask, reset, reverse):
        (state, _), ys = solve(params, state, xs, mask=mask, reset=reset, reverse=reverse)
        return state, ys

    return cell._replace(sequence=sequence)


def matrix_scan(a: Array, b: Array, *, reverse: bool = False, method: Method = "auto") -> Array:
    """Compute all states of ``h_t = A_t h_{t-1} + b_t`` from ``h_0 = 0``, with full matrices.

    Args:
      a: ``[T, ..., N, N]``.
      b: ``[T, ..., N]``.
      reverse: read from the last step to the first: ``h_t = A_t h_{t+1} + b_t``.
      method: ``"serial"`` is a `jax.lax.scan` of T matrix-vector products; ``"associative"`` is a
        `jax.lax.associative_scan` of depth 2 log2(T), of about 2 T matrix-matrix products.
        ``"auto"`` is serial if the default backend is a CPU and associative elsewhere, as in
        `recurrent.linear_scan`.

    Returns:
      The states ``[T, ..., N]``. Products have full float32 precision on every platform.

    Raises:
      ValueError: for shapes that do not fit, or an unknown method.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.newton import matrix_scan
      >>> swap = jnp.tile(jnp.array([[0.0, 1.0], [1.0, 0.0]]), (3, 1, 1))  # [T, N, N]
      >>> matrix_scan(swap, jnp.array([[1.0, 2.0], [0.0, 0.0], [5.0, 0.0]])).tolist()
      [[1.0, 2.0], [2.0, 1.0], [6.0, 2.0]]
    """
    if a.ndim < 3 or a.shape != (*b.shape, b.shape[-1]):
        raise ArgumentError(
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
        raise ArgumentError(f"max_iterations: expected at least 1, got {max_iterations}.")
    if tolerance is not None and not tolerance > 0:
        raise ArgumentError(f"tolerance: expected a number above 0, got {tolerance}.")
    if not 0 <= damping <= 1:
        raise ArgumentError(f"damping: expected a number from 0 to 1, got {damping}.")
    return _Options(jacobian, max_iterations, tolerance, damping, fallback, method)


def _known(name: str, value: str, choices: Any) -> str:
    if value not in get_args(choices):
        raise ArgumentError(f"{name}: expected one of {list(get_args(choices))}, got {value!r}.")
    return value


class _Layout(NamedTuple):
    """Describe how the fields of a state are joined into one vector ``[..., N]``.

    The vectors are at least float32, since narrower types are too coarse for sums over time.
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
            raise ArgumentError(
                "cell: expected a state of real floating-point arrays, to take derivatives by, "
                f"got one of {leaf.dtype}; use unroll without deer or parallel."
            )
    shapes = tuple(leaf.shape[batch_rank:] for leaf in leaves)
    return _Layout(tree, shapes, tuple(leaf.dtype for leaf in leaves))


class _Problem(NamedTuple):
    """Hold the arrays that determine a trajectory; its gradients are with respect to them."""

    params: Params
    first: State
    initial: State | None
    xs: Array
    mask: Array | None
    reset: Array | None


class _Static(NamedTuple):
    """Hold what else determines a trajectory, none of it arrays."""

    cell: Cell
    options: _Options
    layout: _Layout
    reverse: bool


class _Iterate(NamedTuple):
    """Hold a guess of all states and their images ``step(s_{t-1}, x_t)``, both ``[T, ..., N]``."""

    states: Array
    images: Array
    residual: Array
    sweeps: Array


def _sequence(cell, options, params, state, xs, *, mask, reset, reverse):
    """Run a cell like a `recurrent.cell.Sequence`, but return ``((state, info), ys)``."""
    batch_shape = xs.shape[1 : xs.ndim - len(cell.input_shape)]
    static = _Static(cell, options, _layout(state, len(batch_shape)), reverse)
    if xs.shape[0] == 0:
        state, ys = scan_sequence(cell, params, state, xs, mask=mask, reset=reset, reverse=reverse)
        exact = jnp.zeros((), static.layout.dtype)
        return (state, DeerInfo(jnp.int32(0), exact, jnp.array(True), jnp.array(False))), ys
    if mask is not None:
        xs = where_flag(mask, xs, jnp.zeros_like(xs))
    initial = None if reset is None else cell.initial_state(params, batch_shape)
    static, params = _opened(static, params, state, xs)
    problem = _Problem(params, state, initial, xs, mask, reset)
    trajectory: Any = _trajectory(static, problem)
    states, info = trajectory
    ys = _advance(static, problem, _befores(static, problem, states))[1]
    last = static.layout.split(states[0 if reverse else -1])
    if not options.fallback:
        last, ys = _nan_unless(info.converged, (last, ys))
    return (last, info), ys


def _opened(static: _Static, params: Params, state: State, xs: Array) -> tuple[_Static, Params]:
    """Move traced numbers that the cell closes over to the params, for their gradients."""
    x = jax.eval_shape(lambda xs: xs[0], xs)
    step, values = closed_over(static.cell.step, params, state, x)
    if not values:
        return static, params

    def apply(params: Params, state: State, x: Array) -> tuple[State, Any]:
        return step(params["own"], state, x, params["closed_over"])

    params = {"own": params, "closed_over": values}
    return static._replace(cell=static.cell._replace(step=apply)), params


def _nan_unless(fine: Array, tree: Any) -> Any:
    """Multiply all leaves by 1 if ``fine``, else by NaN, so that gradients become NaN too."""
    return jax.tree.map(lambda leaf: leaf * jnp.where(fine, 1, jnp.nan).astype(leaf.dtype), tree)


def _advance(static: _Static, problem: _Problem, befores: Array) -> tuple[Array, Any]:
    """Take one step, or all at once, from the states before it.

    Returns:
      The states after, as vectors ``[..., N]``, and the outputs.
    """
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
    """Solve for all states, as vectors ``[T, ..., N]``, and report how the iteration went."""
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
    # In exact arithmetic this is states + corrections, but here a guess that is far off does not
    # add its rounding errors.
    moved = times(jacobians, _shifted(jnp.zeros_like(wrong[0]), corrections, reverse))
    states = iterate.images + moved
    states = jnp.where(jnp.isfinite(states), states, iterate.images)
    return _measured(static, problem, states, iterate.sweeps + 1)


def _with_flags(static: _Static, problem: _Problem, jacobians: Array, axes: int) -> Array:
    """Damp the Jacobians; set those of masked steps to the identity, those of resets to zero."""
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
    """Return ``[T, ..., N, N]``, the Jacobian of each step with respect to the state before it."""
    push = jax.linearize(lambda v: _advance(static, problem, v)[0], befores)[1]
    columns = jax.vmap(lambda unit: push(jnp.broadcast_to(unit, befores.shape)))
    # [N, T, ..., N] -> [T, ..., N, N]
    return jnp.moveaxis(columns(jnp.eye(befores.shape[-1], dtype=befores.dtype)), 0, -1)


def _diagonals(static: _Static, problem: _Problem, befores: Array) -> Array:
    """Return the diagonals ``[T, ..., N]`` of the Jacobians, exact or nearly so."""
    if _is_pointwise(static.cell, problem.params):
        return static.layout.join(_gated_diagonals(static, problem, befores))
    push = jax.linearize(lambda v: _advance(static, problem, v)[0], befores)[1]

    def entry(i: Array) -> Array:
        unit = jnp.zeros_like(befores).at[..., i].set(1)
        return push(unit)[..., i]

    return jnp.moveaxis(lax.map(entry, jnp.arange(befores.shape[-1])), 0, -1)


def _is_pointwise(cell: Cell, params: Params) -> bool:
    """Return whether this is a cell of `recurrent.gated` with no matrix inside its gate."""
    run = cell.sequence
    if not (isinstance(run, GatedSequence) and run.block_per_gate):
        return False
    return all(leaf.ndim < 2 for leaf in jax.tree.leaves(params.get("gate", {})))


def _gated_diagonals(static: _Static, problem: _Problem, befores: Array) -> State:
    """Compute the diagonals by one Jacobian-vector product of the gate per field of the state.

    They are exact if the gates of each unit depend on no other unit's pre-activations, and
    approximate otherwise (layer norm). That suffices, since convergence is judged by the residual.
    """
    run = cast(GatedSequence, static.cell.sequence)
    params, state = in_one_type(problem.params), static.layout.split(befores)
    if problem.reset is not None:
        state = where_flag(problem.reset, problem.initial, state)
    zx = run.maps.input.apply(params["input"], problem.xs)
    zh = run.maps.recurrent.apply(params["recurrent"], state.hidden)
    size = state.hidden.shape[-1]
    blocks = params["recurrent"]["kernel"].reshape(size, -1, size)
    own = jnp.diagonal(blocks, axis1=0, axis2=2).reshape(-1)

    def apply_gate(zh: Array, state: State) -> State:
        return run.gate(params.get("gate", {}), *split_blocks(run.maps, zx, zh), state)

    def field_by_itself(name: str) -> Array:
        zeros = jax.tree.map(jnp.zeros_like, state)
        state_dot = zeros._replace(**{name: jnp.ones_like(zh[..., :size])})
        zh_dot = jnp.broadcast_to(own if name == "hidden" else jnp.zeros_like(own), zh.shape)
        return getattr(jax.jvp(apply_gate, (zh, state), (zh_dot, state_dot))[1], name)

    return type(state)(*map(field_by_itself, state._fields))


def _serial(static: _Static, problem: _Problem) -> Array:
    """Compute the states ``[T, ..., N]`` by a serial loop."""

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
    """Differentiate the implicit function, by the adjoints ``l_t = g_t + A_{t+1}^T l_{t+1}``.

    The adjoint l_t is the gradient with respect to the image ``step(s_{t-1}, x_t)``.
    """
    problem, states, info = saved
    befores = _befores(static, problem, states)
    transposed = _full_jacobians(static, problem, befores).mT
    transposed = _shifted(jnp.zeros_like(transposed[0]), transposed, not static.reverse)
    scans = [
        partial(matrix_scan, reverse=not static.reverse, method=method)
        for method in (static.options.method, "serial")
    ]
    # Where the states diverge, products of Jacobians overflow although the gradient is finite.
    adjoints = lax.cond(info.converged, *scans, transposed, gradients[0])

    def images(params, first, initial, xs):
        moved = problem._replace(params=params, first=first, initial=initial, xs=xs)
        return _advance(static, moved, _befores(static, moved, states))[0]

    pull_back = jax.vjp(images, problem.params, problem.first, problem.initial, problem.xs)[1]
    return (_Problem(*pull_back(adjoints), mask=None, reset=None),)


_trajectory.defvjp(_trajectory_forward, _trajectory_backward)
