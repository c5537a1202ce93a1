"""One model on several devices: the same data, weights and masks, and nearly the same numbers."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import sequential_digits
from experiments.harness import loop, run
from experiments.harness.devices import check_devices
from experiments.harness.engine import engine_of
from experiments.harness.errors import UserError
from experiments.harness.plan import SweepState, plan_of_run
from recurrent.training.minibatch import shard_batch, take
from recurrent.training.population import Layout, batch_mesh, put
from tests.experiments.harness.saved_runs import Killed

ROOT = Path(__file__).resolve().parents[3]
CONFIG = sequential_digits.Config(cell="gru", hidden_size=8, epochs=2, dropout=0.3, batch_size=32)
two_devices = pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")


def trained(folder: Path, count: int, config: Any = CONFIG) -> list[dict[str, Any]]:
    """The rows of a run on so many devices."""
    folder.mkdir(exist_ok=True)
    return run.train(sequential_digits.program(config), config, folder, count).finished.rows


@two_devices
def test_two_devices_train_as_one_does(tmp_path: Path) -> None:
    one, two = (trained(tmp_path / str(count), count) for count in (1, 2))
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    first = [rows[0]["train_loss"] for rows in (one, two)]
    assert first[0] == pytest.approx(first[1], rel=1e-4)


@two_devices
def test_the_gradients_of_a_shared_batch_are_added_up() -> None:
    plan = plan_of_run(sequential_digits.program(CONFIG), CONFIG, batch_devices=2)
    engine, state = engine_of(plan.program, plan.layout), SweepState(slots=(0,))
    data = put(plan.program.data["train"], plan.layout, shared=True)
    with batch_mesh(plan.layout):
        members = engine.begin((loop.hparams_in_slots(plan, state), np.array([False])))
        train: Any = engine.train(1)
        step = train.lower(members, data).compile()
    assert "all-reduce" in step.as_text()
    for leaf in jax.tree.leaves(members.state.params):
        assert len(leaf.sharding.device_set) == 2


@two_devices
def test_a_checkpoint_of_one_device_goes_on_on_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", 1)
    evaluated, calls = loop.evaluated, []

    def killed(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return evaluated(*given)

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", -1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluated", killed)
        with pytest.raises(Killed):
            trained(tmp_path / "run", 1)
    again = trained(tmp_path / "run", 2)
    assert again[0] == whole[0]
    assert again[1]["valid_loss"] == pytest.approx(whole[1]["valid_loss"], rel=2e-3)


@two_devices
def test_the_examples_of_a_batch_do_not_depend_on_the_devices() -> None:
    data = {"x": np.arange(40.0).reshape(20, 2)}
    indices, mask = np.array([3, 1, 7, 0]), np.array([True, True, True, False])
    alone = jax.jit(take)(data, indices, mask)
    with batch_mesh(Layout(batch_devices=2)):
        shared = jax.jit(take)(data, indices, mask)
    assert shared["x"].sharding.spec[0] == "batch"
    jax.tree.map(np.testing.assert_array_equal, shared, alone)


def test_without_a_mesh_a_batch_stays_as_it_is() -> None:
    batch = {"x": np.ones((3, 4))}
    assert shard_batch(batch, 0) is batch


@pytest.mark.parametrize(
    ("devices", "batch_size", "words"),
    [(99, 64, "--devices: there are"), (2, 33, "2 devices cannot share a batch of 33 equally")],
)
def test_devices_that_cannot_share_a_batch_are_refused(
    devices: int, batch_size: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check_devices(devices, dataclasses.replace(CONFIG, batch_size=batch_size))


@pytest.mark.slow
def test_one_two_and_four_devices_by_the_command_line(tmp_path: Path) -> None:
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
