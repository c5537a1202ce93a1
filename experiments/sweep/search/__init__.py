"""Choose what a sweep trains: every search is two pure functions, `ask` and `tell`.

``ask`` says which members the next compiled program trains, by what came of the programs before;
``tell`` hears how the members of a program do, after each evaluation, and decides who is stopped
and who goes on from a copy of another. What a search must remember within and between programs
stands in the state that is handed to it, so that a sweep that was killed goes on as it would have.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.harness.plan import Tell, Values


class Batch(NamedTuple):
    """Hold the members of one compiled program.

    Attributes:
      static: the swept fields that all of them share.
      members: the swept fields of each.
      names: the number of each in the whole sweep.
    """

    static: Values
    members: list[Values]
    names: list[int]


class Tried(NamedTuple):
    """Say what came of a batch: the score of its best configuration, None for a failure.

    Attributes:
      static: the swept fields that its members share.
      score: higher is better; None where all diverged, or the experiment refused the fields.
      refused: whether the experiment did.
    """

    static: Values
    score: float | None
    refused: bool = False


class Search(NamedTuple):
    """Hold a search.

    Attributes:
      ask: ``batches tried before -> the next batch``, None where nothing is left.
      tell: ``(plan, state, evaluations) -> (memory, decisions)``, see `experiments.harness.plan`.
    """

    ask: Callable[[Sequence[Tried]], Batch | None]
    tell: Tell
