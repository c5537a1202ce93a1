"""Draw what a network remembers."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.bars import bars
from experiments.figures.curves import Rows, column
from experiments.figures.style import (
    ACCENT,
    INK,
    MUTED,
    format_percent,
    log_scale,
    message_figure,
    step_axis,
    titled_figure,
)

LEARNED, PARTLY = 0.1, 0.9  # of the loss of having learned nothing


def progress(rows: Rows, nothing: float) -> Figure:
    """Draw the validation loss over the steps, and the loss of having learned nothing."""
    if not rows:
        return message_figure("No evaluation is finished yet")
    steps, losses = column(rows, "step"), column(rows, "valid_loss")
    figure = titled_figure(3.3, progress_message(steps, losses, nothing))
    axes = figure.subplots()
    axes.plot(steps, losses, color=ACCENT, marker="o", markersize=2.5)
    axes.axhline(nothing, color=MUTED, linestyle="--")
    axes.annotate(
        f"learned nothing: {nothing:.4g}",
        (1, nothing),
        xycoords=("axes fraction", "data"),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        color=MUTED,
        fontsize=9,
    )
    log_scale(axes)
    axes.set_ylabel("validation loss, log scale", color=INK)
    step_axis(axes)
    return figure


def progress_message(steps: np.ndarray, losses: np.ndarray, nothing: float) -> str:
    """Say whether the losses are those of a network that remembers.

    Example:
      >>> progress_message(np.array([1, 2]), np.array([1.0, 0.05]), 1.0)
      'It remembers from step 2 on: a tenth of the loss of knowing nothing'
    """
    below = steps[losses < LEARNED * nothing]
    if below.size:
        return f"It remembers from step {below[0]:.0f} on: a tenth of the loss of knowing nothing"
    known = losses[np.isfinite(losses)]
    if known.size and known.min() < PARTLY * nothing:
        left = known.min() / nothing
        return f"It remembers in part: its loss is {left:.0%} of that of knowing nothing"
    return "It has not learned to remember: its loss is that of knowing nothing, or near it"


def answers(targets: np.ndarray, found: np.ndarray) -> Figure:
    """Draw sums against the network's answers."""
    worst = abs(found - targets).max()
    figure = titled_figure(4.2, f"The largest error of {len(targets)} sums is {worst:.2g}", 4.6)
    axes = figure.subplots()
    axes.plot([0, 2], [0, 2], color=MUTED, linewidth=1)
    axes.plot(targets, found, ".", color=ACCENT, markersize=4, alpha=0.6)
    axes.set_xlabel("sum of the two marked numbers", color=INK)
    axes.set_ylabel("answer", color=INK)
    axes.set_aspect("equal")
    return figure


def positions(right: Sequence[float]) -> Figure:
    """Draw the share of symbols that are repeated rightly, by their place, and that of guessing."""
    worst = int(np.argmin(right))
    message = f"The worst is symbol {worst + 1}: {format_percent(right[worst])} right"
    return bars(message, np.asarray(right), [str(k + 1) for k in range(len(right))], 1 / 8)
