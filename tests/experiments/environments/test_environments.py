"""The chain, the maze, frames and the reset, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.environments.environment import Environment, stacked, step_and_reset
from experiments.environments.memory_chain import MemoryChain, memory_chain
from experiments.environments.t_maze import EAST, NORTH, SOUTH, WEST, TMaze, t_maze
from tests.experiments.countdown import countdown

KEY = jax.random.key(0)


def told(environment: Environment, state: object, actions: list[int]) -> list[list[float]]:
    """What each action leads to: the observation, the reward, and whether the episode is over."""
    found = []
    for action in actions:
        state, (observation, *rest) = environment.step(KEY, state, jnp.int32(action))
        found.append([*np.asarray(observation).tolist(), *(float(each) for each in rest)])
    return found


@pytest.mark.parametrize("cue", [0, 1])
def test_the_chain_shows_a_cue_once_and_asks_for_it_at_the_end(cue: int) -> None:
    chain = memory_chain(2)
    state = MemoryChain(jnp.int32(cue), jnp.int32(0))
    steps = told(chain, state, [1 - cue, 1 - cue, cue])
    assert steps[:2] == [[0.5, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]
    assert steps[2][-3:] == [1, 1, 0]
    assert told(chain, state, [cue, cue, 1 - cue])[2][-3:] == [-1, 1, 0]


def test_the_cues_of_a_chain_are_shown_and_are_both_there() -> None:
    state, observations = jax.vmap(memory_chain(5).reset)(jax.random.split(KEY, 100))
    np.testing.assert_array_equal(observations[:, 2], 2 * np.asarray(state.cue) - 1)
    np.testing.assert_array_equal(observations[:, :2], np.tile([1, 0], (100, 1)))
    assert 30 < int(state.cue.sum()) < 70


@pytest.mark.parametrize(("north", "right", "wrong"), [(True, NORTH, SOUTH), (False, SOUTH, NORTH)])
def test_the_maze_rewards_the_turn_that_the_sign_has_pointed_to(
    north: bool, right: int, wrong: int
) -> None:
    maze = t_maze(2)
    state = TMaze(jnp.bool_(north), jnp.int32(0), jnp.int32(0))
    walk = [EAST, EAST]
    assert told(maze, state, walk) == [[1, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]]
    assert told(maze, state, [*walk, right])[2][3:] == [4, 1, 0]
    assert told(maze, state, [*walk, wrong])[2][3:] == [pytest.approx(-0.1), 1, 0]


def test_the_maze_has_walls_and_its_sign_is_only_at_the_begin() -> None:
    maze, sign = t_maze(2), [0.0, 1.0, 1.0]
    state = TMaze(jnp.bool_(True), jnp.int32(0), jnp.int32(0))
    steps = told(maze, state, [WEST, NORTH, SOUTH, EAST, NORTH, WEST, EAST, EAST, EAST])
    wall = pytest.approx(-0.1)
    assert [step[:4] for step in steps] == [
        [*sign, wall],
        [*sign, wall],
        [*sign, wall],
        [1, 0, 1, 0],
        [1, 0, 1, wall],
        [*sign, 0],
        [1, 0, 1, 0],
        [0, 1, 0, 0],
        [0, 1, 0, wall],
    ]
    assert not any(step[4] or step[5] for step in steps)


def test_the_maze_is_cut_off_after_its_limit() -> None:
    maze = t_maze(2)
    assert maze.limit == 40
    state = TMaze(jnp.bool_(True), jnp.int32(0), jnp.int32(38))
    assert [step[4:] for step in told(maze, state, [WEST, WEST])] == [[0, 0], [0, 1]]


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_a_reset_comes_in_the_step_that_ends_an_episode_and_the_last_observation_is_told(
    ends: str,
) -> None:
    environment = countdown(3, ends)
    state, observation = environment.reset(KEY)
    seen, last, over = [float(observation[0])], [], []
    for _ in range(7):
        state, observation, transition = step_and_reset(environment, KEY, state, jnp.int32(0))
        seen.append(float(observation[0]))
        last.append(float(transition.observation[0]))
        over.append(bool(getattr(transition, ends)))
        assert bool(transition.ended) == over[-1]
    assert last == [1, 2, 3, 1, 2, 3, 1]
    assert over == [False, False, True, False, False, True, False]
    assert seen == [0, 1, 2, 0, 1, 2, 0, 1]


def test_frames_are_the_last_observations_of_the_episode() -> None:
    environment = stacked(countdown(3, "terminated"), 3)
    state, observation = environment.reset(KEY)
    seen, last = [observation.tolist()], []
    for _ in range(4):
        state, observation, transition = step_and_reset(environment, KEY, state, jnp.int32(0))
        seen.append(observation.tolist())
        last.append(transition.observation.tolist())
    assert seen == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 0, 0], [0, 0, 1]]
    assert last == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 1]]
    assert environment.observation_size == 3
    assert stacked(environment, 1) is environment
