"""One model on several devices: the same data, weights and masks, and nearly the same numbers."""

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.harness import devices, loop, trial
from experiments.harness import run as single
from experiments.harness.devices import (
    bytes_of_member,
    check_devices,
    check_fits_memory,
    limits_of_groups,
    memory_bytes,
)
from experiments.harness.engine import engine_of
from experiments.harness.errors import UserError
from experiments.harness.plan import SweepState, fresh_state, plan_of_run
from experiments.harness.processes import Hardware, check_devices_text
from experiments.harness.program import Program
from experiments.harness.rundir import rows_of
from experiments.harness.trial import most_devices, tried
from recurrent.training.population import batch_mesh, put
from tests.toys import LENGTHS, POLICY, FitConfig, LengthsConfig, PolicyConfig, experiment, fit

ROOT = Path(__file__).resolve().parents[3]
CONFIG = LengthsConfig(epochs=2)
OFTEN = LengthsConfig(epochs=2, steps_per_call=1)
two_devices = pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")


@functools.cache
def program() -> Program:
    return LENGTHS.program(CONFIG)


def trained(folder: Path, count: int, config: Any = CONFIG) -> list[dict[str, Any]]:
    """The rows of a run on so many devices."""
    return single.train(program(), config, folder, check_devices(count, config)).finished.rows


class Killed(BaseException):
    """End a training as ``kill -9`` does: nothing catches it."""


@contextlib.contextmanager
def killed_when(
    monkeypatch: pytest.MonkeyPatch, due: Callable[[SweepState], bool]
) -> Iterator[None]:
    """Kill what is trained meanwhile before the first call of a state, after a save of it."""
    advanced = loop.advanced

    def killed(plan: Any, call: Any, data: Any, there: Any, state: SweepState) -> Any:
        if due(state):
            raise Killed
        return advanced(plan, call, data, there, state)

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", -1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "advanced", killed)
        with pytest.raises(Killed):
            yield


@pytest.mark.long
@two_devices
@pytest.mark.fault("N10")
def test_two_devices_train_as_one_does(tmp_path: Path) -> None:
    one, two = (trained(tmp_path / str(count), count) for count in (1, 2))
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    assert two[0]["train_loss"] == pytest.approx(one[0]["train_loss"], rel=1e-4)


@pytest.mark.long
@two_devices
def test_devices_share_each_batch_and_hold_the_weights_whole() -> None:
    plan = plan_of_run(program(), CONFIG, check_devices(2, CONFIG))
    engine, data = engine_of(program(), plan.layout), program().data["train"]
    with batch_mesh(plan.layout):
        hparams = loop.hparams_in_slots(plan, fresh_state(plan, {}))
        members = engine.begin((hparams, np.array([False])))
        train: Any = engine.train(1)
        step = train.lower(members, put(data, plan.layout, shared=True)).compile()
    assert "all-reduce" in step.as_text()
    for leaf in jax.tree.leaves(members.state.params):
        assert len(leaf.sharding.device_set) == 2
        assert leaf.sharding.is_fully_replicated


@pytest.mark.long
@two_devices
def test_a_checkpoint_of_one_device_goes_on_on_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", 1)

    with killed_when(monkeypatch, lambda state: state.evaluation == 1):
        trained(tmp_path / "run", 1)
    again = trained(tmp_path / "run", 2)
    assert again[0] == whole[0]
    assert again[1]["valid_loss"] == pytest.approx(whole[1]["valid_loss"], rel=2e-3)


