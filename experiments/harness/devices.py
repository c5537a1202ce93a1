"""Which devices a training uses, and how much memory they have."""

import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.harness.config import (
    TrainingConfig,
    numbers_of,
)
from experiments.harness.errors import UserError
from experiments.harness.program import Program
from recurrent.training.step import BATCH


def mesh_of(devices: int, config: TrainingConfig) -> Mesh:
    """The devices that share each batch.

    Raises:
      UserError: where there are fewer, or they cannot share a batch equally.
    """
    there = jax.local_device_count()
    if devices > there:
        raise UserError(
            f"--devices: there are {there} devices ({jax.local_devices()[0]}), not {devices}."
        )
    own = [
        d for process in range(jax.process_count()) for d in jax.local_devices(process)[:devices]
    ]
    if config.batch_size % len(own):
        raise UserError(
            f"--batch_size: {len(own)} devices cannot share a batch of {config.batch_size} "
            f"equally; choose a multiple of {len(own)}."
        )
    return jax.make_mesh((len(own),), (BATCH,), (AxisType.Auto,), devices=own)


def on_devices(program: Program, mesh: Mesh) -> Program:
    """The program with its data on every device, and its functions compiled for all of them.

    What they return is whole on every device.
    """
    whole, task = whole_on(mesh), program.task
    return program._replace(
        data=jax.device_put(program.data, whole),
        task=task._replace(
            init=jax.jit(task.init, out_shardings=whole),
            train=jax.jit(task.train, static_argnums=3, donate_argnums=0, out_shardings=whole),
            evaluate=jax.jit(task.evaluate, out_shardings=whole),
        ),
    )


def whole_on(mesh: Mesh) -> NamedSharding:
    """A copy of every array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_fits_memory(program: Program, config: TrainingConfig) -> None:
    """Raises `UserError` where the state alone needs more memory than there is.

    XLA says nothing of an allocation that failed on a CPU: it waits for ever.
    """
    numbers = numbers_of(config)
    state = jax.eval_shape(program.task.init, numbers)
    needed = bytes_of(state) + 2 * bytes_of(state.params)  # and a gradient, and the best params
    available = memory_bytes()
    if needed > available:
        device = jax.local_devices()[0].device_kind
        raise UserError(
            f"The params and the optimiser's state need about {needed / 2**30:.1f} GiB, and "
            f"{device} has {available / 2**30:.1f}; choose smaller sizes."
        )


def bytes_of(tree: Any) -> int:
    """How much memory arrays of these shapes take."""
    keyless = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf.dtype, "itemsize")]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in keyless)


def memory_bytes() -> int:
    """The memory of the device, or of the machine where the device is its CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def of_one_device(tree: Any) -> Any:
    """One copy of arrays that are whole on every device."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def devices_of_cpu(count: int) -> None:
    """Makes a CPU so many devices, unless JAX_NUM_CPU_DEVICES or XLA_FLAGS says otherwise."""
    import jax

    told = "JAX_NUM_CPU_DEVICES" in os.environ
    if not told and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compile_cache() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where already."""
    import jax

    from experiments.data.cache import cache_dir

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
