"""Build cells that are made to remember over thousands of steps, without being linear.

Where a function takes ``**options``, they are the initializers and ``compute_dtype`` of
`recurrent.gated`, whose docstring also describes the params and the errors.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.nn import sigmoid

from recurrent.cell import Cell, Params, check_sizes, in_one_type
from recurrent.cells._gated_loop import Blocks
from recurrent.cells._named import named
from recurrent.cells.gates import Hidden, gated, gated_cell, reparametrized
from recurrent.errors import ArgumentError
from recurrent.initializers import Initializer, orthogonal, resolve
from recurrent.linear_map import dense_maps, product


class LEMState(NamedTuple):
    """Hold the state of a LEM: ``hidden`` is y and ``memory`` is z, each ``[..., H]``."""

    hidden: Array
    memory: Array


def lem(
    input_size: int,
    hidden_size: int,
    *,
    step_size: float = 1.0,
    recurrent_init: Initializer | str = "orthogonal",
    compute_dtype: Any = None,
    **options: Any,
) -> Cell:
    """Build a long expressive memory (LEM): two states, each with learned time steps of its own.

    Equation, with ``a = x_t W_x + y_{t-1} W_h + b`` in the gate order s, m, z:
    ``z_t = (1 - d) z_{t-1} + d tanh(a_z)``, ``d = step_size sigmoid(a_m)``;
    ``y_t = (1 - e) y_{t-1} + e tanh(x_t W_y + z_t W_n + b_y)``, ``e = step_size sigmoid(a_s)``.
    The output is y_t; W_n is ``params["gate"]["kernel"]``, ``[H, H]``.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      step_size: the longest time step, above 0 and up to 1.
      recurrent_init: draws each gate's block ``[H, H]``, W_n included.
      compute_dtype: the type of the products' operands, as in `recurrent.gated`.
      **options: initializers, as in `recurrent.gated`.

    Raises:
      ValueError: for a size below 1, or a step size outside of its range.

    References:
      Rusch et al. 2022, Long expressive memory for sequence modeling, arXiv:2110.04744.
      Departures: step_size is at most 1, so that the states stay within -1 and 1; W_h is
      orthogonal at first.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import lem, unroll
      >>> cell = lem(input_size=3, hidden_size=4, step_size=0.01)
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> state, ys = unroll(cell, params, xs)
      >>> ys.shape, state.memory.shape, bool((abs(ys) < 0.05).all())  # it moves by 0.01 at most
      ((5, 2, 4), (2, 4), True)
    """
    if not isinstance(step_size, Tracer) and not 0 < step_size <= 1:
        raise ArgumentError(f"step_size: expected above 0 and at most 1, got {step_size}.")
    draw = resolve(recurrent_init, "recurrent_init")

    def gate(zx: Blocks, zh: Blocks, state: LEMState, kernel: Array) -> LEMState:
        of_hidden, of_memory, candidate = map(jnp.add, zx[:3], zh)
        d = step_size * named("memory_step", sigmoid, of_memory)
        e = step_size * named("hidden_step", sigmoid, of_hidden)
        memory = (1 - d) * state.memory + d * named("memory", jnp.tanh, candidate)
        new = named("hidden", jnp.tanh, zx[3] + product(memory, kernel, compute_dtype))
        return LEMState((1 - e) * state.hidden + e * new, memory)

    return gated(
        gate,
        input_size,
        hidden_size,
        gates=("hidden_step", "memory_step", "memory", "hidden"),
        recurrent_gates=3,
        state=LEMState,
        recurrent_init=recurrent_init,
        gate_params=lambda key: {"kernel": draw(key, (hidden_size, hidden_size))},
        compute_dtype=compute_dtype,
        **options,
    )


def orthogonal_rnn(
    input_size: int,
    hidden_size: int,
    *,
    input_init: Initializer | str = "glorot_uniform",
    compute_dtype: Any = None,
) -> Cell:
    """Build an Elman network whose recurrent matrix is orthogonal throughout the training.

    Neither states nor gradients can then grow or vanish by that matrix. It is computed, by a solver
    in O(H^3), once for a sequence that `recurrent.unroll` reads, but in each step of ``cell.step``.

    Equation: ``h_t = f(Q h_{t-1} + V x_t)``, ``y_t = h_t``, with the Cayley transform
    ``Q = (I + S)^-1 (I - S)`` of ``S = A - A^T``, and ``f(z) = sign(z) relu(|z| + b)`` (modReLU).

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      input_init: draws V, ``[D, H]``.
      compute_dtype: the type of the products' operands, as in `recurrent.gated`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, H]}, "recurrent": {"kernel": [H, H]},
      "gate": {"bias": [H]}}``, where the recurrent kernel is A and the last is b, and the state
      `Hidden`. At first b is 0, so that f is the identity, and Q turns by angles from 0 to pi / 2.

    Raises:
      ValueError: for a size below 1, or an unknown initializer.

    References:
      Helfrich et al. 2018, Orthogonal recurrent neural networks with scaled Cayley transform,
      arXiv:1707.09520; modReLU: Arjovsky et al. 2016, arXiv:1511.06464. Departures: Q is not
      scaled by signs, so an eigenvalue of -1 is a limit that it does not reach; A has all its
      elements, of which those above and below the diagonal act as one; the planes in which Q
      turns at first are drawn at random, instead of spanned by neighboring units.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import orthogonal_rnn, unroll
      >>> cell = orthogonal_rnn(input_size=3, hidden_size=4)
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.zeros((1000, 3)).at[0].set(1.0)  # one input, and then none
      >>> norms = jnp.linalg.norm(unroll(cell, params, xs)[1], axis=-1)
      >>> bool(jnp.allclose(norms, norms[0], rtol=1e-3))  # which is not forgotten
      True
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    input_init = resolve(input_init, "input_init")

    def init(key: Array) -> Params:
        input_key, recurrent_key = jax.random.split(key)
        kernel = input_init(input_key, (input_size, hidden_size))
        return {
            "input": {"kernel": kernel},
            "recurrent": {"kernel": turning(recurrent_key, hidden_size)},
            "gate": {"bias": jnp.zeros(hidden_size)},
        }

    def gate(own: dict[str, Array], zx: Blocks, zh: Blocks, state: Hidden) -> Hidden:
        z = zx[0] + zh[0]
        return Hidden(jnp.sign(z) * jax.nn.relu(jnp.abs(z) + own["bias"]))

    def transformed(params: Params) -> Params:
        params = in_one_type(params)
        return params | {"recurrent": {"kernel": cayley(params["recurrent"]["kernel"])}}

    maps = dense_maps(compute_dtype)
    cell = gated_cell(init, gate, (input_size,), Hidden, [(hidden_size,)], maps)
    return reparametrized(cell, transformed)


def cayley(kernel: Array) -> Array:
    """Return an orthogonal matrix: the transpose of Q of `orthogonal_rnn`, from its A.

    It is computed in float32 or wider, which the solver needs.
    """
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    skew, one = wide - wide.T, jnp.eye(len(kernel), dtype=wide.dtype)
    return jnp.linalg.solve(one - skew, one + skew).astype(kernel.dtype)  # Q^T, as S^T = -S


def turning(key: Array, size: int) -> Array:
    """Draw a kernel ``[size, size]`` by which `orthogonal_rnn` turns in random planes.

    There are ``size // 2`` of them, at right angles to each other, with angles that are uniform
    from 0 to pi / 2.
    """
    angle_key, plane_key = jax.random.split(key)
    angles = jax.random.uniform(angle_key, (size // 2,), maxval=jnp.pi / 2)
    planes = orthogonal(plane_key, (size, size))
    first = planes[:, 0 : 2 * len(angles) : 2] * jnp.tan(angles / 2)
    return first @ planes[:, 1 : 2 * len(angles) : 2].T
