"""Find out whether all devices together train a run faster than one does."""

import itertools
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.harness import loop, rundir
from experiments.harness.disk import writing
from experiments.harness.engine import engine_of
from experiments.harness.plan import Plan, SweepState, fresh_state, plan_of_run, steps_taken
from recurrent.training.population import batch_mesh, put

CALLS, ENOUGH = 3, 2.0  # the most calls that are timed, and seconds that are enough
WORTH = 10.0  # times the trial that a training must have ahead
GAIN = 1.1  # below which one device goes on, whose figures anyone can repeat
CHOICE = "devices.json"
CLEARING = "clearing"  # stands in it until all is cleared
STAYS = {"lock", "config.json", rundir.FILES, CHOICE}  # in a run that begins again

After = Callable[[SweepState], None]


class FasterOnMore(Exception):
    """Say on how many devices a run is faster than on one, and the seconds of a call by count."""

    def __init__(self, seconds: dict[int, float]) -> None:
        super().__init__()
        self.seconds = seconds
        self.devices = max(seconds)


def most_devices(config: Any) -> int:
    """Return the most devices of this process that can share each batch equally."""
    size, there = getattr(config, "batch_size", 0), jax.local_device_count()
    return max(count for count in range(1, there + 1) if size % count == 0)


def chosen(folder: Path) -> int:
    """Return how many devices a trial has chosen for a run; 1 without one."""
    file = folder / CHOICE
    count = rundir.read_json(file).get("devices") if file.exists() else 1
    return count if isinstance(count, int) and count > 0 else 1


def trial(plan: Plan, count: int, stops: Sequence[int]) -> After:
    """Return what is called after each call of a run on one device, and tries more of them once.

    It does where that takes, with what is lost by beginning again, no more than a tenth of the
    time ahead.

    Args:
      plan: of the run, which is about to begin.
      count: of the devices to try.
      stops: the signals received, after which nothing begins again.

    Raises:
      FasterOnMore: by what is returned, where these devices are faster.
    """
    began, ends, is_over = time.monotonic(), [], False

    def after(state: SweepState) -> None:
        nonlocal is_over
        if is_over:
            return
        ends.append(time.monotonic())
        steps, size = steps_taken(plan, state), steps_of_call(plan)
        took = [b - a for a, b in itertools.pairwise(ends)]
        resumed = len(ends) == 1 and steps != size  # such a run stays where it was
        is_over = resumed or is_enough(took)
        if resumed or not is_over:
            return
        ahead = (plan.program.steps - steps) / size * min(took)
        if ahead > WORTH * 2 * (ends[-1] - began):  # it compiles and runs as long once more
            one, several = tried([plan, plan_of_run(plan.program, plan.config, count)])
            if one > GAIN * several and not stops:
                raise FasterOnMore({1: one, count: several})

    return after


def is_enough(took: Sequence[float]) -> bool:
    """Return whether so many calls, of so many seconds, tell how fast they are."""
    return len(took) == CALLS or sum(took) > ENOUGH


def steps_of_call(plan: Plan) -> int:
    """Return the steps of the first call of a training."""
    return loop.next_call(plan, fresh_state(plan, {}))


def tried(plans: Sequence[Plan]) -> list[float]:
    """Return the seconds of a call of each plan; zeros where one fails on its devices.

    So it may for want of memory, of which all devices of a CPU together have no more than one.
    """
    try:
        return seconds_of_calls([caller(plan) for plan in plans])
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        print(f"one device goes on: a trial of more failed ({said}).", file=sys.stderr)
        return [0.0 for _ in plans]


def seconds_of_calls(callers: Sequence[Callable[[], float]]) -> list[float]:
    """Return the least seconds of each caller, which take turns, so that all are disturbed alike.

    Example:
      >>> seconds_of_calls([iter([0.3, 0.1, 0.2]).__next__, iter([0.5, 0.9, 0.7]).__next__])
      [0.1, 0.5]
    """
    took: list[list[float]] = [[] for _ in callers]
    while not is_enough(took[0]):
        for each, call in zip(took, callers, strict=True):
            each.append(call())
    return [min(each) for each in took]


def caller(plan: Plan) -> Callable[[], float]:
    """Return what makes a call of a training, from weights of its own, and times it."""
    engine = engine_of(plan.program, plan.layout)
    data = put(plan.program.data["train"], plan.layout, shared=True)
    with batch_mesh(plan.layout):
        given = loop.hparams_in_slots(plan, fresh_state(plan, {})), np.zeros(plan.slots, bool)
        members = engine.begin(given)
        call = loop.compiled_calls(engine, members, data)(steps_of_call(plan))

    def timed() -> float:
        nonlocal members
        began = time.monotonic()
        members, _ = jax.block_until_ready(call(members, data))
        return time.monotonic() - began

    return timed


def begin_again(folder: Path, found: FasterOnMore) -> None:
    """Note that more devices are faster, and clear what a run has done on one."""
    noted = {str(count): round(seconds, 4) for count, seconds in found.seconds.items()}
    choice = {"devices": found.devices, "seconds_of_a_call": noted}
    rundir.write_json(folder / CHOICE, choice | {CLEARING: True})
    clear(folder)
    gain = found.seconds[1] / found.seconds[found.devices]
    print(
        f"{found.devices} devices are {gain:.2f} times as fast as one: the training begins again "
        "on them. --devices=1 keeps it on one, whose last digits are others.",
        flush=True,
    )


def clear(folder: Path) -> None:
    """Clear what a run has done before its choice, also where a crash has come in between."""
    file = folder / CHOICE
    choice = rundir.read_json(file) if file.exists() else {}
    if not choice.pop(CLEARING, False):
        return
    with writing(str(folder), folder):
        for entry in folder.iterdir():
            if entry.name not in STAYS:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    rundir.write_json(file, choice)
