"""Train a population in which the worst go on from copies of the best, with other values.

Jaderberg et al. 2017, arXiv:1711.09846: truncation selection, perturbation by a fifth.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.harness.config import Option
from experiments.harness.plan import (
    DIVERGED,
    WAIT,
    Copy,
    Decisions,
    MemberEvaluation,
    Memory,
    Plan,
    SweepState,
    Tell,
    Values,
    values_of,
)
from experiments.sweep.axes import Axis, rounded

SHARE = 0.25  # of the members that are replaced, and of those that are copied
FACTORS = (0.8, 1.25)


def tell_by_copying(
    interval: int, axes: Sequence[Axis], options: Mapping[str, Option], seed: int
) -> Tell:
    """Return the rule that lets the worst members go on from the best every so many evaluations.

    A member that has diverged waits for that, as long as another trains.
    """

    def tell(
        plan: Plan, state: SweepState, evaluations: Sequence[MemberEvaluation]
    ) -> tuple[Memory, Decisions]:
        going_on = [each for each in evaluations if each.ending in (None, DIVERGED)]
        if all(each.ending for each in evaluations):
            return state.memory, {}
        decisions: Decisions = {each.member: WAIT for each in going_on if each.ending == DIVERGED}
        if state.evaluation % interval or state.evaluation == plan.program.evaluations:
            return state.memory, decisions
        source = np.random.default_rng([seed, state.evaluation])
        scores = {each.member: current_score(plan, each) for each in going_on}
        for member, best in exploit(scores, source).items():
            values = explore(values_of(plan, state, best), axes, options, source)
            own = {k: v for k, v in plan.values[member].items() if k == "seed"}
            decisions[member] = Copy(best, values | own)
        return state.memory, decisions

    return tell


def current_score(plan: Plan, each: MemberEvaluation) -> float | None:
    """Return the score of a member as it is now, not at its best; None where it diverged."""
    value = each.valid[plan.program.select.name]
    lost = each.ending == DIVERGED or value is None
    return None if lost else float(plan.program.select.score(value))


def exploit(scores: Mapping[int, float | None], source: np.random.Generator) -> dict[int, int]:
    """Return which members go on from which: the worst quarter from the best, each at random.

    Args:
      scores: of all members, higher is better, None of one that diverged, which goes on from
        another in any case; fewer than two members stay as they are.
      source: of randomness.
    """
    count = min(max(1, round(SHARE * len(scores))), len(scores) // 2)
    lost = [member for member, score in scores.items() if score is None]
    order = sorted(scores.keys() - lost, key=lambda member: (-(scores[member] or 0.0), member))
    best = order[:count]
    worst = [*order[len(order) - max(0, count - len(lost)) :], *lost]
    return {
        member: best[int(source.integers(len(best)))]
        for member in worst
        if best and member not in best
    }


def explore(
    values: Values, axes: Sequence[Axis], options: Mapping[str, Option], source: np.random.Generator
) -> Values:
    """Multiply each traced number that is swept by 0.8 or 1.25, within its range.

    The seed stays as it is, and so does what is no number or static.
    """
    moved = dict(values)
    for axis in axes:
        option = options[axis.field]
        if axis.field != "seed" and option.traced and option.type in (int, float):
            low, high = range_of(axis)
            value = values[axis.field] * FACTORS[int(source.integers(2))]
            moved[axis.field] = rounded(option, min(max(value, low), high))
    return moved


def range_of(axis: Axis) -> tuple[Any, Any]:
    """Return the least and the largest value of an axis."""
    if axis.bounds:
        return axis.bounds.low, axis.bounds.high
    return min(axis.values), max(axis.values)
