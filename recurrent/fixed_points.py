"""Find the states that a cell leaves alone under a constant input, and what it does near them.

Axis letters: K points, N numbers of the whole state, in the order of
`jax.flatten_util.ravel_pytree`, D input features.

References:
  Sussillo & Barak 2013, Opening the black box: low-dimensional dynamics in high-dimensional
  recurrent neural networks. Golub & Sussillo 2018, FixedPointFinder.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from recurrent.cell import Cell, Params, State, check_sizes
from recurrent.errors import ArgumentError

LATER = 100  # steps after which a start counts among what the network visits
ROUGHLY = 30  # times farther apart are slow points that count as one: q is flat around them

Flow = Callable[[Array, Array], Array]  # (state [N], input [D]) -> next state [N]


class FixedPoints(NamedTuple):
    """Hold points of a cell's state space, the slowest first, and the dynamics near them.

    Attributes:
      states: a tree like the cell's state, each leaf with an axis of K in front.
      speeds: ``[K]``, ``q = |F(h, x) - h|^2 / 2``.
      is_fixed: booleans ``[K]``, whether q is below the tolerance; the others are slow points,
        local minima of q through which trajectories only pass slowly.
      jacobians: ``[K, N, N]``, ``dF / dh``.
      input_jacobians: ``[K, N, D]``, ``dF / dx``.
      eigenvalues: complex ``[K, N]``, of the Jacobians, the largest absolute value first.
      is_stable: booleans ``[K]``, whether the point is fixed and all of them are less than 1 in
        absolute value.
      time_constants: ``[K, N]``, ``1 / |log |eigenvalue||`` in steps.
    """

    states: Any
    speeds: np.ndarray
    is_fixed: np.ndarray
    jacobians: np.ndarray
    input_jacobians: np.ndarray
    eigenvalues: np.ndarray
    is_stable: np.ndarray
    time_constants: np.ndarray


def find_fixed_points(
    cell: Cell,
    params: Params,
    x: Any,
    states: State,
    *,
    iterations: int = 1000,
    learning_rate: float = 0.03,
    newton_steps: int = 30,
    tolerance: float = 1e-12,
    same: float = 1e-3,
    farthest: float = 3.0,
) -> FixedPoints:
    """Find the points where ``h = F(h, x)``, from many states as starts.

    From each start, q is minimized by Adam, at a rate that falls to zero, and then the equation is
    solved by Newton's method, a step of which counts only where it makes q smaller. Where that ends
    far outside of the states given, it is an outlier, and is started once more from the state given
    that moves least. Points closer to each other than ``same`` count once. What was never near a
    start may be missed: give states that the network visits, some with noise.

    Args:
      cell: the cell.
      params: of the cell.
      x: the constant input, of shape ``cell.input_shape``.
      states: the starts, each leaf ``[K, ...]``; such as the states of test sequences.
      iterations: steps of Adam.
      learning_rate: of Adam, at first.
      newton_steps: steps of Newton's method.
      tolerance: of q, below which a point is fixed.
      same: the distance, as a share of the spread of the starts, within which two fixed points are
        one; slow points, whose places are less sharp, within 30 times that.
      farthest: how far from the mean of the starts points may lie, as a multiple of the farthest
        of them and of the states in which the cell is 100 steps later.

    Returns:
      The points found, fixed and slow ones; outliers that remain are left out, so there may be
      none.

    Raises:
      ValueError: for no starts, starts or an input that are not finite, an input or states of
        another shape, states that hold more than floating-point numbers of 32 or 64 bits, a number
        of steps below 1, or other numbers that are not above 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import elman
      >>> from recurrent.fixed_points import find_fixed_points
      >>> cell = elman(1, 1)
      >>> params = cell.init(jax.random.key(0))
      >>> params["recurrent"]["kernel"] = jnp.array([[2.0]])  # h' = tanh(2 h)
      >>> starts = type(cell.initial_state(params, ()))(jnp.linspace(-0.9, 0.9, 7)[:, None])
      >>> found = find_fixed_points(cell, params, jnp.zeros(1), starts)
      >>> [(round(float(h), 4), bool(stable)) for h, stable in
      ...  sorted(zip(found.states.hidden[:, 0], found.is_stable))]
      [(-0.9575, True), (0.0, False), (0.9575, True)]
    """
    check_sizes(iterations=iterations, newton_steps=newton_steps)
    _check_positive(learning_rate=learning_rate, tolerance=tolerance, same=same, farthest=farthest)
    flow, flat, back, x = _flow(cell, params, x, states)
    if flat.dtype.itemsize < 4:
        raise ArgumentError(f"states: expected float32 or float64, got {flat.dtype}; convert them.")
    fit = partial(_fit, flow, x, iterations, learning_rate, newton_steps)
    spread = _Spread.of(flat, _later(flow, flat, x))
    points = fit(flat)
    outside = spread.distances(points) > farthest * spread.radius
    if outside.any():
        slowest = flat[jnp.argsort(_speeds(flow, flat, x))[: max(1, int(outside.sum()))]]
        again = fit(jnp.resize(slowest, (int(outside.sum()), flat.shape[1])))
        points = points.at[np.flatnonzero(outside)].set(again)
    points = points[np.asarray(spread.distances(points) <= farthest * spread.radius)]
    speeds = np.asarray(_speeds(flow, points, x))
    nearest = same * float(spread.radius) * np.where(speeds < tolerance, 1, ROUGHLY)
    kept = _distinct(np.asarray(points), speeds, nearest)
    return _described(flow, points[kept], speeds[kept], x, back, tolerance)


class _Spread(NamedTuple):
    """Hold the mean of the starts, and how far the farthest visited state lies from it."""

    mean: Array
    radius: Array

    @classmethod
    def of(cls, flat: Array, settled: Array) -> "_Spread":
        mean = flat.mean(0)
        far = jnp.linalg.norm(jnp.concatenate([flat, settled]) - mean, axis=1)
        radius = jnp.where(jnp.isfinite(far), far, 0).max()
        return cls(mean, jnp.maximum(radius, 1e-3 * (1 + jnp.linalg.norm(mean))))

    def distances(self, points: Array) -> Array:
        far = jnp.linalg.norm(points - self.mean, axis=1)
        return jnp.where(jnp.isfinite(far), far, jnp.inf)


def _flow(
    cell: Cell, params: Params, x: Any, states: State
) -> tuple[Flow, Array, Callable[[Array], State], Array]:
    """Return the step on states as vectors, the starts ``[K, N]``, the way back, and the input."""
    x = jnp.asarray(x)
    if x.shape != cell.input_shape:
        raise ArgumentError(
            f"x: expected one input of shape {list(cell.input_shape)}, got {list(x.shape)}."
        )
    like = jax.eval_shape(lambda: cell.initial_state(params, ()))
    shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(states)]
    if jax.tree.structure(states) != jax.tree.structure(like) or shapes != [
        leaf.shape for leaf in jax.tree.leaves(like)
    ]:
        raise ArgumentError(
            f"states: expected {like}, each with an axis of starts in front, got leaves of the "
            f"shapes {[list(leaf.shape) for leaf in jax.tree.leaves(states)]}."
        )
    leaves = jax.tree.leaves(states)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ArgumentError("states: expected floating-point numbers alone.")
    if not leaves[0].shape[0]:
        raise ArgumentError("states: expected one start or more, got none.")
    flat = jax.vmap(lambda state: ravel_pytree(state)[0])(states)
    strange = int((~jnp.isfinite(flat)).any(1).sum())
    if strange or not jnp.isfinite(x).all():
        what = f"{strange} of {len(flat)} starts" if strange else "x"
        raise ArgumentError(
            f"states, x: expected finite numbers, but {what} holds others; leave those out."
        )
    back = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], states))[1]

    def flow(h: Array, x: Array) -> Array:
        return ravel_pytree(cell.step(params, back(h), x)[0])[0]

    return flow, flat, back, x


def _later(flow: Flow, starts: Array, x: Array) -> Array:
    """Return where the cell is some steps after each start ``[K, N]``, or the start if it grows.

    It grows where its distance from there doubles in the second half of the steps.
    """
    step = jax.vmap(lambda h: flow(h, x))

    def after(points: Array) -> Array:
        return lax.fori_loop(0, LATER // 2, lambda _, points: step(points), points)

    half = after(starts)
    whole = after(half)
    near, far = (jnp.linalg.norm(points - starts, axis=1) for points in (half, whole))
    return jnp.where((far <= 2 * near)[:, None], whole, starts)


def _speeds(flow: Flow, points: Array, x: Array) -> Array:
    return jax.vmap(lambda h: 0.5 * jnp.square(flow(h, x) - h).sum())(points)


def _fit(
    flow: Flow, x: Array, iterations: int, learning_rate: float, newton_steps: int, starts: Array
) -> Array:
    """Return where Adam and then Newton's method end, from each start ``[K, N]``."""
    decay = optax.cosine_decay_schedule(learning_rate, iterations)
    adam = optax.adam(decay)

    def descend(carry: Any, _: None) -> Any:
        points, moments = carry
        slopes = jax.grad(lambda points: _speeds(flow, points, x).sum())(points)
        updates, moments = adam.update(slopes, moments)
        return (points + updates, moments), None

    (points, _), _ = lax.scan(descend, (starts, adam.init(starts)), None, iterations)
    polish = jax.vmap(partial(_newton_step, flow, x))
    return lax.fori_loop(0, newton_steps, lambda _, points: polish(points), points)


