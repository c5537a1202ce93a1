"""Show how far a sweep has come, over all of its programs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.harness import rundir
from experiments.harness.engine import Status
from experiments.harness.loop import Observer
from experiments.harness.plan import Plan, SweepState
from experiments.harness.program import Row
from experiments.harness.progress import Show
from recurrent.training.task import Metric


class Whole(NamedTuple):
    """Hold counts of all programs of a sweep: its members, and the steps of all of them."""

    members: int
    steps: int


def whole_of(plans: Sequence[Plan], programs: int) -> Whole:
    """Count what a sweep trains, where each plan stands for as many programs."""
    members = sum(len(plan.values) for plan in plans)
    steps = sum(len(plan.values) * plan.program.steps for plan in plans)
    return Whole(programs * members, programs * steps)


def observers(
    whole: Whole, select: Metric, rows: Sequence[Row], show: Show
) -> Callable[[Plan, Whole, Path], Observer]:
    """Return what makes the observer of each program: ``(plan, before, folder) -> observer``.

    ``before`` counts the programs before this one. What the observers show goes on from program
    to program: steps are added up, and the best so far never gets worse, whoever diverges.

    Args:
      whole: counts of the sweep.
      select: the metric whose best value is shown.
      rows: of metrics, that an earlier process has left.
      show: the display.
    """
    best, said = best_of(select, None, rows), False

    def of_program(plan: Plan, before: Whole, folder: Path) -> Observer:
        begun = 0  # after how many evaluations

        def ended(state: SweepState) -> str:
            return f"{before.members + len(state.outcomes)} of {whole.members}"

        def started(state: SweepState) -> None:
            nonlocal said, begun
            begun = state.evaluation
            rows = rundir.rows_of(folder / "metrics.jsonl")
            step = before.steps + steps_at_start(plan, state, rows)
            if step and not said:
                words = f"{ended(state)} members have ended, step {step} of {whole.steps}"
                print(f"goes on: {words}", flush=True)
            said = True

        def called(state: SweepState, status: Status, metrics: Any) -> None:
            step = before.steps + steps_done(plan, state, jax.device_get(status.step))
            known = [] if best is None else [f"best {select.name} {best:.4g}"]
            message = ", ".join([*known, f"{ended(state)} ended"])
            show(step, message, (folder, state.evaluation > begun))

        def evaluated(state: SweepState, rows: Sequence[Row]) -> None:
            nonlocal best
            best = best_of(select, best, rows)

        return Observer(started, called, evaluated, ended=lambda outcomes: None)

    return of_program


def best_of(select: Metric, best: float | None, rows: Sequence[Row]) -> float | None:
    """Return the best validation value of rows of metrics and of ``best``; None without any."""
    found = [best, *(row[f"valid_{select.name}"] for row in rows)]
    return max((each for each in found if each is not None), key=select.score, default=None)


def steps_done(plan: Plan, state: SweepState, steps: Sequence[int]) -> int:
    """Return the steps of all members, counting as whole trainings those that have ended.

    Args:
      plan: of the program.
      state: who is in which slot, and who has ended.
      steps: of the members in their slots.
    """
    running = sum(int(steps[k]) for k, member in enumerate(state.slots) if member is not None)
    return running + len(state.outcomes) * plan.program.steps


def steps_at_start(plan: Plan, state: SweepState, rows: Sequence[Row]) -> int:
    """Return the same before the first call, by the rows of metrics that a checkpoint counts."""
    latest = {row["member"]: row["step"] for row in rows}
    steps = [
        0 if member is None else latest.get(plan.names[member], 0) + state.step_in_evaluation
        for member in state.slots
    ]
    return steps_done(plan, state, steps)
