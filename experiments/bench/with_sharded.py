"""Ours on one device for each core: the same program, and the sequences of a batch shared out."""

from functools import partial
from typing import Any

import numpy as np

from experiments.bench import with_recurrent
from experiments.bench.cases import Case
from experiments.bench.program import Network, Program, jax_program

CELLS = with_recurrent.CELLS
build = with_recurrent.build


def suits(case: Case) -> bool:
    """Whether a batch can be shared."""
    return devices(case.shape.batch) > 1


def program(network: Network, xs: np.ndarray, measure: str) -> Program:
    """A measurement on as many devices as can share the batch equally."""
    return jax_program(network, xs, measure, place=partial(shared, devices(xs.shape[1])))


def devices(batch: int) -> int:
    """The largest number of devices that divides a batch."""
    import jax

    return max(n for n in range(1, len(jax.devices()) + 1) if batch % n == 0)


def shared(count: int, params: Any, xs: np.ndarray) -> tuple[Any, Any]:
    """Params on each of the devices, and inputs ``[T, B, I]`` cut along B."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((count,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:count])
    everywhere = NamedSharding(mesh, PartitionSpec())
    cut = NamedSharding(mesh, PartitionSpec(None, "batch"))
    return jax.device_put(params, everywhere), jax.device_put(xs, cut)
