"""The one training loop: calls of a Program, epoch by epoch, surviving stops and crashes."""

import contextlib
import functools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments import rundir
from experiments.checkpoint import checkpoints, restore, save
from experiments.config import TrainingConfig, traced
from experiments.errors import UserError
from experiments.events import event_writer
from experiments.processes import highest, is_first
from experiments.program import Numbers, Program
from experiments.progress import progress
from recurrent.losses import Average
from recurrent.train import BATCH

SECONDS_BETWEEN_SAVES = 2.0
NON_FINITE_STEPS_ALLOWED = 20
WORST = 100.0  # times the size of the untrained score, or 1: as far below it is a divergence


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


class Stopped(Exception):
    """A signal ended the run early, after its state was saved."""

    def __init__(self, signum: int, step: int, total: int):
        super().__init__(f"Stopped and saved at step {step} of {total}")
        self.signum = signum


class Diverged(Exception):
    """Too many steps in a row had no finite gradient, or the score fell out of all bounds."""


def mesh_of(devices: int, config: TrainingConfig) -> Mesh:
    """The devices that share each batch.

    Raises:
      UserError: where there are fewer, or they cannot share a batch equally.
    """
    there = jax.local_device_count()
    if devices > there:
        raise UserError(
            f"--devices: there are {there} devices ({jax.local_devices()[0]}), not {devices}."
        )
    own = [
        d for process in range(jax.process_count()) for d in jax.local_devices(process)[:devices]
    ]
    if config.batch_size % len(own):
        raise UserError(
            f"--batch_size: {len(own)} devices cannot share a batch of {config.batch_size} "
            f"equally; choose a multiple of {len(own)}."
        )
    return jax.make_mesh((len(own),), (BATCH,), (AxisType.Auto,), devices=own)


def on_devices(program: Program, mesh: Mesh) -> Program:
    """The program with its data on every device, and its functions compiled for all of them.

    What they return is whole on every device.
    """
    whole, task = whole_on(mesh), program.task
    return program._replace(
        data=jax.device_put(program.data, whole),
        task=task._replace(
            init=jax.jit(task.init, out_shardings=whole),
            train=jax.jit(task.train, static_argnums=3, donate_argnums=0, out_shardings=whole),
            evaluate=jax.jit(task.evaluate, out_shardings=whole),
        ),
    )


def whole_on(mesh: Mesh) -> NamedSharding:
    """A copy of every array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def numbers_of(config: TrainingConfig) -> Numbers:
    """The traced fields as scalars."""
    return {name: np.asarray(jnp.asarray(value)) for name, value in traced(config).items()}


def refuse_too_large(program: Program, config: TrainingConfig) -> None:
    """Raises `UserError` where the state alone needs more memory than there is.

    XLA says nothing of an allocation that failed on a CPU: it waits for ever.
    """
    numbers = numbers_of(config)
    state = jax.eval_shape(program.task.init, numbers)
    needed = bytes_of(state) + 2 * bytes_of(state.params)  # and a gradient, and the best params
    available = memory_bytes()
    if needed > available:
        device = jax.local_devices()[0].device_kind
        raise UserError(
            f"The params and the optimiser's state need about {needed / 2**30:.1f} GiB, and "
            f"{device} has {available / 2**30:.1f}; choose smaller sizes."
        )


def bytes_of(tree: Any) -> int:
    """How much memory arrays of these shapes take."""
    keyless = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf.dtype, "itemsize")]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in keyless)


def memory_bytes() -> int:
    """The memory of the device, or of the machine where the device is its CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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


def of_one_device(tree: Any) -> Any:
    """One copy of arrays that are whole on every device."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


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


def worst_score(untrained: float) -> float:
    """A score below this one is a divergence, given that of the first params."""
    return untrained - WORST * max(1.0, abs(untrained)) if math.isfinite(untrained) else -math.inf


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


def refuse_divergence(skipped: int, step: int) -> None:
    """Raises `Diverged` where too many steps in a row were skipped."""
    if skipped >= NON_FINITE_STEPS_ALLOWED:
        raise Diverged(
            f"Training diverged: the last {skipped} steps up to step {step} had gradients that "
            "are not finite. Try a lower --learning_rate or a --clip_norm."
        )


def refuse_lost_score(score: float, worst: float, step: int) -> None:
    """Raises `Diverged` where a score is not finite, or far below that of the first params."""
    if not worst <= score < math.inf:
        raise Diverged(
            f"Training diverged: after step {step} the validation score is {score:.4g}, and "
            f"below {worst:.4g} nothing is learnt. Try a lower --learning_rate or a --clip_norm."
        )


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list; a second Ctrl-C raises KeyboardInterrupt.

    A third signal ends the process at once, whatever it waits for.
    """
    received: list[int] = []

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        if len(received) > 2:
            os._exit(128 + signum)
        if len(received) == 2 and signum == signal.SIGINT:
            raise KeyboardInterrupt

    before = {name: signal.signal(name, note) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
