"""The loop that trains a run: stops, resumes, the best that is kept, patience and divergence."""

import dataclasses
import functools
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from experiments.harness import loop, progress, stopping
from experiments.harness import run as single
from experiments.harness.checkpoint import checkpoints, restore
from experiments.harness.config import RunConfig, hparams_of
from experiments.harness.errors import UserError
from experiments.harness.loop import Observer, Population
from experiments.harness.plan import (
    DIVERGED,
    FINISHED,
    PATIENCE,
    Plan,
    SweepState,
    plan_of_run,
    steps_taken,
)
from experiments.harness.processes import Hardware
from experiments.harness.program import Program
from experiments.harness.rundir import rows_of
from experiments.harness.runs import kept_at_best
from experiments.harness.stopping import Stopped, divergence_threshold
from tests import toys
from tests.toys import FIT, FIT_STEPS, LOSS, FitConfig, fit

pytestmark = [pytest.mark.optimized, pytest.mark.usefixtures("compiled_once")]

EVALUATIONS = 4
TOTAL = EVALUATIONS * FIT_STEPS
CONFIG = FitConfig(evaluations=EVALUATIONS, steps_per_call=2)
LONG = dataclasses.replace(CONFIG, evaluations=9)
BOUNDARIES = (2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20)  # of calls of 2, 2 and 1 steps
METRICS = "metrics.jsonl"

Trained = tuple[Population, SweepState]


def program_of(config: FitConfig = CONFIG) -> Program:
    return fit(config)


def run(
    folder: Path,
    program: Program,
    config: Any = CONFIG,
    *,
    stop_at: int | None = None,
    signum: int = signal.SIGTERM,
    starts: list[int] | None = None,
    called: Callable[[int], None] = lambda step: None,
) -> Trained:
    """Trains in a folder, with a signal that arrives during the call that ends at ``stop_at``."""
    plan, stops = plan_of_run(program, config), list[int]()

    def before_a_call(state: SweepState) -> None:
        if steps_taken(plan, state) + loop.next_call(plan, state) == stop_at:
            stops.append(signum)

    def on_start(state: SweepState) -> None:
        if starts is not None:
            starts.append(steps_taken(plan, state))
        before_a_call(state)

    def on_call(state: SweepState, status: Any, metrics: Any) -> None:
        called(steps_taken(plan, state))
        before_a_call(state)

    observer = Observer(on_start, on_call, lambda state, rows: None, lambda outcomes: None)
    return loop.train(plan, folder, observer, stops)


def stopped(folder: Path, program: Program, config: Any = CONFIG, *, at: int, **more: Any) -> None:
    with pytest.raises(Stopped, match=f"saved at step {at};") as stop:
        run(folder, program, config, stop_at=at, **more)
    assert stop.value.signum == more.get("signum", signal.SIGTERM)


def bits(tree: Any) -> list[tuple[str, str, bytes]]:
    """Path, dtype and bytes of every leaf."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        found.append((jax.tree_util.keystr(path), str(data.dtype), data.tobytes()))
    return found


def saved(folder: Path, step: int | None = None, name: str = "latest") -> tuple[Any, Any]:
    """The arrays and the notes of a checkpoint, by default the newest."""
    with checkpoints(folder / "checkpoints" / name, read_only=True) as manager:
        found = manager.restore(manager.latest_step() if step is None else step)
    return found["state"], found["notes"]


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return rows_of(folder / METRICS)


def assert_same(found: Trained, expected: Trained) -> None:
    """Every array, and all that is known beside them but the seconds."""
    assert bits(found[0]) == bits(expected[0])
    assert found[1]._replace(seconds=0) == expected[1]._replace(seconds=0)


def assert_same_folders(found: Path, expected: Path) -> None:
    """The rows, and every array of the final checkpoints."""
    assert (found / METRICS).read_bytes() == (expected / METRICS).read_bytes()
    for name in ("latest", "best"):
        assert bits(saved(found, name=name)[0]) == bits(saved(expected, name=name)[0])


def hparams(config: Any = CONFIG) -> dict[str, Any]:
    return {name: value[0] for name, value in hparams_of(config).items()}


def first_weights(program: Program) -> np.ndarray:
    return np.asarray(program.task.init(hparams()).params["w"])


def aimed_at(program: Program, weights: np.ndarray) -> Program:
    """The program with validation data that these weights fit."""
    x = program.data["valid"]["x"]
    return program._replace(
        data=program.data | {"valid": {"x": x, "y": jnp.polyval(jnp.asarray(weights), x)}}
    )


@functools.cache
def with_bad_steps(steps: range, bad: float = math.nan) -> Program:
    """The long program with ``bad`` in the training data of these steps."""
    program = program_of(LONG)
    task = program.task

    def train(state: Any, hparams: Any, data: Any, count: int) -> Any:
        def step(state: Any, _: None) -> Any:
            is_bad = (state.step >= steps.start) & (state.step < steps.stop)
            read = data | {"y": jnp.where(is_bad, jnp.float32(bad), data["y"])}
            return task.train(state, hparams, read, 1)

        state, metrics = lax.scan(step, state, None, count)
        return state, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)

    return program._replace(task=task._replace(train=train))


def always_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", -1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    """An uninterrupted run and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, program_of()), folder


