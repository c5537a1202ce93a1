"""Measure how gradients travel through time: their sizes, step Jacobians, Lyapunov exponents.

All functions work on any cell by its step. Axis letters: T time, B batch (any number of axes), N
numbers of the whole state, such as 2 H of an LSTM, in the order of `jax.flatten_util.ravel_pytree`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from recurrent.cell import Cell, Params, State, check_sizes, unroll
from recurrent.errors import ArgumentError


def state_gradients(
    cell: Cell, params: Params, xs: Any, loss: Callable[[Any], Array], state: State | None = None
) -> State:
    """Return the gradient of a loss with respect to the state that each step reads.

    Equation: ``dL / dh_{t-1}`` for every step t, where h_{t-1} reaches L through all later steps.
    One backward pass gives all of them: zeros are added to the states, and L is differentiated
    with respect to those. So no Jacobian is stored.

    Args:
      cell: the cell.
      params: of the cell.
      xs: inputs ``[T, ..., *cell.input_shape]``.
      loss: ``ys -> L``, from all outputs ``[T, ..., H]`` to a scalar.
      state: before the first step; the cell's initial state by default.

    Returns:
      A tree like the state, each leaf with an axis of T in front: at index t the gradient with
      respect to the state that step t reads. At index 0 that is the given state.

    Raises:
      ValueError: for a state that holds more than floating-point numbers, such as a counter, or a
        cell without a step.

    References:
      Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks,
      arXiv:1211.5063.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import elman
      >>> from recurrent.gradients import state_gradients
      >>> cell = elman(1, 1, activation=lambda z: z)
      >>> params = cell.init(jax.random.key(0))
      >>> params["recurrent"]["kernel"] = jnp.array([[0.5]])
      >>> found = state_gradients(cell, params, jnp.ones((4, 1)), lambda ys: ys[-1].sum())
      >>> found.hidden[:, 0].tolist()  # the last output depends on the first state by 0.5^4
      [0.0625, 0.125, 0.25, 0.5]
    """
    xs = _sequence(cell, xs, least=0)
    first = _first_state(cell, params, xs, state)

    def loss_of(nudges: State) -> Array:
        def body(state: State, inputs: Any) -> tuple[State, Any]:
            x, nudge = inputs
            return cell.step(params, jax.tree.map(jnp.add, state, nudge), x)

        return loss(lax.scan(body, first, (xs, nudges))[1])

    steps = xs.shape[0]
    zeros = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), first)
    return jax.grad(loss_of)(zeros)


def gradient_by_lag(
    cell: Cell, params: Params, xs: Any, key: Array, state: State | None = None
) -> Array:
    """Return how large the gradient is that reaches back a number of steps from the last output.

    It is the exponential of `log_gradient_by_lag`, whose arguments, values and errors it shares: 0
    or infinite where the numbers of its type do not reach.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import orthogonal_rnn
      >>> from recurrent.gradients import gradient_by_lag
      >>> cell = orthogonal_rnn(2, 8)
      >>> params = cell.init(jax.random.key(0))
      >>> sizes = gradient_by_lag(cell, params, jnp.ones((50, 3, 2)), jax.random.key(1))
      >>> sizes.shape
      (50, 3)
    """
    return jnp.exp(log_gradient_by_lag(cell, params, xs, key, state))


def log_gradient_by_lag(
    cell: Cell, params: Params, xs: Any, key: Array, state: State | None = None
) -> Array:
    """Return the log of the gradient that reaches back a number of steps from the last output.

    Equation: at index k, ``log |d(v . y_T) / dh_{T-1-k}|`` for one random unit vector v of each
    sequence. Where it falls with k the gradient vanishes, where it grows it explodes. The gradient
    is carried back by one vector-Jacobian product a step, and brought to length 1 after each, so
    that a log of any size is right.

    Args:
      cell: the cell, with outputs ``[..., H]``.
      params: of the cell.
      xs: inputs ``[T, ..., *cell.input_shape]``.
      key: the random key of v.
      state: before the first step; the cell's initial state by default.

    Returns:
      Logs of Euclidean norms ``[T, ...]``, in nats; at index 0 the state that the last step reads.
      Minus infinity from where nothing comes through at all.

    Raises:
      ValueError: as `state_gradients` does, and for no steps.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import elman
      >>> from recurrent.gradients import log_gradient_by_lag
      >>> cell = elman(1, 1, activation=lambda z: z)
      >>> params = cell.init(jax.random.key(0))
      >>> params["recurrent"]["kernel"] = jnp.array([[0.5]])
      >>> logs = log_gradient_by_lag(cell, params, jnp.ones((1000, 1)), jax.random.key(1))
      >>> round(float(logs[-1] / jnp.log(0.5)))  # 0.5^1000 has no float
      1000
    """
    xs = _sequence(cell, xs)
    ys = jax.eval_shape(partial(unroll, cell, method="scan"), params, xs, state)[1]
    v = jax.random.normal(key, ys.shape[1:], ys.dtype)
    v /= jnp.linalg.norm(v, axis=-1, keepdims=True)

    def one(xs: Array, given: tuple[State, Array]) -> Array:
        first, v = given
        flat, back = ravel_pytree(first)

        def ahead(h: Array, x: Array) -> tuple[Array, Array]:
            return _flat_step(cell, params, x, back)(h), h

        def last(h: Array) -> Array:
            return (cell.step(params, back(h), xs[-1])[1] * v).sum()

        def behind(carry: tuple[Array, Array], inputs: Any) -> Any:
            (gradient, log_size), (x, h) = carry, inputs
            (gradient,) = jax.vjp(_flat_step(cell, params, x, back), h)[1](gradient)
            gradient, size = _unit(gradient)
            return (gradient, log_size + jnp.log(size)), log_size + jnp.log(size)

        states = lax.scan(ahead, flat, xs)[1]
        gradient, size = _unit(jax.grad(last)(states[-1]))
        start = gradient, jnp.log(size)
        logs = lax.scan(behind, start, (xs[:-1], states[:-1]), reverse=True)[1]
        return jnp.concatenate([logs, start[1][None]])[::-1]

    return _each_sequence(one, cell, params, xs, state, v, time_in_front=True)


def step_jacobians(cell: Cell, params: Params, xs: Any, state: State | None = None) -> Array:
    """Return the derivative of each step's new state with respect to the state that it reads.

    Args:
      cell: the cell.
      params: of the cell.
      xs: inputs ``[T, ..., *cell.input_shape]``.
      state: before the first step; the cell's initial state by default.

    Returns:
      Matrices ``[T, ..., N, N]``, with ``J[i, j] = d new_i / d old_j``; T * B * N * N numbers.

    Raises:
      ValueError: as `state_gradients` does.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import lstm
      >>> from recurrent.gradients import step_jacobians
      >>> cell = lstm(2, 3)
      >>> params = cell.init(jax.random.key(0))
      >>> step_jacobians(cell, params, jnp.ones((5, 4, 2))).shape  # hidden and cell state: 2 * 3
      (5, 4, 6, 6)
    """

    def one(xs: Array, given: tuple[State]) -> Array:
        flat, back = ravel_pytree(given[0])

        def body(h: Array, x: Any) -> tuple[Array, Array]:
            new, push = jax.linearize(_flat_step(cell, params, x, back), h)
            return new, jax.vmap(push, 1, 1)(jnp.eye(h.size, dtype=h.dtype))

        return lax.scan(body, flat, xs)[1]

    return _each_sequence(one, cell, params, _sequence(cell, xs, 0), state, time_in_front=True)


class Product(NamedTuple):
    """Hold a product of matrices as a matrix of Frobenius norm 1 and the log of its norm.

    Attributes:
      matrix: ``[T, ..., N, N]``.
      log_norm: ``[T, ...]``, in nats.
    """

    matrix: Array
    log_norm: Array


def jacobian_products(jacobians: Any) -> Product:
    """Multiply step Jacobians up to each step, without overflow or underflow.

    Equation: ``P_t = J_t J_{t-1} ... J_1``, so that ``dh_t = P_t dh_0``.

    Args:
      jacobians: ``[T, ..., N, N]``, as from `step_jacobians`.

    Raises:
      ValueError: for what is no sequence of square matrices.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.gradients import jacobian_products
      >>> halves = jnp.tile(0.5 * jnp.eye(1), (2000, 1, 1))
      >>> found = jacobian_products(halves)
      >>> round(float(found.log_norm[-1] / jnp.log(0.5))), found.matrix[-1].tolist()
      (2000, [[1.0]])
    """
    jacobians = _square(jacobians)
    eye = jnp.broadcast_to(jnp.eye(jacobians.shape[-1], dtype=jacobians.dtype), jacobians.shape[1:])

    def body(carry: tuple[Array, Array], jacobian: Array) -> Any:
        matrix, log_norm = carry
        matrix = jacobian @ matrix
        norm = jnp.linalg.norm(matrix, axis=(-2, -1), keepdims=True)
        matrix = jnp.where(norm > 0, matrix / jnp.where(norm > 0, norm, 1), 0)
        log_norm += jnp.log(norm[..., 0, 0])
        return (matrix, log_norm), Product(matrix, log_norm)

    start = eye, jnp.zeros(jacobians.shape[1:-2], jacobians.dtype)
    return lax.scan(body, start, jacobians)[1]


def singular_values(jacobians: Any) -> Array:
    """Return the singular values ``[..., N]`` of matrices ``[..., N, N]``, the largest first.

    Raises:
      ValueError: for what is no sequence of square matrices.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.gradients import singular_values
      >>> singular_values(jnp.array([[[0.0, -3.0], [2.0, 0.0]]])).round().tolist()
      [[3.0, 2.0]]
    """
    return jnp.linalg.svd(_precise(_square(jacobians)), compute_uv=False)


def spectral_radius(jacobians: Any) -> Array:
    """Return the largest absolute value of an eigenvalue ``[...]`` of matrices ``[..., N, N]``.

    JAX finds eigenvalues of matrices that are not symmetric on a CPU alone.

    Raises:
      ValueError: for what is no sequence of square matrices.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.gradients import spectral_radius
      >>> round(float(spectral_radius(jnp.array([[[0.0, -4.0], [1.0, 0.0]]]))[0]), 4)
      2.0
    """
    return abs(jnp.linalg.eigvals(_precise(_square(jacobians)))).max(-1)


def lyapunov_exponents(
    cell: Cell,
    params: Params,
    xs: Any,
    key: Array,
    state: State | None = None,
    *,
    count: int | None = None,
    warmup: int = 0,
) -> Array:
    """Estimate the Lyapunov exponents of a cell that is driven by a sequence.

    They are the rates at which small differences between states grow (above 0) or shrink (below
    0), in nats a step. The largest one is also the rate at which gradients explode or vanish.

    Equation: with orthonormal ``Q_0 [N, count]``, ``J_t Q_{t-1} = Q_t R_t`` (QR decomposition);
    the exponents are the means over time of ``log |diag R_t|``, sorted: for long sequences they
    are in that order anyway. The products with J_t are Jacobian-vector products, so with
    ``count=1`` no Jacobian is ever formed.

    Args:
      cell: the cell.
      params: of the cell.
      xs: inputs ``[T, ..., *cell.input_shape]``.
      key: the random key of ``Q_0``.
      state: before the first step; the cell's initial state by default.
      count: how many, the largest first; all N by default.
      warmup: steps at the beginning that turn Q but are not averaged.

    Returns:
      ``[..., count]``, float32 at least. They converge as T grows; a direction that is lost in one
      step that is averaged, as by a singular J_t, has minus infinity.

    Raises:
      ValueError: for a count that is not from 1 to N, or a warmup that leaves no step; and as
        `state_gradients` does.

    References:
      Benettin et al. 1980, Lyapunov characteristic exponents for smooth dynamical systems; of
      recurrent networks: Vogt et al. 2022, On Lyapunov exponents for RNNs, arXiv:2006.14123, and
      Engelken et al. 2023, arXiv:2006.02427.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import elman
      >>> from recurrent.gradients import lyapunov_exponents
      >>> cell = elman(1, 2, activation=lambda z: z)
      >>> params = cell.init(jax.random.key(0))
      >>> params["recurrent"]["kernel"] = jnp.diag(jnp.array([0.5, 0.25]))
      >>> found = lyapunov_exponents(cell, params, jnp.ones((200, 1)), jax.random.key(1), warmup=50)
      >>> jnp.exp(found).round(3).tolist()
      [0.5, 0.25]
    """
    xs = _sequence(cell, xs)
    steps = xs.shape[0]
    if not 0 <= warmup < steps:
        raise ArgumentError(f"warmup: expected 0 to {steps - 1} of {steps} steps, got {warmup}.")

    def one(xs: Array, given: tuple[State]) -> Array:
        flat, back = ravel_pytree(given[0])
        some = _count(count, flat.size)
        start = _orthonormal(_precise(jax.random.normal(key, (flat.size, some), flat.dtype)))[0]

        def body(carry: tuple[Array, Array], x: Any) -> tuple[tuple[Array, Array], Array]:
            h, q = carry
            new, push = jax.linearize(_flat_step(cell, params, x, back), h)
            moved = jax.vmap(push, 1, 1)(q.astype(h.dtype)).astype(q.dtype)
            q, sizes = _orthonormal(moved, start)
            return (new, q), jnp.log(sizes)

        exponents = lax.scan(body, (flat, start), xs)[1][warmup:].mean(0)
        return jnp.sort(exponents, descending=True)

    return _each_sequence(one, cell, params, xs, state, time_in_front=False)


def _orthonormal(q: Array, fresh: Array | None = None) -> tuple[Array, Array]:
    """Return an orthonormal base of the columns, and how long each is beside those before it.

    Args:
      q: columns ``[N, count]``.
      fresh: what a single column that is 0 becomes, since nothing is left of its direction.
    """
    if q.shape[1] > 1:
        q, r = jnp.linalg.qr(q)
        return q, abs(jnp.diagonal(r))
    unit, size = _unit(q)  # without a factorization in each step
    return (unit if fresh is None else jnp.where(size > 0, unit, fresh)), size[None]


def _unit(vector: Array) -> tuple[Array, Array]:
    """Return a vector of length 1 in this direction, 0 where there is none, and the length.

    It is divided by its largest entry first, since squares of small ones are 0.
    """
    largest = abs(vector).max()
    scaled = jnp.where(largest > 0, vector / jnp.where(largest > 0, largest, 1), 0)
    norm = jnp.linalg.norm(scaled)
    return jnp.where(largest > 0, scaled / jnp.where(largest > 0, norm, 1), 0), largest * norm


def _precise(array: Array) -> Array:
    """Return an array in float32 at least, for linear algebra, which has no narrower numbers."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _flat_step(
    cell: Cell, params: Params, x: Any, back: Callable[[Array], State]
) -> Callable[[Array], Array]:
    """Return the step as a function of the state as one vector ``[N]``."""
    return lambda h: ravel_pytree(cell.step(params, back(h), x)[0])[0]


