"""Trains many settings of one experiment together, and ranks them.

Command: ./launch.sh sweep EXPERIMENT --sweep=learning_rate=log:1e-4:1e-1:8 --sweep=seed=0:4
"""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import cells, config, loop, rundir
from experiments.config import Option
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.processes import by_the_first, highest, is_first, meet
from experiments.progress import progress
from experiments.sweep import axes, halving, layouts, measuring, page, ranking, training
from experiments.sweep.axes import Axis, Point
from experiments.sweep.plan import Inheritance, Plan, total_steps
from experiments.sweep.request import Settings, Sweep
from experiments.sweep.rows import member_rows, program_folder


def main(sweep: Sweep, folder: Path, overwrite: bool) -> int:
    """Runs a sweep, or goes on with it; returns the exit status: 3 where every member diverged.

    It writes ``sweep.jsonl``, a row of each member that has ended, then ``figures``,
    ``report.html`` and, last, ``result.json``.

    Raises:
      UserError: for what cannot be swept so, before anything is compiled or written.
    """
    plans = planned(sweep)
    with by_the_first(rundir.claim(folder, identity(sweep, plans), overwrite)):
        if sweep.settings.layout == "measure":
            plans = [measuring.with_fastest_layout(plan) for plan in plans]
        print(announcement(sweep, plans, folder), flush=True)
        try:
            outcomes, seconds = train_all(plans, folder)
        except loop.Stopped as stop:
            print(f"{stop}; the same command goes on from there.", file=sys.stderr)
            return 128 + stop.signum
        if not is_first():
            return 0
        settings = ranking.ranked(outcomes, [axis.field for axis in sweep.swept])
        page.write(sweep, plans[0], settings, member_rows(folder), seconds, folder)
    print(page.table_text(settings, plans[0].program.metric))
    print(f"report: {folder / 'report.html'}")
    if not settings[0].of("score"):
        print("error: every member diverged; sweep over lower learning rates.", file=sys.stderr)
        return 3
    print(f"the best alone: {page.best_command(sweep, settings[0])}")
    return 0


def planned(sweep: Sweep) -> list[Plan]:
    """A plan for each program that the sweep needs."""
    options = config.options(sweep.module.Config)
    points = points_of(sweep.settings, sweep.swept, options)
    return [
        plan_of(sweep, static, [points[member] for member in members], members)
        for static, members in axes.programs(points, options)
    ]


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
        rungs=halving.rungs(program.epochs, asked.reduction, asked.first_rung) if by_rungs else [],
        inheritance=inheritance_of(sweep) if asked.search == "pbt" else None,
    )


def inheritance_of(sweep: Sweep) -> Inheritance:
    """The rule of population-based training."""
    options = config.options(sweep.module.Config)
    return Inheritance(
        sweep.settings.interval, list(sweep.swept), options, sweep.settings.draw_seed
    )


def identity(sweep: Sweep, plans: Sequence[Plan]) -> dict[str, Any]:
    """What must be the same for a sweep to be gone on with."""
    asked = dataclasses.asdict(sweep.settings) | {"places": [plan.places for plan in plans]}
    del asked["layout"]
    hashes = [cells.source_hashes(plan.config) for plan in plans]
    return {
        "experiment": sweep.experiment,
        "config": dataclasses.asdict(sweep.base),
        "axes": {axis.field: axis.told() for axis in sweep.swept},
        "sweep": asked,
        "sources": {f"{k} {name}": h for k, each in enumerate(hashes) for name, h in each.items()},
    }


def announcement(sweep: Sweep, plans: Sequence[Plan], folder: Path) -> str:
    """How many members in how many programs, and where they are computed."""
    members = sum(len(plan.points) for plan in plans)
    settings = sum(len(plan.settings) for plan in plans)
    laid = dict.fromkeys(
        f"{plan.places} at a time on {layouts.told(plan.layout, plan.places)}" for plan in plans
    )
    return (
        f"sweep of {sweep.experiment}: {counted(members, 'member')} of "
        f"{counted(settings, 'setting')} in {counted(len(plans), 'program')}; {'; '.join(laid)}\n"
        f"in {folder}"
    )


def counted(count: int, word: str) -> str:
    """``1 member``, ``2 members``."""
    return f"{count} {word}" + ("" if count == 1 else "s")


def train_all(plans: Sequence[Plan], folder: Path) -> tuple[list[dict[str, Any]], float]:
    """The outcomes of all members, and the seconds that their training took.

    Raises:
      loop.Stopped: after SIGINT or SIGTERM.
    """
    outcomes: list[dict[str, Any]] = []
    seconds = 0.0
    total = sum(len(plan.points) * total_steps(plan) for plan in plans)
    done = 0
    with loop.stop_requests() as stops, progress(0, total) as show:

        def ended(of_program: list[dict[str, Any]]) -> None:
            lines = [json.dumps(row) + "\n" for row in [*outcomes, *of_program]]
            if is_first():
                write_atomically(folder / "sweep.jsonl", "".join(lines))

        for k, plan in enumerate(plans):
            (stop,) = highest(stops[0] if stops else 0)
            if stop:
                raise loop.Stopped(int(stop), done, total)
            before = done
            book = trained(
                *(plan, program_folder(folder, k), ended, stops),
                show=lambda steps, words, before=before: show(before + steps, words),
            )
            outcomes += book["outcomes"]
            seconds += book["seconds"]
            done += len(plan.points) * total_steps(plan)
        ended([])
    return outcomes, seconds


def trained(
    plan: Plan, folder: Path, ended: Callable[..., None], stops: Sequence[int], show: Any
) -> dict[str, Any]:
    """Outcomes and seconds of a program, which ``ended.json`` keeps when all are there."""
    file = folder / "ended.json"
    meet("ended")  # so that all of them see the file, or none
    if file.exists():
        return rundir.read_json(file)
    book = training.train_members(plan, folder, show, ended, stops)
    result = {"outcomes": book.outcomes, "seconds": book.seconds}
    meet("trained")
    if is_first():
        rundir.write_json(file, result)
    return result
