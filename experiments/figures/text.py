"""Draw a text whose characters are colored by a value each."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.style import ALARM, INK, plain, titled_figure
from recurrent.errors import ArgumentError

MOST_BITS = 8.0  # from here on the color no longer changes


def colored_text(text: str, values: np.ndarray, columns: int = 80) -> Figure:
    """Draw a text on a colored background: the larger a character's value, the redder.

    A value that is not finite gets the strongest color.

    Args:
      text: N characters; a line break starts a new line and is drawn as a pilcrow.
      values: [N], 0 or more, in bits.
      columns: characters in a line, after which it is wrapped.

    Raises:
      ValueError: If the numbers of values and characters differ, or the text is empty.
    """
    values = np.asarray(values, float)
    if values.shape != (len(text),) or not text:
        raise ArgumentError(f"Expected {len(text)} values, at least one, got {values.shape}.")
    positions = _positions(text, columns)
    rows = positions[-1][0] + 1
    figure = titled_figure(0.6 + 0.2 * rows, f"{values.mean():.2f} bits per character on average")
    axes = figure.subplots()
    for (row, column), character, value in zip(positions, text, values, strict=True):
        strength = min(float(value) / MOST_BITS, 1.0) if np.isfinite(value) else 1.0
        _draw_character(axes, row, column, character, strength)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_axis_off()
    return figure


def _positions(text: str, columns: int) -> list[tuple[int, int]]:
    positions, row, column = [], 0, 0
    for character in text:
        positions.append((row, column))
        ends = character == "\n" or column == columns - 1
        row, column = (row + 1, 0) if ends else (row, column + 1)
    return positions


def _draw_character(axes: Axes, row: int, column: int, character: str, strength: float) -> None:
    cell = Rectangle((column, row), 1, 1, color=ALARM, alpha=0.75 * strength, linewidth=0)
    axes.add_patch(cell)
    visible = "\u00b6" if character == "\n" else character if character.isprintable() else " "
    axes.text(
        column + 0.5,
        row + 0.55,
        plain(visible, "monospace"),
        ha="center",
        va="center",
        fontsize=8,
        family="monospace",
        color=INK,
    )
