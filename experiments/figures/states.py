"""Draw the activity of hidden units over time."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.style import (
    INK,
    MUTED,
    WIDTH,
    color_bar,
    heat_map,
    soften_frames,
    titled_figure,
)
from recurrent.errors import ArgumentError

LONGEST_UPRIGHT = 64


def hidden_over_time(states: np.ndarray, inputs: np.ndarray, title: str) -> Figure:
    """Draw the hidden units and their input over a shared time axis.

    For an image that is read row by row, the input is on the left and time runs downwards. For a
    signal of one feature, or anything longer than 64 steps, the input is above the states and
    time runs to the right. Units are ordered by the time of their largest magnitude.

    Args:
      states: Hidden states [T, H] of one example.
      inputs: Inputs [T, D] of the same example.
      title: What the input is, and what the model made of it.

    Raises:
      ValueError: If either array is empty or not a matrix, or if their T differ.
    """
    states, inputs = np.asarray(states), np.asarray(inputs)
    if states.ndim != 2 or inputs.ndim != 2 or len(states) != len(inputs):
        raise ArgumentError(
            f"Expected states [T, H] and inputs [T, D] of one example, got {states.shape} "
            f"and {inputs.shape}: select one example and keep all steps of both arrays."
        )
    if not states.size or not inputs.size:
        raise ArgumentError(
            f"Expected at least one step, unit and feature, got states {states.shape} and "
            f"inputs {inputs.shape}."
        )
    upright = inputs.shape[1] > 1 and len(inputs) <= LONGEST_UPRIGHT
    draw = _states_beside_rows if upright else _states_below_signal
    return draw(states[:, _peak_order(states)], inputs, title)


def _peak_order(states: np.ndarray) -> np.ndarray:
    magnitude = np.nan_to_num(np.abs(states))
    peak = magnitude.argmax(axis=0)  # [H]
    at_peak = np.nan_to_num(states[peak, np.arange(states.shape[1])])
    return np.lexsort((at_peak, peak))


def _states_beside_rows(states: np.ndarray, inputs: np.ndarray, title: str) -> Figure:
    steps, features = inputs.shape
    height = 3.0
    image_width = float(np.clip(height * features / steps, 0.8, height))
    figure = titled_figure(height + 0.9, title)
    image_panel, heat_panel = figure.subplots(
        1, 2, sharey=True, width_ratios=[image_width, WIDTH - 1.6 - image_width]
    )
    image_panel.imshow(inputs, "gray_r", aspect="auto", interpolation="nearest")
    image_panel.set_ylabel("time step (downwards)", color=MUTED)
    image_panel.set_title("input", loc="left", color=INK, fontsize=10)
    image_panel.set_xlabel(f"{features} features", color=MUTED)
    image_panel.yaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    heat = heat_map(heat_panel, states)
    heat_panel.set_title("hidden state", loc="left", color=INK, fontsize=10)
    heat_panel.set_xlabel(_units(states), color=MUTED)
    image_panel.set_xticks([])
    heat_panel.set_xticks([])
    soften_frames(image_panel, heat_panel)
    color_bar(figure, heat, "")
    return figure


def _states_below_signal(states: np.ndarray, inputs: np.ndarray, title: str) -> Figure:
    steps, features = inputs.shape
    figure = titled_figure(4.4, title)
    signal_panel, heat_panel = figure.subplots(
        2, 1, sharex=True, height_ratios=[1 if features == 1 else 2, 4]
    )
    if features == 1:
        edges = np.arange(steps + 1) - 0.5
        signal_panel.stairs(inputs[:, 0], edges, fill=True, color=INK)
    else:
        signal_panel.imshow(inputs.T, "gray_r", aspect="auto", interpolation="nearest")
    signal_panel.set_ylabel("input", color=MUTED)
    heat = heat_map(heat_panel, states.T)
    heat_panel.set_ylabel(_units(states), color=MUTED)
    heat_panel.set_xlabel("time step", color=MUTED)
    heat_panel.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    heat_panel.set_yticks([])
    signal_panel.set_yticks([])
    soften_frames(signal_panel, heat_panel)
    color_bar(figure, heat, "hidden state")
    return figure


def _units(states: np.ndarray) -> str:
    return f"{states.shape[1]} units, ordered by time of peak"
