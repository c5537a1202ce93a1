"""Count how far sequences are from what they should be."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def edit_distance(found: Sequence[Any], true: Sequence[Any]) -> int:
    """Return the fewest insertions, deletions and substitutions between two sequences.

    Levenshtein 1966; each costs one.

    Example:
      >>> edit_distance("kitten", "sitting")
      3
    """
    places = np.arange(len(found) + 1)
    row = places
    for item in true:
        unlike = np.array([each != item for each in found], int)
        # by substitution or deletion; then by insertions, whose costs are a running minimum
        best = np.minimum(row[:-1] + unlike, row[1:] + 1)
        row = np.minimum.accumulate(np.concatenate([[row[0] + 1], best]) - places) + places
    return int(row[-1])


def error_rate(pairs: Iterable[tuple[Sequence[Any], Sequence[Any]]]) -> float:
    """Return the edit distances of all pairs (found, true), over the lengths of all true ones.

    It is not the mean of the pairs' own rates. Without any true item it is 0 or infinite.

    Example:
      >>> error_rate([("ab", "abc"), ("x", "yz")])
      0.6
    """
    distances, lengths = 0, 0
    for found, true in pairs:
        distances, lengths = distances + edit_distance(found, true), lengths + len(true)
    return distances / lengths if lengths else float("inf") * distances if distances else 0.0
