"""The one training loop: calls of a Program, epoch by epoch, surviving stops and crashes."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from experiments.harness import rundir
from experiments.harness.checkpoint import checkpoints, restore, save
from experiments.harness.config import (
    TrainingConfig,
    numbers_of,
)
from experiments.harness.devices import (
    mesh_of,
    of_one_device,
    on_devices,
    whole_on,
)
from experiments.harness.errors import UserError
from experiments.harness.processes import highest, is_first
from experiments.harness.program import Numbers, Program
from experiments.harness.progress import progress
from experiments.harness.stopping import (
    Stopped,
    refuse_divergence,
    refuse_lost_score,
    stop_requests,
    worst_score,
)
from experiments.harness.tensorboard import event_writer
from recurrent.losses import Average

SECONDS_BETWEEN_SAVES = 2.0


class RunState(NamedTuple):
    """All that a resumed run needs.

    Attributes:
      train: the Program's own state.
      sums: the training metrics of the epoch so far.
      best_params: the params of the highest score.
      best_score: that score, ``[]``.
      best_step: the step it was reached at, ``[]``; 0 before the first evaluation.
      waited: epochs since then, ``[]``.
      worst: a score below this one is a divergence, ``[]``.
    """

    train: Any
    sums: Any
    best_params: Any
    best_score: Array
    best_step: Array
    waited: Array
    worst: Array


class Moment(NamedTuple):
    """Where the run stands after one call; ``row`` is there when an epoch ended with it."""

    state: RunState
    step: int
    words: str
    row: dict[str, Any] | None


class Outcome(NamedTuple):
    """A finished training: its last state, rows of metrics and seconds over all its parts."""

    state: RunState
    rows: list[dict[str, Any]]
    seconds: float


def train(
    program: Program,
    config: TrainingConfig,
    folder: Path,
    started: Callable[[int], None],
    mesh: Mesh | None = None,
) -> Outcome:
    """Trains to the last epoch, or till patience ends, from the latest checkpoint if any.

    Args:
      program: what to train.
      config: steps_per_call and the traced numbers.
      folder: the run directory, for ``checkpoints``, ``metrics.jsonl`` and ``events``.
      started: called with the number of steps already taken, just before the first step.
      mesh: the devices that share each batch; None for the first device alone.

    Raises:
      Stopped: after SIGINT or SIGTERM.
      Diverged: after `NON_FINITE_STEPS_ALLOWED` skipped steps in a row, or an epoch whose score is
        below `worst_score` or not finite.
    """
    begun = time.monotonic()
    total = program.epochs * program.steps_per_epoch
    numbers = numbers_of(config)
    mesh = mesh or mesh_of(1, config)
    program = on_devices(program, mesh)
    with (
        jax.set_mesh(mesh),
        stop_requests() as stops,
        checkpoints(folder / "checkpoints" / "latest", keep=2) as latest,
        checkpoints(folder / "checkpoints" / "best", keep=1) as best,
        event_writer(folder / "events") as write_events,
    ):
        state, notes = latest_state(latest, program, numbers, config.steps_per_call, mesh)
        begun -= notes.get("train_seconds", 0.0)
        first = int(state.train.step)
        rows = earlier_rows(folder, first, first // program.steps_per_epoch)

        def keep(state: RunState, step: int) -> None:
            save(latest, step, state, {"train_seconds": time.monotonic() - begun})
            keep_best(best, state)

        keep_best(best, state)  # which a crash may have kept from following the latest
        saved = time.monotonic()
        with progress(first, total) as show:
            for moment in moments(program, config, numbers, state, lambda: started(first)):
                state = moment.state
                show(moment.step, moment.words)
                if moment.row is not None:
                    rows.append(moment.row)
                    if is_first():
                        rundir.append_row(folder / "metrics.jsonl", moment.row)
                        write_events(moment.row)
                end = moment.step == total or is_over(config, state)
                due = time.monotonic() - saved > SECONDS_BETWEEN_SAVES
                stop, due = highest(stops[0] if stops else 0, due)
                if stop or end or due:
                    keep(state, moment.step)
                    saved = time.monotonic()
                if stop:
                    raise Stopped(int(stop), moment.step, total)
    return Outcome(of_one_device(state), rows, time.monotonic() - begun)


def latest_state(
    latest: Any, program: Program, numbers: Numbers, steps_per_call: int, mesh: Mesh
) -> tuple[RunState, dict[str, Any]]:
    """The state of the latest checkpoint and its notes, or a fresh one and none."""
    whole = whole_on(mesh)
    fresh = jax.device_put(first_state(program, numbers, steps_per_call), whole)
    found = restore(latest, fresh, whole)
    if found:
        return found
    untrained = score_of(program, program.task.evaluate(fresh.train.weights, program.data["valid"]))
    return fresh._replace(worst=jnp.full_like(fresh.worst, worst_score(untrained))), {}


def best_params(program: Program, config: TrainingConfig, folder: Path) -> Any:
    """The params of the highest score that a run has reached.

    Raises:
      UserError: where there are none yet.
    """
    numbers = numbers_of(config)
    like = jax.eval_shape(program.task.init, numbers).params
    best = folder / "checkpoints" / "best"
    if best.is_dir():
        with checkpoints(best, keep=1, read_only=True) as manager:
            found = restore(manager, like)
        if found:
            return found[0]
    raise UserError(f"The run in {folder} has no params yet: let it train to the end of an epoch.")


def earlier_rows(folder: Path, step: int, expected: int) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` up to a checkpoint; the first process cuts off later ones.

    Raises:
      UserError: where epochs that the checkpoint counts have been lost.
    """
    read = rundir.rows_until if is_first() else rundir.rows_of
    rows = read(folder / "metrics.jsonl", step)
    if len(rows) != expected:
        raise UserError(
            f"{folder / 'metrics.jsonl'} is damaged: expected {expected} rows up to the "
            f"checkpoint, got {len(rows)}. Restore it, or use --overwrite."
        )
    return rows


