"""Turn a command line into a search, and what it asks for into plans of compiled programs."""

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import Any

from experiments.harness import config
from experiments.harness.checks import checked_program
from experiments.harness.config import Option
from experiments.harness.errors import UserError
from experiments.harness.plan import Outcome, Plan, Values, let_all_go_on
from experiments.harness.program import Program
from experiments.sweep import axes, layouts, ranking
from experiments.sweep.axes import Axis
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.search import Batch, Search, Tried
from experiments.sweep.search.listed import ask_listed
from experiments.sweep.search.pbt import tell_by_copying
from experiments.sweep.search.successive_halving import rungs_of, tell_by_rungs
from experiments.sweep.search.tpe import ask_tpe

REFUSALS = 20  # of proposals in a row that an experiment may refuse


def planned(sweep: Sweep) -> list[Plan]:
    """Return the plan of each program; of those to be proposed, the first.

    Raises:
      UserError: for what cannot be swept so.
    """
    check_idle_flags(sweep)
    if sweep.settings.propose:
        check_largest(sweep)
        plan, _ = next_plan(sweep, [])
        return [plan] if plan else []
    search, plans = search_of(sweep), []
    while batch := search.ask([Tried(plan.values[0], None) for plan in plans]):
        plans.append(plan_of(sweep, search, batch))
    return plans


def search_of(sweep: Sweep) -> Search:
    """Return the search that the flags ask for."""
    options, asked, seed = options_of(sweep), sweep.settings, sweep.settings.draw_seed
    ask = (
        ask_listed(members_of(sweep, sweep.swept), options)
        if not asked.propose
        else (
            ask_tpe(static_axes(sweep), options, traced_members(sweep), program_count(sweep), seed)
        )
    )
    rules = {
        "halving": tell_by_rungs(asked.reduction, asked.first_rung),
        "pbt": tell_by_copying(asked.interval, sweep.swept, options, seed),
    }
    return Search(ask, rules.get(asked.search, let_all_go_on))


def next_plan(sweep: Sweep, tried: Sequence[Tried]) -> tuple[Plan | None, list[Tried]]:
    """Return the plan of the next proposal, and what was tried with those that were refused.

    A proposal that the experiment refuses is left out, with its reason, and counts as a failure.

    Raises:
      UserError: that of the last of `REFUSALS` proposals in a row that were refused.
    """
    search, found = search_of(sweep), list(tried)
    while batch := search.ask(found):
        try:
            return plan_of(sweep, search, batch), found
        except UserError as error:
            found.append(Tried(batch.static, None, refused=True))
            last = found[-REFUSALS:]
            if len(last) == REFUSALS and all(each.refused for each in last):
                raise
            print(f"proposal left out: {error}", file=sys.stderr)
    return None, found


def program_count(sweep: Sweep) -> int:
    """Return how many programs are proposed; 1 where none are."""
    if not sweep.settings.propose:
        return 1
    lengths = [len(axis.values) for axis in static_axes(sweep)]
    return min(sweep.settings.propose, math.prod(lengths) or sweep.settings.propose)


def best_score(sweep: Sweep, outcomes: Sequence[Outcome]) -> float | None:
    """Return the score of a program's best configuration; None where all diverged."""
    score = ranking.ranked(outcomes, [axis.field for axis in sweep.swept])[0].score
    return score if math.isfinite(score) else None


def check_largest(sweep: Sweep) -> None:
    """Raise `UserError` where a program with the largest values could not be trained."""
    static = {axis.field: largest(axis) for axis in static_axes(sweep)}
    members = [static | own for own in traced_members(sweep)]
    plan_of(sweep, search_of(sweep), Batch(static, members, list(range(len(members)))))


def largest(axis: Axis) -> Any:
    """Return the largest value of an axis, or its first where they are no numbers."""
    if axis.bounds:
        return axis.bounds.high
    return axis.values[0] if isinstance(axis.values[0], str) else max(axis.values)


def options_of(sweep: Sweep) -> dict[str, Option]:
    """Return the fields of the sweep's experiment."""
    return config.options(sweep.experiment.module.Config)


