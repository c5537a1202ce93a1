"""Several processes that train as one, started on this machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.harness import processes, supervisor
from experiments.harness.processes import Group
from tests.experiments.harness.groups import (
    LONG,
    ROOT,
    are_gone,
    children_of,
    ended,
    evaluations_in,
    has_proc,
    launched,
    rows,
    wait_until,
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert ended(*LONG, f"--workdir={folder}")[0] == 0
    return folder


class Child:
    """A process that ends with a status when it has been asked a few times."""

    def __init__(self, asked: int, status: int) -> None:
        self.asked, self.status = asked, status

    def poll(self) -> int | None:
        self.asked -= 1
        return self.status if self.asked < 0 else None


@pytest.mark.parametrize(
    ("children", "number"),
    [
        ([Child(0, 1), Child(1, -9)], 1),  # which the first one missed, and ended before it
        ([Child(3, 0), Child(0, 1)], 1),
        ([Child(0, 0), Child(1, 0)], None),
    ],
)
def test_a_process_that_was_killed_is_the_one_that_failed(
    children: list[Any], number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: None)
    assert supervisor.first_failure(children) == number


@pytest.mark.long
@has_proc
def test_two_processes_killed_and_stopped_end_as_one_process_does(
    alone: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = [*LONG, f"--workdir={folder}"]
    first = launched(*run, "--processes=2")
    wait_until(lambda: evaluations_in(folder) >= 1 or first.poll() is not None)
    children = children_of(first)
    os.kill(children[1], signal.SIGKILL)
    _, errors = first.communicate(timeout=100)
    assert "process 1 ended by signal 9" in errors
    assert "Traceback" not in errors
    assert "the same command goes on from the last checkpoint" in errors
    assert first.returncode not in (0, 2, 3)
    assert are_gone(children)

    before = evaluations_in(folder)
    second = launched(*run, "--processes=2")
    wait_until(lambda: evaluations_in(folder) > before or second.poll() is not None)
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=100)
    assert second.returncode == 128 + signal.SIGINT, errors
    assert "Stopped and saved" in errors

    status, said = ended(*run)  # alone, from the checkpoint of two
    assert status == 0, said
    assert "goes on from step" in said
    ours, theirs = rows(folder), rows(alone)
    for a, b in zip(ours[:5], theirs[:5], strict=True):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=2e-3, abs=1e-4), name
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert ours[-1]["valid_loss"] == pytest.approx(theirs[-1]["valid_loss"], rel=0.2)


@pytest.mark.long
@has_proc
@pytest.mark.fault("D1")
def test_processes_end_when_their_supervisor_is_gone(tmp_path: Path) -> None:
    run = launched(*LONG, f"--workdir={tmp_path / 'run'}", "--processes=2")
    wait_until(lambda: evaluations_in(tmp_path / "run") >= 1 or run.poll() is not None)
    children = children_of(run)
    assert len(children) == 2
    run.kill()
    run.communicate()
    wait_until(lambda: are_gone(children))


FIRST_STEPS = """
import hashlib, sys, jax, numpy as np
from experiments import sequential_digits
from experiments.harness import loop, processes
from experiments.harness.devices import check_devices
from experiments.harness.engine import engine_of
from experiments.harness.plan import fresh_state, plan_of_run
from recurrent.training import minibatch, step
from recurrent.training.population import batch_mesh, put, sharding
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
if len(sys.argv) > 2:
    number, port = sys.argv[2:]
    processes.join(processes.Group(2, int(number), f"127.0.0.1:{port}"))
config = sequential_digits.Config(cell="gru", hidden_size=8, batch_size=32)
count = check_devices(int(sys.argv[1]), config)
plan = plan_of_run(sequential_digits.program(config), config, count)
engine, whole = engine_of(plan.program, plan.layout), sharding(plan.layout, shared=True)
data = put(plan.program.data["train"], plan.layout, shared=True)
with batch_mesh(plan.layout):
    hparams = loop.hparams_in_slots(plan, fresh_state(plan, {}))
    members = engine.begin((hparams, np.array([False])))
    weights = [np.asarray(leaf) for leaf in jax.tree.leaves(members.state.params)]
    key = step.order_key(jax.tree.map(lambda leaf: leaf[0], members.state))
    rows, mask = minibatch.epoch_order(key, 1257, 32)
    batch = jax.jit(minibatch.take)(data, rows[3], mask[3])
    seen = jax.jit(lambda batch: batch["images"], out_shardings=whole)(batch)
    members, metrics = engine.train(20)(members, data)
    loss = float(np.asarray(metrics["loss"].mean)[0])
everything = b"".join(leaf.tobytes() for leaf in [*weights, np.asarray(seen)])
if processes.is_first():
    print("RESULT", count, hashlib.sha256(everything).hexdigest(), loss)
