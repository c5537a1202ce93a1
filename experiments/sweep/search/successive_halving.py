"""Successive halving: at each rung only the better part of the settings goes on.

Jamieson and Talwalkar 2016, arXiv:1502.07943. A setting that comes to a rung later than others is
measured against all that were there before, and stopped at once or not at all, so that no place
waits: the stopping form of ASHA, Li et al. 2020, arXiv:1810.05934.
"""

import math
from collections.abc import Sequence


def rungs(epochs: int, reduction: int, first: int) -> list[int]:
    """After how many epochs settings are compared: ``epochs`` divided again and again, rising.

    Args:
      epochs: of a whole training.
      reduction: one in so many goes on.
      first: no rung comes before so many epochs.
    """
    powers = range(1, 64)
    found = {math.ceil(epochs / reduction**power) for power in powers}
    return sorted(epoch for epoch in found if first <= epoch < epochs)


def stopped(
    earlier: Sequence[float | None], scores: Sequence[float | None], reduction: int
) -> list[bool]:
    """Which of the settings that now reach a rung end there.

    Args:
      earlier: the scores of those that reached it before; higher is better, None the worst.
      scores: of those that do now.
      reduction: one in so many of them all, rounded up, is let on.
    """
    every = sorted((each for each in [*earlier, *scores] if each is not None), reverse=True)
    places = math.ceil((len(earlier) + len(scores)) / reduction)
    let_on = every[:places]
    return [score is None or score < let_on[-1] for score in scores]
