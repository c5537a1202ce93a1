"""Text coloured by a number for each character."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.style import (
    ALARM,
    INK,
    _figure,
)

MOST_BITS = 8.0


def coloured_text(text: str, values: np.ndarray, columns: int = 80) -> Figure:
    """A text in which each character stands on a colour: the redder, the larger its value.

    Args:
      text: N characters; a new line is shown as one, and as a sign that stands on its colour.
      values: [N], 0 or more, in bits.
      columns: the longest line.

    Raises:
      ValueError: If there are not as many values as characters, or none.
    """
    values = np.asarray(values, float)
    if values.shape != (len(text),) or not text:
        raise ValueError(f"Expected {len(text)} values, at least one, got {values.shape}.")
    places, row, column = [], 0, 0
    for character in text:
        places.append((row, column))
        ends = character == "\n" or column == columns - 1
        row, column = (row + 1, 0) if ends else (row, column + 1)
    rows = places[-1][0] + 1
    figure = _figure(0.6 + 0.2 * rows, f"{values.mean():.2f} bits a character, on average")
    axes = figure.subplots()
    for (y, x), character, value in zip(places, text, values, strict=True):
        strength = min(float(value) / MOST_BITS, 1.0) if np.isfinite(value) else 1.0
        axes.add_patch(Rectangle((x, y), 1, 1, color=ALARM, alpha=0.75 * strength, linewidth=0))
        shown = "\u00b6" if character == "\n" else character if character.isprintable() else " "
        axes.text(
            *(x + 0.5, y + 0.55, shown.replace("$", r"\$")),
            **{"ha": "center", "va": "center", "fontsize": 8, "family": "monospace", "color": INK},
        )
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_axis_off()
    return figure
