"""Policies act as a plain loop over single environments does, and remember one episode at most."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from experiments.environments.cart_pole import cart_pole
from experiments.environments.environment import Environment
from experiments.shared import acting
from experiments.shared.acting import Agent, Kept
from experiments.shared.moments import Moments
from tests.experiments.countdown import countdown

N, T = 3, 9


def running_sum(size: int) -> recurrent.Cell:
    return recurrent.Cell(
        init=lambda key: {},
        initial_state=lambda params, batch_shape: jnp.zeros((*batch_shape, size)),
        step=lambda params, state, x: (state + x, state + x),
        input_shape=(size,),
    )


def agent_of(environment: Environment, core: Any = running_sum) -> Agent:
    size = acting.input_size(environment)
    cell = core(size)
    (width,) = recurrent.output_shape(cell)
    return Agent(
        environment,
        cell,
        recurrent.dense(width, environment.actions),
        recurrent.dense(width, 1),
    )


def kept_of(agent: Agent, seed: int = 0) -> Kept:
    """Params, and moments by which an observation is the half of what is seen."""
    size = agent.environment.observation_size
    moments = Moments(jnp.zeros(size), jnp.full(size, 0.25), jnp.float32(1))
    return Kept(acting.init(agent, jax.random.key(seed)), moments)


@pytest.fixture(scope="module", params=["terminated", "truncated"])
def counted(request: pytest.FixtureRequest) -> tuple[Agent, Kept, Any]:
    """Nine steps in episodes of four."""
    agent = agent_of(countdown(4, request.param))
    kept = kept_of(agent)

    @jax.jit
    def run() -> Any:
        actors = acting.begun(agent, kept.params, jax.random.split(jax.random.key(1), N))
        return acting.rollout(agent, kept, actors, jax.random.key(2), T)[1]

    return agent, kept, run()


@pytest.mark.long
def test_the_network_sees_the_observation_the_action_before_and_the_start(counted: Any) -> None:
    _, _, steps = counted
    taken = np.array([0, 1, 2, 3, 0, 1, 2, 3, 0])
    np.testing.assert_allclose(steps.inputs[:, 0, 0], 2 * taken, rtol=1e-6)
    np.testing.assert_array_equal(steps.start, np.tile(taken == 0, (N, 1)).T)
    np.testing.assert_array_equal(steps.inputs[..., 3], steps.start)
    for n in range(N):
        for t in range(T):
            before = np.zeros(2) if taken[t] == 0 else np.eye(2)[steps.action[t - 1, n]]
            np.testing.assert_array_equal(steps.inputs[t, n, 1:3], before)


def test_what_is_remembered_is_of_this_episode_from_its_first_step_on(counted: Any) -> None:
    """A reset one step late would keep the first step of an episode out, or the last one in."""
    _, _, steps = counted
    inputs = np.asarray(steps.inputs, float)
    for t in range(T):
        first = 4 * (t // 4)
        np.testing.assert_allclose(steps.carry[t], inputs[first : t + 1].sum(0), rtol=1e-6)


@pytest.mark.long
def test_the_value_after_a_step_is_that_of_the_observation_before_the_reset(counted: Any) -> None:
    agent, kept, steps = counted
    found = acting.next_values(agent, kept, steps)
    for t in range(T):
        for n in range(N):
            reached = 2.0 * (t % 4 + 1)  # also where an episode ends, at 4
            seen = [reached, *np.eye(2)[steps.action[t, n]], 0]
            y = np.asarray(steps.carry[t, n]) + seen
            value = y @ np.asarray(kept.params["value"]["kernel"])[:, 0]
            assert float(found[t, n]) == pytest.approx(value, rel=1e-5, abs=1e-5)
    goes_on = ~steps.start[1:]
    np.testing.assert_allclose(found[:-1][goes_on], steps.value[1:][goes_on], rtol=1e-5, atol=1e-6)


def test_the_score_of_an_episode_is_the_sum_of_its_rewards(counted: Any) -> None:
    _, _, steps = counted
    rewards = 1.0 + np.asarray(steps.action)
    for t in (3, 7):
        np.testing.assert_allclose(steps.score[t], rewards[t - 3 : t + 1].sum(0))


def by_hand(agent: Agent, kept: Kept, key: Any, greedy: bool) -> tuple[float, int]:
    """One episode in one environment, with the documented keys."""
    state, observation = agent.environment.reset(jax.random.fold_in(key, 0))
    carry = agent.core.initial_state(kept.params["core"], ())
    action, total, t, over = 0, 0.0, 0, False
    step, environment_step = jax.jit(agent.core.step), jax.jit(agent.environment.step)
    while not over:
        before = np.eye(agent.environment.actions)[action] * (t > 0)
        x = jnp.concatenate([2 * observation, before, jnp.array([t == 0])])
        carry, y = step(kept.params["core"], carry, x)
        logits = agent.policy.apply(kept.params["policy"], y)
        action_key, step_key = jax.random.split(jax.random.fold_in(key, t + 1))
        drawn = logits.argmax() if greedy else jax.random.categorical(action_key, logits)
        action = int(drawn)
        inner, _ = jax.random.split(step_key)
        state, transition = environment_step(inner, state, jnp.int32(action))
        observation, total = transition.observation, total + float(transition.reward)
        over, t = bool(transition.ended), t + 1
    return total, t


@pytest.mark.long
@pytest.mark.parametrize("greedy", [False, pytest.param(True, marks=pytest.mark.long)])
def test_episodes_are_those_of_a_loop_and_do_not_depend_on_each_other(greedy: bool) -> None:
    agent = agent_of(cart_pole(), lambda size: recurrent.elman(size, 5))
    kept = kept_of(agent)
    keys = jax.random.split(jax.random.key(5), 4)
    play = jax.jit(lambda keys: acting.played(agent, kept, keys, greedy=greedy))
    found = play(keys)
    for n in range(4):
        assert by_hand(agent, kept, keys[n], greedy) == (found.returns[n], found.lengths[n])
    alone = play(keys[2:3])
    assert (alone.returns[0], alone.lengths[0]) == (found.returns[2], found.lengths[2])


@pytest.mark.long
def test_what_is_watched_is_what_was_played() -> None:
    agent = agent_of(cart_pole(), lambda size: recurrent.elman(size, 5))
    kept, keys = kept_of(agent), jax.random.split(jax.random.key(6), 5)
    episodes = jax.jit(lambda: acting.played(agent, kept, keys, greedy=False))()
    states, steps = jax.jit(lambda: acting.watched(agent, kept, keys, 500, greedy=False))()
    first = np.asarray(steps.transition.ended).argmax(0)
    np.testing.assert_array_equal(first + 1, episodes.lengths)
    np.testing.assert_array_equal(states.steps[first, np.arange(5)] + 1, episodes.lengths)
