"""The training loop on a model of two numbers: stops, resumes, best params, divergence."""

import dataclasses
import functools
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from experiments.harness import devices, loop, stopping
from experiments.harness.checkpoint import checkpoints, restore
from experiments.harness.config import TrainingConfig
from experiments.harness.errors import UserError
from experiments.harness.program import Program
from recurrent.losses import Average
from recurrent.training.step import Metrics, TrainState, init_state, train_step
from recurrent.training.task import Task

pytestmark = pytest.mark.optimized

STEPS_PER_EPOCH, EPOCHS = 7, 4
TOTAL = STEPS_PER_EPOCH * EPOCHS
CONFIG = TrainingConfig(steps_per_call=3, learning_rate=0.03)
BOUNDARIES = (3, 6, 7, 10, 13, 14, 17, 20, 21, 24, 27, 28)  # of calls of 3, 3 and 1 steps


def loss(params: Any, batch: Any, key: Any) -> tuple[Any, Metrics]:
    """Of ``y = a x + b``, with noise from the step's key: a resume must restore that too."""
    noise = 0.1 * jax.random.normal(key, batch["x"].shape)
    errors = (params["a"] * batch["x"] + params["b"] - batch["y"] + noise) ** 2
    return errors.mean(), {"loss": Average(errors.sum(), jnp.float32(errors.size))}


def init(numbers: Any) -> TrainState:
    def draw(key: Any) -> Any:
        return {"a": 0.1 * jax.random.normal(key), "b": jnp.float32(0)}

    optimizer = optax.adam(numbers["learning_rate"])
    return init_state(draw, optimizer, jax.random.key(numbers["seed"]))


def train_steps(state: Any, numbers: Any, data: Any, steps: int) -> tuple[Any, Metrics]:
    def body(state: Any, _: None) -> tuple[Any, Metrics]:
        batch = {name: leaf[state.step] for name, leaf in data.items()}
        return train_step(loss, optax.adam(numbers["learning_rate"]), state, batch)

    state, metrics = lax.scan(body, state, None, steps)
    return state, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)


def evaluate(params: Any, data: Any) -> Metrics:
    errors = (params["a"] * data["x"] + params["b"] - data["y"]) ** 2
    return {"loss": Average(errors.sum(), jnp.float32(errors.size))}


def toy(slope_of_valid: float = 2.0, bad_steps: range = range(0), bad: float = math.nan) -> Program:
    """Fits ``y = 2 x``; step n reads row n, and ``bad_steps`` read ``bad``."""
    xs = np.random.default_rng(0).normal(size=(TOTAL, 5)).astype(np.float32)
    ys = 2 * xs
    ys[bad_steps.start : bad_steps.stop] = bad
    fitted = {"x": jnp.asarray(xs), "y": jnp.asarray(ys)}
    held_out = {"x": jnp.asarray(xs), "y": jnp.asarray(slope_of_valid * xs)}
    return Program(
        task=Task(init, train_steps, evaluate, lambda means: -means["loss"]),
        data={"train": fitted, "valid": held_out},
        epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        metric="loss",
        pictures=lambda params, rows: iter(()),
    )


def with_task(program: Program, **functions: Any) -> Program:
    return program._replace(task=program.task._replace(**functions))


def run(
    folder: Path, program: Program, config: TrainingConfig = CONFIG, starts: list[int] | None = None
) -> loop.Outcome:
    folder.mkdir(exist_ok=True)
    return loop.train(program, config, folder, (starts if starts is not None else []).append)


