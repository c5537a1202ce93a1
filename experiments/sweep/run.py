"""Trains many settings of one experiment together, and ranks them.

Command: ./launch.sh sweep EXPERIMENT --sweep=learning_rate=log:1e-4:1e-1:8 --sweep=seed=0:4
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.harness import rundir, stopping
from experiments.harness.files import write_atomically
from experiments.harness.processes import (
    by_the_first,
    check_same_everywhere,
    highest,
    is_first,
    meet,
)
from experiments.harness.progress import progress
from experiments.shared import cell_flag
from experiments.sweep import layouts, ranking, report
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.loop import train_members
from experiments.sweep.plan import Plan, member_rows, program_folder, total_steps
from experiments.sweep.planning import planned, proposals, static_axes, times


def main(sweep: Sweep, folder: Path, overwrite: bool) -> int:
    """Runs a sweep, or goes on with it; returns the exit status: 3 where every member diverged.

    It writes ``sweep.jsonl``, a row of each member that has ended, then ``figures``,
    ``report.html`` and, last, ``result.json``.

    Raises:
      UserError: for what cannot be swept so, before anything is compiled or written.
    """
    asked = identity(sweep)
    check_same_everywhere(
        rundir.flat(asked) | {"workdir": str(folder.absolute()), "overwrite": overwrite}
    )
    plans = planned(sweep)
    with by_the_first(rundir.claim(folder, asked, overwrite)):
        plans = [laid_out(plan, folder, k, sweep.settings) for k, plan in enumerate(plans)]
        print(announcement(sweep, plans, folder), flush=True)
        try:
            outcomes, seconds = train_all(sweep, plans, folder)
        except stopping.Stopped as stop:
            print(f"{stop}; the same command goes on from there.", file=sys.stderr)
            return 128 + stop.signum
        if not is_first():
            return 0
        fields = [axis.field for axis in sweep.swept]
        alone = sweep.settings.search == "pbt"
        settings = ranking.ranked(outcomes, fields, each_alone=alone)
        report.write(sweep, plans[0], settings, member_rows(folder), seconds, folder)
    print(report.table_text(settings, plans[0].program.metric))
    print(f"report: {folder / 'report.html'}")
    if not settings[0].of("score"):
        print("error: every member diverged; sweep over lower learning rates.", file=sys.stderr)
        return 3
    print(f"{report.best_words(sweep)}: {report.best_command(sweep, settings[0])}")
    return 0


def identity(sweep: Sweep) -> dict[str, Any]:
    """What must be the same for a sweep to be gone on with."""
    asked = dataclasses.asdict(sweep.settings)
    del asked["layout"], asked["places"]  # which change no number, or are known since the beginning
    values = [{axis.field: value} for axis in static_axes(sweep) for value in axis.values]
    named = [
        cell_flag.source_hashes(dataclasses.replace(sweep.base, **own)) for own in [{}, *values]
    ]
    return {
        "experiment": sweep.experiment,
        "config": dataclasses.asdict(sweep.base),
        "axes": {axis.field: axis.told() for axis in sweep.swept},
        "sweep": asked,
        "sources": {f"{k} {name}": h for k, each in enumerate(named) for name, h in each.items()},
    }


def laid_out(plan: Plan, folder: Path, number: int, asked: Settings) -> Plan:
    """The plan with as many places as when its program began, maybe on other devices than now."""
    own = program_folder(folder, number)
    file = own / "places.json"
    known = rundir.read_json(file) if file.exists() else None
    meet("places")  # so that all of them have seen the file, or none
    if is_ended(own):
        return plan
    if known:
        layout = layouts.layout_of(known["places"], asked.layout)
        plan = plan._replace(places=known["places"], layout=layout)
    elif is_first():
        own.mkdir(parents=True, exist_ok=True)
        rundir.write_json(file, {"places": plan.places})
    if asked.layout == "measure":
        return layouts.with_fastest_layout(plan)
    return plan


def announcement(sweep: Sweep, plans: Sequence[Plan], folder: Path) -> str:
    """How many members in how many programs, and where they are computed."""
    count = times(sweep)
    members = count * sum(len(plan.points) for plan in plans)
    settings = count * sum(len(plan.settings) for plan in plans)
    kind = "proposed program" if sweep.settings.propose else "program"
    programs = counted(count * len(plans), kind)
    laid = dict.fromkeys(
        f"{plan.places} at a time on {layouts.told(plan.layout, plan.places)}" for plan in plans
    )
    return (
        f"sweep of {sweep.experiment}: {counted(members, 'member')} of "
        f"{counted(settings, 'setting')} in {programs}; {'; '.join(laid)}\n"
        f"in {folder}"
    )


def counted(count: int, word: str) -> str:
    """``1 member``, ``2 members``."""
    return f"{count} {word}" + ("" if count == 1 else "s")


def train_all(
    sweep: Sweep, plans: Sequence[Plan], folder: Path
) -> tuple[list[dict[str, Any]], float]:
    """The outcomes of all members, and the seconds that their training took.

    Raises:
      Stopped: after SIGINT or SIGTERM.
    """
    books: list[dict[str, Any]] = []
    total = times(sweep) * sum(len(plan.points) * total_steps(plan) for plan in plans)
    done = 0
    with stopping.stop_requests() as stops, progress(0, total) as show:

        def ended(of_program: list[dict[str, Any]]) -> None:
            lines = [json.dumps(row) + "\n" for row in [*outcomes_of(books), *of_program]]
            if is_first():
                write_atomically(folder / "sweep.jsonl", "".join(lines))

        for plan in in_turn(sweep, plans, books, folder):
            (stop,) = highest(stops[0] if stops else 0)
            if stop:
                raise stopping.Stopped(int(stop), done, total)
            before = done
            book = trained(
                *(plan, program_folder(folder, len(books)), ended, stops),
                reached=books[-1]["reached"] if books else {},
                show=lambda steps, words, before=before: show(before + steps, words),
            )
            books.append(book)
            done += len(plan.points) * total_steps(plan)
        ended([])
    return outcomes_of(books), sum(book["seconds"] for book in books)


def outcomes_of(books: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of all members of these programs."""
    return [outcome for book in books for outcome in book["outcomes"]]


def in_turn(
    sweep: Sweep, plans: Sequence[Plan], books: Sequence[Mapping[str, Any]], folder: Path
) -> Iterator[Plan]:
    """The plans, one after the other; those to be proposed, when ``books`` has all before them."""
    if not sweep.settings.propose:
        yield from plans
        return
    for number, plan in enumerate(proposals(sweep, lambda: [book["outcomes"] for book in books])):
        yield laid_out(plan, folder, number, sweep.settings)


def is_ended(folder: Path) -> bool:
    """Whether all members of a program are known to have ended."""
    return (folder / "ended.json").exists()


def trained(
    plan: Plan,
    folder: Path,
    ended: Callable[..., None],
    stops: Sequence[int],
    *,
    reached: Mapping[str, list[float | None]],
    show: Callable[[int, str], None],
) -> dict[str, Any]:
    """What is known of a program when all of its members have ended, kept in ``ended.json``."""
    file = folder / "ended.json"
    known = rundir.read_json(file) if is_ended(folder) else None
    meet("ended")  # so that all of them have seen the file, or none
    if known is None:
        book = train_members(plan, folder, show, ended, stops, reached)
        known = {name: getattr(book, name) for name in ("outcomes", "seconds", "reached")}
        if is_first():
            rundir.write_json(file, known)
    return known
