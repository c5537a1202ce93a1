"""Which layout is the fastest here: each trains the same members for one call."""

import time

import jax
import numpy as np

from experiments import loop
from experiments.processes import highest
from experiments.sweep.compiled import compiled
from experiments.sweep.plan import Plan
from experiments.sweep.training import numbers_of
from recurrent.population import Layout, layouts, placed


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