def static_axes(sweep: Sweep) -> list[Axis]:
    """Return the axes that need a program for each value."""
    options = options_of(sweep)
    return [axis for axis in sweep.swept if not options[axis.field].traced]


def traced_members(sweep: Sweep) -> list[Values]:
    """Return the swept traced fields of the members of each proposed program."""
    options = options_of(sweep)
    return members_of(sweep, [axis for axis in sweep.swept if options[axis.field].traced])


def members_of(sweep: Sweep, swept: Sequence[Axis]) -> list[Values]:
    """Return the swept fields of every member."""
    settings = sweep.settings
    if settings.search == "random" and not settings.draws:
        raise UserError("--search=random: say how many configurations to draw, as in --draws=20.")
    if settings.search in ("grid", "alone") and settings.draws:
        raise UserError("--draws: a grid has every combination; use --search=random or halving.")
    if settings.search == "alone":
        return axes.alone(swept, dataclasses.asdict(sweep.base))
    if settings.draws:
        return axes.at_random(swept, options_of(sweep), settings.draws, settings.draw_seed)
    return axes.grid(swept)


def check_idle_flags(sweep: Sweep) -> None:
    """Raise `UserError` for a flag that would change nothing."""
    asked, owners = sweep.settings, {"reduction": "halving", "first_rung": "halving"}
    for name, owner in {**owners, "interval": "pbt"}.items():
        default = config.options(asked)[name].default
        if getattr(asked, name) != default and asked.search != owner:
            raise UserError(f"--{name}: it belongs to --search={owner}, not {asked.search}.")
    if asked.draw_seed and not asked.draws and not asked.propose and asked.search != "pbt":
        raise UserError("--draw_seed: nothing is drawn; say how many by --draws.")
    if asked.propose and asked.search == "alone":
        raise UserError("--propose: --search=alone says itself what is trained; leave one out.")
    if asked.propose and not static_axes(sweep):
        raise UserError(
            "--propose: it chooses fields that need a program for each value, such as hidden_size; "
            "sweep one of them, or leave it out."
        )


def plan_of(sweep: Sweep, search: Search, batch: Batch) -> Plan:
    """Return the plan of the members that share their static fields."""
    own, asked = dataclasses.replace(sweep.base, **batch.static), sweep.settings
    options = options_of(sweep)
    swept = [axis.field for axis in sweep.swept if options[axis.field].traced]
    program = checked_program(sweep.experiment, own, swept)
    configurations = axes.configurations(batch.members)
    seeds = max(map(len, configurations))
    slots = layouts.slots_of(program, own, len(batch.members), seeds, asked.slots)
    check_search(asked, program, len(batch.members), slots)
    return Plan(
        program=program,
        config=own,
        values=batch.members,
        names=batch.names,
        configurations=configurations,
        layout=layouts.layout_of(slots, asked.layout),
        slots=slots,
        tell=search.tell,
        marks=rungs_in(asked, program),
    )


def rungs_in(asked: Settings, program: Program) -> list[int]:
    """Return after how many evaluations halving compares; nothing for another search."""
    if asked.search != "halving":
        return []
    return rungs_of(program.evaluations, asked.reduction, asked.first_rung)


def check_search(asked: Settings, program: Program, members: int, slots: int) -> None:
    """Raise `UserError` where the search could never stop or copy anyone."""
    if asked.search == "halving" and not rungs_in(asked, program):
        raise UserError(
            f"--search=halving: no rung lies within {program.evaluations} evaluations; choose "
            "a lower --first_rung or --reduction, or a longer training."
        )
    if asked.search == "pbt" and slots < members:
        raise UserError(
            f"--search=pbt: {members} members must train at the same time, and {slots} do; "
            "choose more --slots, fewer members or smaller sizes."
        )
    if asked.search == "pbt" and asked.interval >= program.evaluations:
        raise UserError(
            f"--interval: the worst are replaced every {asked.interval} evaluations, and there "
            f"are {program.evaluations}; choose fewer."
        )
