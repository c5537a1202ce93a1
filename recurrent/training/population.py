"""Many trainings in one compiled program: members on a leading axis, laid out on the hardware.

`spread` says where members are computed; `begin` and `advance` are one member's training, written
for that one alone. Whatever happens to a member, its weights turning to NaN included, leaves the
others as they are.
"""

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

from recurrent.training.step import Metrics, TrainState
from recurrent.training.task import (
    Task,
)

AXIS = "members"


TRAINING, FINISHED, DIVERGED = range(3)


class Layout(NamedTuple):
    """How the members of a population share the hardware.

    Attributes:
      devices: how many devices share them equally.
      together: how many of its members each device computes side by side, one such group after the
        other: 1 is `jax.lax.map`, all of them `jax.vmap`.
    """

    devices: int = 1
    together: int = 1


def layouts(members: int, devices: int) -> list[Layout]:
    """Those worth measuring: one member after the other, in groups, and all at once.

    On as many of the devices as can share the members equally.

    Raises:
      ValueError: for fewer than one member or device.
    """
    if min(members, devices) < 1:
        raise ValueError(
            f"members, devices: expected at least 1 of each, got {members} and {devices}."
        )
    count = max(n for n in range(1, devices + 1) if members % n == 0)
    each = members // count
    groups = [size for size in (1, 4, 16, 64) if size < each and each % size == 0]
    return [Layout(count, size) for size in (*groups, each)]


def spread(function: Callable[..., Any], layout: Layout) -> Callable[..., Any]:
    """``(member, *shared) -> result`` for members stacked on axis 0: ``(members, *shared)``.

    Args:
      function: of one member. What it computes for a member depends on no other.
      layout: on which devices, and how many at once; the first of `jax.devices` are taken.

    Raises:
      ValueError: where there are fewer devices, they cannot share the members equally, or the
        members are not stacked; by the function that is returned.
    """

    def on_device(members: Any, *shared: Any) -> Any:
        def apply(member: Any) -> Any:
            return function(member, *shared)

        if layout.together >= _size(members):
            return jax.vmap(apply)(members)
        together = layout.together if layout.together > 1 else None
        return lax.map(apply, members, batch_size=together)

    @functools.wraps(function)  # for the names of compiled programs
    def apply_all(members: Any, *shared: Any) -> Any:
        _check(layout, _size(members))
        if layout.devices == 1:
            return on_device(members, *shared)
        own, all_of_it = PartitionSpec(AXIS), PartitionSpec()
        return jax.shard_map(
            on_device,
            mesh=_mesh(layout),
            in_specs=(own, *[all_of_it] * len(shared)),
            out_specs=own,
            check_vma=False,
        )(members, *shared)

    return apply_all


def placed(tree: Any, layout: Layout, *, shared: bool = False) -> Any:
    """Arrays on the devices of a layout: members cut along axis 0, or all of it on each device."""
    return jax.device_put(tree, sharding(layout, shared=shared))


def sharding(layout: Layout, *, shared: bool = False) -> Sharding:
    """Where `placed` puts them."""
    if layout.devices == 1:
        return SingleDeviceSharding(jax.devices()[0])
    return NamedSharding(_mesh(layout), PartitionSpec() if shared else PartitionSpec(AXIS))


def _mesh(layout: Layout) -> Mesh:
    devices = jax.devices()[: layout.devices]
    return jax.make_mesh((layout.devices,), (AXIS,), (AxisType.Auto,), devices=devices)


def _size(members: Any) -> int:
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(members)}
    if len(sizes) != 1 or sizes == {()}:
        shown = ", ".join(sorted(map(str, sizes))) or "no arrays"
        raise ValueError(f"members: expected arrays with one first axis for all, got {shown}.")
    return sizes.pop()[0]


def _check(layout: Layout, members: int) -> None:
    if not 1 <= layout.devices <= len(jax.devices()):
        raise ValueError(
            f"layout: expected 1 to {len(jax.devices())} devices, got {layout.devices}."
        )
    if layout.together < 1:
        raise ValueError(f"layout: expected at least 1 member together, got {layout.together}.")
    if members % layout.devices:
        raise ValueError(
            f"layout: expected a number of members that {layout.devices} devices can share "
            f"equally, got {members}."
        )


