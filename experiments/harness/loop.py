"""Train a population call by call, surviving stops and crashes: the one loop of runs and sweeps."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import rundir
from experiments.harness.checkpoint import (
    checkpoints,
    finish,
    restore,
    save,
    set_damaged_aside,
    steps_in,
)
from experiments.harness.config import hparams_of
from experiments.harness.engine import Engine, Status, engine_of
from experiments.harness.errors import UserError
from experiments.harness.notes import state_of
from experiments.harness.plan import (
    DIVERGED,
    FINISHED,
    PATIENCE,
    STOP,
    STOPPED,
    Copy,
    MemberEvaluation,
    Memory,
    Outcome,
    Plan,
    SweepState,
    assign,
    copy_values,
    fresh_state,
    is_training,
    note_best,
    outcome,
    steps_taken,
    to_json,
    vacate,
    values_of,
)
from experiments.harness.processes import highest, is_first
from experiments.harness.stopping import Stopped, divergence_threshold
from recurrent.training import population
from recurrent.training.population import Limits, Member, batch_mesh, put, sharding
from recurrent.training.task import Data, Metrics

SECONDS_BETWEEN_SAVES = 2.0
SAVES_APART = 5  # times as far for several members, since they write more


class Population(NamedTuple):
    """Hold what is trained: members in their slots, and their metrics since the last evaluation."""

    members: Member
    sums: Metrics


Leaving = Callable[[Sequence[Outcome], Sequence[int], Callable[[int], Any]], None]


class Observer(NamedTuple):
    """Hold what is called on the way, by the first process of several too.

    Attributes:
      started: ``state``: the first call is compiled and begins now.
      called: ``(state, status, metrics)`` after each call, with the metrics of that call.
      evaluated: ``(state, rows)`` after each evaluation, with a row of each member that trained.
      ended: ``outcomes`` so far, when members have ended and a checkpoint knows of it.
      leaving: ``(outcomes, slots, kept_of)`` before the slots of members that end are filled again:
        all outcomes so far, of which the last are those in these slots; ``slot -> kept``.
    """

    started: Callable[[SweepState], None]
    called: Callable[[SweepState, Status, Metrics], None]
    evaluated: Callable[[SweepState, list[dict[str, Any]]], None]
    ended: Callable[[Sequence[Outcome]], None]
    leaving: Leaving = lambda outcomes, slots, kept_of: None


def train(
    plan: Plan,
    folder: Path,
    observer: Observer,
    stops: Sequence[int],
    memory: Memory | None = None,
) -> tuple[Population, SweepState]:
    """Train all members of a plan to their ends, from the latest checkpoint if there is one.

    Args:
      plan: what to train.
      folder: for ``checkpoints`` and ``metrics.jsonl``.
      observer: what is called on the way.
      stops: the signals received; the first is obeyed after a call.
      memory: what the search remembers of the programs before this one.

    Raises:
      Stopped: for a signal, when the state has been saved.
      UserError: where checkpoints or rows are damaged or lost, or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    engine = engine_of(plan.program, plan.layout)
    data = {k: put(split, plan.layout, shared=True) for k, split in plan.program.data.items()}
    with (
        batch_mesh(plan.layout),
        checkpoints(folder / "checkpoints" / "latest", keep=2) as latest,
        checkpoints(folder / "checkpoints" / "best", keep=1) as best,
    ):
        found = restored(plan, engine, data, latest)
        if found is None:
            check_nothing_is_lost(folder)
        there, state = found or fresh(plan, engine, data, memory or {})
        if found is None:  # so that rows without any checkpoint tell that it was lost
            save(latest, 0, there._asdict(), {"state": to_json(state)})
        check_rows(plan, state, folder / "metrics.jsonl")
        set_damaged_aside(best)
        keep_best(plan, best, there)  # which a crash may have kept from following the latest
        observer.ended(state.outcomes)
        began, saved = time.monotonic() - state.seconds, time.monotonic()
        call = compiled_calls(engine, there.members, data["train"])
        if is_training(state):
            call(next_call(plan, state))
            finish(latest)  # by now; the first call writes over what is saved
            observer.started(state)
        while is_training(state):
            outcomes = state.outcomes
            there, state, metrics = advanced(plan, call, data["train"], there, state)
            if state.step_in_evaluation == plan.program.steps_per_evaluation:
                there, state, rows = evaluated(plan, engine, data, there, state, observer)
                append_rows(folder / "metrics.jsonl", rows)
                observer.evaluated(state, rows)
            state = state._replace(seconds=time.monotonic() - began)
            over = state.outcomes != outcomes
            stop, due = highest(stops[0] if stops else 0, is_due(plan, saved))
            if (over or stop or due) and not is_lost(plan, state):
                tree = there._asdict()
                save(latest, steps_taken(plan, state), tree, {"state": to_json(state)})
                keep_best(plan, best, there)
                saved = time.monotonic()
            if over:
                finish(latest)  # no crash may undo an end that was announced
                observer.ended(state.outcomes)
            observer.called(state, engine.read(there.members), metrics)
            if stop and is_training(state):
                raise Stopped(int(stop), steps_taken(plan, state))
    return there, state


