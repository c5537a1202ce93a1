"""Figures of a classifier: confusion matrix and mistakes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.style import (
    ALARM_SHADES,
    FAINT,
    INK,
    MUTED,
    _figure,
    _percent,
    _tiles,
    _words,
)

MOST_MISTAKES = 40


def confusion_matrix(matrix: np.ndarray, labels: Sequence[str] | None = None) -> Figure:
    """How often each true class (row) was taken for each class (column).

    Args:
      matrix: Counts [C, C], rows true, columns predicted.
      labels: The C class names; their indices by default.

    Raises:
      ValueError: If the matrix is not of integers, not square, or the labels are not C.
    """
    counts = np.asarray(matrix)
    classes = [str(i) for i in range(len(counts))] if labels is None else list(labels)
    if not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"Expected integer counts, got {counts.dtype}: do not normalise them.")
    if counts.shape != (len(classes), len(classes)) or not classes:
        raise ValueError(
            f"Expected counts [C, C] and C labels, got counts {counts.shape} and "
            f"{len(classes)} labels: give one row, one column and one label for each class."
        )
    side = min(9.0, 2.6 + 0.36 * len(classes))
    figure = _figure(side + 0.2, _confusion_message(counts, classes), width=side)
    axes = figure.subplots()
    _confusion_cells(axes, counts)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, color=INK)
    axes.set_yticks(ticks, classes, color=INK)
    axes.set_xlabel("predicted class", color=MUTED)
    axes.set_ylabel("true class", color=MUTED)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def mistakes(
    images: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    probability: np.ndarray,
    total: int,
) -> Figure:
    """The test images that were classified wrongly, the most confident first.

    Examples whose `true` equals `predicted` are left out, so both the mistakes alone and
    the whole test set may be given. At most 40 are drawn.

    Args:
      images: [N, H, W], ink high.
      true: Classes [N].
      predicted: Classes [N].
      probability: [N], that of the predicted class, 0 to 1.
      total: The size of the test set.

    Raises:
      ValueError: If the four arrays do not describe the same N images.
    """
    images, true, predicted, probability = map(np.asarray, (images, true, predicted, probability))
    if (
        images.ndim != 3
        or not true.shape == predicted.shape == probability.shape == images.shape[:1]
    ):
        raise ValueError(
            f"Expected images [N, H, W] and N classes, predictions and probabilities, got "
            f"{images.shape}, {true.shape}, {predicted.shape} and {probability.shape}."
        )
    wrong = np.flatnonzero(true != predicted)
    if not wrong.size:
        return _words(f"None of {total:,} test images is wrong")
    shown = wrong[np.argsort(-probability[wrong], kind="stable")][:MOST_MISTAKES]
    captions = [
        f"{true[i]} \u2192 {predicted[i]}, {_percent(float(probability[i]), 0)}" for i in shown
    ]
    return _tiles(
        _mistakes_message(len(wrong), len(shown), total),
        list(images[shown]),
        captions,
        columns=8,
        cmap="gray_r",
        limits=(float(np.nanmin(images)), float(np.nanmax(images))),
    )


def _confusion_message(counts: np.ndarray, classes: Sequence[str]) -> str:
    total, right = counts.sum(), np.trace(counts)
    if not total:
        return "No examples"
    if right == total:
        return f"All {total:,} right"
    decimals = 1 if total < 1000 else 2
    message = f"{_percent(right / total, decimals)} right; {total - right:,} of {total:,} wrong"
    errors = counts - np.diag(np.diag(counts))
    true, predicted = divmod(int(errors.argmax()), len(classes))
    often = errors[true, predicted]
    if often > 1:
        message += f"\nMost often: {classes[true]} taken for {classes[predicted]}, {often:,} times"
    return message


def _confusion_cells(axes: Axes, counts: np.ndarray) -> None:
    """Every mistake in colour, every right answer in grey, and nothing where nothing is."""
    off_diagonal = ~np.eye(len(counts), dtype=bool)
    errors = np.ma.masked_where(~off_diagonal | (counts == 0), counts)
    worst = max(int(errors.max()) if errors.count() else 0, 5)
    axes.imshow(errors, cmap=ALARM_SHADES, vmin=1, vmax=worst)
    size = min(9.0, 120 / len(counts))
    for (row, column), count in np.ndenumerate(counts):
        if row == column:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color="#eef0f3", zorder=0))
            text = f"{count}" if counts[row].any() else "none"
            axes.text(column, row, text, ha="center", va="center", color=MUTED, fontsize=size)
        elif count:
            colour = "white" if count - 1 > 0.45 * (worst - 1) else INK
            axes.text(
                column, row, f"{count}", ha="center", va="center", color=colour,
                fontsize=size + 1, fontweight="bold",
            )  # fmt: skip
    edges = np.arange(len(counts) + 1) - 0.5
    axes.hlines(edges, edges[0], edges[-1], color=FAINT, linewidth=0.5)
    axes.vlines(edges, edges[0], edges[-1], color=FAINT, linewidth=0.5)


def _mistakes_message(wrong: int, shown: int, total: int) -> str:
    few = f"; the {shown} most confident" if shown < wrong else ", the most confident first"
    order = "" if wrong == 1 else few
    return f"{wrong:,} of {total:,} test images wrong{order} (true \u2192 predicted, probability)"
