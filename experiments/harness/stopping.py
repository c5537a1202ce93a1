"""What ends a training early: signals and divergence."""

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from typing import Any

NON_FINITE_STEPS_ALLOWED = 20


WORST = 100.0  # times the size of the untrained score, or 1: as far below it is a divergence


class Stopped(Exception):
    """A signal ended the run early, after its state was saved."""

    def __init__(self, signum: int, step: int, total: int):
        super().__init__(f"Stopped and saved at step {step} of {total}")
        self.signum = signum


class Diverged(Exception):
    """Too many steps in a row had no finite gradient, or the score fell out of all bounds."""


def worst_score(untrained: float) -> float:
    """A score below this one is a divergence, given that of the first params."""
    return untrained - WORST * max(1.0, abs(untrained)) if math.isfinite(untrained) else -math.inf


def refuse_divergence(skipped: int, step: int) -> None:
    """Raises `Diverged` where too many steps in a row were skipped."""
    if skipped >= NON_FINITE_STEPS_ALLOWED:
        raise Diverged(
            f"Training diverged: the last {skipped} steps up to step {step} had gradients that "
            "are not finite. Try a lower --learning_rate or a --clip_norm."
        )


def refuse_lost_score(score: float, worst: float, step: int) -> None:
    """Raises `Diverged` where a score is not finite, or far below that of the first params."""
    if not worst <= score < math.inf:
        raise Diverged(
            f"Training diverged: after step {step} the validation score is {score:.4g}, and "
            f"below {worst:.4g} nothing is learnt. Try a lower --learning_rate or a --clip_norm."
        )


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list; a second Ctrl-C raises KeyboardInterrupt.

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
