"""Remember for some steps what was shown in the first one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.environments.environment import Environment, Transition


class MemoryChain(NamedTuple):
    """Hold the cue, 0 or 1, and the steps taken."""

    cue: Array
    steps: Array


def memory_chain(length: int) -> Environment:
    """Build the environment: a cue is shown first, and asked for ``length`` steps later.

    An observation has the share of the time that is left, 1 where the cue is asked for, and the cue
    as -1 or 1, which is 0 after the first step. There are two actions; the one at the question is
    rewarded with 1 where it names the cue and with -1 otherwise, and ends the episode. All others
    make no difference.

    Args:
      length: the steps between the cue and the question.

    References:
      Osband et al. 2020, Behaviour suite for reinforcement learning, arXiv:1908.03568: memory
      length, with one bit of context. Departure: there the reward comes a step after the question.
    """

    def observed(state: MemoryChain) -> Array:
        left = 1 - state.steps / length
        asked = state.steps == length
        cue = jnp.where(state.steps == 0, 2 * state.cue - 1, 0)
        return jnp.stack([left, asked, cue]).astype(jnp.float32)

    def reset(key: Array) -> tuple[MemoryChain, Array]:
        state = MemoryChain(jax.random.bernoulli(key).astype(jnp.int32), jnp.int32(0))
        return state, observed(state)

    def step(key: Array, state: MemoryChain, action: Array) -> tuple[MemoryChain, Transition]:
        asked = state.steps == length
        reward = jnp.where(asked, jnp.where(action == state.cue, 1.0, -1.0), 0.0)
        state = state._replace(steps=state.steps + 1)
        return state, Transition(observed(state), reward, asked, jnp.bool_(False))

    return Environment(reset, step, 3, 2, length + 1, lambda state: {"cue": state.cue})
