"""Read what a command line asks of a sweep."""

import dataclasses
from typing import Any, NamedTuple

from experiments.harness.catalogue import Experiment
from experiments.harness.config import option
from experiments.sweep.axes import MOST_MEMBERS, Axis

SEARCHES = ("grid", "random", "halving", "pbt", "alone")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hold the flags of every sweep."""

    search: str = option(
        "grid",
        "grid: every combination; random: --draws configurations; halving: either of these, of "
        "which only the best go on from each rung; pbt: population-based training of the same; "
        "alone: no swept value, each value alone, and the first ones of all fields together",
        choices=SEARCHES,
    )
    draws: int = option(
        0, "configurations that are drawn at random", minimum=0, maximum=MOST_MEMBERS
    )
    propose: int = option(
        0,
        "programs, one after the other, whose static fields optuna proposes by the results of "
        "those before; 0 trains every combination",
        minimum=0,
        maximum=10**4,
    )
    draw_seed: int = option(0, "decides what is drawn and proposed", minimum=0, maximum=2**32 - 1)
    reduction: int = option(
        3, "halving: one configuration in so many goes on from a rung", minimum=2
    )
    first_rung: int = option(1, "halving: evaluations before the first rung", minimum=1)
    interval: int = option(
        5, "pbt: evaluations until the worst are replaced by copies of the best again", minimum=1
    )
    slots: int = option(0, "members trained at a time; 0 takes all that fit", minimum=0)
    keep_all: bool = option(
        False,
        "keep the weights of every member, each as a run of its own in members/, and not only "
        "those of the best",
    )
    layout: str = option(
        "auto",
        "members on the hardware: DEVICESxTOGETHER, or measure, which tries some first, or auto, "
        "which takes what was fastest in such trials",
    )


class Sweep(NamedTuple):
    """Hold what a command line asks for.

    Attributes:
      experiment: what is trained.
      base: the Config in which the swept fields are replaced.
      swept: the axes.
      settings: the sweep's own flags.
      command: the whole command line.
    """

    experiment: Experiment
    base: Any
    swept: list[Axis]
    settings: Settings
    command: str
