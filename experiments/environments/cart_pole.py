"""Balance a pole on a cart by pushing it to the left or to the right."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.environments.environment import Environment, Transition

GRAVITY = 9.8  # m / s^2
CART, POLE = 1.0, 0.1  # kg
HALF_LENGTH = 0.5  # m, of the pole
FORCE = 10.0  # N
INTERVAL = 0.02  # s
FARTHEST = 2.4  # m
STEEPEST = 12 * math.pi / 180
START = 0.05  # the four numbers start within plus and minus that
LIMIT = 500


class CartPole(NamedTuple):
    """Hold position (m), velocity, angle (from upright, to the right) and angular velocity."""

    x: Array
    v: Array
    angle: Array
    spin: Array
    steps: Array


def accelerations(force: Any, angle: Any, spin: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """Return the angular acceleration of the pole and the acceleration of the cart.

    Equation, with F the force, m and M the masses of pole and cart, l half the length::

        u = (F + m l spin^2 sin(angle)) / (m + M)
        angular = (g sin(angle) - cos(angle) u) / (l (4/3 - m cos(angle)^2 / (m + M)))
        linear = u - m l angular cos(angle) / (m + M)
    """
    total = CART + POLE
    push = (force + POLE * HALF_LENGTH * spin**2 * sin) / total
    inertia = HALF_LENGTH * (4 / 3 - POLE * cos**2 / total)
    angular = (GRAVITY * sin - cos * push) / inertia
    return angular, push - POLE * HALF_LENGTH * angular * cos / total


def moved(state: CartPole, action: Array) -> CartPole:
    """Move by one interval with Euler's method: positions by the old velocities."""
    force = jnp.where(action == 1, FORCE, -FORCE)
    cos, sin = jnp.cos(state.angle), jnp.sin(state.angle)
    angular, linear = accelerations(force, state.angle, state.spin, cos, sin)
    return CartPole(
        x=state.x + INTERVAL * state.v,
        v=state.v + INTERVAL * linear,
        angle=state.angle + INTERVAL * state.spin,
        spin=state.spin + INTERVAL * angular,
        steps=state.steps + 1,
    )


def cart_pole(*, velocities: bool = True) -> Environment:
    """Build the environment: a reward of 1 for each step until the pole falls or the cart leaves.

    An episode terminates beyond 12 degrees or 2.4 m, and is truncated after 500 steps. It is
    gymnasium's CartPole-v1, in float32.

    Args:
      velocities: whether the observation has them: position, velocity, angle, angular velocity;
        without them it is position and angle, and one observation does not say where the pole
        moves.

    References:
      Barto, Sutton & Anderson 1983, Neuronlike adaptive elements that can solve difficult learning
      control problems. Departure: no friction, as in gymnasium.
    """

    def observed(state: CartPole) -> Array:
        numbers = state[:4] if velocities else (state.x, state.angle)
        return jnp.stack(numbers)

    def reset(key: Array) -> tuple[CartPole, Array]:
        x, v, angle, spin = jax.random.uniform(key, (4,), minval=-START, maxval=START)
        state = CartPole(x, v, angle, spin, jnp.int32(0))
        return state, observed(state)

    def step(key: Array, state: CartPole, action: Array) -> tuple[CartPole, Transition]:
        state = moved(state, action)
        fallen = (jnp.abs(state.x) > FARTHEST) | (jnp.abs(state.angle) > STEEPEST)
        over = state.steps >= LIMIT
        return state, Transition(observed(state), jnp.float32(1), fallen, over)

    def hidden(state: CartPole) -> dict[str, Array]:
        return {"velocity": state.v, "angular velocity": state.spin}

    return Environment(reset, step, 4 if velocities else 2, 2, LIMIT, hidden)
