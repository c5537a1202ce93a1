"""Two processes that train as one: one is killed, or one alone is told to stop."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.experiments.harness.groups import (
    are_gone,
    children_of,
    has_proc,
    launched,
    wait_until,
)
from tests.faults.processes import PATIENCE, Record, saved_steps

pytestmark = [pytest.mark.slow, has_proc]

TRAINING = ("sequential_digits", "--cell=gru", "--hidden_size=8", "--epochs=100000")
MOST_SECONDS = 30  # from the end of one process to that of the other
Start = Callable[[], tuple[subprocess.Popen[str], list[int]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts two processes in the same directory as before, and waits until they have saved."""
    groups, run = [], tmp_path / "run"

    def last_saved() -> int:
        return max(saved_steps(run / "checkpoints" / "latest"), default=0)

    def begin() -> tuple[subprocess.Popen[str], list[int]]:
        before = last_saved()
        group = launched(*TRAINING, "--processes=2", f"--workdir={run}")
        groups.append(group)
        wait_until(lambda: last_saved() > before or group.poll() is not None)
        children = children_of(group)
        assert len(children) == 2
        return group, children

    yield begin
    for group in groups:
        if group.poll() is None:
            group.kill()
            group.communicate()


@pytest.mark.fault("D1")
def test_where_either_of_two_is_killed_the_other_ends_in_thirty_seconds_and_a_relaunch_goes_on(
    start: Start, record_property: Record
):
    for number in (1, 0):  # the second group goes on from what the first has saved
        group, children = start()
        os.kill(children[number], signal.SIGKILL)
        began = time.monotonic()
        out, errors = group.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - began
        assert seconds < MOST_SECONDS
        assert group.returncode not in (0, 2, 3)
        assert f"error: process {number} ended by signal 9" in errors
        assert "the same command goes on from the last checkpoint" in errors
        assert "Traceback" not in errors
        assert are_gone(children)
        assert ("goes on from step" in out) == (number == 0)
        record_property("killed of two", 1)
        record_property("seconds until all had ended", seconds)


@pytest.mark.fault("D4")
def test_where_one_of_two_is_told_to_stop_both_save_the_same_step(start: Start, tmp_path: Path):
    group, children = start()
    os.kill(children[1], signal.SIGTERM)
    _, errors = group.communicate(timeout=PATIENCE)
    assert group.returncode == 128 + signal.SIGTERM, errors
    assert are_gone(children)
    (step,) = re.findall(r"Stopped and saved at step (\d+)", errors)
    assert saved_steps(tmp_path / "run/checkpoints/latest")[-1] == int(step)
    again, _ = start()
    again.send_signal(signal.SIGTERM)
    out, _ = again.communicate(timeout=PATIENCE)
    assert f"goes on from step {step} " in out
