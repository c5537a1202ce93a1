"""Run ours on one device per core: the same network, with each batch split among the devices.

The gradient is the sum of those of the devices. On a CPU, XLA sums each array in a separate
all-reduce, whose overhead exceeds the sums themselves in a short network, so here all small arrays
are summed as one.
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
SMALL = 2**18  # elements; a larger array takes longer to copy than its own all-reduce


def suits(case: Case) -> bool:
    """Return whether the batch can be split among at least two devices."""
    return devices(case.shape.batch) > 1


def program(network: Network, xs: np.ndarray, measure: str) -> Program:
    """Build a measurement on as many devices as can share the batch equally."""
    here = mesh(devices(xs.shape[1]))
    return jax_program(
        network,
        xs,
        measure,
        place=partial(shared, here),
        differentiate=partial(value_and_grad, here),
    )


def devices(batch: int) -> int:
    """Return the largest number of devices that divides a batch."""
    import jax

    return max(n for n in range(1, len(jax.devices()) + 1) if batch % n == 0)


def mesh(count: int) -> Any:
    """Return a mesh of the first ``count`` devices along one axis."""
    import jax
    from jax.sharding import AxisType

    return jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[:count])


def shared(mesh: Any, params: Any, xs: np.ndarray) -> tuple[Any, Any]:
    """Replicate the parameters on all devices, and split the inputs ``[T, B, I]`` along B."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    replicated, split = PartitionSpec(), PartitionSpec(None, AXIS)
    return (
        jax.device_put(params, NamedSharding(mesh, replicated)),
        jax.device_put(xs, NamedSharding(mesh, split)),
    )


def value_and_grad(
    mesh: Any, loss: Callable[..., Any], argnums: int | tuple[int, ...] = 0
) -> Callable[..., Any]:
    """Differentiate like `jax.value_and_grad`, on all devices of a mesh.

    Args:
      mesh: the devices.
      loss: ``(params, xs) -> scalar``, which must be a sum over sequences.
      argnums: 0 for the gradient of the parameters, otherwise that of parameters and inputs.
    """
    import jax
    from jax.sharding import PartitionSpec

    both = jax.value_and_grad(loss, argnums=(0, 1))
    replicated, split = PartitionSpec(), PartitionSpec(None, AXIS)

    def part(params: Any, xs: Any) -> Any:
        value, (d_params, d_xs) = both(params, xs)
        value, d_params = sum_over_devices((value, d_params))
        return (value, d_params) if argnums == 0 else (value, (d_params, d_xs))

    out = (replicated, replicated if argnums == 0 else (replicated, split))
    return jax.shard_map(
        part, mesh=mesh, in_specs=(replicated, split), out_specs=out, check_vma=False
    )


def sum_over_devices(tree: Any) -> Any:
    """Return each array summed over the devices, the small ones in a single all-reduce."""
    import jax
    from jax.flatten_util import ravel_pytree

    leaves, structure = jax.tree.flatten(tree)
    joined, unravel = ravel_pytree([leaf for leaf in leaves if leaf.size < SMALL])
    small = iter(unravel(jax.lax.psum(joined, AXIS)))
    sums = [next(small) if leaf.size < SMALL else jax.lax.psum(leaf, AXIS) for leaf in leaves]
    return structure.unflatten(sums)
