"""Ours on one device for each core: the same network, and the sequences of a batch shared out.

Its gradient is that of each device's sequences, added up. XLA on a CPU adds up each array by
itself, which costs a short network more than the sums: here small ones go as one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from experiments.bench import with_recurrent
from experiments.bench.cases import Case
from experiments.bench.program import Network, Program, jax_program

CELLS = with_recurrent.CELLS
build = with_recurrent.build
AXIS = "batch"
SMALL = 2**18  # elements; to copy more than that takes longer than to add it up by itself


def suits(case: Case) -> bool:
    """Whether a batch can be shared."""
    return devices(case.shape.batch) > 1


def program(network: Network, xs: np.ndarray, measure: str) -> Program:
    """A measurement on as many devices as can share the batch equally."""
    here = mesh(devices(xs.shape[1]))
    return jax_program(network, xs, measure, partial(shared, here), partial(value_and_grad, here))


def devices(batch: int) -> int:
    """The largest number of devices that divides a batch."""
    import jax

    return max(n for n in range(1, len(jax.devices()) + 1) if batch % n == 0)


def mesh(count: int) -> Any:
    """So many devices in a row."""
    import jax
    from jax.sharding import AxisType

    return jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[:count])


def shared(mesh: Any, params: Any, xs: np.ndarray) -> tuple[Any, Any]:
    """Params on each of the devices, and inputs ``[T, B, I]`` cut along B."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    everywhere, cut = PartitionSpec(), PartitionSpec(None, AXIS)
    return (
        jax.device_put(params, NamedSharding(mesh, everywhere)),
        jax.device_put(xs, NamedSharding(mesh, cut)),
    )


def value_and_grad(
    mesh: Any, loss: Callable[..., Any], argnums: int | tuple[int, ...] = 0
) -> Callable[..., Any]:
    """`jax.value_and_grad` of a loss that is a sum over sequences, by params or by both."""
    import jax
    from jax.sharding import PartitionSpec

    both = jax.value_and_grad(loss, argnums=(0, 1))
    everywhere, cut = PartitionSpec(), PartitionSpec(None, AXIS)

    def part(params: Any, xs: Any) -> Any:
        value, (d_params, d_xs) = both(params, xs)
        value, d_params = added_up((value, d_params))
        return (value, d_params) if argnums == 0 else (value, (d_params, d_xs))

    out = (everywhere, everywhere if argnums == 0 else (everywhere, cut))
    return jax.shard_map(
        part, mesh=mesh, in_specs=(everywhere, cut), out_specs=out, check_vma=False
    )


def added_up(tree: Any) -> Any:
    """The sum over the devices of each array."""
    import jax
    from jax.flatten_util import ravel_pytree

    leaves, structure = jax.tree.flatten(tree)
    joined, cut = ravel_pytree([leaf for leaf in leaves if leaf.size < SMALL])
    small = iter(cut(jax.lax.psum(joined, AXIS)))
    sums = [next(small) if leaf.size < SMALL else jax.lax.psum(leaf, AXIS) for leaf in leaves]
    return structure.unflatten(sums)