def bits(value: Any) -> list[tuple[str, bytes]]:
    """Path and bytes of every leaf."""
    return [
        (jax.tree_util.keystr(path), np.asarray(jax.random.key_data(leaf)).tobytes())
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else (jax.tree_util.keystr(path), np.asarray(leaf).tobytes())
        for path, leaf in jax.tree_util.tree_leaves_with_path(value)
    ]


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Has a function called with each step number, from within the run."""

    def hook(called: Callable[[int], None]) -> None:
        def show(step: int, words: str) -> None:
            called(step)

        class Quiet:
            def __enter__(self) -> Any:
                return show

            def __exit__(self, *_: Any) -> None:
                pass

        monkeypatch.setattr(loop, "progress", lambda done, total: Quiet())

    return hook


def killer(step: int, signum: int) -> Callable[[int], None]:
    """Sends this process a signal after the given step."""
    return lambda now: os.kill(os.getpid(), signum) if now == step else None


@given(st.integers(1, 3000), st.integers(1, 4000), st.data())
def test_calls_cover_an_epoch_exactly(steps_per_epoch: int, limit: int, data: st.DataObject):
    step, sizes = 0, []
    while step < steps_per_epoch:
        sizes.append(loop.next_call(step, steps_per_epoch, limit))
        step += sizes[-1]
    assert step == steps_per_epoch
    assert min(sizes) >= 1
    assert max(sizes) <= limit
    assert len(sizes) == math.ceil(steps_per_epoch / limit)
    assert len(set(sizes)) <= 2, "each size is a program to compile"
    epoch, within = data.draw(st.integers(0, 50)), data.draw(st.integers(0, steps_per_epoch - 1))
    somewhere = loop.next_call(epoch * steps_per_epoch + within, steps_per_epoch, limit)
    assert 1 <= somewhere <= min(limit, steps_per_epoch - within)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[loop.Outcome, Path]:
    """An uninterrupted run and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, toy()), folder


def test_a_run_takes_all_its_steps_and_learns(whole: tuple[loop.Outcome, Path]):
    outcome, _ = whole
    assert int(outcome.state.train.step) == TOTAL
    assert [row["step"] for row in outcome.rows] == [7, 14, 21, 28]
    assert [row["epoch"] for row in outcome.rows] == [1, 2, 3, 4]
    losses = [row["valid_loss"] for row in outcome.rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2


def test_calls_of_any_length_count_the_same_epoch(whole: tuple[loop.Outcome, Path], tmp_path: Path):
    other = run(tmp_path, toy(), dataclasses.replace(CONFIG, steps_per_call=200))
    for row, expected in zip(other.rows, whole[0].rows, strict=True):
        assert list(row) == list(expected)
        np.testing.assert_allclose(list(row.values()), list(expected.values()), rtol=1e-5)


def test_a_row_holds_the_means_of_its_own_epoch(whole: tuple[loop.Outcome, Path]):
    """By hand, in float64: the loss before each of the seven steps, averaged over the epoch."""
    program = toy()
    state = program.task.init({"seed": 0, "learning_rate": CONFIG.learning_rate})
    step_once = functools.partial(jax.jit(program.task.train, static_argnames="steps"), steps=1)
    data = program.data["train"]
    losses = []
    for step in range(TOTAL):
        key = jax.random.fold_in(jax.random.split(state.key)[0], step)
        noise = 0.1 * np.asarray(jax.random.normal(key, (5,)), np.float64)
        x, y = (np.asarray(data[name][step], np.float64) for name in "xy")
        a, b = (float(state.params[name]) for name in "ab")
        losses.append(((a * x + b - y + noise) ** 2).mean())
        state, _ = step_once(state, {"learning_rate": CONFIG.learning_rate}, data)
    found = [row["train_loss"] for row in whole[0].rows]
    np.testing.assert_allclose(found, np.mean(np.reshape(losses, (EPOCHS, -1)), axis=1), rtol=1e-4)


def test_a_stop_at_every_call_changes_no_bit(
    whole: tuple[loop.Outcome, Path], tmp_path: Path, at_step: Any
):
    program, starts = toy(), []
    for boundary in BOUNDARIES:
        at_step(killer(boundary, signal.SIGTERM))
        with pytest.raises(stopping.Stopped, match=f"step {boundary} of {TOTAL}") as stop:
            run(tmp_path, program, starts=starts)
        assert stop.value.signum == signal.SIGTERM
    outcome = run(tmp_path, program, starts=starts)
    assert starts == [0, *BOUNDARIES[:-1]], "at the end there is no step left to start"
    assert bits(outcome.state) == bits(whole[0].state)
    assert outcome.rows == whole[0].rows
    metrics = "metrics.jsonl"
    assert (tmp_path / metrics).read_bytes() == (whole[1] / metrics).read_bytes()


@pytest.mark.parametrize("crash", [4, 11, 19])
def test_a_crash_after_the_last_save_changes_no_bit(
    whole: tuple[loop.Outcome, Path],
    tmp_path: Path,
    at_step: Any,
    crash: int,
    monkeypatch: pytest.MonkeyPatch,
):
    """Saves at every call, then steps that no save has seen, then death without a last word."""

    def die(step: int) -> None:
        if step >= crash:
            monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", math.inf)
        if step >= crash + STEPS_PER_EPOCH:
            raise MemoryError

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0.0)
    at_step(die)
    with pytest.raises(MemoryError):
        run(tmp_path, toy())
    at_step(lambda step: None)
    starts: list[int] = []
    outcome = run(tmp_path, toy(), starts=starts)
    assert starts == [max(step for step in (0, *BOUNDARIES) if step < crash)]
    assert bits(outcome.state) == bits(whole[0].state)
    metrics = "metrics.jsonl"
    assert (tmp_path / metrics).read_bytes() == (whole[1] / metrics).read_bytes()


