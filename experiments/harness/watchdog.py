"""End a training in words where one of its processes is stopped, lost or never comes.

Each process sends the first one a word every few seconds by UDP, at the coordinator's own address
and port number: who it is, and where its Python code is. The first one answers with its own. They
only watch: where such packets are not let through, nobody who was not heard is called silent, and
JAX's own limits hold.
"""

import contextlib
import json
import os
import socket
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.harness.errors import UserError
from experiments.harness.version import ROOT

LOST = 4  # the exit status of those that a lost process has ended
BEAT = 2.0  # seconds between two words
LONGEST = 8192  # bytes of a word
Address = tuple[Any, ...]


class Word(NamedTuple):
    """Hold what a process has said of itself.

    Attributes:
      when: it was heard, in seconds of this process's monotonic clock.
      stack: where its Python code was, the innermost call last.
      missing: the processes that it waits for; the first process alone knows.
    """

    when: float
    stack: list[str]
    missing: list[int]


@contextlib.contextmanager
def watched_join(coordinator: str, own: int, count: int, timeout: float) -> Iterator[None]:
    """Watch the other processes from now on; those that are late only until the block is left.

    Args:
      coordinator: ``HOST:PORT`` of the first process.
      own: the number of this process.
      count: how many processes there are.
      timeout: seconds of silence after which a process counts as lost.

    Raises:
      UserError: for a coordinator whose address is not known.
    """
    joined = threading.Event()
    begun = time.monotonic()
    try:
        line, first = open_line(coordinator, own)
    except socket.gaierror as error:
        raise UserError(f"--coordinator: {coordinator}: {error.strerror}.") from error
    except OSError:  # the port is taken: nobody watches
        yield
        return

    def judge(heard: Mapping[int, Word], now: float) -> str:
        late = not joined.is_set() and now - begun > timeout
        said = silence(heard, now - timeout, timeout)
        return said or (absence(heard, own, count, coordinator, timeout) if late else "")

    arguments = (line, first, own, count, judge, end_process)
    threading.Thread(target=watch, args=arguments, daemon=True).start()
    yield
    joined.set()


def open_line(coordinator: str, own: int) -> tuple[socket.socket, Address]:
    """Return a socket for datagrams, and the address of the first process.

    Raises:
      OSError: where the address is not known or, in the first process, its port is taken.
    """
    host, _, port = coordinator.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
    family, _, _, _, address = found[0]
    line = socket.socket(family, socket.SOCK_DGRAM)
    if own == 0:
        line.bind(("", int(port)))
    return line, address


def watch(
    line: socket.socket,
    first: Address,
    own: int,
    count: int,
    judge: Callable[[Mapping[int, Word], float], str],
    end: Callable[[str], None],
) -> None:
    """Exchange words until somebody is lost, then end this process.

    Args:
      line: a socket for datagrams.
      first: the address of the first process.
      own: the number of this process.
      count: how many processes there are.
      judge: returns what to say once a process is lost, from what was heard and the time.
      end: is called with that.
    """
    heard: dict[int, Word] = {}
    addresses: dict[int, Address] = {} if own == 0 else {0: first}
    while True:
        before = time.monotonic()
        missing = sorted({*range(1, count)} - heard.keys()) if own == 0 else []
        say(line, list(addresses.values()), own, missing)
        listen(line, before + BEAT, count, heard, addresses)
        now = time.monotonic()
        if (
            now - before > 3 * BEAT
        ):  # this process was stopped, and what it has missed is no silence
            heard = {number: word._replace(when=now) for number, word in heard.items()}
        if said := judge(heard, now):
            end(said)
            return


def say(line: socket.socket, to: Sequence[Address], own: int, missing: Sequence[int]) -> None:
    """Send where this process is; what cannot be sent now is sent again later."""
    word = written(own, own_stack(), missing)
    for address in to:
        with contextlib.suppress(OSError):
            line.sendto(word, address)


