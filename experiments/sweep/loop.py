"""One program of a sweep: its members, trained together in a fixed number of places.

A place that a member leaves is filled with the next that waits, so that nothing is compiled anew.
The seeds of a setting begin together and pass the same epochs together.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import loop, rundir, stopping
from experiments.harness.checkpoint import checkpoints, restore, save
from experiments.harness.config import traced
from experiments.harness.processes import highest, is_first
from experiments.sweep.plan import Book, Plan, fill, occupied, point_of, total_steps
from experiments.sweep.programs import Compiled, Sight, compiled
from experiments.sweep.ranking import DIVERGED, FINISHED, PATIENCE, RUNG
from experiments.sweep.search import pbt, successive_halving
from recurrent.training import population
from recurrent.training.population import Limits, Member, placed, sharding

SAVES_APART = 5  # times as far as those of a single run, since they write many members


def train_members(
    plan: Plan,
    folder: Path,
    show: Callable[[int, str], None],
    ended: Callable[[list[dict[str, Any]]], None],
    stops: Sequence[int],
    reached: Mapping[str, list[float | None]] | None = None,
) -> Book:
    """Trains all members of a plan to their ends, from the latest checkpoint if there is one.

    Args:
      plan: what to train.
      folder: for ``checkpoints`` and ``metrics.jsonl``.
      show: called after each call with the steps done by all members and the best so far.
      ended: called with all outcomes so far when members have ended, which then are on the disk.
      stops: the signals received; the first is obeyed after the call.
      reached: the scores of other programs' settings at each rung.

    Raises:
      loop.Stopped: for a signal, when the state has been saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = compiled(plan.program, plan.layout)
    data = {
        name: placed(split, plan.layout, shared=True) for name, split in plan.program.data.items()
    }
    with checkpoints(folder / "checkpoints", keep=2) as manager:
        members, sums, book = restored(plan, run, data, manager) or fresh(
            plan, run, data, reached or {}
        )
        if is_first():
            rundir.rows_until(folder / "metrics.jsonl", book.tick)
        ended(book.outcomes)
        saved, begun = time.monotonic(), time.monotonic() - book.seconds
        while occupied(book):
            members, sums = call(plan, run, data, members, sums, book)
            rows, over = [], False
            if book.part == plan.program.steps_per_epoch:
                members, rows, over = end_of_epoch(plan, run, data, members, sums, book)
                sums, book.part = jax.tree.map(jnp.zeros_like, sums), 0
            book.seconds = time.monotonic() - begun
            if rows and is_first():
                rundir.append_row(folder / "metrics.jsonl", {"step": book.tick, "members": rows})
            due = time.monotonic() - saved > SAVES_APART * loop.SECONDS_BETWEEN_SAVES
            stop, due = highest(stops[0] if stops else 0, due)
            if over or stop or due:
                notes = {"book": dataclasses.asdict(book)}
                save(manager, calls_done(plan, book), {"members": members, "sums": sums}, notes)
                saved = time.monotonic()
            if over:
                manager.wait_until_finished()  # no member is told of that a crash could take back
                ended(book.outcomes)
            done = steps_done(plan, book, run.look(members))
            show(done, best_so_far(plan, book))
            if stop and occupied(book):
                raise stopping.Stopped(int(stop), done, len(plan.points) * total_steps(plan))
    return book


def calls_done(plan: Plan, book: Book) -> int:
    """The steps of the population, by which its checkpoints are numbered."""
    return book.tick * plan.program.steps_per_epoch + book.part


def fresh(
    plan: Plan, run: Compiled, data: dict[str, Any], reached: Mapping[str, list[float | None]]
) -> tuple[Member, Any, Book]:
    """The first members in their places, before any step, and their empty sums."""
    book = Book([None] * plan.places, 0, -math.inf)
    book.reached = {rung: [*scores] for rung, scores in reached.items()}
    fill(plan, book)
    empty = [place is None for place in book.places]
    members = run.begin((numbers_of(plan, book.places), np.array(empty)))
    first = np.arange(plan.places) == 0
    untrained = run.measure((members.state.weights, first), data["valid"])
    book.worst = stopping.worst_score(float(plan.program.task.score(means_of(untrained)[0])))
    shapes = sums_like(plan, run, data, members)
    sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return members, placed(sums, plan.layout, shared=True), book


def sums_like(plan: Plan, run: Compiled, data: dict[str, Any], members: Any) -> Any:
    """The shapes of the training metrics."""
    size, limit = plan.program.steps_per_epoch, plan.config.steps_per_call
    return jax.eval_shape(run.train(loop.next_call(0, size, limit)), members, data["train"])[1]


