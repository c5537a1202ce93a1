"""Population-based training: the worst take over from the best, and then try something near.

Jaderberg et al. 2017, arXiv:1711.09846: truncation selection, perturbation by a fifth.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.harness.config import Option
from experiments.sweep.axes import Axis, Point, rounded

SHARE = 0.25
FACTORS = (0.8, 1.25)


def heirs(scores: Mapping[int, float | None], source: np.random.Generator) -> dict[int, int]:
    """Which members take over from which: the worst quarter from the best, each at random.

    Args:
      scores: of all members, higher is better, None of one that diverged, which takes over in any
        case; fewer than two stay as they are.
      source: of randomness.
    """
    count = min(max(1, round(SHARE * len(scores))), len(scores) // 2)
    lost = [member for member, score in scores.items() if score is None]
    order = sorted(scores.keys() - lost, key=lambda member: (-(scores[member] or 0.0), member))
    best = order[:count]
    losers = [*order[len(order) - max(0, count - len(lost)) :], *lost]
    return {
        loser: best[int(source.integers(len(best)))]
        for loser in losers
        if best and loser not in best
    }


def near(
    point: Point, axes: Sequence[Axis], options: Mapping[str, Option], source: np.random.Generator
) -> Point:
    """The point, each traced number that is swept multiplied by 0.8 or 1.25 within its range.

    The seed stays as it is, and so does what is no number or static.
    """
    moved = dict(point)
    for axis in axes:
        option = options[axis.field]
        if axis.field != "seed" and option.traced and option.type in (int, float):
            low, high = range_of(axis)
            value = point[axis.field] * FACTORS[int(source.integers(2))]
            moved[axis.field] = rounded(option, min(max(value, low), high))
    return moved


def range_of(axis: Axis) -> tuple[Any, Any]:
    """The least and the largest value."""
    if axis.bounds:
        return axis.bounds.low, axis.bounds.high
    return min(axis.values), max(axis.values)
