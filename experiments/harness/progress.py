"""Show progress: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments.harness.processes import is_first

Show = Callable[[int, str], None]
SECONDS_BETWEEN_LINES = 5.0
LAYOUT = (
    "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, {rate_fmt}, ETA {remaining}{postfix}"
)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Show]:
    """Open a progress display and yield ``show(step, message)``, for a training of ``total`` steps.

    The first call says where the training begins; rates count from there. ``message`` holds the
    latest metrics. Of several processes only the first shows anything.
    """
    if not is_first():
        yield lambda step, message: None
    elif not sys.stderr.isatty():
        yield _lines(total)
    else:
        bars: list[Any] = []
        try:
            yield _bar(total, bars)
        finally:
            for bar in bars:
                bar.close()


def _bar(total: int, bars: list[Any]) -> Show:
    def show(step: int, message: str) -> None:
        if not bars:
            from tqdm import tqdm

            bars.append(
                tqdm(initial=step, total=total, unit="steps", bar_format=LAYOUT, dynamic_ncols=True)
            )
        bars[0].set_postfix_str(message, refresh=False)
        bars[0].update(step - bars[0].n)

    return show


def _lines(total: int) -> Show:
    began, first, last = 0.0, -1, 0.0

    def show(step: int, message: str) -> None:
        nonlocal began, first, last
        now = time.monotonic()
        if first < 0:
            began, first, last = now, step, now - SECONDS_BETWEEN_LINES
            return
        if now - last < SECONDS_BETWEEN_LINES and step < total:
            return
        last = now
        rate = (step - first) / max(now - began, 1e-9)
        eta = (total - step) / max(rate, 1e-9)
        line = f"step {step}/{total}, {message}, {rate:.0f} steps/s, ETA {eta:.0f} s"
        print(line, file=sys.stderr, flush=True)

    return show
