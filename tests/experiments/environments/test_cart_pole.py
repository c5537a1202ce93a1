"""The cart and its pole against the equations of motion in float64, and against gymnasium's."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.environments.cart_pole import LIMIT, CartPole, cart_pole
from experiments.environments.environment import step_and_reset

POLICIES, STEPS = 100, 500
FARTHEST_APART = 1e-4  # what float32 rounds away, 6e-8, grows as e^(4 s) while the pole falls


class Course(NamedTuple):
    """What happened to 100 random policies in 500 steps, each ``[steps, policies, ...]``."""

    before: Any  # the four numbers
    start: Any
    action: Any
    observation: Any  # before any reset
    reward: Any
    terminated: Any
    truncated: Any


@pytest.fixture(scope="module")
def course() -> Course:
    """Each policy pushes to the right with a probability of its own."""
    environment = cart_pole()

    def step(carry: Any, key: Any) -> Any:
        state, start = carry
        push_key, step_keys = key[0], key[1:]
        action = jax.random.bernoulli(push_key, jnp.linspace(0.2, 0.8, POLICIES)).astype(int)
        after, _, transition = jax.vmap(partial(step_and_reset, environment))(
            step_keys, state, action
        )
        told = jnp.stack(state[:4], -1), start, action, *transition
        return (after, transition.ended), Course(*told)

    @jax.jit
    def run() -> Course:
        keys = jax.random.split(jax.random.key(0), (STEPS, POLICIES + 1))
        state, _ = jax.vmap(environment.reset)(jax.random.split(jax.random.key(1), POLICIES))
        return jax.lax.scan(step, (state, jnp.ones(POLICIES, bool)), keys)[1]

    return Course(*map(np.asarray, run()))


def moved(state: np.ndarray, action: Any) -> np.ndarray:
    """Barto, Sutton & Anderson 1983, the equations of their appendix without friction."""
    g, m_c, m, half, tau = 9.8, 1.0, 0.1, 0.5, 0.02
    _, x_dot, theta, theta_dot = state
    force = 10.0 if action else -10.0
    pull = (-force - m * half * theta_dot**2 * np.sin(theta)) / (m_c + m)
    theta_acc = (g * np.sin(theta) + np.cos(theta) * pull) / (
        half * (4 / 3 - m * np.cos(theta) ** 2 / (m_c + m))
    )
    swing = theta_dot**2 * np.sin(theta) - theta_acc * np.cos(theta)
    x_acc = (force + m * half * swing) / (m_c + m)
    return state + tau * np.array([x_dot, x_acc, theta_dot, theta_acc])


def test_it_moves_by_the_equations_of_motion(course: Course) -> None:
    largest, ends, state = 0.0, 0, np.empty(4)
    for n in range(POLICIES):
        for t in range(STEPS):
            if course.start[t, n]:
                state = course.before[t, n].astype(float)
                assert (np.abs(state) <= 0.05).all()
            state = moved(state, course.action[t, n])
            largest = max(largest, np.abs(state - course.observation[t, n]).max())
            fallen = abs(state[0]) > 2.4 or abs(state[2]) > np.deg2rad(12)
            assert course.terminated[t, n] == fallen
            ends += fallen
    assert largest < FARTHEST_APART
    assert ends > 1000
    assert (course.reward == 1).all()
    assert not course.truncated.any()
    np.testing.assert_array_equal(course.start[1:], course.terminated[:-1])


def test_it_is_gymnasiums(course: Course) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    largest = 0.0
    for n in range(POLICIES):
        theirs = gymnasium.make("CartPole-v1")
        for t in range(STEPS):
            if course.start[t, n]:
                theirs.reset(seed=0)
                theirs.unwrapped.state = course.before[t, n].astype(float)
            observation, reward, terminated, truncated, _ = theirs.step(int(course.action[t, n]))
            largest = max(largest, np.abs(observation - course.observation[t, n]).max())
            assert reward == course.reward[t, n]
            assert terminated == course.terminated[t, n]
            assert truncated == course.truncated[t, n]
        theirs.close()
    print(f"largest difference from gymnasium's: {largest:.2g}")
    assert largest < FARTHEST_APART


def test_one_step_from_anywhere_is_exact_within_float32() -> None:
    states = np.random.default_rng(0).uniform(-3, 3, (2000, 4)).astype(np.float32)
    actions = np.arange(2000) % 2
    given = CartPole(*map(jnp.asarray, states.T), steps=jnp.zeros(2000, int))
    environment = cart_pole()
    step = jax.jit(jax.vmap(environment.step, in_axes=(None, 0, 0)))
    _, transition = step(jax.random.key(0), given, actions)
    expected = [moved(*each) for each in zip(states.astype(float), actions, strict=True)]
    np.testing.assert_allclose(transition.observation, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("steps", "truncated"), [(LIMIT - 2, False), (LIMIT - 1, True)])
def test_it_is_cut_off_after_500_steps(steps: int, truncated: bool) -> None:
    state = cart_pole().reset(jax.random.key(0))[0]._replace(steps=jnp.int32(steps))
    _, transition = cart_pole().step(jax.random.key(0), state, jnp.int32(1))
    assert bool(transition.truncated) == truncated
    assert not transition.terminated


def test_without_velocities_it_shows_where_things_are_and_no_more() -> None:
    whole, hidden = cart_pole(), cart_pole(velocities=False)
    key = jax.random.key(3)
    state, observation = hidden.reset(key)
    np.testing.assert_array_equal(observation, whole.reset(key)[1][jnp.array([0, 2])])
    after = hidden.step(key, state, jnp.int32(0))[1].observation
    np.testing.assert_array_equal(after, whole.step(key, state, jnp.int32(0))[1].observation[::2])
    assert (hidden.observation_size, whole.observation_size) == (2, 4)
