"""Start the processes of a training on this machine, and end them together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from experiments.harness.processes import LOCALHOST
from experiments.harness.watchdog import LOST

PATIENCE = 15.0  # seconds that the others have to end by themselves when one has failed
SLOW_END = 0.5  # seconds in which a killed process of much memory ends
PARENT = "RECURRENT_SUPERVISOR"  # environment variable: the process that started this one


def supervise(arguments: Sequence[str], count: int) -> int:
    """Run a command line in ``count`` processes and return the exit status.

    The first process has the terminal. SIGINT and SIGTERM are passed on to all of them; where one
    fails, the others are ended.
    """
    command = [sys.executable, "-P", "-m", "experiments", *arguments]
    command += [f"--coordinator={LOCALHOST}:{free_port()}"]
    with contextlib.ExitStack() as files:
        errors = [files.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        children = [
            subprocess.Popen(  # noqa: S603 - the command line of this process
                [*command, f"--process={number}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if number else None,
                stderr=errors[number] if number else None,
                env=os.environ | {PARENT: str(os.getpid())},
                start_new_session=True,  # so that Ctrl-C reaches them from here alone, and once
            )
            for number in range(count)
        ]
        with signals_passed_on(children):
            failed = first_failure(children)
            stuck = failed is not None and children[failed].returncode == LOST
            end(children, 1.0 if stuck else PATIENCE)
        said = output_of(errors[failed]) if failed is not None else ""
        if stuck:
            print(
                said, end="", file=sys.stderr
            )  # which names another process than the one it is of
            return LOST
        if failed is not None and not has_explained(children[0].returncode):
            say_lost(failed, children[failed].returncode, said)
        return exit_status(children[0].returncode)


def output_of(file: IO[bytes]) -> str:
    """Return what a process has printed to a file; nothing where it has the terminal."""
    file.seek(0)
    return file.read().decode(errors="replace")


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def signals_passed_on(children: Sequence[subprocess.Popen[Any]]) -> Iterator[None]:
    """Pass SIGINT and SIGTERM on to all children."""

    def pass_on(signum: int, frame: Any) -> None:
        for child in children:
            child.send_signal(signum)

    before = {name: signal.signal(name, pass_on) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def first_failure(children: Sequence[subprocess.Popen[Any]]) -> int | None:
    """Wait until a child fails and return its number, or None once all have ended well.

    One that was killed comes before others: its connections close before it has ended, so that a
    child which misses it may end first.
    """
    while True:
        ended = [child.poll() for child in children]
        if any(ended):
            time.sleep(SLOW_END)
            failed = [
                (status > 0, k) for k, child in enumerate(children) if (status := child.poll())
            ]
            return min(failed)[1]
        if None not in ended:
            return None
        time.sleep(0.05)


def end(children: Sequence[subprocess.Popen[Any]], patience: float) -> None:
    """Wait up to that many seconds for all children, then kill the rest."""
    deadline = time.monotonic() + patience
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
    for child in children:
        child.kill()
        child.wait()


def has_explained(status: int) -> bool:
    """Return whether the launcher has explained this exit status itself."""
    return status in (0, 2, 3, 128 + signal.SIGINT, 128 + signal.SIGTERM)


def exit_status(status: int) -> int:
    """Return the status as a shell does: 128 plus the signal that ended a process."""
    return status if status >= 0 else 128 - status


def say_lost(number: int, status: int, text: str) -> None:
    """Print which process ended, and the end of its output."""
    last = "".join(f"  {line}\n" for line in text.splitlines()[-5:])
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    print(
        f"{last}error: process {number} ended {how}, and the others were stopped; the same "
        "command goes on from the last checkpoint.",
        file=sys.stderr,
    )


def end_with_the_supervisor() -> None:
    """Stop this process, as SIGTERM does, once the one that started it is gone."""
    text = os.environ.get(PARENT, "")
    parent = int(text) if text.isdecimal() else 0

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent:
        threading.Thread(target=watch, daemon=True).start()
