"""Processes of a training that are stopped, or never come, are named by the others."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments.harness import supervisor, watchdog
from experiments.harness.errors import UserError
from experiments.harness.watchdog import Word
from tests.experiments.harness.groups import (
    LONG,
    ROOT,
    are_gone,
    children_of,
    evaluations_in,
    has_proc,
    launched,
    wait_until,
)

TIMEOUT = 15


def word(number: object, **more: object) -> bytes:
    return json.dumps(
        {"process": number, "stack": ["a.py, line 3, in f"], "missing": []} | more
    ).encode()


@pytest.fixture
def ended_by(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., tuple[socket.socket, list[str]]]]:
    """Start to watch; returns where to send to, and what is said at the end."""
    monkeypatch.setattr(watchdog, "BEAT", 0.05)
    over, started = threading.Event(), []

    def start(own: int, timeout: float) -> tuple[socket.socket, list[str]]:
        here, there = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for each in (here, there):
            each.bind(("127.0.0.1", 0))
        there.connect(here.getsockname())
        said: list[str] = []

        def judge(heard: dict[int, Word], now: float) -> str:
            return "over" if over.is_set() else watchdog.silence(heard, now - timeout, timeout)

        arguments = (here, there.getsockname(), own, 2, judge, said.append)
        thread = threading.Thread(target=watchdog.watch, args=arguments, daemon=True)
        thread.start()
        started.append((thread, here, there))
        return there, said

    yield start
    over.set()
    for thread, here, there in started:
        thread.join()
        here.close()
        there.close()


@pytest.mark.fault("D2")
def test_who_falls_silent_is_named_with_the_place_where_it_was(ended_by: Callable) -> None:
    peer, said = ended_by(0, 0.4)
    for _ in range(10):
        peer.send(word(1))
        time.sleep(0.1)
    assert not said
    wait_until(lambda: bool(said))
    assert said[0].startswith("process 1 has not been heard of for 0.4 s")
    assert said[0].endswith("Process 1 was last at:\n  a.py, line 3, in f")


def test_a_process_tells_where_its_python_code_is(ended_by: Callable) -> None:
    peer, _ = ended_by(1, 60)
    heard = json.loads(peer.recv(watchdog.LONGEST))
    assert heard["process"] == 1
    assert any(__file__ in line for line in heard["stack"])
    assert not any("site-packages" in line for line in heard["stack"])


def test_nobody_who_was_never_heard_counts_as_silent(ended_by: Callable) -> None:
    _, said = ended_by(0, 0.1)
    time.sleep(0.6)
    assert not said


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xff\x00",
        b"[" * 5000,
        b"3",
        b"{}",
        word(2),
        word(-1),
        word("1"),
        word([1]),
        word(1, missing=["x"]),
        word(1, missing=None),
        word(1, stack=3),
        word(1, missing=[float("inf")]),
        word(1, missing=[7]),
        word(True),
        word(1.0),
    ],
)
def test_what_is_no_word_is_ignored(packet: bytes) -> None:
    assert watchdog.read(packet, 2) is None


def test_no_packet_ends_the_watch() -> None:
    rng = np.random.default_rng(0)
    sound = word(1, missing=[0])
    for _ in range(3000):
        packet = bytearray(sound)
        for place in rng.integers(len(packet), size=rng.integers(1, 6)):
            packet[place] = rng.integers(256)
        found = watchdog.read(bytes(packet), 2)
        assert found is None or found[0] in (0, 1)


def test_a_word_of_long_paths_fits_and_keeps_the_innermost_calls() -> None:
    calls = ["\u8def" * 290 + f", line {k}" for k in range(8)]
    written = watchdog.written(1, calls, [])
    assert len(written) <= watchdog.LONGEST
    found = watchdog.read(written, 2)
    assert found is not None
    assert found[1].stack == calls[-len(found[1].stack) :] != []


def test_what_a_word_says_cannot_write_to_a_terminal() -> None:
    found = watchdog.read(word(1, stack=["a.py", "\x1b[2J", "b\nc"]), 2)
    assert found is not None
    assert found[1].stack == ["a.py"]


@pytest.mark.parametrize(
    ("own", "heard", "says"),
    [
        (0, {}, "processes 1, 2 have not come within 9 s; start all 3 processes."),
        (0, {1: []}, "process 2 has not come within 9 s; start all 3 processes."),
        (0, {1: [], 2: []}, ""),
        (1, {}, "process 0 has not come to here:12 within 9 s; start all 3 processes."),
        (1, {0: [2]}, "process 2 has not come within 9 s; start all 3 processes."),
        (1, {0: []}, ""),
    ],
)
@pytest.mark.fault("D3")
def test_who_has_not_come_is_named(own: int, heard: dict[int, list[int]], says: str) -> None:
    words = {number: Word(0.0, [], missing) for number, missing in heard.items()}
    assert watchdog.absence(words, own, 3, "here:12", 9) == says


@pytest.mark.long
@has_proc
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.fault("D2")
def test_a_stopped_process_is_named_and_ends_the_others(
    victim: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = tmp_path / "run"
    run = launched(*LONG, f"--workdir={folder}", "--processes=2", f"--process_timeout={TIMEOUT}")
    wait_until(lambda: evaluations_in(folder) >= 1 or run.poll() is not None)
    children = children_of(run)
    stopped = time.monotonic()
    os.kill(children[victim], signal.SIGSTOP)
    _, errors = run.communicate(timeout=200)
    assert run.returncode == watchdog.LOST, errors
    assert f"error: process {victim} has not been heard of for {TIMEOUT} s" in errors
    assert f"Process {victim} was last at:" in errors
    assert "loop.py, line " in errors
    assert "Traceback" not in errors
    seconds = time.monotonic() - stopped
    assert seconds < 4 * TIMEOUT
    assert are_gone(children)
    record_property("seconds until a stopped process was named", seconds)


@pytest.mark.long
@pytest.mark.parametrize(
    ("own", "says"), [(0, "process 1 has not come within 6 s"), (1, "process 0 has not come to ")]
)
@pytest.mark.fault("D3")
def test_a_process_that_never_comes_is_named(
    own: int, says: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    group = ["--processes=2", f"--coordinator=127.0.0.1:{supervisor.free_port()}"]
    group += [f"--process={own}", "--process_timeout=6"]
    run = launched("sequential_digits", *group, f"--workdir={tmp_path / 'run'}")
    _, errors = run.communicate(timeout=200)
    assert run.returncode == watchdog.LOST, errors
    assert f"error: {says}" in errors
    record_property("seconds until a missing process was named", time.monotonic() - began)
    assert "processes.py, line " in errors
    assert not (tmp_path / "run").exists()


def test_a_coordinator_that_nobody_knows_is_a_sentence() -> None:
    with (
        pytest.raises(UserError, match=r"^--coordinator: no-such-host\.invalid:1234: "),
        watchdog.watched_join("no-such-host.invalid:1234", 1, 2, 5.0),
    ):
        raise AssertionError("nobody is joined")


BUSY_AT_THE_END = """
import sys, time
from experiments.harness import processes
number, port = sys.argv[1:]
processes.join(processes.Group(2, int(number), f"127.0.0.1:{port}", 5))
if number == "0":
    time.sleep(12)  # as where it draws a report, while the other waits in its exit
"""


@pytest.mark.long
def test_a_process_that_waits_at_its_end_is_not_silent() -> None:
    port = str(supervisor.free_port())
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BUSY_AT_THE_END, number, port],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in ("0", "1")
    ]
    said = [process.communicate(timeout=200)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
