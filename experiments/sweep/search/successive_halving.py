"""Stop all but the better part of the configurations at each rung.

Jamieson and Talwalkar 2016, arXiv:1502.07943. A configuration that comes to a rung later than
others is compared with all that were there before, and stopped at once or not at all, so that no
slot waits: the stopping form of ASHA, Li et al. 2020, arXiv:1810.05934.
"""

import math
import statistics
from collections.abc import Sequence

from experiments.harness.plan import (
    DIVERGED,
    STOP,
    Decisions,
    MemberEvaluation,
    Memory,
    Plan,
    SweepState,
    Tell,
)


def tell_by_rungs(reduction: int, first: int) -> Tell:
    """Return the rule that lets one configuration in ``reduction`` go on from each of `rungs_of`.

    It remembers the scores of all configurations at each rung, from program to program.
    """

    def tell(
        plan: Plan, state: SweepState, evaluations: Sequence[MemberEvaluation]
    ) -> tuple[Memory, Decisions]:
        memory, decisions = dict(state.memory), {}
        for rung in rungs_of(plan.program.evaluations, reduction, first):
            arrived = arrived_at(rung, plan, evaluations)
            if arrived:
                scores = [mean_score(plan, state, members, evaluations) for members in arrived]
                earlier = memory.get(str(rung), [])
                stops = stopped(earlier, scores, reduction)
                memory[str(rung)] = [*earlier, *scores]
                for members, stop in zip(arrived, stops, strict=True):
                    decisions |= dict.fromkeys(members if stop else (), STOP)
        return memory, decisions

    return tell


def arrived_at(rung: int, plan: Plan, evaluations: Sequence[MemberEvaluation]) -> list[list[int]]:
    """Return the configurations of which a member has just been evaluated ``rung`` times."""
    step = rung * plan.program.steps_per_evaluation
    here = {each.member for each in evaluations if each.step == step}
    return [members for members in plan.configurations if here & set(members)]


def mean_score(
    plan: Plan,
    state: SweepState,
    members: Sequence[int],
    evaluations: Sequence[MemberEvaluation],
) -> float | None:
    """Return the mean score of a configuration's members; None where one of them diverged."""
    by_name = {each["member"]: each["score"] for each in state.outcomes}
    by_name |= {
        plan.names[each.member]: None if each.ending == DIVERGED else each.best_score
        for each in evaluations
    }
    scores = [by_name[plan.names[member]] for member in members]
    return None if None in scores else statistics.fmean(scores)


def rungs_of(evaluations: int, reduction: int, first: int) -> list[int]:
    """Return after how many evaluations configurations are compared, rising.

    Args:
      evaluations: of a whole training, which is divided by ``reduction`` again and again.
      reduction: one configuration in so many goes on.
      first: no rung comes before so many evaluations.
    """
    found = {math.ceil(evaluations / reduction**power) for power in range(1, 64)}
    return sorted(rung for rung in found if first <= rung < evaluations)


def stopped(
    earlier: Sequence[float | None], scores: Sequence[float | None], reduction: int
) -> list[bool]:
    """Return which of the configurations that now reach a rung end there.

    Args:
      earlier: the scores of those that reached it before; higher is better, None the worst.
      scores: of those that do now.
      reduction: one in so many of them all, rounded up, goes on.
    """
    every = sorted((each for each in [*earlier, *scores] if each is not None), reverse=True)
    going_on = every[: math.ceil((len(earlier) + len(scores)) / reduction)]
    return [score is None or score < going_on[-1] for score in scores]
