"""Draw strips, such as lines of writing or spectrograms, with what was read where."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from experiments.figures.style import (
    ACCENT,
    ALARM,
    FAINT,
    INK,
    MUTED,
    WIDTH,
    message_figure,
    plain,
    titled_figure,
)


class Mark(NamedTuple):
    """Hold a symbol that was read: its text, the column where it fires, and whether it is right."""

    text: str
    column: float
    right: bool


class Strip(NamedTuple):
    """Hold a strip ``[height, width]``, what was read in it, and a line of text below."""

    image: np.ndarray
    marks: Sequence[Mark]
    caption: str


def alignments(message: str, strips: Sequence[Strip], cmap: str, columns: int = 2) -> Figure:
    """Draw strips in rows; above each what was read, with a line down to where it fires.

    All have the scale of the widest. Right symbols are blue, wrong ones red.

    Args:
      message: the title of the figure.
      strips: of one height.
      cmap: the name of matplotlib's color map, from the smallest value of a strip to its largest.
      columns: strips in a row.
    """
    if not strips:
        return message_figure(message)
    height = strips[0].image.shape[0]
    widest = max(max(strip.image.shape[1] for strip in strips), 2 * height)
    across, down = widest * 1.06, height * 1.0 + 0.115 * widest * columns / 2
    rows = -(-len(strips) // columns)
    figure = titled_figure(0.4 + WIDTH / (columns * across) * rows * down, message)
    axes = figure.subplots()
    for k, strip in enumerate(strips):
        place = (k % columns) * across, (k // columns) * down
        draw_strip(axes, strip, *place, text=0.05 * widest * columns / 2, cmap=cmap)
    axes.set_xlim(-0.02 * widest, columns * across)
    axes.set_ylim(rows * down, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return figure


def draw_strip(axes: Axes, strip: Strip, x: float, y: float, *, text: float, cmap: str) -> None:
    """Draw one strip whose texts above and below are ``text`` high, from (x, y) on."""
    height, width = strip.image.shape
    top = y + text
    axes.imshow(strip.image, cmap, extent=(x, x + width, top + height, top), aspect="auto")
    axes.add_patch(Rectangle((x, top), width, height, fill=False, color=FAINT, linewidth=0.6))
    for mark in strip.marks:
        color = ACCENT if mark.right else ALARM
        axes.plot([x + mark.column] * 2, [top, top + height], color=color, linewidth=0.9, alpha=0.8)
        axes.text(
            x + mark.column, top, plain(mark.text), ha="center", va="bottom", color=color,
            fontsize=9, fontweight="bold",
        )  # fmt: skip
    wrong = any(not mark.right for mark in strip.marks)
    axes.text(
        x, top + height + 0.1 * text, plain(strip.caption), ha="left", va="top",
        color=INK if wrong else MUTED, fontsize=8,
    )  # fmt: skip


def rates_by_length(
    message: str,
    lengths: np.ndarray,
    exact: np.ndarray,
    rate_of_one: float,
    whole: str = "string",
    parts: str = "digits",
) -> Figure:
    """Draw the share of strings that are exact against their length, and what alone would give.

    Args:
      message: the title of the figure.
      lengths: of the strings, ``[N]``.
      exact: which of them were read without a mistake, ``[N]``.
      rate_of_one: the share of single symbols that are wrong; the line is ``(1 - rate) ** length``.
      whole: what a string is called.
      parts: what its symbols are called.
    """
    figure = titled_figure(2.6, message)
    axes = figure.subplots()
    known = np.unique(lengths)
    shares = np.array([exact[lengths == length].mean() for length in known])
    counts = np.array([(lengths == length).sum() for length in known])
    low, high = wilson(shares, counts)
    axes.vlines(known, 100 * low, 100 * high, color=ACCENT, linewidth=1.2)
    axes.plot(known, 100 * shares, "o", color=ACCENT, label=f"{whole}s right, with 95 % interval")
    expected = 100 * (1 - min(rate_of_one, 1)) ** known
    axes.plot(known, expected, color=MUTED, linewidth=1, label="if mistakes fell independently")
    axes.xaxis.set_major_locator(MaxNLocator(20, integer=True))
    axes.set_xlabel(f"{parts} in the {whole}", color=MUTED)
    axes.set_ylabel("%", color=MUTED, rotation=0)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return figure


def wilson(shares: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of 95 % intervals of shares of so many (Wilson 1927).

    Example:
      >>> low, high = wilson(np.array([0.5]), np.array([100]))
      >>> round(float(low[0]), 3), round(float(high[0]), 3)
      (0.404, 0.596)
    """
    z = 1.959964
    center = (shares + z * z / (2 * counts)) / (1 + z * z / counts)
    spread = shares * (1 - shares) / counts + z * z / (4 * counts**2)
    half = z * np.sqrt(spread) / (1 + z * z / counts)
    return np.maximum(center - half, 0), np.minimum(center + half, 1)
