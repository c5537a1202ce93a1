"""What a user sees of a training: a bar that fits the terminal, or plain lines; rates of steps."""

import os
import pty
import select
import sys
import termios
import time
import types
from collections.abc import Callable

import pytest

from experiments.harness import progress
from experiments.harness.processes import Group

METRICS = "loss 0.1234, accuracy 0.5678"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets, in place of that of this computer."""
    now = [1000.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def shown(calls: list[tuple[float, int, str]], clock: list[float]) -> None:
    """Shows a training of 100 steps, each call at its time."""
    with progress.progress(100) as show:
        for seconds, step, stage in calls:
            clock[0] = 1000.0 + seconds
            show(step, METRICS, stage)


def read_all(terminal: int) -> str:
    """What has been written to a terminal; one read may return a part of it."""
    written = b""
    while select.select([terminal], [], [], 1.0)[0]:
        written += os.read(terminal, 2**16)
    os.close(terminal)
    return written.decode()


def frames(
    columns: int,
    calls: list[tuple[float, int, str]],
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """What a terminal of so many columns shows, one text after the other."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        shown(calls, clock)
        terminal.flush()
        written = read_all(ours)
    assert written.endswith("\n")
    return [frame.strip("\r\n") for frame in written.split("\r") if frame.strip()]


CALLS = [(0.0, 40, "begun"), (9.0, 60, "begun"), (19.0, 90, "begun"), (20.0, 100, "begun")]


@pytest.mark.parametrize("columns", [40, 60, 100, 200])
def test_a_bar_shows_the_loss_and_the_time_left_in_the_columns_that_there_are(
    columns: int, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = frames(columns, CALLS, clock, monkeypatch)
    assert max(map(len, found)) <= columns
    assert all("loss 0.1234" in frame for frame in found)
    assert " 40%" in found[0], "it begins where the training is, not at 0 %"
    assert "ETA ?" in found[0]
    assert "ETA 00:18" in found[1], "40 steps at 20 in 9 s"
    assert "ETA 00:03" in found[2], "10 steps at 50 in 19 s"
    assert "100%" in found[-1]
    assert all(("accuracy 0.5678" in frame) == (columns > 40) for frame in found[1:])
    assert ("60/100 steps,  2.22 steps/s" in found[1]) == (columns >= 100)
    assert all(frame.endswith(("0.1234", "0.5678")) for frame in map(str.rstrip, found)), "uncut"


def test_a_terminal_that_shrinks_gets_a_shorter_line(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with progress.progress(100) as show:
            for seconds, step, columns in [(0, 10, 120), (5, 20, 40)]:
                termios.tcsetwinsize(theirs, (24, columns))
                clock[0] = 1000.0 + seconds
                show(step, METRICS, "")
        terminal.flush()
        written = read_all(ours).split("\r")
    last = written[-2].rstrip()
    assert 30 < len(last) <= 40
    assert last.endswith("ETA 00:40, loss 0.1234")


def test_a_display_that_nothing_was_shown_on_leaves_no_line(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown([], clock)
    assert capsys.readouterr().err == ""


def test_elsewhere_a_line_comes_every_five_seconds_and_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    times = [(0, 20), (2, 40), (4, 50), (6, 80), (7, 90), (10, 100)]
    shown([(seconds, step, "") for seconds, step in times], clock)
    assert capsys.readouterr().err.splitlines() == [
        f"step 20/100, {METRICS}",
        f"step 80/100, {METRICS}, 10 steps/s, ETA 2 s",
        f"step 100/100, {METRICS}, 8 steps/s, ETA 0 s",
    ]


def test_what_is_compiled_counts_in_no_rate(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    calls = [
        (0.0, 40, "begun"),
        (6.0, 52, "begun"),  # 2 steps a second
        (500.0, 53, "evaluated"),
        (506.0, 65, "evaluated"),
    ]
    shown(calls, clock)
    assert [line.partition("0.5678")[2] for line in capsys.readouterr().err.splitlines()] == [
        "",
        ", 2 steps/s, ETA 24 s",
        ", 2 steps/s, ETA 24 s",
        ", 2 steps/s, ETA 18 s",
    ]


@pytest.mark.parametrize(
    ("group", "slurm", "speaks"),
    [
        (Group(), None, True),
        (Group(), "0", True),
        (Group(), "3", False),
        (Group(processes=2, process=0, coordinator="there:1234"), None, True),
        (Group(processes=2, process=1, coordinator="there:1234"), None, False),
        (Group(coordinator="auto"), None, False),
    ],
)
def test_one_process_says_that_it_prepares(
    group: Group,
    slurm: str | None,
    speaks: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    if slurm is not None:
        monkeypatch.setenv("SLURM_PROCID", slurm)
    progress.say_preparing("toy", group)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["toy: preparing and compiling ..."] * speaks


def on_a_terminal(show: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a terminal is given meanwhile."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        show()
        terminal.flush()
        return read_all(ours)


def test_the_seconds_before_the_first_step_are_counted_and_leave_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def waits() -> None:
        progress.start_clock(Group())
        time.sleep(2.5)
        print("said meanwhile", file=sys.stderr)
        with progress.progress(100) as show:
            show(1, METRICS, 0)

    written = on_a_terminal(waits, monkeypatch)
    assert written.startswith("\r... 1 s\r\r... 2 s\rsaid meanwhile\r\n\r\x1b[K")
    assert "..." not in written.partition("said")[2]


@pytest.mark.parametrize("group", [Group(process=1), Group(processes=2)])
def test_other_processes_and_the_one_that_starts_them_count_nothing(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits() -> None:
        progress.start_clock(group)
        assert not progress._clocks

    assert on_a_terminal(waits, monkeypatch) == ""


def test_where_there_is_no_terminal_nothing_is_counted() -> None:
    progress.start_clock(Group())
    assert not progress._clocks
