"""Draw which steps of its input a decoder attends to while it writes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.style import ALARM, INK, WIDTH, plain, soften_frames, titled_figure
from recurrent.errors import ArgumentError

MOST_LABELS = 60


def attention_map(
    message: str,
    weights: np.ndarray,
    read: Sequence[str],
    written: Sequence[str],
    true: Sequence[str],
) -> Figure:
    """Draw the weights of attention, a row for each word that is read.

    Args:
      message: the title of the figure.
      weights: ``[S, T]``, of each word read when each word is written.
      read: S words.
      written: T words, in red where they are not the true ones.
      true: T words.

    Raises:
      ValueError: where the numbers of words and weights differ, or there are none.
    """
    shape = len(read), len(written)
    if np.shape(weights) != shape or not np.size(weights) or len(written) != len(true):
        raise ArgumentError(
            f"weights: expected [{len(read)}, {len(written)}], at least one of each, got "
            f"{list(np.shape(weights))}."
        )
    longest = max(map(len, written))
    height = 0.7 + 0.24 * len(read) + 0.075 * longest
    figure = titled_figure(height, message, width=min(WIDTH, 2.2 + 0.24 * len(written)))
    axes = figure.subplots()
    axes.imshow(weights, "Blues", vmin=0, vmax=1, aspect="auto")
    soften_frames(axes)
    axes.set_yticks(range(len(read)), [plain(word) for word in read], color=INK, fontsize=8)
    every = -(-len(written) // MOST_LABELS)
    labels = [plain(word) for word in written[::every]]
    places = range(0, len(written), every)
    axes.set_xticks(places, labels, fontsize=7, rotation=90 if longest > 3 else 0)
    for label, place in zip(axes.get_xticklabels(), places, strict=True):
        label.set_color(INK if written[place] == true[place] else ALARM)
    return figure
