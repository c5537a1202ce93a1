"""End a training early: by a signal, or because it has diverged."""

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from typing import Any

from recurrent.training.task import Metric

DIVERGENCE_FACTOR = 100.0  # times the untrained score, or 1: so far below it is a divergence


class Stopped(Exception):
    """Say that a signal ended the training early, after its state was saved."""

    def __init__(self, signum: int, step: int):
        super().__init__(f"Stopped and saved at step {step}; the same command goes on from there.")
        self.signum = signum


def divergence_threshold(untrained: float | None, select: Metric) -> float:
    """Return the score below which a training has diverged, given the metric before training."""
    if untrained is None:
        return -math.inf
    score = select.score(untrained)
    return score - DIVERGENCE_FACTOR * max(1.0, abs(score))


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list; a second Ctrl-C raises KeyboardInterrupt.

    A third signal ends the process at once, whatever it waits for.
    """
    received: list[int] = []

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        if len(received) > 2:
            os._exit(128 + signum)
        if len(received) == 2 and signum == signal.SIGINT:
            raise KeyboardInterrupt

    before = {name: signal.signal(name, note) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
