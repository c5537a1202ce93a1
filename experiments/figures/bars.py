"""Draw shares as bars beside what they should be."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.style import ACCENT, INK, plain, quiet, titled_figure


def bars(message: str, shares: np.ndarray, names: Sequence[str], expected: float) -> Figure:
    """Return a figure of shares ``[K]``, from 0 to 1, with a line where all should end.

    Args:
      message: the title.
      shares: the heights.
      names: a name for each bar.
      expected: the height of the line.
    """
    figure = titled_figure(2.6, message)
    axes = figure.subplots()
    axes.bar(range(len(shares)), shares, 0.7, color=ACCENT)
    axes.axhline(expected, color=INK, linewidth=1)
    axes.set_xticks(range(len(shares)), [plain(name) for name in names])
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    quiet(axes)
    axes.tick_params(axis="x", labelsize=10, labelcolor=INK)
    return figure