# A run and its rows


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 4000), st.data())
def test_calls_are_even_and_end_where_evaluations_do(size: int, limit: int, data: st.DataObject):
    program = program_of()._replace(steps_per_evaluation=size)
    plan = plan_of_run(program, RunConfig(steps_per_call=limit))

    def next_call(evaluation: int, step: int) -> int:
        state = SweepState(slots=(0,), evaluation=evaluation, step_in_evaluation=step)
        return loop.next_call(plan, state)

    sizes: list[int] = []
    while sum(sizes) < size:
        sizes.append(next_call(0, sum(sizes)))
    assert sum(sizes) == size
    assert 1 <= min(sizes) <= max(sizes) <= limit
    fewest = math.ceil(size / limit)
    equal = [count for count in range(fewest, 3 * fewest // 2 + 1) if size % count == 0]
    assert len(sizes) == min(equal, default=fewest)
    assert len(set(sizes)) <= (1 if equal else 2), "each size is a program to compile"
    evaluation, within = data.draw(st.integers(0, 50)), data.draw(st.integers(0, size - 1))
    assert 1 <= next_call(evaluation, within) <= min(limit, size - within)


def test_a_run_takes_all_its_steps_and_learns(whole: tuple[Trained, Path]):
    (there, state), folder = whole
    rows = rows_in(folder)
    assert there.members.step.tolist() == there.members.state.step.tolist() == [TOTAL]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert [row["evaluation"] for row in rows] == [1, 2, 3, 4]
    losses = [row["valid_loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    (outcome,) = state.outcomes
    assert outcome["status"] == FINISHED
    assert outcome["best_step"] == outcome["step"] == TOTAL
    assert outcome["evaluations_done"] == EVALUATIONS
    assert outcome["valid_loss"] == losses[-1] == -outcome["score"]


def test_a_run_is_tested_once_with_what_it_kept(whole: tuple[Trained, Path]):
    (there, state), _ = whole
    program, best = program_of(), jax.tree.map(lambda leaf: leaf[0], there.members.best)
    tested = program.task.evaluate(best, hparams(), program.data["test"])
    assert state.outcomes[0]["test_loss"] == pytest.approx(float(tested["loss"].mean), rel=1e-6)


@pytest.mark.long
def test_the_length_of_calls_changes_no_row(whole: tuple[Trained, Path], tmp_path: Path):
    run(tmp_path, program_of(), dataclasses.replace(CONFIG, steps_per_call=200))
    for row, expected in zip(rows_in(tmp_path), rows_in(whole[1]), strict=True):
        assert list(row) == list(expected)
        np.testing.assert_allclose(list(row.values()), list(expected.values()), rtol=1e-5)


@pytest.mark.long
def test_a_row_holds_the_means_since_the_last_evaluation(whole: tuple[Trained, Path]):
    """By hand, in float64: the losses before each step, and of the weights at the evaluation."""
    program = program_of()
    data, valid = program.data["train"], program.data["valid"]
    task: Any = program.task
    state, step_once = task.init(hparams()), jax.jit(functools.partial(task.train, steps=1))
    train_losses, valid_losses = [], []

    def loss(x: Any, y: Any) -> float:
        slope, offset = np.asarray(state.params["w"], np.float64)
        return float(((slope * x + offset - np.asarray(y, np.float64)) ** 2).mean())

    for step in range(TOTAL):
        key = jax.random.fold_in(jax.random.split(state.key)[0], step)
        noise = 0.1 * np.asarray(jax.random.normal(key, (8,)), np.float64)
        x, y = (np.asarray(data[name][step % FIT_STEPS], np.float64) for name in "xy")
        train_losses.append(loss(x + noise, y))
        state, _ = step_once(state, hparams(), data)
        if (step + 1) % FIT_STEPS == 0:
            valid_losses.append(loss(np.asarray(valid["x"], np.float64), valid["y"]))
    rows = rows_in(whole[1])
    means = np.mean(np.reshape(train_losses, (EVALUATIONS, FIT_STEPS)), axis=1)
    np.testing.assert_allclose([row["train_loss"] for row in rows], means, rtol=1e-4)
    np.testing.assert_allclose([row["valid_loss"] for row in rows], valid_losses, rtol=1e-4)
    assert {row["train_skipped"] for row in rows} == {0.0}


def test_a_call_writes_over_the_state_that_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made: list[Population] = []
    fresh = loop.fresh

    def remembered(*given: Any) -> Trained:
        made.append(fresh(*given)[0])
        return made[0], fresh(*given)[1]

    monkeypatch.setattr(loop, "fresh", remembered)
    run(tmp_path, program_of())
    state = made[0].members.state
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))


# Stops, crashes and resumes


@pytest.mark.fault("R9")
def test_a_stop_at_every_call_changes_no_bit(whole: tuple[Trained, Path], tmp_path: Path):
    starts: list[int] = []
    for boundary in BOUNDARIES[:-1]:
        stopped(tmp_path, program_of(), at=boundary, starts=starts)
        assert saved(tmp_path)[1]["state"]["evaluation"] == boundary // FIT_STEPS
    last = run(tmp_path, program_of(), stop_at=TOTAL, starts=starts)
    assert starts == [0, *BOUNDARIES[:-1]]
    assert_same(last, whole[0])
    assert_same_folders(tmp_path, whole[1])


def test_a_run_that_has_ended_takes_no_step_again(whole: tuple[Trained, Path]):
    starts: list[int] = []
    before = (whole[1] / METRICS).read_bytes()
    assert_same(run(whole[1], program_of(), starts=starts), whole[0])
    assert starts == []
    assert (whole[1] / METRICS).read_bytes() == before


@pytest.mark.long
@pytest.mark.parametrize("name", toys.ALL)
def test_every_kind_of_task_stopped_amid_an_interval_ends_at_the_same_bits(
    name: str, tmp_path: Path
):
    module = toys.ALL[name]
    config = module.Config(steps_per_call=1)
    program = module.program(config)
    expected = run(tmp_path / "whole", program, config)
    amid, starts = program.steps_per_evaluation + 2, list[int]()
    assert amid < 2 * program.steps_per_evaluation, "it must fall between two evaluations"
    stopped(tmp_path / "parts", program, config, at=amid)
    assert saved(tmp_path / "parts")[1]["state"]["step_in_evaluation"] == 2
    found = run(tmp_path / "parts", program, config, starts=starts)
    assert starts == [amid]
    assert len(rows_in(tmp_path / "parts")) == program.evaluations
    assert_same(found, expected)
    assert_same_folders(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize("crash", [4, 8, 13])
def test_a_crash_after_the_last_save_changes_no_bit(
    whole: tuple[Trained, Path], tmp_path: Path, crash: int, monkeypatch: pytest.MonkeyPatch
):
    """Saves at every call, then steps that no save has seen, then death without a last word."""

    def die(step: int) -> None:
        if step >= crash:
            monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", math.inf)
        if step >= crash + FIT_STEPS:
            raise MemoryError

    always_saving(monkeypatch)
    with pytest.raises(MemoryError):
        run(tmp_path, program_of(), called=die)
    starts: list[int] = []
    found = run(tmp_path, program_of(), starts=starts)
    assert starts == [min(step for step in BOUNDARIES if step >= crash)]
    assert_same(found, whole[0])
    assert_same_folders(tmp_path, whole[1])


def test_a_crash_before_the_first_save_begins_anew(
    whole: tuple[Trained, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def die(step: int) -> None:
        if step > FIT_STEPS:
            raise MemoryError

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", math.inf)
    with pytest.raises(MemoryError):
        run(tmp_path, program_of(), called=die)
    assert len(rows_in(tmp_path)) == 1
    starts: list[int] = []
    assert_same(run(tmp_path, program_of(), starts=starts), whole[0])
    assert starts == [0]
    assert_same_folders(tmp_path, whole[1])


def test_the_seconds_of_all_parts_add_up(tmp_path: Path):
    stopped(tmp_path, program_of(), at=9)
    earlier = saved(tmp_path)[1]["state"]["seconds"]
    assert earlier > 0
    _, state = run(tmp_path, program_of())
    assert earlier < saved(tmp_path)[1]["state"]["seconds"] <= state.seconds


# Damaged and foreign files


def damage(checkpoint: Path) -> None:
    """Truncates its notes, which are read first; damaged arrays are test_checkpoint's affair."""
    file = checkpoint / "notes" / "metadata"
    file.write_bytes(file.read_bytes()[:20])


@pytest.mark.long
@pytest.mark.fault("R3")
def test_a_damaged_newest_checkpoint_costs_a_few_steps_and_changes_no_bit(
    whole: tuple[Trained, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    for step in (7, 14):
        stopped(tmp_path, program_of(), at=step)
    damage(tmp_path / "checkpoints/latest/14")
    starts: list[int] = []
    found = run(tmp_path, program_of(), starts=starts)
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if "warning:" in line]
    assert "checkpoint 14 is damaged" in warning
    assert starts == [7]
    assert_same(found, whole[0])
    assert_same_folders(tmp_path, whole[1])


@pytest.mark.fault("R3")
def test_where_all_checkpoints_are_damaged_a_run_does_not_begin_anew(tmp_path: Path):
    stopped(tmp_path, program_of(), at=7)
    damage(tmp_path / "checkpoints/latest/7")
    before = (tmp_path / METRICS).read_bytes()
    with pytest.raises(UserError, match=r"All checkpoints in .* are damaged .*--overwrite"):
        run(tmp_path, program_of())
    assert (tmp_path / METRICS).read_bytes() == before


def test_lost_rows_of_metrics_are_noticed(tmp_path: Path):
    stopped(tmp_path, program_of(), at=17)
    file = tmp_path / METRICS
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    with pytest.raises(UserError, match=r"expected 3 rows .*got 2\..*--overwrite"):
        run(tmp_path, program_of())


@pytest.mark.fault("R14")
def test_a_torn_last_row_that_no_checkpoint_counts_is_cut(
    whole: tuple[Trained, Path], tmp_path: Path
):
    stopped(tmp_path, program_of(), at=17)
    with open(tmp_path / METRICS, "a") as stream:
        stream.write('{"step": 20, "evalu')
    run(tmp_path, program_of())
    assert_same_folders(tmp_path, whole[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"degree": 2},
            r"members\.state\.params\.w is float32\[1, 2\] there and float32\[1, 3\] here",
        ),
        (
            {"optimizer": "sgd"},
            r"members\.state\.opt_state\.\S+ is absent there and float32\[1, 2\] here",
        ),
    ],
)
@pytest.mark.fault("R11")
def test_another_model_in_the_folder_is_refused_and_leaves_it_untouched(
    tmp_path: Path, change: dict[str, Any], words: str
):
    stopped(tmp_path, program_of(), at=9)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    other = dataclasses.replace(CONFIG, **change)
    with pytest.raises(UserError, match=f"is of another model: {words}.*--overwrite"):
        run(tmp_path, fit(other), other)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_who_reads_a_run_leaves_alone_what_it_is_saving(tmp_path: Path):
    there, _ = run(tmp_path, program_of())
    saving = tmp_path / "checkpoints" / "best" / "999.orbax-checkpoint-tmp"
    saving.mkdir()
    kept = kept_at_best(program_of(), CONFIG, tmp_path)
    assert bits(kept) == bits(jax.tree.map(lambda leaf: leaf[0], there.members.best))
    assert saving.is_dir()


# The best that is kept


@pytest.mark.long
@pytest.mark.fault("R10")
def test_the_weights_of_the_best_evaluation_are_kept_through_a_stop(tmp_path: Path):
    """The training passes the weights that fit the validation data on its way to its own."""
    program = program_of(LONG)
    end = np.asarray(run(tmp_path / "aim", program, LONG)[0].members.state.params["w"][0])
    program = aimed_at(program, (first_weights(program) + end) / 2)
    there, state = run(tmp_path / "whole", program, LONG)
    rows = rows_in(tmp_path / "whole")
    losses = [row["valid_loss"] for row in rows]
    best = int(np.argmin(losses))
    assert 0 < best < LONG.evaluations - 1, "otherwise the test shows nothing"
    best_step = rows[best]["step"]
    assert there.members.best_step.tolist() == [best_step]
    assert there.members.best_score.tolist() == [-np.float32(losses[best])]
    assert state.outcomes[0]["best_step"] == best_step
    assert state.outcomes[0]["valid_loss"] == losses[best]
    kept = jax.tree.map(lambda leaf: leaf[0], there.members.best)
    evaluated = program.task.evaluate(kept, hparams(), program.data["valid"])
    np.testing.assert_allclose(evaluated["loss"].mean, losses[best], rtol=1e-6)
    assert bits(kept["w"]) != bits(there.members.state.params["w"][0])

    stopped(tmp_path / "parts", program, LONG, at=best_step + 2, signum=signal.SIGINT)
    assert_same(run(tmp_path / "parts", program, LONG), (there, state))
    for folder in ("whole", "parts"):
        assert_best_is_saved(tmp_path / folder, there)


def assert_best_is_saved(folder: Path, there: Population) -> None:
    expected = {"kept": jax.tree.map(lambda leaf: leaf[0], there.members.best)}
    with checkpoints(folder / "checkpoints" / "best", keep=1) as manager:
        assert manager.all_steps() == there.members.best_step.tolist()
        found = restore(manager, expected)
    assert found is not None
    assert bits(found[0]) == bits(expected)


@pytest.mark.fault("R2", "R10")
def test_a_crash_between_the_saves_of_latest_and_best_loses_no_best(tmp_path: Path):
    there, state = run(tmp_path, program_of())
    best = tmp_path / "checkpoints" / "best" / str(state.outcomes[0]["best_step"])
    best.rename(tmp_path / "gone")
    assert_same(run(tmp_path, program_of()), (there, state))
    assert_best_is_saved(tmp_path, there)


@pytest.mark.long
def test_a_best_that_is_newer_than_the_latest_is_no_obstacle(
    whole: tuple[Trained, Path], tmp_path: Path
):
    """A crash may come before the old best was deleted, or before the latest was saved."""
    stopped(tmp_path, program_of(), at=9)
    best = tmp_path / "checkpoints" / "best"
    assert [entry.name for entry in best.iterdir()] == ["5"]
    run(tmp_path / "elsewhere", program_of())
    (tmp_path / "elsewhere/checkpoints/best/20").rename(best / "20")
    assert_same(run(tmp_path, program_of()), whole[0])
    assert "20" in {entry.name for entry in best.iterdir()}
    assert bits(saved(tmp_path, 20, "best")[0]) == bits(saved(whole[1], 20, "best")[0])


# Early stopping


PATIENT = dataclasses.replace(LONG, patience=2)


@pytest.mark.long
@pytest.mark.fault("R10")
def test_patience_ends_a_run_and_a_resume_knows_it(tmp_path: Path):
    program = aimed_at(program_of(LONG), first_weights(program_of(LONG)))
    there, state = run(tmp_path, program, PATIENT)
    losses = [row["valid_loss"] for row in rows_in(tmp_path)]
    assert losses == sorted(losses), "the validation gets worse from the first evaluation on"
    assert len(losses) == 1 + PATIENT.patience < LONG.evaluations
    (outcome,) = state.outcomes
    assert outcome["status"] == PATIENCE
    assert (outcome["best_step"], outcome["step"]) == (FIT_STEPS, 3 * FIT_STEPS)
    starts: list[int] = []
    assert_same(run(tmp_path, program, PATIENT, starts=starts), (there, state))
    assert starts == []
    assert [row["valid_loss"] for row in rows_in(tmp_path)] == losses


@pytest.mark.long
@pytest.mark.parametrize("stop", [10, 12])
@pytest.mark.fault("R10")
def test_patience_counts_through_a_stop(tmp_path: Path, stop: int):
    program = aimed_at(program_of(LONG), first_weights(program_of(LONG)))
    expected = run(tmp_path / "whole", program, PATIENT)
    stopped(tmp_path / "parts", program, PATIENT, at=stop)
    assert_same(run(tmp_path / "parts", program, PATIENT), expected)
    assert_same_folders(tmp_path / "parts", tmp_path / "whole")


# Bad steps and divergence


@pytest.mark.long
@pytest.mark.fault("N1")
def test_nineteen_bad_steps_change_no_weight_or_moment_and_training_goes_on(
    tmp_path: Path, record_property: Callable[[str, Any], None]
):
    record_property("NaN steps that changed no bit", 19)
    config = dataclasses.replace(LONG, steps_per_call=1)
    program, trees = with_bad_steps(range(7, 26)), []
    for step in (7, 26):
        stopped(tmp_path, program, config, at=step)
        trees.append(saved(tmp_path, step)[0]["members"]["state"])
    assert trees[1]["skipped"].tolist() == [19]
    for name in ("params", "opt_state", "key"):
        assert bits(trees[0][name]) == bits(trees[1][name])
    there, state = run(tmp_path, program, config)
    assert state.outcomes[0]["status"] == FINISHED
    assert there.members.state.skipped.tolist() == [0]
    assert bits(there.members.state.params) != bits(trees[1]["params"])
    rows = rows_in(tmp_path)
    shares = [row["train_skipped"] for row in rows]
    np.testing.assert_allclose(shares, [0, 3 / 5, 1, 1, 1, 1 / 5, 0, 0, 0], rtol=1e-6)
    assert all(np.isfinite(row["valid_loss"]) for row in rows)


@pytest.mark.long
@pytest.mark.parametrize(
    ("bad", "steps_per_call", "failures", "step"),
    [
        *((bad, 1, 20, 28) for bad in (math.nan, math.inf, -math.inf, 1e38)),
        (math.nan, 2, 21, 29),
    ],
)
@pytest.mark.fault("N2")
def test_twenty_bad_steps_in_a_row_end_a_run_within_the_call(
    tmp_path: Path, bad: float, steps_per_call: int, failures: int, step: int
):
    config = dataclasses.replace(LONG, steps_per_call=steps_per_call)
    program = with_bad_steps(range(8, 99), bad)
    trained = single.train(program, config, tmp_path)
    assert trained.outcome["status"] == DIVERGED
    assert trained.outcome["step"] == step, "no step is taken after the call"
    assert trained.outcome["score"] is None
    assert trained.divergence == (
        f"Training diverged: the last {failures} steps up to step {step} had gradients that are "
        "not finite. Try a lower --learning_rate or a --clip_norm."
    )
    assert [row["step"] for row in rows_in(tmp_path)] == [5, 10, 15, 20, 25, step]


def diverging(monkeypatch: pytest.MonkeyPatch, folder: Path) -> single.Trained:
    always_saving(monkeypatch)
    return single.train(with_bad_steps(range(8, 99)), LONG, folder)


@pytest.mark.long
@pytest.mark.fault("N2")
def test_the_checkpoints_of_a_run_that_diverged_hold_finite_weights_and_end_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = diverging(monkeypatch, tmp_path)
    rows = (tmp_path / METRICS).read_bytes()
    latest, _ = saved(tmp_path)
    best, _ = saved(tmp_path, name="best")
    for tree in (latest["members"]["state"]["params"], latest["members"]["best"], best["kept"]):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
    again = diverging(monkeypatch, tmp_path)
    assert again.outcome == first.outcome
    assert again.divergence == first.divergence
    assert (tmp_path / METRICS).read_bytes() == rows


@pytest.mark.long
def test_a_run_stopped_between_its_divergence_and_the_next_evaluation_says_it_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program = with_bad_steps(range(6, 99))
    config = dataclasses.replace(LONG, steps_per_call=1)
    stopped(tmp_path, program, config, at=27)  # the twentieth bad step was the 26th
    trained = single.train(program, config, tmp_path)
    assert trained.outcome["status"] == DIVERGED
    assert "the last 20 steps up to step 26 had gradients" in trained.divergence


@pytest.mark.fault("N2")
def test_weights_whose_validation_is_not_finite_are_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    always_saving(monkeypatch)
    program = aimed_at(program_of(), np.array([np.nan, 0], np.float32))
    trained = single.train(program, CONFIG, tmp_path)
    assert trained.outcome["status"] == DIVERGED
    assert (trained.outcome["step"], trained.outcome["best_step"]) == (FIT_STEPS, 0)
    assert "after step 5 the validation loss is not finite" in trained.divergence
    assert list((tmp_path / "checkpoints" / "best").iterdir()) == []
    assert rows_in(tmp_path)[0]["valid_loss"] is None
    with checkpoints(tmp_path / "checkpoints" / "latest", read_only=True) as manager:
        assert sorted(manager.all_steps()) == [2, 4], "the state that was judged is not saved"
    with pytest.raises(UserError, match="has not been evaluated yet"):
        kept_at_best(program, CONFIG, tmp_path)


@pytest.mark.long
def test_a_finite_loss_out_of_all_bounds_is_a_divergence(tmp_path: Path):
    config = dataclasses.replace(CONFIG, learning_rate=1e10)
    trained = single.train(fit(config), config, tmp_path)
    assert trained.outcome["status"] == DIVERGED
    (row,) = rows_in(tmp_path)
    assert row["valid_loss"] > 1e6
    assert f"after step 5 the validation loss is {row['valid_loss']:.4g}" in trained.divergence
    assert "and above" in trained.divergence


@pytest.mark.parametrize(
    ("module", "threshold", "value", "words"),
    [
        (FIT, -303.0, 1e4, "validation loss is 1e+04, and above 303 nothing is learned. Try a"),
        (FIT, -303.0, None, "validation loss is not finite, and above 303 nothing is learned."),
        (FIT, -math.inf, None, "validation loss is not finite. Try a lower --learning_rate or"),
        (toys.POLICY, -303.0, -400.0, "validation return is -400, and below -303 nothing is"),
    ],
)
def test_the_words_of_a_divergence_follow_the_direction_of_the_metric(
    module: Any, threshold: float, value: float | None, words: str
):
    program = module.program(module.Config())
    plan: Plan = plan_of_run(program, module.Config())
    outcome = {"status": DIVERGED, "step": 5}
    state = SweepState((None,), divergence_threshold=threshold, outcomes=(outcome,))
    row = {f"valid_{program.select.name}": value}
    said = single.divergence_of(plan, state, 19, [row])
    assert said.startswith("Training diverged: after step 5 the ")
    assert words in said
    finished = state._replace(outcomes=({"status": FINISHED, "step": 5},))
    assert single.divergence_of(plan, finished, 19, [row]) == ""


def test_what_is_a_divergence_depends_on_the_untrained_score(whole: tuple[Trained, Path]):
    higher = LOSS._replace(higher_is_better=True)
    assert divergence_threshold(2.0, LOSS) == -202.0
    assert divergence_threshold(0.5, higher) == -99.5
    assert divergence_threshold(-2.0, higher) == -202.0
    assert divergence_threshold(None, LOSS) == -math.inf
    assert divergence_threshold(1e-3, LOSS) == pytest.approx(-100, rel=1e-4)
    program = program_of()
    params = {"w": jnp.asarray(first_weights(program))}
    untrained = program.task.evaluate(params, hparams(), program.data["valid"])["loss"].mean
    assert untrained > 1
    np.testing.assert_allclose(whole[0][1].divergence_threshold, -101 * untrained, rtol=1e-5)


# Signals


def signaled(monkeypatch: pytest.MonkeyPatch, at_call: int, *signums: int) -> None:
    """Sends this process signals while a call is made, counted over all runs from here on."""
    advanced, calls = loop.advanced, []

    def interrupted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == at_call:
            for signum in signums:
                signal.raise_signal(signum)
        return advanced(*given)

    monkeypatch.setattr(loop, "advanced", interrupted)


def asked_of(folder: Path, config: FitConfig = CONFIG) -> single.Asked:
    module = toys.module(FitConfig, program_of)
    return single.Asked(
        toys.experiment(module, "fit"), config, folder, False, Hardware(), "./launch.sh fit"
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
@pytest.mark.fault("R7")
def test_a_signal_ends_the_command_with_its_status_and_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signum: int,
    status: int,
):
    signaled(monkeypatch, 4, signum)
    assert single.main(asked_of(tmp_path)) == status
    lines = capsys.readouterr().err.splitlines()
    sentence = "Stopped and saved at step 7; the same command goes on from there."
    assert [line for line in lines if not line.startswith("step ")] == [sentence]
    assert lines[-1] == sentence
    assert saved(tmp_path)[1]["state"]["step_in_evaluation"] == 2
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("signum", "ends"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)],
    ids=["INT", "TERM"],
)
@pytest.mark.fault("R7")
def test_a_second_ctrl_c_does_not_wait_and_a_second_sigterm_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, ends: type[BaseException]
):
    signaled(monkeypatch, 1, signum, signum)
    with pytest.raises(ends):
        single.train(program_of(), CONFIG, tmp_path)
    steps = {entry.name for entry in (tmp_path / "checkpoints" / "latest").iterdir()}
    assert steps == ({"0"} if ends is KeyboardInterrupt else {"0", "2"})


@pytest.mark.parametrize("stop", [False, True])
def test_signals_do_what_they_did_before_when_the_run_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: bool
):
    before = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
    if stop:
        signaled(monkeypatch, 2, signal.SIGTERM)
        with pytest.raises(Stopped):
            single.train(program_of(), CONFIG, tmp_path)
    else:
        single.train(program_of(), CONFIG, tmp_path)
    assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.long
