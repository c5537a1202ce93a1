"""Choose how many members are trained at a time, and on which devices."""

import re
import time
from typing import Any

import jax
import numpy as np

from experiments.harness import devices, loop
from experiments.harness.engine import engine_of
from experiments.harness.errors import UserError
from experiments.harness.plan import Plan, SweepState
from experiments.harness.processes import highest
from experiments.harness.program import Program
from recurrent.training.population import Layout, layouts, put

SHARE_OF_MEMORY = 0.8  # the rest is for activations and data


def slots_of(program: Program, config: Any, members: int, seeds: int, asked: int) -> int:
    """Return how many members are trained at a time: as many as asked for, else all that fit.

    Args:
      program: of the members.
      config: its Config.
      members: how many there are.
      seeds: members of the largest configuration, which need slots together.
      asked: by the user; 0 for none.

    Raises:
      UserError: where fewer fit into memory, or fewer are asked for than a configuration has.
    """
    each = devices.bytes_of_member(program, config)
    apart = 1 if jax.default_backend() == "cpu" else jax.device_count()  # each with its own memory
    available = SHARE_OF_MEMORY * devices.memory_bytes() * apart
    fit = int(available // each)
    if fit < max(asked, seeds):
        raise UserError(
            f"{max(asked, seeds)} members at a time need about "
            f"{max(asked, seeds) * each / 2**30:.1f} GiB for params and optimizer, and "
            f"{available / 2**30:.1f} can be used; {fit} fit: choose a lower --slots, fewer "
            "seeds or smaller sizes."
        )
    if 0 < asked < seeds:
        raise UserError(
            f"--slots: expected at least {seeds}, the seeds of a configuration, got {asked}."
        )
    return rounded_up(min(asked or fit, members), jax.device_count(), fit)


def rounded_up(slots: int, devices: int, fit: int) -> int:
    """Round up so that the devices share the slots equally, where there are enough and they fit."""
    whole = -(-slots // devices) * devices
    shared = slots > 1 or jax.process_count() > 1  # all of which take part in everything
    return whole if shared and whole <= fit else slots


def layout_of(slots: int, asked: str) -> Layout:
    """Return the layout asked for as ``DEVICESxTOGETHER``, else what is likely to be the fastest.

    That is all devices that can share the slots equally; and on a CPU one member after the other
    on each, elsewhere all of a device's members side by side.

    Raises:
      UserError: for a text that is no layout, or one that these devices and slots cannot have.
    """
    if asked in ("auto", "measure"):
        count = max(n for n in range(1, jax.device_count() + 1) if slots % n == 0)
        if count < jax.device_count() and jax.process_count() > 1:
            raise UserError(
                f"sweep: {jax.device_count()} devices of {jax.process_count()} processes cannot "
                f"share {slots} slots equally, with which it began or which fit; train it by "
                "another number of --processes."
            )
        return Layout(count, 1 if jax.default_backend() == "cpu" else slots // count)
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", asked)
    if not match or 0 in map(int, match.groups()):
        raise UserError(
            f"--layout: expected auto, measure or DEVICESxTOGETHER, as 2x1, got {asked!r}."
        )
    layout = Layout(*map(int, match.groups()))
    check_layout(layout, slots, asked)
    return layout


def check_layout(layout: Layout, slots: int, asked: str) -> None:
    """Raise `UserError` where these devices and slots cannot have a layout."""
    if layout.devices != jax.device_count() and jax.process_count() > 1:
        raise UserError(
            f"--layout={asked}: {jax.process_count()} processes train on all of their "
            f"{jax.device_count()} devices, not on {layout.devices}."
        )
    if layout.devices > jax.device_count():
        raise UserError(
            f"--layout={asked}: there are {jax.device_count()} devices, not {layout.devices}."
        )
    if slots % layout.devices:
        raise UserError(
            f"--layout={asked}: {layout.devices} devices cannot share {slots} slots equally; "
            "choose other --slots."
        )


def describe(layout: Layout, slots: int) -> str:
    """Return the layout in words."""
    each = slots // layout.devices
    on = "1 device" if layout.devices == 1 else f"{layout.devices} devices"
    if layout.together == 1:
        return f"{on}, one member after the other"
    return f"{on}, {min(layout.together, each)} members side by side"


def with_fastest_layout(plan: Plan) -> Plan:
    """Return the plan with the fastest layout of those worth measuring; print how fast each is."""
    candidates = layouts(plan.slots, jax.device_count())
    seconds = {layout: highest(seconds_of(plan, layout))[0] for layout in candidates}
    for layout, each in seconds.items():
        print(f"layout {layout.devices}x{layout.together}: {each:.3f} s", flush=True)
    return plan._replace(layout=min(seconds, key=seconds.__getitem__))


def seconds_of(plan: Plan, layout: Layout) -> float:
    """Return the seconds of a call: the better of two, after one that compiles."""
    engine, state = engine_of(plan.program, layout), SweepState(slots=(0,) * plan.slots)
    members = engine.begin((loop.hparams_in_slots(plan, state), np.zeros(plan.slots, bool)))
    data = put(plan.program.data["train"], layout, shared=True)
    train = engine.train(loop.next_call(plan, state))
    times = []
    for _ in range(3):
        begun = time.monotonic()
        members = jax.block_until_ready(train(members, data))[0]
        times.append(time.monotonic() - begun)
    return min(times[1:])