def test_the_best_params_are_those_of_the_highest_score(tmp_path: Path, at_step: Any):
    """The training passes the slope of the validation data on its way to its own."""
    program = toy(slope_of_valid=0.5)
    outcome = run(tmp_path / "whole", program)
    losses = [row["valid_loss"] for row in outcome.rows]
    best = int(np.argmin(losses))
    assert 0 < best < EPOCHS - 1, "otherwise the test shows nothing"
    assert int(outcome.state.best_step) == outcome.rows[best]["step"]
    assert float(outcome.state.best_score) == -np.float32(losses[best])
    evaluated = program.task.evaluate(outcome.state.best_params, program.data["valid"])
    np.testing.assert_allclose(evaluated["loss"].mean, losses[best], rtol=1e-6)
    assert bits(outcome.state.best_params) != bits(outcome.state.train.params)

    stop_after_the_best = outcome.rows[best]["step"] + 3
    at_step(killer(stop_after_the_best, signal.SIGINT))
    with pytest.raises(stopping.Stopped):
        run(tmp_path / "parts", program)
    resumed = run(tmp_path / "parts", program)
    assert bits(resumed.state) == bits(outcome.state)
    for folder in ("whole", "parts"):
        assert_best_is_saved(tmp_path / folder, outcome)


def assert_best_is_saved(folder: Path, outcome: loop.Outcome) -> None:
    with checkpoints(folder / "checkpoints" / "best", keep=1) as manager:
        assert manager.all_steps() == [int(outcome.state.best_step)]
        found = restore(manager, outcome.state.best_params)
    assert found is not None
    assert bits(found[0]) == bits(outcome.state.best_params)


def test_a_crash_between_the_two_saves_loses_no_best(tmp_path: Path):
    outcome = run(tmp_path, toy())
    best = tmp_path / "checkpoints" / "best" / str(int(outcome.state.best_step))
    best.rename(tmp_path / "gone")
    assert bits(run(tmp_path, toy()).state) == bits(outcome.state)
    assert_best_is_saved(tmp_path, outcome)


