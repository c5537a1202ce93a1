"""Make an environment of a few steps, whose observation is the number of steps taken."""

import jax.numpy as jnp
from jax import Array

from experiments.environments.environment import Environment, Transition


def countdown(steps: int, ends: str) -> Environment:
    """Return an environment whose episodes end after so many steps.

    Args:
      steps: of an episode.
      ends: ``"terminated"`` or ``"truncated"``.
    """

    def observed(taken: Array) -> Array:
        return taken.astype(jnp.float32)[None]

    def reset(key: Array) -> tuple[Array, Array]:
        return jnp.int32(0), observed(jnp.int32(0))

    def step(key: Array, taken: Array, action: Array) -> tuple[Array, Transition]:
        taken = taken + 1
        flags = {"terminated": jnp.bool_(False), "truncated": jnp.bool_(False)}
        flags[ends] = taken == steps
        reward = 1.0 + action.astype(jnp.float32)
        return taken, Transition(observed(taken), reward, **flags)

    return Environment(reset, step, observation_size=1, actions=2, limit=steps)
