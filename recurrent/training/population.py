"""Train many members in one compiled program, stacked on a leading axis.

`spread` says where members are computed; `begin`, `trained`, `measured` and `judged` are one
member's training, written for that one alone; a single training is a population of one. Whatever
happens to a member, its weights turning to NaN included, leaves the others as they are.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from recurrent.errors import ArgumentError
from recurrent.training.minibatch import BATCH
from recurrent.training.task import Data, HParams, Kept, Metric, Metrics, State, Task

AXIS = "members"  # the axis of a mesh whose devices share the members
TRAINING, FINISHED, DIVERGED = range(3)
MOST_FAILURES = 20  # bad steps in a row that make a divergence


class Layout(NamedTuple):
    """Say how the members of a population share the hardware.

    Attributes:
      devices: how many devices share the members equally.
      together: how many of its members each device computes side by side, one such group after the
        other: 1 is `jax.lax.map`, all of them `jax.vmap`.
      batch_devices: how many devices share each batch of a member (`minibatch.shard_batch`), over
        all processes; more than 1 only where ``devices`` is 1.
    """

    devices: int = 1
    together: int = 1
    batch_devices: int = 1


class Member(NamedTuple):
    """Hold one training of a population.

    Attributes:
      hparams: its hyperparameters, its seed among them.
      state: of the task.
      step: steps taken, ``[]``.
      best: what the task keeps of the state of the best score so far.
      best_score: that score, ``[]``; minus infinity before the first evaluation.
      best_step: the step it was reached at, ``[]``.
      evaluations_since_best: ``[]``.
      status: `TRAINING`, `FINISHED` by early stopping, or `DIVERGED`, ``[]``.
    """

    hparams: HParams
    state: State
    step: Array
    best: Kept
    best_score: Array
    best_step: Array
    evaluations_since_best: Array
    status: Array


class Limits(NamedTuple):
    """Say when a member ends early; every number may be traced.

    Attributes:
      patience: so many evaluations in a row without a better score end it; infinity for never.
      divergence_threshold: a score below this one, or one that is not finite, is a divergence.
    """

    patience: Any = jnp.inf
    divergence_threshold: Any = -jnp.inf


def layouts(members: int, devices: int) -> list[Layout]:
    """Return the layouts worth measuring: one member after the other, in groups, all at once.

    All use as many of the devices as can share the members equally.

    Raises:
      ValueError: for fewer than one member or device.

    Example:
      >>> [tuple(layout)[:2] for layout in layouts(16, 2)]
      [(2, 1), (2, 4), (2, 8)]
    """
    if min(members, devices) < 1:
        raise ArgumentError(
            f"members, devices: expected at least 1 of each, got {members} and {devices}."
        )
    count = max(n for n in range(1, devices + 1) if members % n == 0)
    each = members // count
    groups = [size for size in (1, 4, 16, 64) if size < each and each % size == 0]
    return [Layout(count, size) for size in (*groups, each)]


def spread(function: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """Turn ``(member, *shared) -> result`` into the same for members stacked on axis 0.

    Args:
      function: of one member. What it computes for a member depends on no other.
      layout: on which devices, and how many at once; the first of `jax.devices` are taken.

    Raises:
      ValueError: by the function that is returned, where there are fewer devices, they cannot
        share the members equally, or the members are not stacked.

    Example:
      >>> import jax.numpy as jnp
      >>> spread(lambda x, y: x + y, Layout())(jnp.arange(3), 10).tolist()
      [10, 11, 12]
    """

    def on_device(members: Any, *shared: Any) -> Any:
        def apply(member: Any) -> Any:
            return function(member, *shared)

        size = _size(members)
        if size == 1:  # the program of a single training, products not batched
            alone = apply(jax.tree.map(lambda leaf: leaf[0], members))
            return jax.tree.map(lambda leaf: leaf[None], alone)
        if layout.together >= size:
            return jax.vmap(apply)(members)
        together = layout.together if layout.together > 1 else None
        return lax.map(apply, members, batch_size=together)

    @functools.wraps(function)  # for the names of compiled programs
    def apply_all(members: Any, *shared: Any) -> Any:
        _check(layout, _size(members))
        if layout.devices == 1:
            return on_device(members, *shared)
        own, whole = PartitionSpec(AXIS), PartitionSpec()
        return jax.shard_map(
            on_device,
            mesh=_mesh(layout),
            in_specs=(own, *[whole] * len(shared)),
            out_specs=own,
            check_vma=False,
        )(members, *shared)

    return apply_all


def put(tree: Any, layout: Layout, *, shared: bool = False) -> Any:
    """Put arrays on a layout's devices: members shared along axis 0, or a copy on each device."""
    return jax.device_put(tree, sharding(layout, shared=shared))


