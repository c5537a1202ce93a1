"""Train many configurations of one experiment together, and rank them.

Command: ./launch.sh sweep EXPERIMENT --sweep=learning_rate=log:1e-4:1e-1:8 --sweep=seed=0:4
"""

import dataclasses
import functools
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import loop, rundir, stopping
from experiments.harness.copies import with_files
from experiments.harness.errors import UserError
from experiments.harness.files import write_atomically
from experiments.harness.identity import code_hashes, data_hashes, origin_of, source_hashes
from experiments.harness.loop import Observer
from experiments.harness.numbers import checked_row, damaged, is_number
from experiments.harness.plan import Memory, Outcome, Plan
from experiments.harness.processes import (
    by_the_first,
    check_same_everywhere,
    highest,
    is_first,
    meet,
)
from experiments.harness.progress import progress
from experiments.harness.run import say_changes
from experiments.report.side_by_side import member_rows
from experiments.sweep import layouts, ranking, report, winner
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.planning import (
    best_score,
    next_plan,
    planned,
    program_count,
    static_axes,
)
from experiments.sweep.progress import Whole, observers, whole_of
from experiments.sweep.search import Tried


class Ended(NamedTuple):
    """Hold what is known of a program when all of its members have ended, as ``ended.json`` does.

    Attributes:
      outcomes: what became of its members.
      seconds: that their training took.
      memory: what the search remembers.
      data: hashes of the data that they were trained on.
    """

    outcomes: list[Outcome]
    seconds: float
    memory: Memory
    data: dict[str, str]


def main(sweep: Sweep, folder: Path, overwrite: bool) -> int:
    """Train a sweep, or go on with it; return the exit status, 3 where every member diverged.

    It writes ``sweep.jsonl``, a row of each member that has ended, then ``figures``,
    ``report.html`` and, last, ``result.json``.

    Raises:
      UserError: for what cannot be swept so, before anything is compiled or written.
    """
    asked = identity(sweep)
    where = {"workdir": str(folder.absolute()), "overwrite": overwrite}
    check_same_everywhere(rundir.flat(asked) | where)
    plans = planned(sweep)
    asked["sources"] |= data_of(plans)
    origin = origin_of(sweep.experiment, folder)
    claim = rundir.claim(folder, asked, overwrite, origin)
    with by_the_first(with_files(claim, configs_of(sweep), folder)):
        say_changes(folder, origin)
        plans = [laid_out(plan, folder, k, sweep.settings) for k, plan in enumerate(plans)]
        print(announcement(sweep, plans, folder), flush=True)
        try:
            programs = train_all(sweep, plans, folder)
        except stopping.Stopped as stop:
            print(stop, file=sys.stderr)
            return 128 + stop.signum
        if not is_first():
            return 0
        fields = [axis.field for axis in sweep.swept]
        alone = sweep.settings.search == "pbt"
        found = ranking.ranked(outcomes_of(programs), fields, each_alone=alone)
        seconds = sum(each.seconds for each in programs)
        rows = member_rows(folder)
        data = [each.data for each in programs]
        winner.publish(sweep, plans[0], data, found[0], outcomes_of(programs), rows, folder)
        report.write(sweep, plans[0], found, rows, seconds, folder)
    print(report.comparison_text(sweep, found, plans[0].program))
    for note in report.edge_notes(sweep, found[0]):
        print(note)
    print(f"report: {folder / 'report.html'}")
    if not found[0].of("score"):
        print("error: every member diverged; sweep over smaller steps.", file=sys.stderr)
        return 3
    print(f"{report.best_words(sweep)}: {report.best_command(sweep, found[0])}")
    print(f"its weights are there to be used, as in ./launch.sh info {shlex.quote(str(folder))}")
    return 0


def identity(sweep: Sweep) -> dict[str, Any]:
    """Return what must be the same for a sweep to be gone on with."""
    asked = dataclasses.asdict(sweep.settings)
    del asked["layout"], asked["slots"]  # which change no number, or are known since the beginning
    sources = code_hashes(sweep.experiment)
    for each in configs_of(sweep):
        sources |= source_hashes(each)
    return {
        "experiment": sweep.experiment.name,
        "config": dataclasses.asdict(sweep.base),
        "axes": {axis.field: axis.describe() for axis in sweep.swept},
        "sweep": asked,
        "sources": sources,
    }