def test_a_crash_before_the_old_best_was_deleted_is_no_obstacle(tmp_path: Path, at_step: Any):
    program = toy()
    at_step(killer(13, signal.SIGTERM))
    with pytest.raises(stopping.Stopped):
        run(tmp_path, program)
    at_step(lambda step: None)
    best = tmp_path / "checkpoints" / "best"
    newer = run(tmp_path / "elsewhere", program)
    later = tmp_path / "elsewhere" / "checkpoints" / "best" / str(int(newer.state.best_step))
    assert [entry.name for entry in best.iterdir()] == ["7"]
    later.rename(best / later.name)
    assert bits(run(tmp_path, program).state) == bits(newer.state)
    assert str(int(newer.state.best_step)) in {entry.name for entry in best.iterdir()}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_bad_steps_in_a_row_stop_the_run_at_the_twentieth(tmp_path: Path, bad: float):
    config = dataclasses.replace(CONFIG, steps_per_call=1)
    with pytest.raises(stopping.Diverged, match=r"last 20 steps up to step 25 .*--learning_rate"):
        run(tmp_path, toy(bad_steps=range(5, 28), bad=bad), config)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_nineteen_bad_steps_leave_params_and_moments_alone(tmp_path: Path, at_step: Any):
    program = toy(bad_steps=range(5, 24))
    config = dataclasses.replace(CONFIG, steps_per_call=1)
    saved = []
    for step in (5, 24):
        at_step(killer(step, signal.SIGTERM))
        with pytest.raises(stopping.Stopped):
            run(tmp_path, program, config)
        with checkpoints(tmp_path / "checkpoints" / "latest") as manager:
            saved.append(manager.restore(step)["state"]["train"])
    assert int(saved[1]["skipped"]) == 19
    for name in ("params", "opt_state", "key"):
        assert bits(saved[0][name]) == bits(saved[1][name])
    outcome = run(tmp_path, program, config)
    assert int(outcome.state.train.skipped) == 0
    shares = [row["train_skipped"] for row in outcome.rows]
    np.testing.assert_allclose(shares, [2 / 7, 1, 1, 3 / 7], rtol=1e-6)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(outcome.state.train.params))


def test_params_that_are_never_scored_are_never_the_best(tmp_path: Path):
    program = with_task(toy(), score=lambda means: math.nan)
    with pytest.raises(stopping.Diverged, match="the validation score is nan"):
        run(tmp_path, program)
    assert list((tmp_path / "checkpoints" / "best").iterdir()) == []


@pytest.mark.parametrize(
    ("signum", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, stopping.Stopped)]
)
def test_a_second_ctrl_c_does_not_wait_and_a_second_sigterm_does(
    tmp_path: Path, at_step: Any, signum: int, ends: type[BaseException]
):
    def twice(step: int) -> None:
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signum)

    at_step(twice)
    with pytest.raises(ends):
        run(tmp_path, toy())


def test_signals_do_what_they_did_before_when_the_run_is_over(tmp_path: Path):
    before = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
    run(tmp_path, toy())
    assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_model_in_the_folder_is_refused_untouched(tmp_path: Path, at_step: Any):
    at_step(killer(10, signal.SIGTERM))
    with pytest.raises(stopping.Stopped):
        run(tmp_path, toy())
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    program = toy()

    def wider(numbers: Any) -> Any:
        def draw(key: Any) -> Any:
            return {"a": jax.random.normal(key, (5,)), "b": jnp.float32(0)}

        optimizer = optax.adam(numbers["learning_rate"])
        return init_state(draw, optimizer, jax.random.key(0))

    with pytest.raises(UserError, match=r"train\.params\.a is float32\[\] there and float32\[5\]"):
        run(tmp_path, with_task(program, init=wider))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_seconds_of_all_parts_add_up(tmp_path: Path, at_step: Any):
    at_step(killer(10, signal.SIGTERM))
    with pytest.raises(stopping.Stopped):
        run(tmp_path, toy())
    with checkpoints(tmp_path / "checkpoints" / "latest") as manager:
        earlier = manager.restore(10)["notes"]["train_seconds"]
    assert earlier > 0
    outcome = run(tmp_path, toy())
    with checkpoints(tmp_path / "checkpoints" / "latest") as manager:
        assert earlier < manager.restore(TOTAL)["notes"]["train_seconds"] <= outcome.seconds


def test_lost_rows_are_noticed(tmp_path: Path, at_step: Any):
    at_step(killer(20, signal.SIGTERM))
    with pytest.raises(stopping.Stopped):
        run(tmp_path, toy())
    file = tmp_path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    with pytest.raises(UserError, match=rf"expected {len(lines)} rows .*got {len(lines) - 1}"):
        run(tmp_path, toy())


