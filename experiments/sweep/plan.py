"""What one program of a sweep is to train, and what is known of it on the way."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import rundir
from experiments.harness.config import Option, TrainingConfig
from experiments.harness.program import Program
from experiments.sweep.axes import Axis, Point
from recurrent.training.population import Layout


class Inheritance(NamedTuple):
    """When the worst members take over from the best, and what they may try then.

    Attributes:
      interval: every so many epochs.
      axes: the swept fields.
      options: of the Config.
      seed: of who takes over from whom, and of the steps aside.
    """

    interval: int
    axes: list[Axis]
    options: dict[str, Option]
    seed: int


class Plan(NamedTuple):
    """What to train.

    Attributes:
      program: of all these members.
      config: its Config; each member replaces some of its traced fields.
      points: the swept fields of each member.
      names: the number of each member in the whole sweep.
      settings: the members by setting, as indices of ``points``: those that differ in the seed.
      layout: of the places on the devices.
      places: how many members are trained at a time, at least those of one setting.
      patience: so many epochs without a better score end a member; infinity for never.
      reduction: at each rung one setting in so many goes on; None without rungs.
      rungs: after how many epochs.
      inheritance: of population-based training; None without.
    """

    program: Program
    config: TrainingConfig
    points: list[Point]
    names: list[int]
    settings: list[list[int]]
    layout: Layout
    places: int
    patience: float
    reduction: int
    rungs: list[int]
    inheritance: Inheritance | None = None


@dataclasses.dataclass
class Book:
    """What is known beside the members' arrays; it stands in every checkpoint.

    Attributes:
      places: the member in each place; None where there is none.
      begun: how many settings have been given places.
      tick: epochs of the population.
      part: steps taken of the next one.
      at_best: the validation metrics of each member's best params, by member.
      outcomes: a row of each member that ended, in the order of ending.
      reached: the scores of the settings that came to each rung, by its epoch.
      worst: a score below this one is a divergence.
      moved: the swept fields of members that took over from another, by member.
      best_points: the swept fields by which each member's best params were reached, where they may
        change on the way.
      seconds: of training, over all processes.
    """

    places: list[int | None]
    begun: int
    worst: float
    tick: int = 0
    part: int = 0
    at_best: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    outcomes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    reached: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    moved: dict[str, Point] = dataclasses.field(default_factory=dict)
    best_points: dict[str, Point] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def point_of(plan: Plan, book: Book | None, member: int) -> Point:
    """The swept fields of a member as they are now."""
    moved = book.moved if book else {}
    return moved.get(str(member), plan.points[member])


def fill(plan: Plan, book: Book) -> list[int]:
    """Puts the settings that wait into empty places, each whole; returns these places."""
    filled = []
    for setting in plan.settings[book.begun :]:
        empty = [k for k, place in enumerate(book.places) if place is None]
        if len(empty) < len(setting):
            break
        for place, member in zip(empty, setting, strict=False):
            book.places[place] = member
            filled.append(place)
        book.begun += 1
    return filled


def occupied(book: Book) -> bool:
    """Whether any member trains."""
    return any(member is not None for member in book.places)


def total_steps(plan: Plan) -> int:
    """Of one member."""
    return plan.program.epochs * plan.program.steps_per_epoch


def program_folder(folder: Path, number: int) -> Path:
    """Where a program's checkpoints and metrics are."""
    return folder / "programs" / str(number)


def member_rows(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """The metrics of each member, epoch by epoch."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("programs/*/metrics.jsonl")):
        for tick in rundir.rows_of(file):
            for row in tick["members"]:
                rows.setdefault(row["member"], []).append(row)
    return rows
