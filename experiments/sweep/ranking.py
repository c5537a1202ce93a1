"""Which setting won: the outcomes of members, by setting, best first."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FINISHED, PATIENCE, RUNG, DIVERGED = "finished", "early stop", "rung", "diverged"

Outcome = Mapping[str, Any]


class Setting(NamedTuple):
    """The swept values that its members share, and what became of these.

    Attributes:
      values: by swept field, the seed left out.
      members: their outcomes, by seed.
      score: the mean of their best scores; minus infinity where one of them diverged.
    """

    values: dict[str, Any]
    members: list[Outcome]
    score: float

    def of(self, name: str) -> list[float]:
        """A number of all members that did not diverge and have it."""
        values = [each[name] for each in self.members if each["status"] != DIVERGED]
        return [value for value in values if value is not None]


def ranked(
    outcomes: Sequence[Outcome], fields: Sequence[str], *, each_alone: bool = False
) -> list[Setting]:
    """The settings, best first.

    Before all others stand those whose members saw the whole training, then those stopped at a
    rung, the later the better, and last those with a member that diverged; each by its score.

    Args:
      outcomes: of members that have ended, with ``member``, ``status``, ``epochs_trained`` and
        ``score``.
      fields: the swept ones.
      each_alone: whether a member is no repetition of another that has the same values, as where
        they changed on the way.
    """
    groups: dict[tuple[Any, ...], list[Outcome]] = {}
    shared = [field for field in fields if field != "seed"]
    for outcome in sorted(outcomes, key=lambda outcome: outcome["member"]):
        own = (outcome["member"],) if each_alone else ()
        groups.setdefault((*own, *(outcome[field] for field in shared)), []).append(outcome)
    settings = [
        Setting({name: members[0][name] for name in shared}, members, mean_score(members))
        for members in groups.values()
    ]
    return sorted(settings, key=_rank)


def mean_score(members: Sequence[Outcome]) -> float:
    """Over the members; minus infinity where one of them diverged."""
    if any(each["status"] == DIVERGED for each in members):
        return -math.inf
    return statistics.fmean(each["score"] for each in members)


def _rank(setting: Setting) -> tuple[int, float, float]:
    lost = sum(each["status"] == DIVERGED for each in setting.members)
    at_rung = [each["epochs_trained"] for each in setting.members if each["status"] == RUNG]
    scores = setting.of("score")
    mean = statistics.fmean(scores) if scores else -math.inf
    return lost, -min(at_rung, default=math.inf), -mean


def best_member(setting: Setting) -> Outcome:
    """The one to train again alone: that of the highest score."""
    return max(
        setting.members, key=lambda each: -math.inf if each["score"] is None else each["score"]
    )


def mean_and_spread(values: Sequence[float]) -> tuple[float, float] | None:
    """Mean and sample standard deviation, 0 of a single value; None of none."""
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
