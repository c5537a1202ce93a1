"""A bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from experiments.harness.processes import is_first

Show = Callable[[int, str], None]
SECONDS_BETWEEN_LINES = 5.0


@contextlib.contextmanager
def progress(done: int, total: int) -> Iterator[Show]:
    """Yields ``show(step, words)``, which says how far a run of ``total`` steps has come.

    ``words`` are the latest loss and metric; rate and remaining time are added here. Of several
    processes only the first says it.
    """
    if not is_first():
        yield lambda step, words: None
        return
    if not sys.stderr.isatty():
        yield _lines(done, total)
        return
    from tqdm import tqdm

    layout = (
        "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} steps, {rate_fmt}, ETA {remaining}{postfix}"
    )
    with tqdm(
        initial=done, total=total, unit="steps", bar_format=layout, dynamic_ncols=True
    ) as bar:

        def show(step: int, words: str) -> None:
            bar.set_postfix_str(words, refresh=False)
            bar.update(step - bar.n)

        yield show


def _lines(done: int, total: int) -> Show:
    began = time.monotonic()
    last = began - SECONDS_BETWEEN_LINES

    def show(step: int, words: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES and step < total:
            return
        last = now
        rate = (step - done) / max(now - began, 1e-9)
        eta = (total - step) / max(rate, 1e-9)
        line = f"step {step}/{total}, {words}, {rate:.0f} steps/s, ETA {eta:.0f} s"
        print(line, file=sys.stderr, flush=True)

    return show