def test_a_call_writes_over_the_state_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made: list[loop.RunState] = []
    first_state = loop.first_state

    def kept(*args: Any) -> loop.RunState:
        made.append(first_state(*args))
        return made[0]

    monkeypatch.setattr(loop, "first_state", kept)
    run(tmp_path / "run", toy())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(made[0].train))


def test_what_cannot_fit_is_refused_before_it_is_tried():
    def huge(numbers: Any) -> Any:
        def draw(key: Any) -> Any:
            return {"kernel": jnp.zeros((10**6, 10**6))}

        optimizer = optax.adam(numbers["learning_rate"])
        return init_state(draw, optimizer, jax.random.key(0))

    config = TrainingConfig()
    devices.check_fits_memory(toy(), config)
    with pytest.raises(UserError, match=r"need about 18626\.\d GiB, and cpu has"):
        devices.check_fits_memory(with_task(toy(), init=huge), config)


def test_a_third_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time; from experiments.loop import stop_requests\n"
        "with stop_requests():\n"
        "    for _ in range(3): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)"
    )
    process = subprocess.run([sys.executable, "-c", code], check=False, timeout=50)
    assert process.returncode == 128 + signal.SIGTERM


# Early stopping


def test_patience_ends_a_training_and_a_resume_knows_it(tmp_path: Path):
    """The score of the toy falls from the second epoch on."""
    program = with_task(toy(slope_of_valid=0.0))
    config = dataclasses.replace(CONFIG, patience=2, learning_rate=0.3)
    outcome = run(tmp_path, program, config)
    losses = [row["valid_loss"] for row in outcome.rows]
    assert losses[0] == min(losses)
    assert len(losses) == 3 < EPOCHS
    assert int(outcome.state.best_step) == STEPS_PER_EPOCH
    starts: list[int] = []
    again = run(tmp_path, program, config, starts)
    assert again.rows == outcome.rows
    assert bits(again.state) == bits(outcome.state)
    assert starts == []


def test_patience_lasts_from_one_process_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = with_task(toy(slope_of_valid=0.0))
    config = dataclasses.replace(CONFIG, patience=2, learning_rate=0.3)
    whole = run(tmp_path / "whole", program, config)
    moments = loop.moments

    def stopped(*given: Any) -> Any:
        for moment in moments(*given):
            if moment.step == 2 * STEPS_PER_EPOCH:
                signal.raise_signal(signal.SIGTERM)
            yield moment

    with monkeypatch.context() as patch:
        patch.setattr(loop, "moments", stopped)
        with pytest.raises(stopping.Stopped):
            run(tmp_path / "stopped", program, config)
    again = run(tmp_path / "stopped", program, config)
    assert again.rows == whole.rows
    assert bits(again.state) == bits(whole.state)


def test_who_reads_a_run_leaves_alone_what_it_is_saving(tmp_path: Path):
    run(tmp_path, toy())
    saving = tmp_path / "checkpoints" / "best" / "999.orbax-checkpoint-tmp"
    saving.mkdir()
    loop.best_params(toy(), CONFIG, tmp_path)
    assert saving.is_dir()


def test_a_finite_score_out_of_all_bounds_is_a_divergence(tmp_path: Path):
    """As of a member of a population, with the same rate."""
    config = dataclasses.replace(CONFIG, learning_rate=1e10)
    with pytest.raises(
        stopping.Diverged, match=f"after step {STEPS_PER_EPOCH} the validation score"
    ):
        run(tmp_path, toy(), config)


def test_what_is_a_divergence_hangs_on_the_untrained_score(tmp_path: Path):
    assert stopping.worst_score(-2.0) == -202.0
    assert stopping.worst_score(0.5) == -99.5
    assert stopping.worst_score(math.nan) == -math.inf
    assert stopping.worst_score(-1e-3) == pytest.approx(-100, rel=1e-4)
    state = run(tmp_path, toy()).state
    untrained = evaluate(init({"seed": 0, "learning_rate": 0.1}).params, toy().data["valid"])
    np.testing.assert_allclose(state.worst, -101 * untrained["loss"].mean, rtol=1e-5)
