"""Real processes, killed and stopped: the same command again ends at the same bits."""

import json
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.experiments.run_files import assert_events, snapshot
from tests.faults.processes import (
    ALWAYS_SAVING,
    COMMAND,
    STEPS_PER_EPOCH,
    TOTAL,
    Launch,
    Process,
    Record,
    arrays,
    row_count,
    saved_steps,
    saving,
)


@pytest.fixture(scope="session")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an uninterrupted run."""
    process = Process(COMMAND, tmp_path_factory.mktemp("whole") / "run", cache)
    process.succeed()
    return process.run


def lasting(run: Path) -> dict[str, Any]:
    """The numbers of ``result.json`` that a repetition must reproduce."""
    result = json.loads((run / "result.json").read_text())
    return {k: v for k, v in result.items() if k not in ("train_seconds", "finished")}


def assert_same(run: Path, whole: Path) -> None:
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (run / "config.json").read_bytes() == (whole / "config.json").read_bytes()
    assert lasting(run) == lasting(whole)
    assert lasting(run)["steps"] == TOTAL
    for name in ("latest", "best"):
        folders = [path / "checkpoints" / name for path in (run, whole)]
        assert saved_steps(folders[0])[-1] == saved_steps(folders[1])[-1]
        assert arrays(folders[0]) == arrays(folders[1])
    assert_events(run)
    assert not saving(run), "what killed saves have left is cleaned up"


def phase(run: Path) -> str:
    """What a run was doing when it was killed."""
    amid = [name for name in ("latest", "best") if saving(run, name)]
    return f"saving {' and '.join(amid)}" if amid else "training"


def kill_in_training(process: Process, calls: int, delay: float, amid: bool) -> str:
    """Kills the process some calls after its first save; returns the phase that it was in.

    ``amid`` waits for the next save after that to be under way.
    """
    latest = process.run / "checkpoints" / "latest"
    step = max(saved_steps(latest), default=0) + 3 * calls
    process.wait_until(lambda: max(saved_steps(latest), default=0) > step)
    time.sleep(delay)
    if amid:
        process.wait_until(lambda: saving(process.run))
    assert process.popen.poll() is None, "it ended too soon for the test to mean anything"
    process.popen.kill()
    assert process.end() == -signal.SIGKILL
    return phase(process.run)


def assert_survives(launch: Launch, whole: Path, kills: int, record: Record) -> None:
    moment, steps, phases = random.Random(kills), [], []
    for kill in range(kills):
        with launch(ALWAYS_SAVING) as process:
            calls, delay = moment.randrange(1 + 36 // kills), moment.uniform(0, 0.1)
            phases.append(kill_in_training(process, calls, delay, amid=kill % 2 == 0))
            steps.append(process.first_step())
    with launch() as process:
        process.wait_until((process.run / "figures").exists)
        process.popen.kill()
        assert process.end() == -signal.SIGKILL
        steps.append(process.first_step())
    with launch() as process:
        process.succeed()
    assert steps[0] == 0
    assert steps == sorted(set(steps)), "every part goes on from where a later save was complete"
    assert_same(process.run, whole)
    amid = [name for name in phases if name != "training"]
    assert len(amid) >= kills / 4, "otherwise it says little of saves"
    record("kills", kills + 1)
    record("inside a save", len(amid))
    counts = Counter([*phases, "writing the report"])
    record("phases", ", ".join(f"{name} {count}" for name, count in counts.items()))


@pytest.mark.long
def test_killed_three_times_it_ends_at_the_same_bits(
    launch: Launch, whole: Path, record_property: Record
):
    assert_survives(launch, whole, kills=3, record=record_property)


@pytest.mark.slow
@pytest.mark.fault("R1")
def test_killed_twenty_times_it_ends_at_the_same_bits(
    launch: Launch, whole: Path, record_property: Record
):
    assert_survives(launch, whole, kills=20, record=record_property)


@pytest.mark.slow
@pytest.mark.fault("N9")
def test_the_same_command_twice_ends_at_the_same_bits(launch: Launch, whole: Path, tmp_path: Path):
    """Compiled anew, in a process of its own."""
    with launch(cache=tmp_path / "empty") as process:
        process.succeed()
    assert_same(process.run, whole)


def assert_stopped(process: Process, signum: int, rows: int, amid: bool = False) -> int:
    """Stops the process after some rows of metrics; returns the step that it has saved.

    ``amid`` waits for a save to be under way, and asks twice.
    """
    process.wait_until(lambda: row_count(process.run) >= rows)
    if amid:
        process.wait_until(lambda: saving(process.run))
        process.popen.send_signal(signum)
        time.sleep(0.01)
    process.popen.send_signal(signum)
    assert process.end() == 128 + signum
    (last,) = process.said()
    found = re.fullmatch(
        r"Stopped and saved at step (\d+); the same command goes on from there\.", last
    )
    assert found, last
    assert process.err.read_text().splitlines()[-1] == last
    assert saved_steps(process.run / "checkpoints" / "latest")[-1] == int(found[1])
    assert not saving(process.run)
    assert not (process.run / "result.json").exists()
    return int(found[1])


@pytest.mark.long
@pytest.mark.fault("R7")
def test_stopped_twice_it_ends_at_the_same_bits(launch: Launch, whole: Path):
    with launch() as process:
        first = assert_stopped(process, signal.SIGTERM, rows=3)
    with launch() as process:
        second = assert_stopped(process, signal.SIGINT, rows=first // STEPS_PER_EPOCH + 3)
        assert process.first_step() == first
    assert 0 < first < second < TOTAL
    with launch() as process:
        process.succeed()
        assert process.first_step() == second
    assert_same(process.run, whole)


@pytest.mark.long
@pytest.mark.fault("R7")
def test_asked_to_stop_twice_during_a_save_it_ends_at_the_same_bits(launch: Launch, whole: Path):
    with launch(ALWAYS_SAVING) as process:
        step = assert_stopped(process, signal.SIGTERM, rows=3, amid=True)
    with launch() as process:
        process.succeed()
        assert process.first_step() == step
    assert_same(process.run, whole)


@pytest.mark.slow
@pytest.mark.fault("R7")
def test_stopped_while_it_compiles_it_saves_its_first_call(
    launch: Launch, whole: Path, tmp_path: Path
):
    with launch(cache=tmp_path / "empty") as process:
        process.wait_until((process.run / "checkpoints" / "best").exists)
        assert assert_stopped(process, signal.SIGTERM, rows=0) == 3
    with launch() as process:
        process.succeed()
        assert process.first_step() == 3
    assert_same(process.run, whole)


@pytest.mark.long
def test_a_finished_run_is_left_alone(cache: Path, whole: Path):
    before = snapshot(whole)
    process = Process(COMMAND, whole, cache)
    out = process.succeed()
    assert "This run is finished already" in out
    assert f"test_accuracy {lasting(whole)['test_accuracy']:.4g}" in out
    assert "begins in" not in out
    assert "goes on from" not in out
    assert snapshot(whole) == before


@pytest.mark.long
@pytest.mark.fault("R13")
def test_one_directory_has_one_owner_until_it_dies(launch: Launch, tmp_path: Path, cache: Path):
    with launch(ALWAYS_SAVING) as owner:
        owner.wait_until(lambda: row_count(owner.run) > 0)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "run").symlink_to(owner.run)
        intruder = Process(COMMAND, tmp_path / "other" / "run", cache)
        assert intruder.end() == 2
        (line,) = intruder.said()
        assert f"in use by process {owner.popen.pid} on {os.uname().nodename}" in line
        assert owner.popen.poll() is None, "it ended too soon for the test to mean anything"
        owner.popen.kill()
        owner.end()
    with launch() as heir:
        heir.wait_until(lambda: "goes on" in heir.out.read_text())
        assert heir.first_step() > 0