def _each_sequence(
    one: Callable[[Array, Any], Array],
    cell: Cell,
    params: Params,
    xs: Array,
    state: State | None,
    *more: Array,
    time_in_front: bool,
) -> Array:
    """Apply a function of a sequence ``[T, D]``, its first state and more to all of a batch."""
    first = _first_state(cell, params, xs, state)
    axes = xs.ndim - 1 - len(cell.input_shape)  # of the batch
    run = one
    for _ in range(axes):
        run = jax.vmap(run, in_axes=(1, 0), out_axes=1 if time_in_front else 0)
    return run(xs, (first, *more))


def _sequence(cell: Cell, xs: Any, least: int = 1) -> Array:
    """Return inputs as an array, of so many steps at least.

    Raises:
      ValueError: for inputs of another shape.
    """
    xs = jnp.asarray(xs)
    if xs.ndim < 1 + len(cell.input_shape):
        shape = ", ".join(["T", "...", *map(str, cell.input_shape)])
        raise ArgumentError(f"xs: expected the shape [{shape}], got {list(xs.shape)}.")
    if len(xs) < least:
        raise ArgumentError("xs: expected one step or more, got none.")
    return xs


def _first_state(cell: Cell, params: Params, xs: Array, state: State | None) -> State:
    """Return the state before the first step, after the checks of `unroll`.

    Raises:
      ValueError: where it is not made of floating-point numbers alone.
    """
    jax.eval_shape(partial(unroll, cell, method="scan"), params, xs, state)
    if state is None:
        axes = xs.ndim - len(cell.input_shape)
        state = cell.initial_state(params, xs.shape[1:axes])
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(state)}
    if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ArgumentError(
            "cell: expected a state of floating-point numbers alone, got "
            f"{', '.join(sorted(kinds))}; a cell that counts its steps has no Jacobian."
        )
    return state


def _count(count: int | None, size: int) -> int:
    """Return how many exponents are asked for, of a state of ``size`` numbers."""
    if count is None:
        return size
    check_sizes(count=count)
    if count > size:
        raise ArgumentError(
            f"count: expected at most N = {size} numbers of the state, got {count}."
        )
    return count


def _square(jacobians: Any) -> Array:
    """Check that the last two axes are alike.

    Raises:
      ValueError: where they are not, or there are none.
    """
    jacobians = jnp.asarray(jacobians)
    if jacobians.ndim < 3 or jacobians.shape[-1] != jacobians.shape[-2]:
        raise ArgumentError(
            f"jacobians: expected the shape [T, ..., N, N], got {list(jacobians.shape)}."
        )
    return jacobians
