"""Runs whose checkpoints are damaged or gone: none begins again from nothing without a word."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.harness import loop, runs
from experiments.harness.checkpoint import steps_in
from experiments.harness.errors import UserError
from experiments.harness.loop import Observer, Population
from experiments.harness.plan import SweepState, plan_of_run
from experiments.sweep.winner import save_weights
from tests.toys import FIT_STEPS, FitConfig, fit

CONFIG = FitConfig(evaluations=4, steps_per_call=2)


class Killed(Exception):
    """Stands for a process that ends at once."""


def trained(
    folder: Path, evaluated: Callable[[SweepState], None] = lambda state: None
) -> Population:
    observer = Observer(
        lambda state: None,
        lambda state, status, metrics: None,
        lambda state, rows: evaluated(state),
        lambda outcomes: None,
    )
    return loop.train(plan_of_run(fit(CONFIG), CONFIG), folder, observer, [])[0]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(there: Population) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], there.members.best["w"])


def flip(folder: Path) -> None:
    """Change the largest file of a checkpoint."""
    file = max(folder.rglob("d/*"), key=lambda file: file.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def killed_after(folder: Path, evaluations: int) -> None:
    def end(state: SweepState) -> None:
        if state.evaluation == evaluations:
            raise Killed

    with pytest.raises(Killed):
        trained(folder, end)


@pytest.mark.long
@pytest.mark.parametrize(
    ("emptied", "words"),
    [
        (["latest"], rf"has 4 rows, and checkpoints/best is of step {4 * FIT_STEPS}"),
        (["latest", "best"], "has 4 rows, and checkpoints/best is empty"),
    ],
)
@pytest.mark.fault("R3")
def test_a_run_whose_latest_checkpoints_are_gone_is_refused_and_left_alone(
    tmp_path: Path, emptied: list[str], words: str
):
    trained(tmp_path)
    for name in emptied:
        shutil.rmtree(tmp_path / "checkpoints" / name)
        (tmp_path / "checkpoints" / name).mkdir()
    before = files(tmp_path)
    with pytest.raises(UserError, match=f"latest holds no checkpoint any more.*{words}"):
        trained(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.long
@pytest.mark.fault("R3")
def test_the_best_alone_tells_that_there_was_a_training(tmp_path: Path):
    trained(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "latest")
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"has 0 rows, and checkpoints/best is of step"):
        trained(tmp_path)


@pytest.mark.long
def test_a_run_killed_right_after_its_first_row_goes_on(tmp_path: Path):
    """There is a checkpoint before there is a row."""
    killed_after(tmp_path / "killed", 1)
    assert (tmp_path / "killed" / "metrics.jsonl").read_bytes().count(b"\n") == 1
    assert steps_in(tmp_path / "killed" / "checkpoints" / "latest") == [0]
    again, whole = trained(tmp_path / "killed"), trained(tmp_path / "whole")
    np.testing.assert_array_equal(weights(again), weights(whole))
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("killed", "whole")]
    assert rows[0] == rows[1]


@pytest.mark.long
@pytest.mark.fault("R3")
def test_a_damaged_best_is_written_again_by_the_run_that_has_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    there = trained(tmp_path)
    (step,) = steps_in(tmp_path / "checkpoints" / "best")
    flip(tmp_path / "checkpoints" / "best" / str(step))
    with pytest.raises(UserError, match=rf"All checkpoints in .*best are damaged \(step {step}: "):
        runs.kept_at_best(fit(CONFIG), CONFIG, tmp_path)
    trained(tmp_path)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"warning: checkpoint {step} is damaged (state/" in line
    kept = runs.kept_at_best(fit(CONFIG), CONFIG, tmp_path)
    np.testing.assert_array_equal(kept["w"], weights(there))


@pytest.mark.fault("R3")
def test_a_damaged_copy_of_weights_in_a_sweep_is_written_again(tmp_path: Path):
    kept = {"w": np.arange(5000, dtype=np.float32)}
    folder = tmp_path / "weights" / "0"
    save_weights(folder, kept)
    flip(folder / "1")
    damaged = files(folder)
    save_weights(folder, kept)
    assert files(folder) != damaged
    whole = files(folder)
    save_weights(folder, {"w": np.zeros(5000, np.float32)})
    assert files(folder) == whole, "what is whole is kept"
    (tmp_path / "checkpoints").mkdir()
    folder.rename(tmp_path / "checkpoints" / "best")
    found = runs.restored_best(tmp_path, kept, "")
    np.testing.assert_array_equal(found["w"], kept["w"])