def restored(
    plan: Plan, run: Compiled, data: dict[str, Any], manager: Any
) -> tuple[Member, Any, Book] | None:
    """Members, sums and book of the latest checkpoint; None without any."""
    numbers, empty = numbers_of(plan, [None] * plan.places), np.zeros(plan.places, bool)
    members = jax.eval_shape(run.begin, (numbers, empty))
    like = {"members": members, "sums": sums_like(plan, run, data, members)}
    found = restore(manager, like, sharding(plan.layout))
    if found is None:
        return None
    state, notes = found
    sums = placed(state["sums"], plan.layout, shared=True)
    return state["members"], sums, Book(**notes["book"])


def numbers_of(
    plan: Plan, places: Sequence[int | None], book: Book | None = None
) -> dict[str, np.ndarray]:
    """The traced fields of the members in these places; an empty one has those of the first."""
    points = [point_of(plan, book, place or 0) for place in places]
    each = [traced(dataclasses.replace(plan.config, **point)) for point in points]
    return {name: np.asarray(jnp.asarray([row[name] for row in each])) for name in each[0]}


class View(NamedTuple):
    """What the host sees of a member after an epoch: numbers, and means of its metrics."""

    place: int
    member: int
    status: int
    step: int
    best_step: int
    score: float
    train: dict[str, float | None]
    valid: dict[str, float | None]


def call(
    plan: Plan, run: Compiled, data: dict[str, Any], members: Member, sums: Any, book: Book
) -> tuple[Member, Any]:
    """The members after as many steps as a single run takes in a call, and the epoch's sums."""
    steps = loop.next_call(book.part, plan.program.steps_per_epoch, plan.config.steps_per_call)
    members, metrics = run.train(steps)(members, data["train"])
    book.part += steps
    return members, jax.tree.map(jnp.add, sums, metrics)


def end_of_epoch(
    plan: Plan, run: Compiled, data: dict[str, Any], members: Member, sums: Any, book: Book
) -> tuple[Member, list[dict[str, Any]], bool]:
    """Measures and judges all members; places that some leave are filled with the next.

    Returns:
      The members, a row of metrics for each that trained, and whether any ended.
    """
    due = np.array([place is not None for place in book.places])
    valid_metrics = run.measure((members.state.weights, due), data["valid"])
    limits = Limits(plan.patience, stopping.NON_FINITE_STEPS_ALLOWED, book.worst)
    members = run.judge(members, valid_metrics, limits)
    book.tick += 1
    views = views_of(plan, book, run.look(members), sums, valid_metrics)
    ends = endings(plan, book, views)
    if ends:
        over = np.isin(np.arange(plan.places), list(ends))
        test = means_of(run.measure((members.best_params, over), data["test"]))
        book.outcomes += [
            outcome(plan, book, view, ends[view.place], test)
            for view in views
            if view.place in ends
        ]
        members = refill(plan, run, book, members, over)
    rows = [row_of(plan, book, view) for view in views]
    return passed_on(plan, run, book, members, views), rows, bool(ends)


def views_of(plan: Plan, book: Book, sight: Sight, train: Any, valid: Any) -> list[View]:
    """Of the members in their places."""
    status, steps, best_steps, scores = jax.device_get(sight)
    train, valid = means_of(train), means_of(valid)
    views = []
    for place, member in enumerate(book.places):
        if member is not None:
            view = View(
                place=place,
                member=member,
                status=int(status[place]),
                step=int(steps[place]),
                best_step=int(best_steps[place]),
                score=float(scores[place]),
                train=train[place],
                valid=valid[place],
            )
            if view.best_step == view.step:
                book.at_best[str(member)] = view.valid
                book.best_points[str(member)] = point_of(plan, book, member)
            views.append(view)
    return views


def means_of(metrics: Any) -> list[dict[str, float | None]]:
    """The means of each place, None for what is not finite."""
    arrays = {name: np.asarray(value.mean, float) for name, value in metrics.items()}
    count = len(next(iter(arrays.values())))
    return [
        {name: float(a[k]) if math.isfinite(a[k]) else None for name, a in arrays.items()}
        for k in range(count)
    ]


def row_of(plan: Plan, book: Book, view: View) -> dict[str, Any]:
    """What ``metrics.jsonl`` holds of a member's epoch."""
    row: dict[str, Any] = {"member": plan.names[view.member], "step": view.step}
    row |= point_of(plan, book, view.member) if plan.inheritance else {}
    row |= {f"train_{name}": value for name, value in view.train.items()}
    return row | {f"valid_{name}": value for name, value in view.valid.items()}


def endings(plan: Plan, book: Book, views: Sequence[View]) -> dict[int, str]:
    """Which places are left now, and why.

    Where members take over from others, one that diverged waits for that.
    """
    ends = {}
    heirs_wait = plan.inheritance is not None and any(
        view.status == population.TRAINING and view.step < total_steps(plan) for view in views
    )
    for view in views:
        if view.status == population.DIVERGED:
            if heirs_wait:
                continue
            ends[view.place] = DIVERGED
        elif view.step == total_steps(plan):
            ends[view.place] = FINISHED
        elif view.status == population.FINISHED:
            ends[view.place] = PATIENCE
    for view in stopped_at_rungs(plan, book, views):
        ends.setdefault(view.place, RUNG)
    return ends


