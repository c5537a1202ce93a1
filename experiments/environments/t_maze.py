"""Walk along a corridor to a junction, and turn to where a sign at its begin has pointed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.environments.environment import Environment, Transition

NORTH, EAST, SOUTH, WEST = range(4)
FOUND, PENALTY = 4.0, -0.1
PATIENCE = 20  # steps for each one of the corridor, after which an episode is cut off


class TMaze(NamedTuple):
    """Hold whether the goal is in the north, the place in the corridor, and the steps taken."""

    north: Array
    place: Array
    steps: Array


def t_maze(length: int) -> Environment:
    """Build the environment: a corridor of ``length`` steps from the sign to the junction.

    An observation is 011 or 110 at the begin, where the sign says whether the goal is in the north
    or in the south, 101 in the corridor and 010 at the junction. The actions are to go north, east,
    south and west. At the junction the right turn has a reward of 4 and the wrong one of -0.1, and
    both end the episode; standing still, against a wall, has -0.1, and other steps have 0.

    Args:
      length: of the corridor.

    References:
      Bakker 2001, Reinforcement learning with long short-term memory. Departure: an episode is
      truncated after 20 steps for each one of the corridor.
    """
    limit = PATIENCE * length

    def observed(state: TMaze) -> Array:
        sign = jnp.where(state.north, jnp.array([0.0, 1, 1]), jnp.array([1.0, 1, 0]))
        corridor, junction = jnp.array([1.0, 0, 1]), jnp.array([0.0, 1, 0])
        along = jnp.where(state.place == length, junction, corridor)
        return jnp.where(state.place == 0, sign, along)

    def reset(key: Array) -> tuple[TMaze, Array]:
        state = TMaze(jax.random.bernoulli(key), jnp.int32(0), jnp.int32(0))
        return state, observed(state)

    def step(key: Array, state: TMaze, action: Array) -> tuple[TMaze, Transition]:
        turned = (state.place == length) & ((action == NORTH) | (action == SOUTH))
        right = turned & ((action == NORTH) == state.north)
        move = jnp.where(action == EAST, 1, jnp.where(action == WEST, -1, 0))
        place = jnp.clip(state.place + move, 0, length)
        still = ~turned & (place == state.place)
        reward = jnp.where(right, FOUND, jnp.where(turned | still, PENALTY, 0.0))
        state = state._replace(place=place, steps=state.steps + 1)
        return state, Transition(observed(state), reward, turned, state.steps >= limit)

    return Environment(reset, step, 3, 4, limit, lambda state: {"goal in the north": state.north})