def configs_of(sweep: Sweep) -> list[Any]:
    """Return Configs that together name all files of the user's that a sweep reads."""
    values = [{axis.field: value} for axis in static_axes(sweep) for value in axis.values]
    return [dataclasses.replace(sweep.base, **own) for own in [{}, *values]]


def data_of(plans: Sequence[Plan]) -> dict[str, str]:
    """Return hashes of the data of all programs, as an identity holds them."""
    return {
        f"{name} of program {k}": each
        for k, plan in enumerate(plans)
        for name, each in data_hashes(plan.program.data).items()
    }


def program_folder(folder: Path, number: int) -> Path:
    """Return where a program's checkpoints and metrics are."""
    return folder / "programs" / str(number)


def laid_out(plan: Plan, folder: Path, number: int, asked: Settings) -> Plan:
    """Return the plan with as many slots as when its program began, maybe on other devices."""
    own = program_folder(folder, number)
    check_form(own / "places.json", (own / "places.json").exists())
    file = own / "slots.json"
    known = rundir.read_json(file) if file.exists() else None
    meet("slots")  # so that all of them have seen the file, or none
    if is_ended(own):
        return plan
    if known:
        layout = layouts.layout_of(known["slots"], asked.layout)
        plan = plan._replace(slots=known["slots"], layout=layout)
    elif is_first():
        own.mkdir(parents=True, exist_ok=True)
        rundir.write_json(file, {"slots": plan.slots})
    return layouts.with_fastest_layout(plan) if asked.layout == "measure" else plan


def check_form(file: Path, is_another: bool) -> None:
    """Raise `UserError` where a sweep was begun by a version that wrote other files."""
    if is_another:
        raise UserError(
            f"{file} was written by another version of this code, in a form that this one does "
            "not read. Finish the sweep with that version, or begin anew with --overwrite."
        )


def announcement(sweep: Sweep, plans: Sequence[Plan], folder: Path) -> str:
    """Say how many members train in how many programs, and where they are computed."""
    count = program_count(sweep)
    members = count * sum(len(plan.values) for plan in plans)
    configurations = count * sum(len(plan.configurations) for plan in plans)
    kind = "proposed program" if sweep.settings.propose else "program"
    programs = plural(count * len(plans), kind)
    laid = dict.fromkeys(
        f"{plan.slots} at a time on {layouts.describe(plan.layout, plan.slots)}" for plan in plans
    )
    return (
        f"sweep of {sweep.experiment.name}: {plural(members, 'member')} of "
        f"{plural(configurations, 'configuration')} in {programs}; {'; '.join(laid)}\n"
        f"in {folder}"
    )


def plural(count: int, word: str) -> str:
    """Write ``1 member``, ``2 members``."""
    return f"{count} {word}" + ("" if count == 1 else "s")


def train_all(sweep: Sweep, plans: Sequence[Plan], folder: Path) -> list[Ended]:
    """Train the programs of a sweep, one after the other.

    Raises:
      Stopped: after SIGINT or SIGTERM.
    """
    programs: list[Ended] = []
    tried: list[Tried] = []
    whole, done = whole_of(plans, program_count(sweep)), Whole(0, 0)
    rows = [row for rows in member_rows(folder).values() for row in rows]
    write_outcomes = outcome_writer(folder)
    with stopping.stop_requests() as stops, progress(whole.steps) as show:
        observer_of = observers(whole, plans[0].program.select, rows, show)
        while True:
            plan, tried = plan_in_turn(sweep, plans, tried, folder)
            if plan is None:
                break
            (stop,) = highest(stops[0] if stops else 0)
            if stop:
                raise stopping.Stopped(int(stop), done.steps)
            own = program_folder(folder, len(programs))
            observer = observer_of(plan, done, own)._replace(
                ended=functools.partial(write_outcomes, outcomes_of(programs)),
                leaving=winner.keeper(
                    plan, own, sweep.settings.search == "pbt", sweep.settings.keep_all
                ),
            )
            memory = programs[-1].memory if programs else {}
            programs.append(trained(plan, own, observer, stops, memory))
            static = {axis.field: plan.values[0][axis.field] for axis in static_axes(sweep)}
            tried.append(Tried(static, best_score(sweep, programs[-1].outcomes)))
            own_members = len(plan.values)
            done = Whole(done.members + own_members, done.steps + own_members * plan.program.steps)
    write_outcomes(outcomes_of(programs))
    return programs


