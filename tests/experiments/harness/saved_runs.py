"""What tests of the loop share: runs in a folder, their bits, and faults at a chosen step."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import loop
from experiments.harness.checkpoint import checkpoints
from experiments.harness.engine import engine_of
from experiments.harness.plan import SweepState, plan_of_run
from experiments.harness.program import Program
from recurrent.training.population import put


class Killed(BaseException):
    """In place of a signal that cannot be caught."""


def bits(tree: Any) -> list[tuple[str, bytes]]:
    """Path and bytes of every leaf."""
    return [
        (
            jax.tree_util.keystr(path),
            np.asarray(
                jax.random.key_data(leaf)
                if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                else leaf
            ).tobytes(),
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def latest(folder: Path, program: Program, config: Any) -> tuple[loop.Population, SweepState]:
    """What the latest checkpoint of a run holds."""
    plan = plan_of_run(program, config)
    engine = engine_of(program, plan.layout)
    data = {k: put(split, plan.layout, shared=True) for k, split in program.data.items()}
    with checkpoints(folder / "checkpoints" / "latest", read_only=True) as manager:
        found = loop.restored(plan, engine, data, manager)
    assert found is not None
    return found


def everything(folder: Path, program: Program, config: Any) -> Any:
    """All that must be the same of two runs: arrays, state without seconds, and rows."""
    population, state = latest(folder, program, config)
    rows = (folder / "metrics.jsonl").read_text()
    return bits(population), state._replace(seconds=0.0), rows


@contextlib.contextmanager
def shown(called: Callable[[int], None]) -> Iterator[Callable[[int, str], None]]:
    """A progress display that calls a function with each step it is given."""
    yield lambda step, message: called(step)
