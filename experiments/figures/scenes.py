"""Draw the states of environments as small pictures, uint8 ``[H, W, 3]``."""

import math
from typing import Any

import numpy as np

from experiments.environments.cart_pole import FARTHEST, HALF_LENGTH, CartPole
from experiments.environments.memory_chain import MemoryChain
from experiments.environments.t_maze import EAST, NORTH, SOUTH, TMaze
from experiments.figures.style import ACCENT, ALARM, FAINT, INK, MUTED

WIDTH, HEIGHT = 320, 160
FINER = 2  # drawn so many times as large, then made smaller, so that edges are smooth


def is_drawn(state: Any) -> bool:
    """Return whether there is a picture of such states."""
    return isinstance(state, CartPole | MemoryChain | TMaze)


def scene(state: Any, action: int, length: int) -> np.ndarray:
    """Draw a state, and the action that is taken in it.

    Args:
      state: of an environment, with numbers in place of arrays.
      action: from 0 on.
      length: of the chain or corridor.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (FINER * WIDTH, FINER * HEIGHT), "white")
    canvas = ImageDraw.Draw(image)
    match state:
        case CartPole():
            draw_cart(canvas, state, action)
        case MemoryChain():
            draw_chain(canvas, state, action, length)
        case TMaze():
            draw_maze(canvas, state, action, length)
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def legend(state: Any) -> str:
    """Say what the signs in the pictures of such states mean."""
    match state:
        case CartPole():
            return "The arrow is the push; beyond a red mark an episode is over."
        case MemoryChain():
            return (
                "The arrow at the first place is the cue, that at the last place the answer: blue "
                "where it is the cue, red where it is not."
            )
        case TMaze():
            return "The goal is blue, and so is the sign at the first place; the red arrow walks."
        case _:
            return ""


def draw_cart(canvas: Any, state: CartPole, action: int) -> None:
    """Draw cart, pole and track, and an arrow for the push."""
    width, height = FINER * WIDTH, FINER * HEIGHT
    scale = 0.46 * width / (FARTHEST + 0.2)  # pixels a meter
    ground, x = 0.86 * height, width / 2 + scale * float(state.x)
    for end in (-1, 1):
        edge = width / 2 + end * scale * FARTHEST
        canvas.line((edge, ground - 0.1 * height, edge, ground), fill=ALARM, width=4)
    canvas.line((0, ground, width, ground), fill=MUTED, width=3)
    top = ground - 0.14 * height
    canvas.rectangle((x - 36, top, x + 36, ground - 4), fill=INK)
    angle, pole = float(state.angle), 2 * HALF_LENGTH * scale
    tip = x + pole * math.sin(angle), top - pole * math.cos(angle)
    canvas.line((x, top, *tip), fill=ACCENT, width=12)
    way = 1 if action == 1 else -1
    draw_arrow(canvas, (x - way * 90, (top + ground) / 2), (x - way * 44, (top + ground) / 2))


def draw_chain(canvas: Any, state: MemoryChain, action: int, length: int) -> None:
    """Draw the steps as a row of places: the cue in the first, the answer beside the last."""
    width, height = FINER * WIDTH, FINER * HEIGHT
    step = 0.9 * width / (length + 1)
    radius, middle = min(0.42 * step, 0.12 * height), 0.5 * height
    centers = [0.05 * width + (k + 0.5) * step for k in range(length + 1)]
    for k, x in enumerate(centers):
        here = k == int(state.steps)
        place = (x - radius, middle - radius, x + radius, middle + radius)
        canvas.ellipse(place, fill=INK if here else "white", outline=MUTED, width=3)
    up, size = 1 if int(state.cue) else -1, 0.2 * height
    if int(state.steps) == 0:
        start = (centers[0], middle + up * (size - 0.3 * height))
        draw_arrow(canvas, start, (centers[0], start[1] - up * size), ACCENT)
    if int(state.steps) == length:
        way, color = (1 if action else -1), ACCENT if action == int(state.cue) else ALARM
        start = (centers[-1], middle + way * (size - 0.3 * height))
        draw_arrow(canvas, start, (centers[-1], start[1] - way * size), color)


def draw_maze(canvas: Any, state: TMaze, action: int, length: int) -> None:
    """Draw the corridor and its two ends, the goal, the one who walks, and the way it goes."""
    width, height = FINER * WIDTH, FINER * HEIGHT
    size = min(0.94 * width / (length + 1), height / 3.4)
    left, middle = (width - size * (length + 1)) / 2, height / 2

    def place(column: float, row: float) -> tuple[float, float]:
        return left + (column + 0.5) * size, middle + row * size

    def square(column: int, row: int, fill: str) -> None:
        x, y = place(column, row)
        canvas.rectangle(
            (x - size / 2, y - size / 2, x + size / 2, y + size / 2), fill, outline=MUTED, width=3
        )

    goal = -1 if bool(state.north) else 1
    for column in range(length + 1):
        square(column, 0, FAINT)
    square(length, goal, ACCENT)
    square(length, -goal, FAINT)
    if int(state.place) == 0:
        sign = place(0, 1.2 * goal)
        draw_arrow(canvas, (sign[0], sign[1] - goal * 0.35 * size), sign, ACCENT)
    x, y = place(int(state.place), 0)
    canvas.ellipse((x - 0.3 * size, y - 0.3 * size, x + 0.3 * size, y + 0.3 * size), fill=INK)
    across = {EAST: 1}.get(action, 0 if action in (NORTH, SOUTH) else -1)
    down = {NORTH: -1, SOUTH: 1}.get(action, 0)
    draw_arrow(canvas, (x, y), place(int(state.place) + 0.8 * across, 0.8 * down), ALARM)


def draw_arrow(
    canvas: Any, start: tuple[float, float], end: tuple[float, float], color: str = ALARM
) -> None:
    """Draw an arrow."""
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    sides = [
        (end[0] - 20 * math.cos(angle + turn), end[1] - 20 * math.sin(angle + turn))
        for turn in (-0.5, 0.5)
    ]
    canvas.line((*start, *end), fill=color, width=6)
    canvas.polygon([end, *sides], fill=color)