def keep_best(manager: Any, state: RunState) -> None:
    """Saves the best params, unless they are saved already."""
    if int(state.best_step) not in (0, *manager.all_steps()):
        save(manager, int(state.best_step), state.best_params, {})


def first_state(program: Program, numbers: Numbers, steps_per_call: int) -> RunState:
    """The state of a run that has not begun; what is the worst score is not known yet."""
    state = program.task.init(numbers)
    steps = next_call(0, program.steps_per_epoch, steps_per_call)
    train, data = program.task.train, program.data["train"]
    _, shapes = jax.eval_shape(lambda state: train(state, numbers, data, steps), state)
    sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    best = jax.tree.map(jnp.copy, state.weights)
    best_step, waited = jnp.zeros((2,), jnp.int32)
    best_score, worst = jnp.full((2,), -jnp.inf, jnp.float32)
    return RunState(state, sums, best, best_score, best_step, waited, worst)


def moments(
    program: Program,
    config: TrainingConfig,
    numbers: Numbers,
    state: RunState,
    started: Callable[[], None],
) -> Iterator[Moment]:
    """The training itself: one compiled call after the other, an evaluation after each epoch.

    The program is that of `on_devices`.
    """
    data = program.data["train"]
    step, total = int(state.train.step), program.epochs * program.steps_per_epoch
    call: Any = program.task.train

    @functools.cache
    def compiled(steps: int) -> Any:
        return call.lower(state.train, numbers, data, steps).compile()

    if step < total and not is_over(config, state):
        compiled(next_call(step, program.steps_per_epoch, config.steps_per_call))
        started()
    while step < total and not is_over(config, state):
        steps = next_call(step, program.steps_per_epoch, config.steps_per_call)
        train_state, sums = compiled(steps)(state.train, numbers, data)
        step += steps
        state = state._replace(train=train_state, sums=jax.tree.map(jnp.add, state.sums, sums))
        refuse_divergence(int(train_state.skipped), step)
        row = None
        if step % program.steps_per_epoch == 0:
            valid = program.task.evaluate(train_state.weights, program.data["valid"])
            row = epoch_row(step, program.steps_per_epoch, state.sums, valid)
            refuse_lost_score(score_of(program, valid), float(state.worst), step)
            state = after_epoch(program, state, valid)
        words = shown(means(sums), program.metric)
        yield Moment(state, step, words, row)


def next_call(step: int, steps_per_epoch: int, limit: int) -> int:
    """How many steps the next call takes: even parts of an epoch, none above the limit."""
    part = math.ceil(steps_per_epoch / math.ceil(steps_per_epoch / limit))
    return min(part, steps_per_epoch - step % steps_per_epoch)


def after_epoch(program: Program, state: RunState, valid: dict[str, Average]) -> RunState:
    """The state with empty sums, and with new best params where the score has risen."""
    state = state._replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
    score = score_of(program, valid)
    if not score > float(state.best_score):
        return state._replace(waited=state.waited + 1)
    return state._replace(
        best_params=jax.tree.map(jnp.copy, state.train.weights),
        best_score=jnp.full_like(state.best_score, score),
        best_step=state.train.step.copy(),
        waited=jnp.zeros_like(state.waited),
    )


def score_of(program: Program, valid: dict[str, Average]) -> float:
    """The score of metrics, higher for better params."""
    return float(program.task.score({name: float(value.mean) for name, value in valid.items()}))


def is_over(config: TrainingConfig, state: RunState) -> bool:
    """Whether the score has not risen for as many epochs as patience lasts."""
    return 0 < config.patience <= int(state.waited)


def epoch_row(
    step: int, steps_per_epoch: int, train: dict[str, Average], valid: dict[str, Average]
) -> dict[str, Any]:
    """A row of ``metrics.jsonl``: only what is the same in every repetition, so no seconds."""
    row: dict[str, Any] = {"step": step, "epoch": step // steps_per_epoch}
    row |= {f"train_{name}": value for name, value in means(train).items()}
    return row | {f"valid_{name}": value for name, value in means(valid).items()}


def means(metrics: dict[str, Average]) -> dict[str, float | None]:
    """Means as JSON numbers, None for what is not finite."""
    values = {name: float(value.mean) for name, value in metrics.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def shown(values: dict[str, float | None], metric: str) -> str:
    """Loss and metric in a few characters."""
    return ", ".join(
        f"{name} {values[name]:.4g}" for name in ("loss", metric) if values.get(name) is not None
    )
