"""Draw the results of a classifier: its confusion matrix and its mistakes."""

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
    format_percent,
    message_figure,
    plain,
    tiled_images,
    titled_figure,
)
from recurrent.errors import ArgumentError

MOST_MISTAKES = 40


def confusion_matrix(matrix: np.ndarray, labels: Sequence[str] | None = None) -> Figure:
    """Draw how often each true class (row) was predicted as each class (column).

    Args:
      matrix: Counts [C, C]; rows are true classes, columns predicted ones.
      labels: The C class names; their indices by default.

    Raises:
      ValueError: If the matrix does not hold integers, is not square, or does not have one label
        per class.
    """
    counts = np.asarray(matrix)
    classes = [str(i) for i in range(len(counts))] if labels is None else list(labels)
    if not np.issubdtype(counts.dtype, np.integer):
        raise ArgumentError(f"Expected integer counts, got {counts.dtype}: do not normalize them.")
    if counts.shape != (len(classes), len(classes)) or not classes:
        raise ArgumentError(
            f"Expected counts [C, C] and C labels, got counts {counts.shape} and "
            f"{len(classes)} labels: give one row, one column and one label for each class."
        )
    side = min(9.0, 2.6 + 0.36 * len(classes))
    figure = titled_figure(side + 0.2, _confusion_message(counts, classes), width=side)
    axes = figure.subplots()
    _confusion_cells(axes, counts)
    ticks = range(len(classes))
    axes.set_xticks(ticks, [plain(each) for each in classes], color=INK)
    axes.set_yticks(ticks, [plain(each) for each in classes], color=INK)
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
    """Draw the misclassified test images, the most confident first.

    Correctly classified examples are left out, so either the mistakes alone or the whole test set
    may be given. At most 40 are drawn.

    Args:
      images: [N, H, W], with high values for ink.
      true: True classes [N].
      predicted: Predicted classes [N].
      probability: [N], the probability of the predicted class, 0 to 1.
      total: The size of the test set.

    Raises:
      ValueError: If the four arrays do not describe the same N images.
    """
    images, true, predicted, probability = map(np.asarray, (images, true, predicted, probability))
    if (
        images.ndim != 3
        or not true.shape == predicted.shape == probability.shape == images.shape[:1]
    ):
        raise ArgumentError(
            f"Expected images [N, H, W] and N classes, predictions and probabilities, got "
            f"{images.shape}, {true.shape}, {predicted.shape} and {probability.shape}."
        )
    wrong = np.flatnonzero(true != predicted)
    if not wrong.size:
        return message_figure(f"All {total:,} test images are classified correctly")
    drawn = wrong[np.argsort(-probability[wrong], kind="stable")][:MOST_MISTAKES]
    captions = [
        f"{true[i]} \u2192 {predicted[i]}, {format_percent(float(probability[i]), 0)}"
        for i in drawn
    ]
    return tiled_images(
        _mistakes_message(len(wrong), len(drawn), total),
        list(images[drawn]),
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
        return f"All {total:,} correct"
    decimals = 1 if total < 1000 else 2
    accuracy = format_percent(right / total, decimals)
    message = f"{accuracy} correct; {total - right:,} of {total:,} wrong"
    errors = counts - np.diag(np.diag(counts))
    true, predicted = divmod(int(errors.argmax()), len(classes))
    count = errors[true, predicted]
    if count > 1:
        mistake = f"{classes[true]} predicted as {classes[predicted]}"
        message += f"\nMost common mistake: {mistake}, {count:,} times"
    return message


def _confusion_cells(axes: Axes, counts: np.ndarray) -> None:
    """Draw every mistake in color, every correct answer in gray, and leave zeros empty."""
    off_diagonal = ~np.eye(len(counts), dtype=bool)
    errors = np.ma.masked_where(~off_diagonal | (counts == 0), counts)
    largest = max(int(errors.max()) if errors.count() else 0, 5)
    axes.imshow(errors, cmap=ALARM_SHADES, vmin=1, vmax=largest)
    size = min(9.0, 120 / len(counts))
    for (row, column), count in np.ndenumerate(counts):
        if row == column:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color="#eef0f3", zorder=0))
            text = f"{count}" if counts[row].any() else "none"
            axes.text(column, row, text, ha="center", va="center", color=MUTED, fontsize=size)
        elif count:
            color = "white" if count - 1 > 0.45 * (largest - 1) else INK
            axes.text(
                column, row, f"{count}", ha="center", va="center", color=color,
                fontsize=size + 1, fontweight="bold",
            )  # fmt: skip
    edges = np.arange(len(counts) + 1) - 0.5
    axes.hlines(edges, edges[0], edges[-1], color=FAINT, linewidth=0.5)
    axes.vlines(edges, edges[0], edges[-1], color=FAINT, linewidth=0.5)


def _mistakes_message(wrong: int, drawn: int, total: int) -> str:
    some = f"; the {drawn} most confident" if drawn < wrong else ", the most confident first"
    order = "" if wrong == 1 else some
    return f"{wrong:,} of {total:,} test images wrong{order} (true \u2192 predicted, probability)"
