"""Let a recurrent policy act in many environments at once."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

import recurrent
from experiments.environments.environment import Environment, Transition, step_and_reset
from experiments.shared.moments import Moments, no_moments, standardized
from recurrent.cell import where_flag
from recurrent.policy_gradient import categorical_log_prob


class Agent(NamedTuple):
    """Hold an environment and the network that acts in it.

    Attributes:
      environment: of one agent.
      core: a cell that reads `seen`, and remembers or does not.
      policy: from its outputs to the logits of the actions.
      value: from its outputs to the expected return ``[..., 1]``.
      reads_action: whether it reads its last action. A policy without memory must not: where
        actions are free, it could write down in each what it has to remember for the next.
    """

    environment: Environment
    core: recurrent.Cell
    policy: recurrent.Layer
    value: recurrent.Layer
    reads_action: bool = True


class Kept(NamedTuple):
    """Hold what acting needs: the params, and the moments of the observations."""

    params: Any
    moments: Moments


class Actors(NamedTuple):
    """Hold where N environments are, and what is known before their next actions.

    Attributes:
      state: of the environments.
      observation: ``[N, D]``.
      action: the one that led to it ``[N]``.
      start: whether it is the first one of an episode ``[N]``.
      carry: of the core, after the observation before; to be reset where an episode starts.
      score: the sum of the rewards of the episode ``[N]``.
    """

    state: Any
    observation: Array
    action: Array
    start: Array
    carry: Any
    score: Array


class Step(NamedTuple):
    """Hold one step of N actors.

    Attributes:
      observation: that was acted on ``[N, D]``.
      inputs: of the core ``[N, I]``.
      output: of the core ``[N, H]``, by which the action is chosen.
      start: as in `Actors`, which resets the carry before the inputs are read.
      action: that was taken ``[N]``.
      log_prob: of the action ``[N]``.
      value: expected of the inputs ``[N]``.
      transition: that it led to, its observation being that before any reset.
      carry: of the core after the inputs, before any reset.
      score: the sum of the rewards of the episode so far ``[N]``.
    """

    observation: Array
    inputs: Array
    output: Array
    start: Array
    action: Array
    log_prob: Array
    value: Array
    transition: Transition
    carry: Any
    score: Array


def init(agent: Agent, key: Array) -> Any:
    """Draw the params of the network."""
    keys = jax.random.split(key, 3)
    parts = {"core": agent.core, "policy": agent.policy, "value": agent.value}
    return {name: part.init(own) for (name, part), own in zip(parts.items(), keys, strict=True)}


def untrained(agent: Agent, key: Array) -> Kept:
    """Return the network before the first observation."""
    return Kept(init(agent, key), no_moments((agent.environment.observation_size,)))


def input_size(environment: Environment, *, reads_action: bool = True) -> int:
    """Return how many numbers `seen` returns."""
    return environment.observation_size + reads_action * environment.actions + 1


def seen(agent: Agent, moments: Moments, observation: Array, action: Array, start: Array) -> Array:
    """Return what the core reads: the observation, the action before it, and whether it starts."""
    before = jax.nn.one_hot(action, agent.environment.actions) * ~start[..., None]
    scaled = standardized(moments, observation)
    parts = [scaled, before] if agent.reads_action else [scaled]
    return jnp.concatenate([*parts, start[..., None]], axis=-1)


def judged(agent: Agent, params: Any, ys: Array) -> tuple[Array, Array]:
    """Return the logits of the actions and the values, of outputs of the core."""
    value = agent.value.apply(params["value"], ys)[..., 0]
    return agent.policy.apply(params["policy"], ys), value


def begun(agent: Agent, params: Any, keys: Array) -> Actors:
    """Begin an episode for each key."""
    state, observation = jax.vmap(agent.environment.reset)(keys)
    count = len(keys)
    return Actors(
        state=state,
        observation=observation,
        action=jnp.zeros(count, jnp.int32),
        start=jnp.ones(count, bool),
        carry=agent.core.initial_state(params["core"], (count,)),
        score=jnp.zeros(count),
    )


def act(
    agent: Agent, kept: Kept, actors: Actors, keys: Array, *, greedy: bool = False
) -> tuple[Actors, Step]:
    """Take one step in each environment; where an episode has ended, the next one begins.

    Args:
      agent: that acts.
      kept: its params and moments.
      actors: where they are.
      keys: one for each.
      greedy: whether to take the likeliest action, and not one drawn from the policy.
    """
    params = kept.params
    inputs = seen(agent, kept.moments, actors.observation, actors.action, actors.start)
    fresh = agent.core.initial_state(params["core"], actors.start.shape)
    carry = where_flag(actors.start, fresh, actors.carry)
    carry, ys = agent.core.step(params["core"], carry, inputs)
    logits, value = judged(agent, params, ys)
    action_keys, step_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    drawn = logits.argmax(-1) if greedy else jax.vmap(jax.random.categorical)(action_keys, logits)
    action = drawn.astype(jnp.int32)
    step = jax.vmap(partial(step_and_reset, agent.environment))
    state, observation, transition = step(step_keys, actors.state, action)
    score = actors.score + transition.reward
    ended = transition.ended
    done = Step(
        observation=actors.observation,
        inputs=inputs,
        output=ys,
        start=actors.start,
        action=action,
        log_prob=categorical_log_prob(logits, action),
        value=value,
        transition=transition,
        carry=carry,
        score=score,
    )
    return Actors(state, observation, action, ended, carry, jnp.where(ended, 0, score)), done


def rollout(
    agent: Agent, kept: Kept, actors: Actors, key: Array, steps: int
) -> tuple[Actors, Step]:
    """Act for some steps; return the steps stacked, ``[T, N, ...]``."""
    keys = jax.random.split(key, (steps, len(actors.start)))

    def body(actors: Actors, keys: Array) -> tuple[Actors, Step]:
        return act(agent, kept, actors, keys)

    return lax.scan(body, actors, keys)


def next_values(agent: Agent, kept: Kept, steps: Step) -> Array:
    """Return the values of the observations that the steps led to, before any reset ``[T, N]``.

    The core reads each of them as it would have, had the episode gone on.
    """
    observation = steps.transition.observation
    inputs = seen(agent, kept.moments, observation, steps.action, jnp.zeros_like(steps.start))
    shape = steps.start.shape

    def in_one_row(leaf: Array) -> Array:
        return leaf.reshape(-1, *leaf.shape[len(shape) :])

    carry, inputs = jax.tree.map(in_one_row, (steps.carry, inputs))
    _, ys = agent.core.step(kept.params["core"], carry, inputs)
    return judged(agent, kept.params, ys)[1].reshape(shape)


class Episodes(NamedTuple):
    """Hold the returns ``[N]`` of whole episodes, and how many steps they took ``[N]``."""

    returns: Array
    lengths: Array


def played(agent: Agent, kept: Kept, keys: Array, *, greedy: bool) -> Episodes:
    """Play an episode for each key, and no further than the longest of them goes.

    An episode depends on its own key alone.
    """
    count = len(keys)

    def goes_on(loop: Any) -> Array:
        t, _, _, _, alive = loop
        return alive.any() & (t < agent.environment.limit)

    def body(loop: Any) -> Any:
        t, actors, returns, lengths, alive = loop
        actors, step = act(agent, kept, actors, keys_at(keys, t + 1), greedy=greedy)
        returns = returns + jnp.where(alive, step.transition.reward, 0)
        return t + 1, actors, returns, lengths + alive, alive & ~step.transition.ended

    first = jnp.int32(0), begun(agent, kept.params, keys_at(keys, 0)), jnp.zeros(count)
    loop = lax.while_loop(goes_on, body, (*first, jnp.zeros(count, jnp.int32), first[1].start))
    return Episodes(loop[2], loop[3])


def keys_at(keys: Array, t: Any) -> Array:
    """Return the keys of step t of episodes, counted from 1; with those of step 0 they begin."""
    return jax.vmap(partial(jax.random.fold_in, data=t))(keys)


def watched(agent: Agent, kept: Kept, keys: Array, steps: int, *, greedy: bool) -> tuple[Any, Step]:
    """Play episodes as `played` does for some steps; return each with the state before it.

    What follows the first end of an episode belongs to the next one. The carries, which may be
    large, are left out.
    """

    def body(actors: Actors, t: Array) -> tuple[Actors, Any]:
        after, step = act(agent, kept, actors, keys_at(keys, t + 1), greedy=greedy)
        return after, (actors.state, step._replace(carry=()))

    first = begun(agent, kept.params, keys_at(keys, 0))
    return lax.scan(body, first, jnp.arange(steps))[1]
