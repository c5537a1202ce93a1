"""From a command line to plans: which members there are, in which programs, how many at a time."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.harness import config
from experiments.harness.config import Option
from experiments.harness.errors import UserError
from experiments.sweep import axes, layouts, ranking
from experiments.sweep.axes import Axis, Point
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.plan import Inheritance, Plan
from experiments.sweep.ranking import Outcome
from experiments.sweep.search import successive_halving, tpe

REFUSALS = 20


def planned(sweep: Sweep) -> list[Plan]:
    """A plan for each program that the sweep needs; of those to be proposed, the first."""
    options = config.options(sweep.module.Config)
    refuse_idle_flags(sweep)
    if sweep.settings.propose:
        refuse_largest(sweep)
        return [next(proposals(sweep, list))]
    points = points_of(sweep.settings, sweep.swept, options)
    return [
        plan_of(sweep, static, [points[member] for member in members], members)
        for static, members in axes.programs(points, options)
    ]


def proposals(sweep: Sweep, ended: Callable[[], Sequence[Sequence[Outcome]]]) -> Iterator[Plan]:
    """Plans whose static fields are proposed, each by the outcomes of all before it.

    What a program refuses is told, and counts as a failure.

    Raises:
      UserError: that of the last of `REFUSALS` proposals in a row that were refused.
    """
    options, score, refused, number = config.options(sweep.module.Config), None, 0, 0
    points = tpe.proposed(static_axes(sweep), options, sweep.settings.draw_seed)
    while number < times(sweep):
        try:
            point = points.send(score)
        except StopIteration:
            return
        try:
            plan = plan_of_static(sweep, point, number)
        except UserError as error:
            score, refused = None, refused + 1
            if refused == REFUSALS:
                raise
            print(f"proposal left out: {error}", file=sys.stderr)
            continue
        yield plan
        score, refused = best_score(sweep, ended()[number]), 0
        number += 1


def times(sweep: Sweep) -> int:
    """How many programs are proposed; 1 where none are."""
    if not sweep.settings.propose:
        return 1
    lengths = [len(axis.values) for axis in static_axes(sweep)]
    return min(sweep.settings.propose, math.prod(lengths) or sweep.settings.propose)


def best_score(sweep: Sweep, outcomes: Sequence[Outcome]) -> float | None:
    """Of a program's best setting; None where all diverged."""
    score = ranking.ranked(outcomes, [axis.field for axis in sweep.swept])[0].score
    return score if math.isfinite(score) else None


def plan_of_static(sweep: Sweep, point: Point, number: int) -> Plan:
    """The plan of program ``number``, which trains all that is traced by these static fields."""
    options = config.options(sweep.module.Config)
    traced = [axis for axis in sweep.swept if options[axis.field].traced]
    points = [point | own for own in points_of(sweep.settings, traced, options)]
    first = number * len(points)
    return plan_of(sweep, point, points, list(range(first, first + len(points))))


def refuse_largest(sweep: Sweep) -> None:
    """Raises `UserError` where a program with the largest values could not be trained."""
    plan_of_static(sweep, {axis.field: largest(axis) for axis in static_axes(sweep)}, 0)


def largest(axis: Axis) -> Any:
    """The largest value of an axis, or its first where they are no numbers."""
    if axis.bounds:
        return axis.bounds.high
    return axis.values[0] if isinstance(axis.values[0], str) else max(axis.values)


def static_axes(sweep: Sweep) -> list[Axis]:
    """Those that need a program for each value."""
    options = config.options(sweep.module.Config)
    return [axis for axis in sweep.swept if not options[axis.field].traced]


def points_of(
    settings: Settings, swept: Sequence[Axis], options: Mapping[str, Option]
) -> list[Point]:
    """The swept fields of every member."""
    if settings.search == "random" and not settings.draws:
        raise UserError("--search=random: say how many settings to draw, as in --draws=20.")
    if settings.search == "grid" and settings.draws:
        raise UserError("--draws: a grid has every combination; use --search=random or halving.")
    if settings.draws:
        return axes.at_random(swept, options, settings.draws, settings.draw_seed)
    return axes.grid(swept)


def refuse_idle_flags(sweep: Sweep) -> None:
    """Raises `UserError` for a flag that would change nothing."""
    asked, owners = sweep.settings, {"reduction": "halving", "first_rung": "halving"}
    for name, owner in {**owners, "interval": "pbt"}.items():
        default = config.options(asked)[name].default
        if getattr(asked, name) != default and asked.search != owner:
            raise UserError(f"--{name}: it belongs to --search={owner}, not {asked.search}.")
    if asked.draw_seed and not asked.draws and not asked.propose and asked.search != "pbt":
        raise UserError("--draw_seed: nothing is drawn; say how many by --draws.")
    if asked.propose and not static_axes(sweep):
        raise UserError(
            "--propose: it chooses fields that need a program for each value, such as hidden_size; "
            "sweep one of them, or leave it out."
        )


def plan_of(sweep: Sweep, static: Point, points: list[Point], members: list[int]) -> Plan:
    """The plan of the members that share their static fields."""
    own = dataclasses.replace(sweep.base, **static)
    program, asked = sweep.module.program(own), sweep.settings
    settings = axes.settings(points)
    places = layouts.places_of(program, own, len(points), max(map(len, settings)), asked.places)
    by_rungs = asked.search == "halving"
    if asked.search == "pbt" and places < len(points):
        raise UserError(
            f"--search=pbt: {len(points)} members must train at the same time, and {places} do; "
            "choose more --places, fewer members or smaller sizes."
        )
    if asked.search == "pbt" and asked.interval >= program.epochs:
        raise UserError(
            f"--interval: members take over every {asked.interval} epochs, and there are "
            f"{program.epochs}; choose fewer."
        )
    rungs = (
        successive_halving.rungs(program.epochs, asked.reduction, asked.first_rung)
        if by_rungs
        else []
    )
    if by_rungs and not rungs:
        raise UserError(
            f"--search=halving: no rung lies within {program.epochs} epochs; choose a lower "
            "--first_rung or --reduction, or more epochs."
        )
    return Plan(
        program=program,
        config=own,
        points=points,
        names=members,
        settings=settings,
        layout=layouts.layout_of(places, asked.layout),
        places=places,
        patience=own.patience or math.inf,
        reduction=asked.reduction,
        rungs=rungs,
        inheritance=inheritance_of(sweep) if asked.search == "pbt" else None,
    )


def inheritance_of(sweep: Sweep) -> Inheritance:
    """The rule of population-based training."""
    options = config.options(sweep.module.Config)
    return Inheritance(
        sweep.settings.interval, list(sweep.swept), options, sweep.settings.draw_seed
    )