def compiled_calls(engine: Engine, members: Member, data: Data) -> Callable[[int], Any]:
    """Return ``steps -> compiled call``, each compiled when it is first asked for."""

    @functools.cache
    def call(steps: int) -> Any:
        jitted: Any = engine.train(steps)
        return jitted.lower(members, data).compile()

    return call


def next_call(plan: Plan, state: SweepState) -> int:
    """Return how many steps the next call takes: even parts of those between evaluations.

    A smaller last part would be a second program to compile, so that up to half as many calls more
    are made where they are of one size then.
    """
    size, limit = plan.program.steps_per_evaluation, plan.config.steps_per_call
    fewest = math.ceil(size / limit)
    calls = next((n for n in range(fewest, fewest + fewest // 2 + 1) if size % n == 0), fewest)
    return min(math.ceil(size / calls), size - state.step_in_evaluation)


def advanced(
    plan: Plan, call: Callable[[int], Any], data: Data, there: Population, state: SweepState
) -> tuple[Population, SweepState, Metrics]:
    """Take the steps of one call; return also the metrics of that call."""
    steps = next_call(plan, state)
    members, metrics = call(steps)(there.members, data)
    sums = jax.tree.map(jnp.add, there.sums, metrics)
    state = state._replace(step_in_evaluation=state.step_in_evaluation + steps)
    return Population(members, sums), state, metrics


def evaluated(
    plan: Plan,
    engine: Engine,
    data: dict[str, Data],
    there: Population,
    state: SweepState,
    observer: Observer,
) -> tuple[Population, SweepState, list[dict[str, Any]]]:
    """Measure and judge all members; end, replace and copy them as the plan says.

    Returns:
      The population and its state with empty sums, and a row of metrics of each member that
      trained.
    """
    due = np.array([member is not None for member in state.slots])
    valid = engine.measure((there.members, due), data["valid"])
    limits = Limits(plan.patience, state.divergence_threshold)
    members = engine.judge(there.members, valid, limits)
    state = state._replace(evaluation=state.evaluation + 1, step_in_evaluation=0)
    found = evaluations_of(plan, state, engine.read(members), there.sums, valid)
    state = note_best(plan, state, found)
    rows = [row_of(plan, state, each) for each in found]
    memory, decisions = plan.tell(plan, state, found)
    state = state._replace(memory=memory)
    ends = endings(found, decisions)
    if ends:
        members, state = ended(plan, engine, data, members, state, found, ends, observer)
    there_still = {each.member for each in found if each.slot not in ends}
    copies = {k: v for k, v in decisions.items() if isinstance(v, Copy) and k in there_still}
    if copies:
        members, state = copied(plan, engine, members, state, copies)
    return Population(members, jax.tree.map(jnp.zeros_like, there.sums)), state, rows


def evaluations_of(
    plan: Plan, state: SweepState, status: Status, train: Metrics, valid: Metrics
) -> list[MemberEvaluation]:
    """Return what an evaluation says of each member."""
    read = jax.device_get(status)
    train_means, valid_means = means_of(train), means_of(valid)
    return [
        MemberEvaluation(
            slot=slot,
            member=member,
            step=int(read.step[slot]),
            best_step=int(read.best_step[slot]),
            best_score=float(read.best_score[slot]),
            failures=int(read.failures[slot]),
            ending=ending_of(plan, int(read.status[slot]), int(read.step[slot])),
            train=train_means[slot] if train_means else {},
            valid=valid_means[slot],
        )
        for slot, member in enumerate(state.slots)
        if member is not None
    ]


def ending_of(plan: Plan, status: int, step: int) -> str | None:
    """Return why a member ends by itself; None where it goes on."""
    if status == population.DIVERGED:
        return DIVERGED
    if step == plan.program.steps:
        return FINISHED
    return PATIENCE if status == population.FINISHED else None


def means_of(metrics: Metrics) -> list[dict[str, float | None]]:
    """Return the means of each slot, None for what is not finite."""
    arrays = {name: np.asarray(value.mean, float) for name, value in metrics.items()}
    slots = len(next(iter(arrays.values()))) if arrays else 0
    return [
        {name: float(a[k]) if math.isfinite(a[k]) else None for name, a in arrays.items()}
        for k in range(slots)
    ]


def row_of(plan: Plan, state: SweepState, each: MemberEvaluation) -> dict[str, Any]:
    """Return a row of ``metrics.jsonl``: what is the same in every repetition, so no seconds."""
    row: dict[str, Any] = {"step": each.step, "evaluation": state.evaluation}
    if plan.names:
        row = {"member": plan.names[each.member], **row, **values_of(plan, state, each.member)}
    row |= {f"train_{name}": value for name, value in each.train.items()}
    return row | {f"valid_{name}": value for name, value in each.valid.items()}


def endings(evaluations: Sequence[MemberEvaluation], decisions: dict[int, Any]) -> dict[int, str]:
    """Return which slots are left now, and why: by the member itself, or because it is stopped."""
    ends = {}
    for each in evaluations:
        decision = decisions.get(each.member)
        if each.ending and not (each.ending == DIVERGED and decision not in (None, STOP)):
            ends[each.slot] = each.ending
        elif decision == STOP:
            ends[each.slot] = STOPPED
    return ends


def ended(
    plan: Plan,
    engine: Engine,
    data: dict[str, Data],
    members: Member,
    state: SweepState,
    evaluations: Sequence[MemberEvaluation],
    ends: dict[int, str],
    observer: Observer,
) -> tuple[Member, SweepState]:
    """Write down the outcomes of members that end, and fill their slots with those that wait."""
    over = np.isin(np.arange(plan.slots), list(ends))
    test = means_of(engine.measure_best((members, over), data["test"], data["valid"]))
    outcomes = [
        outcome(plan, state, each, ends[each.slot], test[each.slot] if test else {})
        for each in evaluations
        if each.slot in ends
    ]
    state = state._replace(outcomes=(*state.outcomes, *outcomes))
    observer.leaving(state.outcomes, list(ends), functools.partial(engine.kept, members))
    vacated = vacate(state, list(ends))
    state = assign(plan, vacated)
    if is_training(state):
        pairs = zip(vacated.slots, state.slots, strict=True)
        new = np.array([before is None and now is not None for before, now in pairs])
        members = engine.restart(members, over, new, hparams_in_slots(plan, state))
    return members, state


def copied(
    plan: Plan, engine: Engine, members: Member, state: SweepState, copies: dict[int, Copy]
) -> tuple[Member, SweepState]:
    """Let members go on from copies of others."""
    slot_of = {member: slot for slot, member in enumerate(state.slots) if member is not None}
    sources = np.arange(plan.slots)
    for member, copy in copies.items():
        sources[slot_of[member]] = slot_of[copy.source]
    state = copy_values(state, copies)
    return engine.copy(members, sources, hparams_in_slots(plan, state)), state


def hparams_in_slots(plan: Plan, state: SweepState) -> dict[str, np.ndarray]:
    """Return the traced fields of the members in their slots; an empty one has the first's."""
    values = [values_of(plan, state, member or 0) for member in state.slots]
    return hparams_of(*(dataclasses.replace(plan.config, **own) for own in values))


def fresh(
    plan: Plan, engine: Engine, data: dict[str, Data], memory: Memory
) -> tuple[Population, SweepState]:
    """Return the first members in their slots, before any step."""
    state = fresh_state(plan, memory)
    empty = np.array([member is None for member in state.slots])
    members = engine.begin((hparams_in_slots(plan, state), empty))
    first = np.arange(plan.slots) == 0
    (untrained, *_) = means_of(engine.measure((members, first), data["valid"]))
    threshold = divergence_threshold(untrained[plan.program.select.name], plan.program.select)
    shapes = sums_like(plan, engine, data, members)
    sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    there = Population(members, put(sums, plan.layout, shared=True))
    return there, state._replace(divergence_threshold=threshold)


def sums_like(plan: Plan, engine: Engine, data: dict[str, Data], members: Any) -> Any:
    """Return the shapes of the training metrics."""
    steps = next_call(plan, SweepState(slots=()))
    return jax.eval_shape(engine.train(steps), members, data["train"])[1]


def population_like(plan: Plan, engine: Engine, data: dict[str, Data]) -> Population:
    """Return the shapes of the population, which a checkpoint must have."""
    hparams = hparams_in_slots(plan, SweepState(slots=(None,) * plan.slots))
    members = jax.eval_shape(engine.begin, (hparams, np.zeros(plan.slots, bool)))
    return Population(members, sums_like(plan, engine, data, members))


def restored(
    plan: Plan, engine: Engine, data: dict[str, Data], latest: Any
) -> tuple[Population, SweepState] | None:
    """Return what the latest checkpoint holds; None without any."""
    like = population_like(plan, engine, data)
    found = restore(latest, like._asdict(), sharding(plan.layout))
    if found is None:
        return None
    tree, notes = found
    sums = put(tree["sums"], plan.layout, shared=True)
    return Population(tree["members"], sums), state_of(Path(latest.directory), notes, plan)


def keep_best(plan: Plan, manager: Any, there: Population) -> None:
    """Save what a run kept at its best evaluation, unless it is saved already."""
    if plan.names:
        return
    step = int(np.asarray(there.members.best_step.addressable_data(0))[0])
    if step not in (0, *manager.all_steps()):
        kept = jax.tree.map(lambda leaf: leaf[0], there.members.best)
        save(manager, step, {"kept": kept}, {})


def is_due(plan: Plan, saved: float) -> bool:
    """Return whether the last save is so long ago that the next one is due."""
    apart = SAVES_APART if plan.slots > 1 else 1
    return time.monotonic() - saved > apart * SECONDS_BETWEEN_SAVES


def is_lost(plan: Plan, state: SweepState) -> bool:
    """Return whether a run has diverged, whose last sound checkpoint then stays the latest."""
    return not plan.names and any(each["status"] == DIVERGED for each in state.outcomes)


def append_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to ``metrics.jsonl``, by the first process alone."""
    if is_first():
        rundir.append_rows(file, rows)


def check_nothing_is_lost(folder: Path) -> None:
    """Raise `UserError` where a training without a checkpoint has left results.

    It would begin again at step 0, and cut the rows and replace the best of the one before.
    """
    rows = len(rundir.rows_of(folder / "metrics.jsonl"))
    best = steps_in(folder / "checkpoints" / "best")
    if rows or best:
        kept = f"checkpoints/best is of step {best[-1]}" if best else "checkpoints/best is empty"
        raise UserError(
            f"{folder / 'checkpoints' / 'latest'} holds no checkpoint any more: metrics.jsonl has "
            f"{rows} rows, and {kept}. Restore it, or begin anew with --overwrite."
        )


def check_rows(plan: Plan, state: SweepState, file: Path) -> None:
    """Cut rows that the checkpoint does not count.

    Raises:
      UserError: where rows of a run that the checkpoint counts have been lost.
    """
    read = rundir.rows_until if is_first() else rundir.rows_of
    rows = read(file, state.evaluation)
    if not plan.names and len(rows) != state.evaluation:
        raise UserError(
            f"{file} is damaged: expected {state.evaluation} rows up to the checkpoint, got "
            f"{len(rows)}. Restore it, or use --overwrite."
        )
