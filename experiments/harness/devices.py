"""Choose the devices of a training, and find how much memory they have."""

import os
from pathlib import Path
from typing import Any

import jax

from experiments.harness.config import hparams_of
from experiments.harness.errors import UserError
from experiments.harness.program import Program
from recurrent.training import population


def check_devices(devices: int, config: Any) -> int:
    """Return how many devices of all processes share each batch.

    Raises:
      UserError: where a process has fewer than ``devices``, or all of them cannot share a batch
        equally.
    """
    there = jax.local_device_count()
    if devices > there:
        raise UserError(
            f"--devices: there are {there} devices ({jax.local_devices()[0]}), not {devices}."
        )
    count = devices * jax.process_count()
    batch_size = getattr(config, "batch_size", 0)  # a task that makes its own data may have none
    if batch_size % count:
        raise UserError(
            f"--batch_size: {count} devices cannot share a batch of {batch_size} "
            f"equally; choose a multiple of {count}."
        )
    return count


def check_fits_memory(program: Program, config: Any) -> None:
    """Raise `UserError` where the state alone needs more memory than there is.

    XLA says nothing of an allocation that failed on a CPU: it waits for ever.
    """
    needed, available = bytes_of_member(program, config), memory_bytes()
    if needed > available:
        device = jax.local_devices()[0].device_kind
        raise UserError(
            f"The params and the optimizer's state need about {needed / 2**30:.1f} GiB, and "
            f"{device} has {available / 2**30:.1f}; choose smaller sizes."
        )


def bytes_of_member(program: Program, config: Any) -> int:
    """Return the bytes of a member: its state, what it keeps at its best, and a gradient."""
    hparams = {name: value[0] for name, value in hparams_of(config).items()}
    member = jax.eval_shape(lambda hparams: population.begin(program.task, hparams), hparams)
    return bytes_of(member) + bytes_of(member.best)


def bytes_of(tree: Any) -> int:
    """Return how many bytes arrays of these shapes take."""
    keyless = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf.dtype, "itemsize")]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in keyless)


def memory_bytes() -> int:
    """Return the memory of the device; where that is the CPU, what this process may use of it."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return statistics.get("bytes_limit") or min([whole, *limits_of_groups()])


def limits_of_groups(root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> list[int]:
    """Return the limits in bytes that Linux sets the control groups of this process, if any.

    Args:
      root: where the groups are mounted, of version 1 or 2; in a container that is its own group.
      own: which groups this process is in, as in ``/proc/self/cgroup``.
    """
    if own is None:
        own = text_of(Path("/proc/self/cgroup"))
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            below = Path(controllers, path.lstrip("/"))
            files += [root / each / name for each in [below, *below.parents]]
    found = map(text_of, files)
    return [int(text) for text in found if text.strip().isdecimal()]


def text_of(file: Path) -> str:
    """Return what a file of the system says; nothing where it does not exist here."""
    try:
        return file.read_text()
    except OSError:
        return ""


def set_cpu_devices(count: int) -> None:
    """Give the CPU so many devices, unless JAX_NUM_CPU_DEVICES or XLA_FLAGS says otherwise."""
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ
    if not chosen and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)