def plan_in_turn(
    sweep: Sweep, plans: Sequence[Plan], tried: list[Tried], folder: Path
) -> tuple[Plan | None, list[Tried]]:
    """Return the plan of the next program, or None, and what was tried with what was refused."""
    if not sweep.settings.propose:
        return (plans[len(tried)] if len(tried) < len(plans) else None), tried
    plan, tried = next_plan(sweep, tried)
    number = sum(not each.refused for each in tried)
    return plan and laid_out(plan, folder, number, sweep.settings), tried


def outcomes_of(programs: Sequence[Ended]) -> list[Outcome]:
    """Return what became of all members of these programs."""
    return [outcome for each in programs for outcome in each.outcomes]


def outcome_writer(folder: Path) -> Callable[..., None]:
    """Return what writes ``sweep.jsonl``, by the first process alone.

    It is given the outcomes of the programs before, and of this one so far. Those of a sweep are
    only ever added to, so each becomes a line once, however often members end.
    """
    lines: list[str] = []

    def write(before: Sequence[Outcome], outcomes: Sequence[Outcome] = ()) -> None:
        if is_first():
            new = itertools.islice(itertools.chain(before, outcomes), len(lines), None)
            lines.extend(json.dumps(row) + "\n" for row in new)
            write_atomically(folder / "sweep.jsonl", "".join(lines))

    return write


def is_ended(folder: Path) -> bool:
    """Return whether all members of a program are known to have ended."""
    return (folder / "ended.json").exists()


def trained(
    plan: Plan,
    folder: Path,
    observer: Observer,
    stops: Sequence[int],
    memory: Mapping[str, Any],
) -> Ended:
    """Train the members of a program to their ends, unless ``ended.json`` says that they have."""
    file = folder / "ended.json"
    known = rundir.read_json(file) if is_ended(folder) else None
    meet("ended")  # so that all of them have seen the file, or none
    if known is not None:
        check_form(file, known.keys() != set(Ended._fields))
        return checked_end(file, Ended(**known), plan)
    _, state = loop.train(plan, folder, observer, stops, dict(memory))
    data = data_hashes(plan.program.data)
    ended = Ended(list(state.outcomes), state.seconds, state.memory, data)
    if is_first():
        rundir.write_json(file, ended._asdict())
    return ended


def checked_end(file: Path, ended: Ended, plan: Plan) -> Ended:
    """Return what ``ended.json`` says of the members of a plan.

    Raises:
      UserError: where it says something else.
    """
    if not isinstance(ended.outcomes, list):
        raise damaged(file, "outcomes must be a list")
    if not isinstance(ended.memory, dict):
        raise damaged(file, "memory must be an object")
    if not isinstance(ended.data, dict) or not all(isinstance(v, str) for v in ended.data.values()):
        raise damaged(file, "data must be an object of hashes")
    if not is_number(ended.seconds):
        raise damaged(file, f"seconds is {ended.seconds!r}, not a number")
    for each in ended.outcomes:
        checked_row(file, each, ["member", "evaluations_done", "step", "best_step"])
        if {"status", "score", *plan.values[0]} - each.keys():
            raise damaged(file, "an outcome lacks its status, its score or a swept field")
        if each["score"] is not None and not is_number(each["score"]):
            raise damaged(file, f"score is {each['score']!r}, not a number")
    if sorted(each["member"] for each in ended.outcomes) != sorted(plan.names):
        raise damaged(file, "its outcomes are not those of the members of this program")
    return ended