def test_a_third_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time\n"
        f"from {stopping.__name__} import stop_requests\n"
        "with stop_requests():\n"
        "    for _ in range(3): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)"
    )
    process = subprocess.run([sys.executable, "-c", code], check=False, timeout=50)
    assert process.returncode == 128 + signal.SIGTERM


# The command, and what it says


@pytest.mark.long
@pytest.mark.fault("N2")
def test_a_diverged_run_ends_the_command_with_status_3_and_leaves_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert single.main(asked_of(tmp_path, dataclasses.replace(CONFIG, learning_rate=1e10))) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: Training diverged: after step 5 the validation loss is ")
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.long
def test_a_resume_says_where_it_goes_on_and_counts_its_progress_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 2.0**20)  # but for first and last
    monkeypatch.setenv("RECURRENT_STARTED", "1")  # as the launcher does
    signaled(monkeypatch, 4, signal.SIGTERM)
    assert single.main(asked_of(tmp_path)) == 143
    first = capsys.readouterr()
    assert single.main(asked_of(tmp_path)) == 0
    second = capsys.readouterr()
    assert [line.partition(" (")[0] for line in first.out.splitlines()] == [
        f"fit begins in {tmp_path}"
    ]
    (start,) = [line for line in second.out.splitlines() if line.startswith("fit ")]
    assert start.startswith(f"fit goes on from step 7 in {tmp_path} (")
    assert start.endswith(" s to the first step)")
    lines = [line for line in first.err.splitlines() if line.startswith("step ")]
    assert [line.partition(", ")[0] for line in lines] == [f"step 2/{TOTAL}"]
    lines = second.err.splitlines()
    assert [line.partition(", ")[0] for line in lines] == [f"step 9/{TOTAL}", f"step 20/{TOTAL}"]
    assert all(", train loss " in line for line in lines)
    (result,) = [json.loads((tmp_path / "result.json").read_text())]
    assert result["steps"] == TOTAL