def sharding(layout: Layout, *, shared: bool = False) -> Sharding:
    """Return the sharding of the members, or of arrays that every device holds whole."""
    if layout.devices == 1 and layout.batch_devices == 1:
        return SingleDeviceSharding(jax.devices()[0])
    whole = shared or layout.batch_devices > 1
    return NamedSharding(_mesh(layout), PartitionSpec() if whole else PartitionSpec(AXIS))


def batch_mesh(layout: Layout) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which `minibatch.shard_batch` shares batches as the layout says."""
    return jax.set_mesh(_mesh(layout)) if layout.batch_devices > 1 else contextlib.nullcontext()


def _mesh(layout: Layout) -> Mesh:
    devices, axis = jax.devices()[: layout.devices], AXIS
    if layout.batch_devices > 1:
        _check_batch_devices(layout)
        each = layout.batch_devices // jax.process_count()
        processes = range(jax.process_count())
        devices, axis = [d for p in processes for d in jax.local_devices(p)[:each]], BATCH
    return jax.make_mesh((len(devices),), (axis,), (AxisType.Auto,), devices=devices)


def _check_batch_devices(layout: Layout) -> None:
    count, processes = layout.batch_devices, jax.process_count()
    if count > len(jax.devices()) or count % processes:
        raise ArgumentError(
            f"layout: expected at most {len(jax.devices())} batch_devices, a multiple of the "
            f"{processes} processes, got {count}."
        )


def _size(members: Any) -> int:
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(members)}
    if len(sizes) != 1 or sizes == {()}:
        found = ", ".join(sorted(map(str, sizes))) or "no arrays"
        raise ArgumentError(f"members: expected arrays with one first axis for all, got {found}.")
    return sizes.pop()[0]


def _check(layout: Layout, members: int) -> None:
    if not 1 <= layout.devices <= len(jax.devices()):
        raise ArgumentError(
            f"layout: expected 1 to {len(jax.devices())} devices, got {layout.devices}."
        )
    if layout.together < 1:
        raise ArgumentError(f"layout: expected at least 1 member together, got {layout.together}.")
    if members % layout.devices:
        raise ArgumentError(
            f"layout: expected a number of members that {layout.devices} devices can share "
            f"equally, got {members}."
        )
    if layout.batch_devices > 1 and layout.devices > 1:
        raise ArgumentError(
            "layout: expected devices that share members or batches, not both, got "
            f"{layout.devices} and {layout.batch_devices}."
        )


def begin(task: Task, hparams: HParams) -> Member:
    """Return a member before its first step.

    Spread it with ``together=1`` where there are several devices on a CPU: `jax.numpy.linalg.qr`
    of a batch, by which `vmap` draws orthogonal kernels, waits inside the pool of threads that
    the devices share, and two of them have been seen to wait for each other for ever.
    """
    state = jax.tree.map(jnp.asarray, task.init(hparams))
    best = jax.tree.map(jnp.copy, task.keep(state))  # so that a donated member has no array twice
    step, best_step, since_best, status = jnp.zeros((4,), jnp.int32)
    return Member(hparams, state, step, best, jnp.float32(-jnp.inf), best_step, since_best, status)


def trained(task: Task, steps: int, member: Member, data: Data) -> tuple[Member, Metrics]:
    """Train a member for ``steps`` steps, unless it has ended.

    `MOST_FAILURES` bad steps in a row make it `DIVERGED`.

    Returns:
      The member and its metrics over the steps, zeros where it had ended.
    """

    @jax.jit  # so that asking for its shapes and computing it are one tracing, which takes seconds
    def go_on(member: Member) -> tuple[Member, Metrics]:
        state, metrics = task.train(member.state, member.hparams, data, steps)
        lost = task.failures(state) >= MOST_FAILURES
        status = jnp.where(lost, DIVERGED, member.status).astype(jnp.int32)
        return member._replace(state=state, step=member.step + steps, status=status), metrics

    def stay(member: Member) -> tuple[Member, Metrics]:
        return member, _zeros(jax.eval_shape(go_on, member)[1])

    return lax.cond(member.status == TRAINING, go_on, stay, member)


def measured(task: Task, kept: Kept, hparams: HParams, due: Array, data: Data) -> Metrics:
    """Evaluate what a member keeps where ``due`` is true; return zeros elsewhere."""

    @jax.jit  # traced once, as in `trained`
    def measure(kept: Kept) -> Metrics:
        return task.evaluate(kept, hparams, data)

    shapes = jax.eval_shape(measure, kept)
    return lax.cond(due, measure, lambda _: _zeros(shapes), kept)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def judged(
    task: Task,
    select: Metric,
    limits: Limits,
    member: Member,
    valid: Metrics,
    keep_last: Any = False,
) -> Member:
    """Update what is best of a member after an evaluation, and end it where it should end.

    One that has ended stays as it is. Where ``keep_last`` is true, which may be traced, the last
    evaluation counts as the best one, whatever its score: nothing is chosen by it.
    """
    training = member.status == TRAINING
    score = jnp.float32(select.score(valid[select.name].mean))
    seen = valid[select.name].weight > 0  # where nothing was counted, nothing is known
    lost = seen & (~jnp.isfinite(score) | (score < limits.divergence_threshold))
    better = training & seen & ~lost & ((score > member.best_score) | keep_last)
    since_best = jnp.where(better, 0, member.evaluations_since_best + training)
    status = jnp.where(since_best >= limits.patience, FINISHED, TRAINING)
    status = jnp.where(lost, DIVERGED, status)
    best = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), task.keep(member.state), member.best
    )
    return member._replace(
        best=best,
        best_score=jnp.where(better, score, member.best_score),
        best_step=jnp.where(better, member.step, member.best_step),
        evaluations_since_best=since_best,
        status=jnp.where(training, status, member.status).astype(jnp.int32),
    )


def ended(member: Member, over: Array) -> Member:
    """Return the member, which trains no more where ``over`` is true."""
    finished = over & (member.status == TRAINING)
    return member._replace(status=jnp.where(finished, FINISHED, member.status).astype(jnp.int32))


def restarted(task: Task, member: Member, fresh: Array, hparams: HParams) -> Member:
    """Return a new member with these hyperparameters where ``fresh`` is true, else the old one.

    So a slot that a member has left is filled without compiling a new program.
    """
    return lax.cond(fresh, lambda: begin(task, hparams), lambda: member)


def copied(members: Member, sources: Array, hparams: HParams) -> Member:
    """Let each member go on from a copy of the member at ``sources``, with these hyperparameters.

    Random keys stay the member's own, so that copies see other noise and another order of the data.

    Args:
      members: stacked on axis 0.
      sources: indices of members ``[P]``, a member's own where it just goes on.
      hparams: the hyperparameters from here on, stacked.
    """
    taken = jax.tree.map(lambda leaf: leaf[sources], members)
    state = jax.tree.map(
        lambda copy, own: own if _is_key(own) else copy, taken.state, members.state
    )
    return taken._replace(state=state, hparams=hparams)


def _is_key(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
