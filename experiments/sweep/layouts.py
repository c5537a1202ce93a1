"""How many members are trained at a time, and where."""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import devices, loop
from experiments.harness.config import TrainingConfig, traced
from experiments.harness.errors import UserError
from experiments.harness.processes import highest
from experiments.harness.program import Program
from experiments.sweep.loop import numbers_of
from experiments.sweep.plan import Plan
from experiments.sweep.programs import compiled
from recurrent.training import population
from recurrent.training.population import Layout, layouts, placed

SHARE_OF_MEMORY = 0.8  # the rest is for activations and data


def places_of(
    program: Program, config: TrainingConfig, members: int, seeds: int, asked: int
) -> int:
    """How many members are trained at a time: as many as asked for, else all that fit.

    Args:
      program: of the members.
      config: its Config.
      members: how many there are.
      seeds: members of the largest setting, which need places together.
      asked: by the user; 0 for none.

    Raises:
      UserError: where fewer fit into memory, or fewer than a setting has members are asked for.
    """
    each = bytes_of_member(program, config)
    apart = 1 if jax.default_backend() == "cpu" else jax.device_count()  # each with its own memory
    available = SHARE_OF_MEMORY * devices.memory_bytes() * apart
    fit = int(available // each)
    if fit < max(asked, seeds):
        raise UserError(
            f"{max(asked, seeds)} members at a time need about "
            f"{max(asked, seeds) * each / 2**30:.1f} GiB for params and optimiser, and "
            f"{available / 2**30:.1f} can be used; {fit} fit: choose a lower --places, fewer "
            "seeds or smaller sizes."
        )
    if 0 < asked < seeds:
        raise UserError(
            f"--places: expected at least {seeds}, the seeds of a setting, got {asked}."
        )
    return rounded_up(min(asked or fit, members), jax.device_count(), fit)


def rounded_up(places: int, devices: int, fit: int) -> int:
    """So that the devices share them equally, where there are enough and they fit."""
    whole = -(-places // devices) * devices
    shared = places > 1 or jax.process_count() > 1  # which all take part in everything
    return whole if shared and whole <= fit else places


def bytes_of_member(program: Program, config: TrainingConfig) -> int:
    """Of its state, its best params and a gradient."""
    numbers = {name: jnp.asarray(value) for name, value in traced(config).items()}
    member = jax.eval_shape(lambda numbers: population.begin(program.task, numbers), numbers)
    return devices.bytes_of(member) + devices.bytes_of(member.best_params)


def layout_of(places: int, asked: str) -> Layout:
    """The layout asked for as ``DEVICESxTOGETHER``, else what is likely to be the fastest.

    That is all devices that can share the places equally; and on a CPU one member after the other
    on each, elsewhere all of a device's members side by side.

    Raises:
      UserError: for a text that is no layout, or one that these devices and places cannot have.
    """
    if asked in ("auto", "measure"):
        count = max(n for n in range(1, jax.device_count() + 1) if places % n == 0)
        if count < jax.device_count() and jax.process_count() > 1:
            raise UserError(
                f"sweep: {jax.device_count()} devices of {jax.process_count()} processes cannot "
                f"share {places} places equally, with which it began or which fit; train it by "
                "another number of --processes."
            )
        return Layout(count, 1 if jax.default_backend() == "cpu" else places // count)
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", asked)
    if not match or 0 in (layout := Layout(*map(int, match.groups()))):
        raise UserError(
            f"--layout: expected auto, measure or DEVICESxTOGETHER, as 2x1, got {asked!r}."
        )
    if layout.devices != jax.device_count() and jax.process_count() > 1:
        raise UserError(
            f"--layout={asked}: {jax.process_count()} processes train on all of their "
            f"{jax.device_count()} devices, not on {layout.devices}."
        )
    if layout.devices > jax.device_count():
        raise UserError(
            f"--layout={asked}: there are {jax.device_count()} devices, not {layout.devices}."
        )
    if places % layout.devices:
        raise UserError(
            f"--layout={asked}: {layout.devices} devices cannot share {places} places equally; "
            "choose other --places."
        )
    return layout


def told(layout: Layout, places: int) -> str:
    """The layout in words."""
    each = places // layout.devices
    on = "1 device" if layout.devices == 1 else f"{layout.devices} devices"
    if layout.together == 1:
        return f"{on}, one member after the other"
    return f"{on}, {min(layout.together, each)} members side by side"


def with_fastest_layout(plan: Plan) -> Plan:
    """The plan with the fastest layout of those worth measuring, all of which it says."""
    candidates = layouts(plan.places, jax.device_count())
    seconds = {layout: highest(seconds_of(plan, layout))[0] for layout in candidates}
    for layout, each in seconds.items():
        print(f"layout {layout.devices}x{layout.together}: {each:.3f} s", flush=True)
    return plan._replace(layout=min(seconds, key=seconds.__getitem__))


def seconds_of(plan: Plan, layout: Layout) -> float:
    """The better of two calls, after one that compiles."""
    run, program = compiled(plan.program, layout), plan.program
    numbers, empty = numbers_of(plan, [0] * plan.places), np.zeros(plan.places, bool)
    members = run.begin((numbers, empty))
    data = placed(program.data["train"], layout, shared=True)
    train = run.train(loop.next_call(0, program.steps_per_epoch, plan.config.steps_per_call))
    times = []
    for _ in range(3):
        begun = time.monotonic()
        members = jax.block_until_ready(train(members, data))[0]
        times.append(time.monotonic() - begun)
    return min(times[1:])