@pytest.mark.long
@two_devices
def test_a_task_that_has_no_batches_trains_to_the_same_bits_on_two_devices(tmp_path: Path) -> None:
    """Its data are its own, so that each device does the same."""
    config, rows = PolicyConfig(evaluations=2), []
    for count in (1, 2):
        given = POLICY.program(config), config, tmp_path / str(count), check_devices(count, config)
        rows.append(single.train(*given).finished.rows)
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("count", "batch_size", "words"),
    [(99, 64, "--devices: there are"), (2, 33, "2 devices cannot share a batch of 33 equally")],
)
def test_devices_that_are_not_there_or_cannot_share_a_batch_are_refused(
    count: int, batch_size: int, words: str
) -> None:
    if count == 2 and jax.device_count() < 2:
        pytest.skip("needs two devices")
    with pytest.raises(UserError, match=words):
        check_devices(count, LengthsConfig(batch_size=batch_size))


# A trial of more devices


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make a trial of the shortest training, and its devices faster than one."""
    monkeypatch.setattr(trial, "WORTH", -1)
    measured = trial.tried
    monkeypatch.setattr(trial, "tried", lambda plans: [measured(plans)[0], 1e-9])
    return monkeypatch


def launched(folder: Path, given: str = "auto") -> list[dict[str, Any]]:
    """The rows of a run, whose calls are so short that there are more than three."""
    found = experiment(LENGTHS, "lengths")
    hardware = Hardware(devices=given)
    assert single.main(single.Asked(found, OFTEN, folder, False, hardware, "again")) == 0
    return rows_of(folder / "metrics.jsonl")


def device_of(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["device"]


@pytest.mark.long
@two_devices
def test_a_run_that_two_devices_train_faster_begins_again_on_them(
    tmp_path: Path, eager: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = launched(tmp_path / "two", "2")
    assert launched(tmp_path / "auto") == rows
    assert re.search(r"2 devices are [\d.]+ times as fast as one: the", capsys.readouterr().out)
    assert device_of(tmp_path / "auto").startswith("2 x ")
    noted = json.loads((tmp_path / "auto" / "devices.json").read_text())
    assert noted["devices"] == 2
    assert set(noted["seconds_of_a_call"]) == {"1", "2"}

    # which holds for what is left of it, without a trial
    (tmp_path / "auto" / "result.json").unlink()
    (tmp_path / "auto" / "report.html").unlink()
    eager.setattr(trial, "tried", None)
    assert launched(tmp_path / "auto") == rows
    assert device_of(tmp_path / "auto").startswith("2 x ")


@pytest.mark.long
@two_devices
@pytest.mark.parametrize("why", ["short", "no faster", "asked for", "fails"])
def test_other_runs_stay_on_one_device(why: str, tmp_path: Path, eager: pytest.MonkeyPatch) -> None:
    if why == "short":
        eager.setattr(trial, "WORTH", 1e9)
    if why == "no faster":
        eager.setattr(trial, "tried", lambda plans: [1.0, 0.95])
    if why == "fails":
        eager.setattr(trial, "tried", tried)
        eager.setattr(trial, "caller", lambda plan: 1 / 0)
    rows = launched(tmp_path / "run", "1" if why == "asked for" else "auto")
    assert rows == trained(tmp_path / "one", 1, OFTEN)
    assert device_of(tmp_path / "run").startswith("1 x ")
    assert not (tmp_path / "run" / "devices.json").exists()


@pytest.mark.long
@two_devices
def test_a_run_that_is_gone_on_with_stays_where_it_was(
    tmp_path: Path, eager: pytest.MonkeyPatch
) -> None:
    with killed_when(eager, lambda state: state.step_in_evaluation > 0):
        launched(tmp_path / "run")
    assert launched(tmp_path / "run") == trained(tmp_path / "one", 1, OFTEN)


@pytest.mark.long
@two_devices
def test_a_stop_that_comes_during_a_trial_is_obeyed(
    tmp_path: Path, eager: pytest.MonkeyPatch
) -> None:
    measured = trial.tried

    def stopped(plans: Any) -> list[float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return measured(plans)

    eager.setattr(trial, "tried", stopped)
    found = experiment(LENGTHS, "lengths")
    asked = single.Asked(found, OFTEN, tmp_path / "run", False, Hardware(), "again")
    assert single.main(asked) == 128 + signal.SIGTERM
    eager.undo()
    assert launched(tmp_path / "run") == trained(tmp_path / "one", 1, OFTEN)


@pytest.mark.long
@two_devices
@pytest.mark.parametrize("gone", ["", "metrics.jsonl", "checkpoints", "checkpoints/latest"])
def test_a_kill_while_a_run_is_cleared_costs_nothing(
    gone: str, tmp_path: Path, eager: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> None:
        if gone:
            entry = folder / gone
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        raise Killed

    eager.setattr(loop, "SECONDS_BETWEEN_SAVES", -1)
    with eager.context() as patch:
        patch.setattr(trial, "clear", killed)
        with pytest.raises(Killed):
            launched(tmp_path / "run")
    assert launched(tmp_path / "run") == launched(tmp_path / "two", "2")
    assert "clearing" not in json.loads((tmp_path / "run" / "devices.json").read_text())


@pytest.mark.parametrize("size", [1, 7, 12, 64])
def test_as_many_devices_are_tried_as_can_share_a_batch(size: int) -> None:
    most = most_devices(LengthsConfig(batch_size=size))
    assert size % most == 0
    assert all(size % k for k in range(most + 1, jax.local_device_count() + 1))
    assert most_devices(FitConfig()) == jax.local_device_count()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "123456"])
def test_what_is_no_number_of_devices_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--devices: expected auto or a whole number from 1"):
        check_devices_text(text)


# Memory


def test_what_cannot_fit_is_refused_before_it_is_tried() -> None:
    """A trillion weights with Adam's two moments, the best weights, and a gradient."""
    check_fits_memory(program(), CONFIG)
    config = FitConfig(degree=10**12 - 1, optimizer="adamw")
    with pytest.raises(UserError, match=r"need about 18626\.\d GiB, and .* has \d+\.\d; choose"):
        check_fits_memory(fit(config), config)


