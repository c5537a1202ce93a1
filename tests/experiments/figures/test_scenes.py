"""Pictures of environments show where things are."""

from typing import Any

import numpy as np
import pytest

from experiments.environments.cart_pole import CartPole
from experiments.environments.memory_chain import MemoryChain
from experiments.environments.t_maze import EAST, NORTH, SOUTH, WEST, TMaze
from experiments.figures.scenes import HEIGHT, WIDTH, legend, scene

INK, BLUE, RED = (0x22, 0x27, 0x2E), (0x1F, 0x6F, 0xB4), (0xC2, 0x41, 0x0C)


def places(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The pixels of a color, as rows and columns ``[2, K]``."""
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8
    return np.array(np.nonzero((image == color).all(-1)))


def cart(x: float, angle: float = 0.0) -> Any:
    numbers: Any = (x, 0.0, angle, 0.0, 0)
    return CartPole(*numbers)


def test_the_cart_is_where_it_is_and_its_pole_leans_to_its_side() -> None:
    columns = [places(scene(cart(x), 1, 1), INK)[1].mean() for x in (-2.4, 0.0, 2.4)]
    assert columns[1] == pytest.approx((WIDTH - 1) / 2, abs=1)
    assert columns[2] - columns[1] == pytest.approx(columns[1] - columns[0], abs=1)
    leans = [places(scene(cart(0, angle), 1, 1), BLUE)[1].mean() for angle in (-0.2, 0.0, 0.2)]
    assert leans[0] < leans[1] - 4 < leans[2] - 8


def test_the_push_comes_from_the_left_or_the_right() -> None:
    middle = slice(40, WIDTH - 40)  # without the marks at the ends
    red = [(scene(cart(0), action, 1)[:, middle] == RED).all(-1) for action in (1, 0)]
    left, right = (np.nonzero(pixels)[1].mean() for pixels in red)
    assert left < (WIDTH - 80) / 2 < right


@pytest.mark.parametrize(("action", "color"), [(1, BLUE), (0, RED)])
def test_an_answer_is_blue_where_it_is_the_cue(action: int, color: tuple[int, int, int]) -> None:
    state: Any = MemoryChain
    shown = places(scene(state(1, 0), 0, 10), BLUE)
    answered = places(scene(state(1, 10), action, 10), color)
    assert shown[1].mean() < 60
    assert answered[1].mean() > WIDTH - 60
    assert (answered[0].mean() < HEIGHT / 2) == (action == 1)
    assert places(scene(state(1, 5), action, 10), color).size == 0, "nothing tells in between"


@pytest.mark.parametrize(("north", "action"), [(True, NORTH), (False, SOUTH)])
def test_the_goal_is_blue_and_the_walker_turns_to_it(north: bool, action: int) -> None:
    state: Any = TMaze
    image = scene(state(north, 6, 6), action, 6)
    goal = places(image, BLUE)
    assert (goal[0].mean() < HEIGHT / 2) == north
    assert (places(image, RED)[0].mean() < HEIGHT / 2) == north
    east, west = (places(scene(state(north, 3, 3), k, 6), RED)[1].mean() for k in (EAST, WEST))
    assert west < east


def test_long_chains_and_mazes_fit_into_the_picture() -> None:
    kinds: list[tuple[Any, tuple[int, ...]]] = [(MemoryChain, (1, 999)), (TMaze, (1, 500, 0))]
    for kind, numbers in kinds:
        assert (scene(kind(*numbers), 0, 1000) != 255).any()
        assert legend(kind(*numbers))
