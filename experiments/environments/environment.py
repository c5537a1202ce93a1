"""Define an environment as two pure functions, and what may be put around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import where_flag

State = Any


class Transition(NamedTuple):
    """Hold what an action led to.

    Attributes:
      observation: ``[D]``, of the state that it led to; after the end of an episode too.
      reward: ``[]``.
      terminated: ``[]``, true where nothing comes after it.
      truncated: ``[]``, true where a limit of time has cut the episode off.
    """

    observation: Array
    reward: Array
    terminated: Array
    truncated: Array

    @property
    def ended(self) -> Array:
        """Return whether the episode is over."""
        return self.terminated | self.truncated


class Environment(NamedTuple):
    """Hold an environment with a few actions, for one agent; `jax.vmap` makes many of it.

    Attributes:
      reset: ``key -> (state, observation)``, the begin of an episode.
      step: ``(key, state, action) -> (state, Transition)`` with an action from 0 to A - 1.
      observation_size: D.
      actions: A.
      limit: the most steps of an episode.
      hidden: ``state -> {name: []}``, what one observation does not show, by which people may ask
        what a network remembers.
      picture: ``(state, action) -> uint8 [H, W, 3]``, of a state with numbers in place of arrays,
        and of what is done in it; None for none, and of those in this folder, which
        `experiments.figures.scenes` draws.
    """

    reset: Callable[[Array], tuple[State, Array]]
    step: Callable[[Array, State, Array], tuple[State, Transition]]
    observation_size: int
    actions: int
    limit: int
    hidden: Callable[[State], dict[str, Array]] = lambda state: {}
    picture: Callable[[State, int], Any] | None = None


def step_and_reset(
    environment: Environment, key: Array, state: State, action: Array
) -> tuple[State, Array, Transition]:
    """Take a step, and begin the next episode where it has ended one.

    Returns:
      The state and the observation to go on from, of the next episode where one has ended; and the
      transition, whose observation is that *before* the reset, by which a value is bootstrapped.
    """
    step_key, reset_key = jax.random.split(key)
    after, transition = environment.step(step_key, state, action)
    state, observation = where_flag(
        transition.ended, environment.reset(reset_key), (after, transition.observation)
    )
    return state, observation, transition


class Frames(NamedTuple):
    """Hold the state of an environment and the last observations, the newest last."""

    inner: State
    seen: Array


def stacked(environment: Environment, frames: int) -> Environment:
    """Let an observation be the last ``frames`` observations, the newest last.

    At the begin of an episode the first one stands in for those that there were not.

    References:
      Mnih et al. 2015, Human-level control through deep reinforcement learning.
    """
    if frames == 1:
        return environment

    def reset(key: Array) -> tuple[Frames, Array]:
        state, observation = environment.reset(key)
        seen = jnp.tile(observation, (frames, 1))
        return Frames(state, seen), seen.reshape(-1)

    def step(key: Array, state: Frames, action: Array) -> tuple[Frames, Transition]:
        inner, transition = environment.step(key, state.inner, action)
        seen = jnp.concatenate([state.seen[1:], transition.observation[None]])
        return Frames(inner, seen), transition._replace(observation=seen.reshape(-1))

    return environment._replace(
        reset=reset,
        step=step,
        observation_size=frames * environment.observation_size,
        hidden=lambda state: environment.hidden(state.inner),
    )


def innermost(state: State) -> State:
    """Return the state of the environment itself, whatever was put around it."""
    return innermost(state.inner) if isinstance(state, Frames) else state
