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


def aligned(found: Sequence[Any], true: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return pairs (found, true) of as few edits as there can be; None stands where one has none.

    Of alignments with as few edits, that with the most substitutions is returned.

    Example:
      >>> aligned("1245", "12346")
      [('1', '1'), ('2', '2'), (None, '3'), ('4', '4'), ('5', '6')]
    """
    costs = np.zeros((len(found) + 1, len(true) + 1), int)
    costs[:, 0], costs[0] = np.arange(len(found) + 1), np.arange(len(true) + 1)
    for i, one in enumerate(found, start=1):
        for j, other in enumerate(true, start=1):
            beside = min(costs[i - 1, j], costs[i, j - 1]) + 1
            costs[i, j] = min(costs[i - 1, j - 1] + (one != other), beside)
    pairs, i, j = [], len(found), len(true)
    while i or j:
        unlike = i and j and found[i - 1] != true[j - 1]
        if i and j and costs[i, j] == costs[i - 1, j - 1] + unlike:
            i, j = i - 1, j - 1
            pairs.append((found[i], true[j]))
        elif i and costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
            pairs.append((found[i], None))
        else:
            j -= 1
            pairs.append((None, true[j]))
    return pairs[::-1]
