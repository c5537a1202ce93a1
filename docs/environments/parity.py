"""An environment of one's own: say at each step whether the ones so far were even or odd.

Command: ./launch.sh recurrent_ppo --environment=docs/environments/parity.py:parity --length=20
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.environments.environment import Environment, Transition


class Ones(NamedTuple):
    """Hold whether the ones so far are odd, 0 or 1, and the steps taken."""

    odd: Array
    steps: Array


def parity(length: int) -> Environment:
    """Show ``length`` random bits, one a step, and reward an answer by 1 where it is right."""

    def reset(key: Array) -> tuple[Ones, Array]:
        bit = jax.random.bernoulli(key).astype(jnp.float32)
        return Ones(bit, jnp.int32(0)), bit[None]

    def step(key: Array, state: Ones, action: Array) -> tuple[Ones, Transition]:
        reward = (action == state.odd).astype(jnp.float32)
        bit = jax.random.bernoulli(key).astype(jnp.float32)
        state = Ones((state.odd + bit) % 2, state.steps + 1)
        ended = state.steps >= length
        return state, Transition(bit[None], reward, ended, jnp.bool_(False))

    return Environment(
        reset,
        step,
        observation_size=1,
        actions=2,
        limit=length,
        hidden=lambda state: {"odd": state.odd},
    )