def _newton_step(flow: Flow, x: Array, h: Array) -> Array:
    """Solve the equation as if it were linear; stay where that makes q no smaller.

    At a line of fixed points the matrix is singular, so a damped step is tried beside. Both are
    of LU: the singular values of a batch of matrices take a thousand times as long on some CPUs.
    """

    def residual(h: Array) -> Array:
        return flow(h, x) - h

    def q(h: Array) -> Array:
        size = jnp.square(residual(h)).sum()
        return jnp.where(jnp.isfinite(size), size, jnp.inf)

    slope, here = jax.jacfwd(residual)(h), residual(h)
    square = slope.T @ slope
    damping = jnp.sqrt(jnp.finfo(h.dtype).eps) * jnp.trace(square)
    damped = jnp.linalg.solve(square + damping * jnp.eye(len(h), dtype=h.dtype), slope.T @ here)
    tried = jnp.stack([h, h - jnp.linalg.solve(slope, here), h - damped])
    return tried[jnp.argmin(jax.vmap(q)(tried))]  # of equal ones the first


def _distinct(points: np.ndarray, speeds: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Return the indices of points without a slower one within their distances ``[K]``."""
    kept: list[int] = []
    for k in np.argsort(speeds, kind="stable"):
        if not kept or np.linalg.norm(points[kept] - points[k], axis=1).min() > nearest[k]:
            kept.append(int(k))
    return np.array(kept, int)


def _described(
    flow: Flow,
    points: Array,
    speeds: np.ndarray,
    x: Array,
    back: Callable[[Array], State],
    tolerance: float,
) -> FixedPoints:
    """Return the points with the dynamics near them."""
    by_state = np.asarray(jax.vmap(lambda h: jax.jacfwd(flow)(h, x))(points))
    by_input = np.asarray(jax.vmap(lambda h: jax.jacfwd(flow, 1)(h, x))(points))
    eigenvalues = np.linalg.eigvals(by_state).astype(complex)
    order = np.argsort(-abs(eigenvalues), axis=1, kind="stable")
    eigenvalues = np.take_along_axis(eigenvalues, order, axis=1)
    sizes = abs(eigenvalues)
    with np.errstate(divide="ignore"):
        time_constants = 1 / abs(np.log(sizes))
    return FixedPoints(
        states=jax.vmap(back)(points),
        speeds=speeds,
        is_fixed=speeds < tolerance,
        jacobians=by_state,
        input_jacobians=by_input.reshape(*by_input.shape[:2], x.size),
        eigenvalues=eigenvalues,
        is_stable=np.asarray((sizes < 1).all(1)) & (speeds < tolerance),
        time_constants=time_constants,
    )


def _check_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ArgumentError(f"{name}: expected above 0, got {number}.")
