"""Describe the machine, and how busy other processes kept it."""

import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def describe() -> dict[str, str | int]:
    """Return the processor, the cores this process may use, JAX's device, the system and Python."""
    import jax

    return {
        "device": device_name(jax.default_backend(), jax.devices()[0].device_kind),
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def device_name(platform: str, kind: str) -> str:
    """Return the name of an accelerator, or nothing for the processor itself."""
    return "" if platform == "cpu" else kind


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def watched() -> Iterator[list[float]]:
    """Measure how much of the cores other processes use while the context is open.

    Yields:
      A list that on exit holds that share, from 0 to 1. It stays empty if the system does not
      report it.
    """
    share: list[float] = []
    began, before = time.monotonic(), _others()
    yield share
    after, seconds = _others(), time.monotonic() - began
    if before is not None and after is not None:
        share.append(max(0.0, after - before) / (seconds * cores()))


def _others() -> float | None:
    """Return the seconds that other processes have used of our cores since the system started."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    busy = sum(_busy(line) for line in lines if line.split()[0] in ours)
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()


def _busy(line: str) -> int:
    """Return the ticks that a core was busy, or that the hypervisor gave to another guest."""
    user, nice, system, _, _, irq, softirq, stolen, *_ = map(int, line.split()[1:])
    return user + nice + system + irq + softirq + stolen


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.machine()