class Member(NamedTuple):
    """One training of a population.

    Attributes:
      numbers: its hyperparameters, its seed among them.
      state: its params, optimiser's state and random key.
      best_params: those of the highest score so far.
      best_score: that score, ``[]``; minus infinity before the first evaluation.
      best_step: the step it was reached at, ``[]``.
      waited: evaluations since then, ``[]``.
      status: `TRAINING`, `FINISHED` by early stopping, or `DIVERGED`, ``[]``.
    """

    numbers: Any
    state: TrainState
    best_params: Any
    best_score: Array
    best_step: Array
    waited: Array
    status: Array


class Limits(NamedTuple):
    """When a member stops by itself; every number may be traced.

    Attributes:
      patience: so many evaluations in a row without a better score end it; infinity for never.
      skipped: so many steps in a row whose gradient was not finite are a divergence.
      worst: so is a score below this one, or one that is not finite.
    """

    patience: Any = jnp.inf
    skipped: Any = 20
    worst: Any = -jnp.inf


def begin(task: Task, numbers: Any) -> Member:
    """A member before its first step.

    Spread it with ``together=1`` where there are several devices on a CPU: `jax.numpy.linalg.qr`
    of a batch, by which `vmap` draws orthogonal kernels, waits inside the pool of threads that
    the devices share, and two of them have been seen to wait for each other for ever.
    """
    state = task.init(numbers)
    step, waited, status = jnp.zeros((3,), jnp.int32)
    best = jax.tree.map(jnp.copy, state.weights)  # so that a donated member has no array twice
    return Member(numbers, state, best, jnp.float32(-jnp.inf), step, waited, status)


def advance(
    task: Task, steps: int, member: Member, train_data: Any, valid_data: Any, limits: Limits
) -> tuple[Member, tuple[Metrics, Metrics]]:
    """So many steps and an evaluation of a member, unless it has stopped.

    Returns:
      The member, and its metrics over the steps and over ``valid_data``; both count nothing where
      it had stopped before.
    """
    due = member.status == TRAINING
    member, over_steps = trained(task, steps, member, train_data)
    valid = measured(task, member.state.weights, due, valid_data)
    return judged(task, limits, member, valid), (over_steps, valid)


def trained(task: Task, steps: int, member: Member, data: Any) -> tuple[Member, Metrics]:
    """So many steps of a member and its metrics over them; no step and zeros if it has stopped."""

    def go_on(member: Member) -> tuple[Member, Metrics]:
        state, metrics = task.train(member.state, member.numbers, data, steps)
        return member._replace(state=state), metrics

    def stay(member: Member) -> tuple[Member, Metrics]:
        return member, _zeros(jax.eval_shape(go_on, member)[1])

    return lax.cond(member.status == TRAINING, go_on, stay, member)


def measured(task: Task, params: Any, due: Array, data: Any) -> Metrics:
    """The metrics of params over ``data`` where ``due`` is true, else zeros."""

    def measure(params: Any) -> Metrics:
        return task.evaluate(params, data)

    return lax.cond(due, measure, lambda params: _zeros(jax.eval_shape(measure, params)), params)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def judged(task: Task, limits: Limits, member: Member, valid: Metrics) -> Member:
    """The member after an evaluation: its best params, and whether it goes on.

    One that has stopped stays as it is.
    """
    training = member.status == TRAINING
    score = jnp.float32(task.score({name: each.mean for name, each in valid.items()}))
    lost = ~jnp.isfinite(score) | (score < limits.worst)
    lost |= member.state.skipped >= limits.skipped
    better = training & ~lost & (score > member.best_score)
    waited = jnp.where(better, 0, member.waited + training)
    status = jnp.where(waited >= limits.patience, FINISHED, TRAINING)
    status = jnp.where(lost, DIVERGED, status)
    kept = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), member.state.weights, member.best_params
    )
    return member._replace(
        best_params=kept,
        best_score=jnp.where(better, score, member.best_score),
        best_step=jnp.where(better, member.state.step, member.best_step),
        waited=waited,
        status=jnp.where(training, status, member.status).astype(jnp.int32),
    )


def ended(member: Member, over: Array) -> Member:
    """The member, which trains no more where ``over`` is true."""
    finished = over & (member.status == TRAINING)
    return member._replace(status=jnp.where(finished, FINISHED, member.status).astype(jnp.int32))


def replaced(task: Task, member: Member, fresh: Array, numbers: Any) -> Member:
    """A new member with these numbers where ``fresh`` is true, else the old one.

    So a place that another left is filled without a new program.
    """
    return lax.cond(fresh, lambda: begin(task, numbers), lambda: member)