"""


def first_steps(devices: int, count: int = 1) -> tuple[int, str, float]:
    port = supervisor.free_port()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_STEPS, str(devices)]
            + ([str(number), str(port)] if count > 1 else []),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    said = [process.communicate(timeout=200)[0] for process in running]
    assert not any(process.returncode for process in running)
    (line,) = [line for line in said[0].splitlines() if line.startswith("RESULT")]
    _, size, hashed, loss = line.split()
    return int(size), hashed, float(loss)


@pytest.fixture(scope="module")
def steps_of_one() -> tuple[int, str, float]:
    return first_steps(1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("devices", "count"),
    [(1, 2), *(pytest.param(*n, marks=pytest.mark.slow) for n in ((4, 1), (2, 2)))],
)
@pytest.mark.fault("N10")
def test_weights_and_data_are_the_same_bits_on_any_number_of_devices_and_processes(
    steps_of_one: tuple[int, str, float], devices: int, count: int
) -> None:
    size, hashed, loss = first_steps(devices, count)
    assert size == devices * count
    assert hashed == steps_of_one[1]
    assert loss == pytest.approx(steps_of_one[2], rel=1e-4)


@pytest.mark.slow
def test_a_sweep_on_two_processes_equals_that_on_one(tmp_path: Path) -> None:
    swept = ["sweep", "sequential_digits", "--sweep=learning_rate=0.003,0.01,1e10"]
    swept += ["--sweep=cell=gru,elman", "--hidden_size=8", "--epochs=2", "--slots=4"]
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        status, said = ended(*swept, f"--workdir={folder}", f"--processes={count}")
        assert status == 0, said
        lines = (folder / "sweep.jsonl").read_text().splitlines()
        found.append({row["member"]: row for row in map(json.loads, lines)})
        assert (folder / "report.html").exists()
    assert sorted(found[0]) == sorted(found[1]) == list(range(6))
    for member, row in found[0].items():
        for name, value in row.items():
            same = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert found[1][member][name] == same, name
    assert {row["status"] for row in found[0].values()} == {"finished", "diverged"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--process=1"], "--process: it belongs to a --coordinator"),
        (["--coordinator=nowhere"], "--coordinator: expected HOST:PORT or auto, got 'nowhere'"),
        (["--coordinator=here:99999"], "expected HOST:PORT"),
        (["--coordinator=[::1:1234"], "expected HOST:PORT"),
        (["--coordinator=here:1234"], "say how many processes there are"),
        (["--coordinator=here:1234", "--processes=2", "--process=2"], "got 2 and 2"),
        (["--coordinator=auto"], "JAX finds no cluster here"),
        (["--processes=0"], "--processes: expected at least 1, got 0"),
    ],
)
def test_flags_that_make_no_group_are_refused(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    status, said = ended("sequential_digits", *flags, f"--workdir={tmp_path / 'run'}")
    assert status == 2
    assert message in said
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_refusal_by_all_processes_is_printed_once(tmp_path: Path) -> None:
    run = ["sequential_digits", "--batch_size=33", "--processes=2"]
    status, said = ended(*run, f"--workdir={tmp_path / 'run'}")
    assert status == 2
    assert said.count("2 devices cannot share a batch of 33 equally") == 1
    assert not (tmp_path / "run").exists()


def by_hand(*own: list[str]) -> list[tuple[int, str]]:
    """What processes with flags of their own end with and say."""
    port = supervisor.free_port()
    group = [f"--processes={len(own)}", f"--coordinator=127.0.0.1:{port}"]
    run = ["sequential_digits", "--cell=elman", "--hidden_size=4", "--epochs=1", *group]
    running = [launched(*run, f"--process={k}", *flags) for k, flags in enumerate(own)]
    said = [process.communicate(timeout=200) for process in running]
    pairs = zip(running, said, strict=True)
    return [(process.returncode, out + errors) for process, (out, errors) in pairs]


@pytest.mark.long
@pytest.mark.fault("D3")
def test_processes_that_were_asked_for_different_things_do_not_train(tmp_path: Path) -> None:
    where = f"--workdir={tmp_path / 'run'}"
    ends = by_hand([where, "--seed=0"], [where, "--seed=1"])
    assert [status for status, _ in ends] == [2, 2]
    for _, said in ends:
        assert (
            "Process 1 was asked for something else than process 0: config.seed is 1 there" in said
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_refusal_by_the_first_process_ends_all_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("precious")
    ends = by_hand(*[[f"--workdir={tmp_path / 'run'}"]] * 2)
    assert [status for status, _ in ends] == [2, 2]
    assert "holds files but no run" in ends[0][1]
    assert "Process 0 refuses the run" in ends[1][1]
    assert "Traceback" not in ends[1][1]


def test_srun_makes_a_group_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.are_to_be_started(Group(processes=2))
    assert not processes.are_to_be_started(Group())
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert not processes.are_to_be_started(Group(processes=2))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # a shell that salloc has opened
    assert processes.are_to_be_started(Group(processes=2))


@pytest.mark.slow
def test_tasks_of_srun_find_each_other(tmp_path: Path) -> None:
    """By the variables that srun sets, as its manual page has them."""
    run = ["sequential_digits", "--cell=elman", "--hidden_size=4", "--epochs=1"]
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "JAX_NUM_CPU_DEVICES": "1",
    }
    tasks = [
        launched(
            *(*run, f"--workdir={tmp_path / 'run'}"),
            **(step | {"SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)}),
        )
        for k in range(2)
    ]
    said = [task.communicate(timeout=200) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert "report: " in said[0][0]
    assert said[1][0] == ""
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["device"].startswith("2 x ")