def stopped_at_rungs(plan: Plan, book: Book, views: Sequence[View]) -> list[View]:
    """Those of settings that came to a rung and are not among its best."""
    found, here = [], {view.member: view for view in views}
    for rung in plan.rungs:
        step = rung * plan.program.steps_per_epoch
        arrived = {view.member for view in views if view.step == step}
        settings = [setting for setting in plan.settings if arrived & set(setting)]
        if settings:
            scores = [mean_score(plan, book, setting, here) for setting in settings]
            earlier = book.reached.setdefault(str(rung), [])
            stops = successive_halving.stopped(earlier, scores, plan.reduction)
            earlier += scores
            ended = [
                m for setting, stop in zip(settings, stops, strict=True) if stop for m in setting
            ]
            found += [here[member] for member in ended if member in here]
    return found


def mean_score(
    plan: Plan, book: Book, setting: Sequence[int], here: dict[int, View]
) -> float | None:
    """Of a setting's members, in their places or ended; None where one diverged."""
    scores = {each["member"]: each["score"] for each in book.outcomes}
    scores |= {
        plan.names[view.member]: None if view.status == population.DIVERGED else view.score
        for view in here.values()
    }
    own = [scores[plan.names[member]] for member in setting]
    return None if None in own else statistics.fmean(own)


def outcome(
    plan: Plan, book: Book, view: View, status: str, test: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The row of a member that has ended."""
    best = book.at_best.pop(str(view.member), {})
    point = book.best_points.pop(str(view.member), point_of(plan, book, view.member))
    return {
        "member": plan.names[view.member],
        **point,
        "status": status,
        "epochs_trained": view.step // plan.program.steps_per_epoch,
        "step": view.step,
        "best_step": view.best_step,
        "score": None if status == DIVERGED else view.score,
        **{f"valid_{name}": value for name, value in best.items()},
        **{f"test_{name}": value for name, value in test[view.place].items()},
    }


def refill(plan: Plan, run: Compiled, book: Book, members: Member, over: np.ndarray) -> Member:
    """The members without those that are over, and with new ones in empty places."""
    book.places = [None if gone else member for gone, member in zip(over, book.places, strict=True)]
    new = np.isin(np.arange(plan.places), fill(plan, book))
    if not occupied(book):
        return members
    return run.settle(members, over, new, numbers_of(plan, book.places, book))


def passed_on(
    plan: Plan, run: Compiled, book: Book, members: Member, views: Sequence[View]
) -> Member:
    """The members after the worst of them have taken over from the best, where it is time."""
    rule = plan.inheritance
    if not rule or book.tick % rule.interval or book.tick == plan.program.epochs:
        return members
    source = np.random.default_rng([rule.seed, book.tick])
    there = {view.member: view for view in views if book.places[view.place] is not None}
    scores = {member: score_now(plan, view) for member, view in there.items()}
    places = np.arange(plan.places)
    for heir, parent in pbt.heirs(scores, source).items():
        places[there[heir].place] = there[parent].place
        point = point_of(plan, book, parent)
        own = {"seed": seed} if (seed := plan.points[heir].get("seed")) is not None else {}
        book.moved[str(heir)] = pbt.near(point, rule.axes, rule.options, source) | own
        if str(parent) in book.at_best:
            book.at_best[str(heir)] = book.at_best[str(parent)]
            book.best_points[str(heir)] = book.best_points[str(parent)] | own
    return run.inherit(members, places, numbers_of(plan, book.places, book))


def score_now(plan: Plan, view: View) -> float | None:
    """Of a member's params as they are, not of its best; None of one that diverged."""
    if view.status == population.DIVERGED or None in view.valid.values():
        return None
    return float(plan.program.task.score(view.valid))


def steps_done(plan: Plan, book: Book, sight: Sight) -> int:
    """By all members, those counted whole that have ended."""
    steps = np.asarray(sight.step)
    running = sum(int(steps[k]) for k, member in enumerate(book.places) if member is not None)
    return running + len(book.outcomes) * total_steps(plan)


def best_so_far(plan: Plan, book: Book) -> str:
    """The validation metric of the best member, in a few characters."""
    ended = [
        {name.removeprefix("valid_"): value for name, value in row.items()}
        for row in book.outcomes
        if row["status"] != DIVERGED
    ]
    known = [row for row in [*book.at_best.values(), *ended] if None not in row.values()]
    if not known:
        return f"{len(book.outcomes)} ended"
    best = max(known, key=plan.program.task.score)
    metric = plan.program.metric
    return f"{len(book.outcomes)} ended, best {metric} {best[metric]:.4g}"
