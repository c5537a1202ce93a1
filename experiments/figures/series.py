"""Draw small series side by side."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.style import (
    COLORS,
    INK,
    message_figure,
    plain,
    soften_frames,
    titled_figure,
)

ACROSS = 3


def wrong_series(message: str, series: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    """Draw series [T, D] in rows, each with a caption; a line for each channel.

    Args:
      message: the title of the figure.
      series: may be none.
      captions: one for each.
    """
    if not series:
        return message_figure(message)
    down = -(-len(series) // ACROSS)
    figure = titled_figure(0.5 + 1.5 * down, message)
    panels = figure.subplots(down, ACROSS, squeeze=False, sharey=True).ravel()
    for axes, values, caption in zip(panels, series, captions, strict=False):
        for channel, line in enumerate(values.T):
            axes.plot(line, color=COLORS[channel % len(COLORS)], linewidth=0.9)
        axes.set_title(plain(caption), loc="left", color=INK, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        soften_frames(axes)
    for axes in panels[len(series) :]:
        axes.set_axis_off()
    return figure
