"""Say where a sweep's winner lies at the edge of what was tried: the range may be too narrow."""

import math
from typing import Any

from experiments.harness.config import options
from experiments.sweep.axes import Axis, Bounds
from experiments.sweep.flags import Sweep
from experiments.sweep.ranking import Configuration

MARGIN = 0.05  # of a range that was drawn from, at each of its ends
FEWEST_VALUES = 3  # fewer do not show on which side the optimum is


def edge_notes(sweep: Sweep, winner: Configuration) -> list[str]:
    """Return a sentence for each number of the winner that is at the edge of what was tried.

    A value that was listed is there if it is the largest or the smallest of three or more; one
    that was drawn from a range, if it lies in the outer 5 % of it, on the range's own scale. The
    least and the largest value that a field takes are no edges: nothing lies beyond.
    """
    if not math.isfinite(winner.score):
        return []
    fields, drawn = options(sweep.base), bool(sweep.settings.draws)
    notes = []
    for axis in sweep.swept:
        field, value = fields[axis.field], winner.values.get(axis.field)
        ends = (None, field.minimum, field.maximum)
        if field.type in (int, float) and value not in ends:
            where = edge(axis, value, drawn=drawn or not axis.values)
            if where:
                start = f"The best {axis.field}, {value:g}, is"
                notes.append(f"{start} {where}: the optimum may lie beyond.")
    return notes


def edge(axis: Axis, value: Any, *, drawn: bool) -> str:
    """Say at which edge of its axis a number lies; return nothing where it lies at none.

    Args:
      axis: one of numbers.
      value: the number.
      drawn: whether values were drawn from the axis's range, if it has one.

    Example:
      >>> edge(Axis("learning_rate", [0.001, 0.01, 0.1]), 0.1, drawn=False)
      'the largest that was tried'
      >>> edge(Axis("learning_rate", (), Bounds("log", 1e-4, 1.0)), 0.7, drawn=True)
      'in the upper 5 % of log:0.0001:1'
    """
    if axis.bounds and drawn:
        share = share_below(axis.bounds, value)
        end = "lower" if share <= MARGIN else "upper" if share >= 1 - MARGIN else ""
        return f"in the {end} {100 * MARGIN:g} % of {axis.bounds}" if end else ""
    if len(axis.values) < FEWEST_VALUES or min(axis.values) < value < max(axis.values):
        return ""
    return f"the {'largest' if value >= max(axis.values) else 'smallest'} that was tried"


def share_below(bounds: Bounds, value: float) -> float:
    """Return which share of a range lies below a number, on the range's scale."""
    scale, *numbers = bounds
    low, high, at = (math.log(x) if scale == "log" else x for x in (*numbers, value))
    return (at - low) / (high - low)
