"""Train many configurations of one experiment together, and rank them.

Command: ./launch.sh sweep EXPERIMENT --sweep=learning_rate=log:1e-4:1e-1:8 --sweep=seed=0:4
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.harness import loop, rundir, stopping
from experiments.harness.engine import Status
from experiments.harness.errors import UserError
from experiments.harness.files import write_atomically
from experiments.harness.identity import source_hashes
from experiments.harness.loop import Observer
from experiments.harness.plan import DIVERGED, Memory, Outcome, Plan, SweepState
from experiments.harness.processes import (
    by_the_first,
    check_same_everywhere,
    highest,
    is_first,
    meet,
)
from experiments.harness.progress import Show, progress
from experiments.report.side_by_side import member_rows
from experiments.sweep import layouts, ranking, report
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.planning import (
    best_score,
    next_plan,
    planned,
    program_count,
    static_axes,
)
from experiments.sweep.search import Tried


class Ended(NamedTuple):
    """Hold what is known of a program when all of its members have ended, as ``ended.json`` does.

    Attributes:
      outcomes: what became of its members.
      seconds: that their training took.
      memory: what the search remembers.
    """

    outcomes: list[Outcome]
    seconds: float
    memory: Memory


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
    with by_the_first(rundir.claim(folder, asked, overwrite)):
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
        report.write(sweep, plans[0], found, member_rows(folder), seconds, folder)
    print(report.table_text(found, plans[0].program))
    print(f"report: {folder / 'report.html'}")
    if not found[0].of("score"):
        print("error: every member diverged; sweep over smaller steps.", file=sys.stderr)
        return 3
    print(f"{report.best_words(sweep)}: {report.best_command(sweep, found[0])}")
    return 0


def identity(sweep: Sweep) -> dict[str, Any]:
    """Return what must be the same for a sweep to be gone on with."""
    asked = dataclasses.asdict(sweep.settings)
    del asked["layout"], asked["slots"]  # which change no number, or are known since the beginning
    values = [{axis.field: value} for axis in static_axes(sweep) for value in axis.values]
    named = [source_hashes(dataclasses.replace(sweep.base, **own)) for own in [{}, *values]]
    return {
        "experiment": sweep.experiment,
        "config": dataclasses.asdict(sweep.base),
        "axes": {axis.field: axis.describe() for axis in sweep.swept},
        "sweep": asked,
        "sources": {f"{k} {name}": h for k, each in enumerate(named) for name, h in each.items()},
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
        f"sweep of {sweep.experiment}: {plural(members, 'member')} of "
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
    total = program_count(sweep) * sum(len(p.values) * p.program.steps for p in plans)
    done = 0
    with stopping.stop_requests() as stops, progress(total) as show:
        while True:
            plan, tried = plan_in_turn(sweep, plans, tried, folder)
            if plan is None:
                break
            (stop,) = highest(stops[0] if stops else 0)
            if stop:
                raise stopping.Stopped(int(stop), done)
            observer = observer_of(plan, programs, folder, show, done)
            own = program_folder(folder, len(programs))
            memory = programs[-1].memory if programs else {}
            programs.append(trained(plan, own, observer, stops, memory))
            static = {axis.field: plan.values[0][axis.field] for axis in static_axes(sweep)}
            tried.append(Tried(static, best_score(sweep, programs[-1].outcomes)))
            done += len(plan.values) * plan.program.steps
    write_outcomes(folder, outcomes_of(programs))
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


def write_outcomes(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write ``sweep.jsonl``, by the first process alone."""
    if is_first():
        lines = [json.dumps(row) + "\n" for row in outcomes]
        write_atomically(folder / "sweep.jsonl", "".join(lines))


def observer_of(
    plan: Plan, before: Sequence[Ended], folder: Path, show: Show, done: int
) -> Observer:
    """Return what is called on the way of a program: it shows how far all of them have come."""
    earlier = outcomes_of(before)

    def called(state: SweepState, status: Status, metrics: Any) -> None:
        show(done + steps_done(plan, state, status), best_so_far(plan, state))

    return Observer(
        started=lambda state: show(done, ""),
        called=called,
        evaluated=lambda state, rows: None,
        ended=lambda outcomes: write_outcomes(folder, [*earlier, *outcomes]),
    )


def steps_done(plan: Plan, state: SweepState, status: Status) -> int:
    """Return the steps of all members, counting as whole trainings those that have ended."""
    steps = np.asarray(jax.device_get(status.step))
    running = sum(int(steps[k]) for k, member in enumerate(state.slots) if member is not None)
    return running + len(state.outcomes) * plan.program.steps


def best_so_far(plan: Plan, state: SweepState) -> str:
    """Return the validation metric of the best member, in a few characters."""
    lost = {each["member"] for each in state.outcomes if each["status"] == DIVERGED}
    select, metric = plan.program.select, plan.program.report
    known = [
        row
        for member, row in state.best_metrics.items()
        if plan.names[member] not in lost and None not in (row[select.name], row[metric.name])
    ]
    ended = f"{len(state.outcomes)} ended"
    if not known:
        return ended
    best = max(known, key=lambda row: select.score(row[select.name]))
    return f"{ended}, best {metric.name} {best[metric.name]:.4g}"


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
        return Ended(**known)
    _, state = loop.train(plan, folder, observer, stops, dict(memory))
    ended = Ended(list(state.outcomes), state.seconds, state.memory)
    if is_first():
        rundir.write_json(file, ended._asdict())
    return ended
