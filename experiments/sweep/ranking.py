"""Rank configurations by what became of their members."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.harness.plan import DIVERGED, STOPPED

Outcome = Mapping[str, Any]


class Configuration(NamedTuple):
    """Hold the swept values that members share, and what became of these members.

    Attributes:
      values: by swept field, the seed left out.
      members: their outcomes, by seed.
      score: the mean of their best scores; minus infinity where one of them diverged.
    """

    values: dict[str, Any]
    members: list[Outcome]
    score: float

    def of(self, name: str) -> list[float]:
        """Return a number of all members that did not diverge and have it."""
        values = [each[name] for each in self.members if each["status"] != DIVERGED]
        return [value for value in values if value is not None]


def ranked(
    outcomes: Sequence[Outcome], fields: Sequence[str], *, each_alone: bool = False
) -> list[Configuration]:
    """Return the configurations, best first.

    First come those whose members saw the whole training, then those stopped at a rung, the later
    the better, and last those with a member that diverged; each group by score.

    Args:
      outcomes: of members that have ended, with ``member``, ``status``, ``evaluations_done`` and
        ``score``.
      fields: the swept ones.
      each_alone: whether a member is no repetition of another that has the same values, as where
        values changed on the way.
    """
    groups: dict[tuple[Any, ...], list[Outcome]] = {}
    shared = [field for field in fields if field != "seed"]
    for outcome in sorted(outcomes, key=lambda outcome: outcome["member"]):
        own = (outcome["member"],) if each_alone else ()
        groups.setdefault((*own, *(outcome[field] for field in shared)), []).append(outcome)
    configurations = [
        Configuration({name: members[0][name] for name in shared}, members, mean_score(members))
        for members in groups.values()
    ]
    return sorted(configurations, key=_rank)


def mean_score(members: Sequence[Outcome]) -> float:
    """Return the mean score of members; minus infinity where one of them diverged."""
    if any(each["status"] == DIVERGED for each in members):
        return -math.inf
    return statistics.fmean(each["score"] for each in members)


def _rank(configuration: Configuration) -> tuple[int, float, float]:
    lost = sum(each["status"] == DIVERGED for each in configuration.members)
    stopped = [each for each in configuration.members if each["status"] == STOPPED]
    at_rung = [each["evaluations_done"] for each in stopped]
    scores = configuration.of("score")
    mean = statistics.fmean(scores) if scores else -math.inf
    return lost, -min(at_rung, default=math.inf), -mean


def best_member(configuration: Configuration) -> Outcome:
    """Return the member of the highest score, which is to be trained again alone."""
    return max(
        configuration.members,
        key=lambda each: -math.inf if each["score"] is None else each["score"],
    )


def mean_and_spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Return mean and sample standard deviation, 0 of a single value; None of no values."""
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
