"""Show which series a classifier names wrongly, and whether short ones are harder."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.data.classified import Arrays
from experiments.harness.program import Exhibit, Figure, Table
from experiments.shared.classification import confusion

BINS = 4  # of lengths
DRAWN = 9  # wrong cases


def mistake_exhibits(
    test: Arrays, classes: list[str], probabilities: np.ndarray
) -> Iterator[Exhibit]:
    """Draw the confusion matrix and wrong cases, and list the accuracy by length.

    Args:
      test: the test cases.
      classes: their words.
      probabilities: of the classes [N, C].
    """
    from experiments.figures.classification import confusion_matrix
    from experiments.figures.series import wrong_series

    predicted = probabilities.argmax(1)
    yield Figure(
        "confusion_matrix",
        "Confusion matrix",
        "Test cases by true class (rows) and answer (columns); off the diagonal are mistakes.",
        confusion_matrix(confusion(test.labels, predicted, len(classes)), classes),
    )
    wrong = np.flatnonzero(predicted != test.labels)
    wrong = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")]
    yield Figure(
        "mistakes",
        "What it got wrong",
        "Wrong answers on test cases, the most confident first; a line for each channel.",
        wrong_series(
            f"{len(wrong)} of {len(predicted):,} test cases wrong (true \u2192 answer)",
            [test.values[k, : test.lengths[k]] for k in wrong[:DRAWN]],
            [captioned(classes, test.labels[k], probabilities[k]) for k in wrong[:DRAWN]],
        ),
    )
    if len(np.unique(test.lengths)) > 1:
        yield by_length(test.lengths, predicted == test.labels)


def captioned(classes: list[str], label: Any, probabilities: np.ndarray) -> str:
    """Write the true class of a case, the answer, and how sure it was."""
    answer = probabilities.argmax()
    return f"{classes[label]} \u2192 {classes[answer]}, {probabilities[answer]:.0%}"


def by_length(lengths: np.ndarray, right: np.ndarray) -> Table:
    """List the accuracy of cases of like lengths, in bins of about one size."""
    cuts = np.unique(np.quantile(lengths, np.linspace(0, 1, BINS + 1)[1:-1]).astype(int))
    place = np.searchsorted(cuts, lengths)
    rows = []
    for k in np.unique(place):
        own = place == k
        span = f"{lengths[own].min()} to {lengths[own].max()}"
        rows.append((span, str(own.sum()), str((own & ~right).sum()), f"{right[own].mean():.2%}"))
    return Table(
        "by_length",
        "Accuracy by length",
        "Test cases by how many steps they have.",
        ("steps", "cases", "wrong", "accuracy"),
        rows,
    )