def test_what_just_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = bytes_of_member(program(), CONFIG)
    monkeypatch.setattr(devices, "memory_bytes", lambda: needed)
    check_fits_memory(program(), CONFIG)
    monkeypatch.setattr(devices, "memory_bytes", lambda: needed - 1)
    with pytest.raises(UserError, match="choose smaller sizes"):
        check_fits_memory(program(), CONFIG)


GROUPS = {  # what /proc/self/cgroup says, and in which file the limit is
    "a container": ("0::/", "memory.max"),
    "a slice": ("0::/user/job", "user/job/memory.max"),
    "a slice within one": ("0::/user/job", "user/memory.max"),
    "version 1": ("4:memory:/job", "memory/job/memory.limit_in_bytes"),
    "a container of version 1": ("4:memory:/docker/1", "memory/memory.limit_in_bytes"),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_the_limit_of_a_control_group_is_heeded(kind: str, tmp_path: Path) -> None:
    own, name = GROUPS[kind]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("1073741824\n")
    assert set(limits_of_groups(tmp_path, own)) == {2**30}
    (tmp_path / name).write_text("max\n")
    assert limits_of_groups(tmp_path, own) == []
    assert limits_of_groups(tmp_path / "nowhere", own) == []


def test_the_least_limit_is_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "limits_of_groups", lambda: [2**62, 2**20])
    if jax.default_backend() == "cpu":
        assert memory_bytes() == 2**20


@pytest.mark.slow
def test_one_two_and_four_devices_by_the_command_line_reach_the_same_loss(tmp_path: Path) -> None:
    losses = []
    for count in (1, 2, 4):
        folder = tmp_path / str(count)
        flags = ["--cell=gru", "--hidden_size=16", "--epochs=2", f"--devices={count}"]
        command = [sys.executable, "-m", "experiments", "sequential_digits", *flags]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        del environment["JAX_NUM_CPU_DEVICES"]
        subprocess.run([*command, f"--workdir={folder}"], cwd=ROOT, env=environment, check=True)
        losses.append(json.loads((folder / "result.json").read_text())["test_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)
