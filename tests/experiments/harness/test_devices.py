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
from experiments.harness import loop
from experiments.harness.config import numbers_of
from experiments.harness.devices import mesh_of, on_devices
from experiments.harness.errors import UserError
from recurrent.training.step import cut, take

ROOT = Path(__file__).resolve().parents[3]
CONFIG = sequential_digits.Config(cell="gru", hidden_size=8, epochs=2, dropout=0.3, batch_size=32)
two_devices = pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")


def trained(folder: Path, devices: int, config: Any = CONFIG) -> loop.Outcome:
    folder.mkdir(exist_ok=True)
    mesh = mesh_of(devices, config)
    return loop.train(sequential_digits.program(config), config, folder, lambda step: None, mesh)


@two_devices
def test_two_devices_train_as_one_does(tmp_path: Path) -> None:
    one, two = (trained(tmp_path / str(count), count) for count in (1, 2))
    for a, b in zip(one.rows, two.rows, strict=True):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    first = [a["train_loss"] for a in (one.rows[0], two.rows[0])]
    assert first[0] == pytest.approx(first[1], rel=1e-4)


@two_devices
def test_each_batch_is_shared() -> None:
    program = on_devices(sequential_digits.program(CONFIG), mesh_of(2, CONFIG))
    numbers, data = numbers_of(CONFIG), program.data["train"]
    with jax.set_mesh(mesh_of(2, CONFIG)):
        state = program.task.init(numbers)
        train: Any = program.task.train
        step = train.lower(state, numbers, data, 1).compile()
    assert "all-reduce" in step.as_text()
    for leaf in jax.tree.leaves(state.params):
        assert len(leaf.sharding.device_set) == 2


@two_devices
def test_a_checkpoint_of_one_device_goes_on_on_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", 1)
    half = dataclasses.replace(CONFIG, epochs=2)
    moments = loop.moments

    class Killed(BaseException):
        pass

    def killed(*given: Any) -> Any:
        for moment in moments(*given):
            yield moment
            if moment.row is not None:
                raise Killed

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", -1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "moments", killed)
        with pytest.raises(Killed):
            trained(tmp_path / "run", 1, half)
    again = trained(tmp_path / "run", 2, half)
    assert again.rows[0] == whole.rows[0]
    assert again.rows[1]["valid_loss"] == pytest.approx(whole.rows[1]["valid_loss"], rel=2e-3)


@two_devices
def test_what_is_read_does_not_depend_on_the_devices() -> None:
    data = {"x": np.arange(40.0).reshape(20, 2)}
    indices, mask = np.array([3, 1, 7, 0]), np.array([True, True, True, False])
    alone = jax.jit(take)(data, indices, mask)
    with jax.set_mesh(mesh_of(2, CONFIG)):
        shared = jax.jit(take)(data, indices, mask)
    assert shared["x"].sharding.spec[0] == "batch"
    jax.tree.map(np.testing.assert_array_equal, shared, alone)


def test_without_a_mesh_nothing_is_cut() -> None:
    batch = {"x": np.ones((3, 4))}
    assert cut(batch, 0) is batch


@pytest.mark.parametrize(
    ("devices", "batch_size", "words"),
    [(99, 64, "--devices: there are"), (2, 33, "2 devices cannot share a batch of 33 equally")],
)
def test_devices_that_cannot_share_a_batch(devices: int, batch_size: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        mesh_of(devices, dataclasses.replace(CONFIG, batch_size=batch_size))


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
