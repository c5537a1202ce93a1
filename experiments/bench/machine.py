"""What the figures were measured on."""

import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def describe() -> dict[str, str | int]:
    """The processor, how many cores this process may use, the system and the Python."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def watched() -> Iterator[list[float]]:
    """Gives a list that at the end has the share of the cores that other processes took.

    It stays empty where the system does not tell.
    """
    share: list[float] = []
    began, before = time.monotonic(), _others()
    yield share
    after, seconds = _others(), time.monotonic() - began
    if before is not None and after is not None:
        share.append(max(0.0, after - before) / (seconds * cores()))


def _others() -> float | None:
    """Seconds that all but this process have had of its cores since the system started."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy = sum(_busy(line) for line in lines if line.split()[0] in ours)
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()


def _busy(line: str) -> int:
    """Ticks that a core was at work, or was kept from it by another guest of its host."""
    user, nice, system, _, _, irq, softirq, stolen, *_ = map(int, line.split()[1:])
    return user + nice + system + irq + softirq + stolen


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.machine()
