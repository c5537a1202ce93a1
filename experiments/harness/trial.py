"""Find out whether all devices together train a run faster than one does."""

import itertools
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.harness import loop, rundir
from experiments.harness.disk import writing
from experiments.harness.engine import engine_of
from experiments.harness.plan import Plan, SweepState, fresh_state, plan_of_run, steps_taken
from recurrent.training.population import batch_mesh, put

CALLS = 3  # that are timed; the fastest counts
WORTH = 30.0  # seconds that must lie ahead, since a trial takes about five
GAIN = 1.1  # below which one device goes on, whose figures anyone can repeat
CHOICE = "devices.json"
STAYS = {"lock", "config.json", "files"}  # in a run that begins again

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


def trial(plan: Plan, count: int) -> After:
    """Return what is called after each call of a run on one device, and tries more of them once.

    Args:
      plan: of the run.
      count: of the devices to try.

    Raises:
      FasterOnMore: by what is returned, where these devices are faster.
    """
    ends: list[tuple[float, int]] = []
    size = steps_of_call(plan)

    def after(state: SweepState) -> None:
        ends.append((time.monotonic(), steps_taken(plan, state)))
        gone_on_with = ends[0][1] != size  # a run that stays where it was
        if len(ends) != CALLS + 1 or gone_on_with:
            return
        one = min(b[0] - a[0] for a, b in itertools.pairwise(ends))
        ahead = (plan.program.steps - ends[-1][1]) / size
        if ahead * one > WORTH:
            several = tried(plan_of_run(plan.program, plan.config, count))
            if one > GAIN * several:
                raise FasterOnMore({1: one, count: several})

    return after


def steps_of_call(plan: Plan) -> int:
    """Return the steps of the first call of a training."""
    return loop.next_call(plan, fresh_state(plan, {}))


def tried(plan: Plan) -> float:
    """Return the seconds of a call on the devices of a plan; infinity where it fails on them.

    So it may for want of memory, of which all devices of a CPU together have no more than one.
    """
    try:
        return seconds_of_call(plan)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        count = plan.layout.batch_devices
        print(f"one device goes on: a trial of {count} failed ({said}).", file=sys.stderr)
        return math.inf


def seconds_of_call(plan: Plan) -> float:
    """Return how long one call of a training takes on its devices, from weights of its own."""
    engine = engine_of(plan.program, plan.layout)
    data = put(plan.program.data["train"], plan.layout, shared=True)
    best = math.inf
    with batch_mesh(plan.layout):
        given = loop.hparams_in_slots(plan, fresh_state(plan, {})), np.zeros(plan.slots, bool)
        members = engine.begin(given)
        call = loop.compiled_calls(engine, members, data)(steps_of_call(plan))
        for _ in range(CALLS):
            began = time.monotonic()
            members, _ = jax.block_until_ready(call(members, data))
            best = min(best, time.monotonic() - began)
    return best


def begin_again(folder: Path, found: FasterOnMore) -> None:
    """Clear what a run has done on one device, and note that more are faster."""
    with writing(str(folder), folder):
        for entry in folder.iterdir():
            if entry.name not in STAYS:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    noted = {str(count): round(seconds, 4) for count, seconds in found.seconds.items()}
    choice = {"devices": found.devices, "seconds_of_a_call": noted}
    rundir.write_json(folder / CHOICE, choice)
    gain = found.seconds[1] / found.seconds[found.devices]
    print(
        f"{found.devices} devices are {gain:.2f} times as fast as one: the training begins again "
        "on them. --devices=1 keeps it on one, whose last digits are others.",
        flush=True,
    )
