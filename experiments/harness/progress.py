"""Show progress: a bar on a terminal, plain lines elsewhere."""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from experiments.harness.processes import Group, are_to_be_started, is_first, number_of

Show = Callable[[int, str, Hashable], None]
SECONDS_BETWEEN_LINES = 5.0
LAYOUTS = (  # the first that fits is shown
    "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, {rate_noinv_fmt}, ETA {remaining}"
    "{postfix}",
    "{percentage:3.0f}% |{bar}| ETA {remaining}{postfix}",
    "{percentage:3.0f}% ETA {remaining}{postfix}",
)
SHORTEST_BAR = 5  # columns


class _Clock:
    """Count the seconds of a wait on the terminal, below what was said last.

    The cursor stays at the start of the line, so that whatever is printed next takes its place.
    """

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        began = time.monotonic()
        while not self.ended.wait(1.0):
            print(f"\r... {time.monotonic() - began:.0f} s\r", end="", file=sys.stderr, flush=True)

    def stop(self) -> None:
        self.ended.set()
        self.thread.join()
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)  # erases the line


_clocks: list[_Clock] = []


def start_clock(group: Group) -> None:
    """Count the seconds until the first step on a terminal, so that no silence looks like a hang.

    Imports, data and compilation take them. `stop_clock` ends it, and so does the display.
    """
    if _speaks(group) and sys.stderr.isatty():
        _clocks.append(_Clock())


def stop_clock() -> None:
    """End the count of seconds, if there is one."""
    while _clocks:
        _clocks.pop().stop()


def say_preparing(name: str, group: Group) -> None:
    """Say what is about to start, before imports and compilation take their seconds."""
    if _speaks(group):
        print(f"{name}: preparing and compiling ...", file=sys.stderr, flush=True)


def _speaks(group: Group) -> bool:
    """Return whether this process is the first of its group, by its flags.

    The processes have not met yet. In a group that only the cluster knows nobody speaks, nor does
    one that starts the others.
    """
    if are_to_be_started(group):
        return False
    in_slurm = number_of("SLURM_PROCID", 0)
    return group.process <= 0 and in_slurm == 0 and group.coordinator != "auto"


@contextlib.contextmanager
def progress(total: int) -> Iterator[Show]:
    """Open a progress display and yield ``show(step, message, stage)``, for ``total`` steps.

    ``message`` holds the latest metrics, separated by commas. The display begins with the first
    call. Before the first call of each ``stage`` something was compiled, so what came between it
    and the call before counts in no rate. Of several processes only the first shows anything.
    """
    if not is_first():
        yield lambda step, message, stage: None
    elif not sys.stderr.isatty():
        yield _lines(total)
    else:
        bars: list[Any] = []
        try:
            yield _bar(total, bars)
        finally:
            for bar in bars:
                bar.close()


def _counted() -> Callable[[int, Hashable], tuple[int, float]]:
    """Return a function that returns how many steps were taken in how many seconds."""
    stages: set[Hashable] = set()
    steps, seconds, last = 0, 0.0, (0, 0.0)

    def counted(step: int, stage: Hashable) -> tuple[int, float]:
        nonlocal steps, seconds, last
        now = time.monotonic()
        if stage in stages:
            steps, seconds = steps + step - last[0], seconds + now - last[1]
        stages.add(stage)
        last = step, now
        return steps, seconds

    return counted


def _bar(total: int, bars: list[Any]) -> Show:
    counted = _counted()

    def show(step: int, message: str, stage: Hashable) -> None:
        if not bars:
            stop_clock()
            bars.append(_opened(step, total))
        (bar,) = bars
        steps, seconds = counted(step, stage)
        bar.speed = steps / seconds if seconds else 0
        bar.bar_format, shown = _fitting(bar, message)
        bar.set_postfix_str(shown, refresh=step == bar.n)
        bar.update(step - bar.n)

    return show


def _opened(step: int, total: int) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        speed = 0.0

        @property
        def format_dict(self) -> Any:
            return {**super().format_dict, "rate": self.speed}

    bar = Bar(initial=step, total=total, unit=" steps", miniters=1, dynamic_ncols=True, delay=1e-9)
    bar.delay = 0  # which has kept it from showing itself before there is a message
    return bar


def _fitting(bar: Any, message: str) -> tuple[str, str]:
    """Return a layout, and as many parts of the message as fit: a number is not to be cut."""
    parts, now = message.split(", "), bar.format_dict
    columns = now["ncols"] or sys.maxsize
    for count in range(len(parts), 0, -1):
        shown = ", ".join(parts[:count])
        for layout in LAYOUTS:
            text = layout.replace("{bar}", "-" * SHORTEST_BAR)
            line = bar.format_meter(**{**now, "bar_format": text, "ncols": None, "postfix": shown})
            if len(line) <= columns:
                return layout, shown
    return LAYOUTS[-1], parts[0]


def _lines(total: int) -> Show:
    counted, last = _counted(), -math.inf

    def show(step: int, message: str, stage: Hashable) -> None:
        nonlocal last
        steps, seconds = counted(step, stage)
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES and step < total:
            return
        last = now
        parts = [f"step {step}/{total}", *([message] if message else [])]
        if steps and seconds:
            rate = steps / seconds
            parts += [f"{rate:.0f} steps/s", f"ETA {(total - step) / rate:.0f} s"]
        print(", ".join(parts), file=sys.stderr, flush=True)

    return show
