"""Say which members one compiled program trains, and hold what is known of them on the way.

A run is a plan of one member. A sweep has many members, and maybe fewer slots: indices into arrays
of fixed size, at which members are trained. A slot that a member leaves is filled with the next.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.harness.program import Program
from recurrent.training.population import Layout

FINISHED, PATIENCE, STOPPED, DIVERGED = "finished", "early stop", "rung", "diverged"

Values = dict[str, Any]  # the swept fields of a member, by name
Outcome = dict[str, Any]  # a row of sweep.jsonl: what became of a member that has ended
Memory = dict[str, Any]  # what a search remembers; JSON, since it stands in checkpoints
Decisions = dict[int, Any]  # by member: `STOP`, `WAIT` or a `Copy`

STOP = "stop"  # train this member no more
WAIT = "wait"  # let this member, which has diverged, keep its slot


class Copy(NamedTuple):
    """Decide that a member goes on from a copy of another, with other values."""

    source: int
    values: Values


class MemberEvaluation(NamedTuple):
    """Hold what an evaluation says of one member, on the host.

    Attributes:
      slot: where it is trained.
      member: which member of the plan it is.
      step: steps it has taken.
      best_step: the step of its best evaluation.
      best_score: the score of that one, higher for better.
      failures: bad steps in a row.
      ending: why it ends now by itself, `FINISHED`, `PATIENCE` or `DIVERGED`; None if it goes on.
      train: means of its training metrics since the last evaluation, None for one not finite.
      valid: means of its metrics on the validation split.
    """

    slot: int
    member: int
    step: int
    best_step: int
    best_score: float
    failures: int
    ending: str | None
    train: dict[str, float | None]
    valid: dict[str, float | None]


class SweepState(NamedTuple):
    """Hold what is known beside the members' arrays; it stands in every checkpoint.

    Attributes:
      slots: the member in each slot; None in an empty one.
      started: how many of the plan's configurations have been given slots.
      evaluation: evaluations of the population so far.
      step_in_evaluation: steps since the last of them.
      divergence_threshold: a score below this one is a divergence.
      outcomes: what became of each member that ended, in the order of ending.
      best_metrics: the validation metrics of each member's best evaluation, by member.
      best_values: the swept fields by which it was reached, by member.
      values: the swept fields of members that changed on the way, by member.
      memory: what the search remembers.
      seconds: of training, over all processes.
    """

    slots: tuple[int | None, ...]
    started: int = 0
    evaluation: int = 0
    step_in_evaluation: int = 0
    divergence_threshold: float = -math.inf
    outcomes: tuple[Outcome, ...] = ()
    best_metrics: dict[int, dict[str, Any]] = {}  # noqa: RUF012 - never changed in place
    best_values: dict[int, Values] = {}  # noqa: RUF012
    values: dict[int, Values] = {}  # noqa: RUF012
    memory: Memory = {}  # noqa: RUF012
    seconds: float = 0.0


Tell = Callable[["Plan", SweepState, Sequence[MemberEvaluation]], tuple[Memory, Decisions]]


def let_all_go_on(
    plan: "Plan", state: SweepState, evaluations: Sequence[MemberEvaluation]
) -> tuple[Memory, Decisions]:
    """Stop and copy nobody: the rule of a run, and of a grid."""
    return state.memory, {}


class Plan(NamedTuple):
    """Say what one compiled program trains.

    Attributes:
      program: of all its members.
      config: its Config; each member replaces some of its traced fields.
      values: the swept fields of each member.
      names: the number of each member in the whole sweep; empty for a run.
      configurations: members by configuration, as indices of ``values``: those that differ in the
        seed alone. They start together.
      layout: of the slots on the devices.
      slots: how many members are trained at a time, at least those of one configuration.
      tell: after each evaluation, decides who is stopped and who is copied.
      marks: evaluations to mark in figures of learning curves, such as the rungs of halving.
    """

    program: Program
    config: Any
    values: list[Values]
    names: list[int]
    configurations: list[list[int]]
    layout: Layout
    slots: int
    tell: Tell = let_all_go_on
    marks: Sequence[int] = ()

    @property
    def patience(self) -> float:
        """Return after how many evaluations without a better score a member ends."""
        return self.config.patience or math.inf


def plan_of_run(program: Program, config: Any, batch_devices: int = 1) -> Plan:
    """Return the plan of a single training, whose batches ``batch_devices`` devices share."""
    layout = Layout(1, 1, batch_devices)
    return Plan(program, config, [{}], [], [[0]], layout, slots=1)


def fresh_state(plan: Plan, memory: Memory) -> SweepState:
    """Return the state in which the first members have been given slots."""
    return assign(plan, SweepState(slots=(None,) * plan.slots, memory=memory))


def assign(plan: Plan, state: SweepState) -> SweepState:
    """Put the configurations that wait into empty slots, each as a whole."""
    slots, started = list(state.slots), state.started
    for members in plan.configurations[started:]:
        empty = [slot for slot, member in enumerate(slots) if member is None]
        if len(empty) < len(members):
            break
        for slot, member in zip(empty, members, strict=False):
            slots[slot] = member
        started += 1
    return state._replace(slots=tuple(slots), started=started)


def vacate(state: SweepState, slots: Sequence[int]) -> SweepState:
    """Empty these slots."""
    kept = tuple(None if k in slots else member for k, member in enumerate(state.slots))
    return state._replace(slots=kept)


def is_training(state: SweepState) -> bool:
    """Return whether any member trains."""
    return any(member is not None for member in state.slots)


def steps_taken(plan: Plan, state: SweepState) -> int:
    """Return the steps of the population, by which its checkpoints are numbered."""
    return state.evaluation * plan.program.steps_per_evaluation + state.step_in_evaluation


def values_of(plan: Plan, state: SweepState, member: int) -> Values:
    """Return the swept fields of a member as they are now."""
    return state.values.get(member, plan.values[member])


def note_best(plan: Plan, state: SweepState, evaluations: Sequence[MemberEvaluation]) -> SweepState:
    """Remember metrics and values of the members whose best evaluation this is."""
    best = [each for each in evaluations if each.best_step == each.step]
    metrics = {each.member: each.valid for each in best}
    values = {each.member: values_of(plan, state, each.member) for each in best}
    return state._replace(
        best_metrics=state.best_metrics | metrics, best_values=state.best_values | values
    )


def outcome(
    plan: Plan, state: SweepState, each: MemberEvaluation, status: str, test: dict[str, Any]
) -> Outcome:
    """Return what became of a member that ends now."""
    best = state.best_metrics.get(each.member, {})
    named = {"member": plan.names[each.member]} if plan.names else {}
    return {
        **named,
        **state.best_values.get(each.member, values_of(plan, state, each.member)),
        "status": status,
        "evaluations_done": each.step // plan.program.steps_per_evaluation,
        "step": each.step,
        "best_step": each.best_step,
        "score": None if status == DIVERGED else each.best_score,
        **{f"valid_{name}": value for name, value in best.items()},
        **{f"test_{name}": value for name, value in test.items()},
    }


def copy_values(state: SweepState, copies: dict[int, Copy]) -> SweepState:
    """Give members the values, and what is known of the best, of those they are copied from."""
    values = state.values | {member: copy.values for member, copy in copies.items()}
    metrics, best = dict(state.best_metrics), dict(state.best_values)
    for member, copy in copies.items():
        if copy.source in state.best_metrics:
            own = {"seed": copy.values["seed"]} if "seed" in copy.values else {}
            metrics[member] = state.best_metrics[copy.source]
            best[member] = state.best_values[copy.source] | own
    return state._replace(values=values, best_metrics=metrics, best_values=best)


def to_json(state: SweepState) -> dict[str, Any]:
    """Return the state as an object that `from_json` reads back."""
    return state._asdict()


def from_json(found: dict[str, Any]) -> SweepState:
    """Return the state that `to_json` wrote; JSON turns tuples to lists and numbers to keys."""
    tuples: dict[str, Any] = {name: tuple(found[name]) for name in ("slots", "outcomes")}
    by_member = {
        name: {int(member): value for member, value in found[name].items()}
        for name in ("best_metrics", "best_values", "values")
    }
    return SweepState(**{**found, **tuples, **by_member})