def written(own: int, stack: Sequence[str], missing: Sequence[int]) -> bytes:
    """Return a word, with as many of the innermost calls as fit into it."""
    word = json.dumps({"process": own, "stack": stack, "missing": missing[:100]}).encode()
    return written(own, stack[1:], missing) if len(word) > LONGEST and stack else word


def listen(
    line: socket.socket,
    until: float,
    count: int,
    heard: dict[int, Word],
    addresses: dict[int, Address],
) -> None:
    """Note what is heard until a moment, and whatever has arrived by then."""
    while True:
        line.settimeout(max(until - time.monotonic(), 1e-3))
        try:
            text, sender = line.recvfrom(LONGEST)
        except TimeoutError:
            return
        except OSError:  # nobody listens there yet
            time.sleep(min(0.1, max(until - time.monotonic(), 1e-3)))
            continue
        word = read(text, count)
        if word is not None:
            heard[word[0]] = word[1]
            addresses.setdefault(word[0], sender)
        if time.monotonic() > until + BEAT:  # whoever sends that much
            return


def read(text: bytes, count: int) -> tuple[int, Word] | None:
    """Return who has said what; None for what is no word of one of these processes.

    Example:
      >>> read(b'{"process": 5, "stack": [], "missing": []}', 2) is None
      True
    """
    try:
        said = json.loads(text)
        number, stack, missing = said["process"], said["stack"], said["missing"]
        lines = [line for line in stack if isinstance(line, str) and line.isprintable()]
        word = Word(time.monotonic(), lines, list(missing))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    known = all(type(each) is int and 0 <= each < count for each in [number, *missing])
    return (number, word) if known else None


def silence(heard: Mapping[int, Word], since: float, timeout: float) -> str:
    """Say which process has been silent since a moment, and where it was; nothing if none has."""
    silent = [(number, word) for number, word in heard.items() if word.when < since]
    if not silent:
        return ""
    number, word = min(silent, key=lambda pair: pair[1].when)
    places = "".join(f"\n  {line}" for line in word.stack)
    where = f" Process {number} was last at:{places}" if places else ""
    return (
        f"process {number} has not been heard of for {timeout:g} s, so this one ends; the same "
        f"command goes on from the last checkpoint.{where}"
    )


def absence(
    heard: Mapping[int, Word], own: int, count: int, coordinator: str, timeout: float
) -> str:
    """Say which processes have not come; nothing where all were heard, and JAX still joins them."""
    within = f"within {timeout:g} s; start all {count} processes."
    if own == 0:
        missing = sorted({*range(1, count)} - heard.keys())
    elif 0 in heard:
        missing = heard[0].missing
    else:
        return f"process 0 has not come to {coordinator} {within}"
    names = ", ".join(map(str, missing))
    have = f"process {names} has" if len(missing) == 1 else f"processes {names} have"
    return f"{have} not come {within}" if missing else ""


def end_process(said: str) -> None:
    """Print what was found and where this process is, and end it: its main thread may be stuck."""
    places = "".join(f"  {line}\n" for line in own_stack())
    print(
        f"error: {said}\nThis process itself is at:\n{places}", end="", file=sys.stderr, flush=True
    )
    os._exit(LOST)


def own_stack() -> list[str]:
    """Return where the main thread is, in up to eight calls of our code or the user's."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    calls = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
    own = [call for call in calls if is_own(call.filename)]
    return [f"{call.filename}, line {call.lineno}, in {call.name}"[:300] for call in own[7::-1]]


def is_own(file: str) -> bool:
    """Return whether a file is neither Python's nor of another package."""
    if any(file.startswith(f"{ROOT / part}{os.sep}") for part in ("recurrent", "experiments")):
        return True
    paths = sysconfig.get_paths()
    others = (paths["stdlib"], paths["purelib"], paths["platlib"], "<")
    return not file.startswith(others)
