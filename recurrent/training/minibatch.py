"""Train on examples in random batches: the order of an epoch, and a `Task` that follows it.

Data is a dict of arrays whose first axis counts examples; a batch is the same dict with ``"mask"``
``[B]``, False where a short last batch was filled up.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import PartitionSpec

from recurrent.cell import as_tokens, check_sizes
from recurrent.errors import ArgumentError
from recurrent.training.bucketing import Buckets, bucketed
from recurrent.training.step import (
    TrainState,
    apply_gradients,
    gradients,
    init_state,
    order_key,
    step_key,
    where_applied,
)
from recurrent.training.task import HParams, Metrics, Task

BATCH = "batch"  # the axis of a mesh whose devices share each batch
LARGEST_EVALUATION_BATCH = 500


def minibatch_task(
    init: Callable[[Array], Any],
    loss: Callable[[Any, Any, Array, HParams], tuple[Array, Metrics]],
    measure: Callable[[Any, Any, HParams], Metrics],
    optimizer: Callable[[HParams], optax.GradientTransformation],
    *,
    batch_size: int,
    average_decay: float = 0.0,
    loss_scale: float = 0.0,
    buckets: Buckets | None = None,
) -> Task:
    """Build the task that minimizes a loss over random batches of examples.

    Each epoch visits every example once, in an order drawn from the state's key and the number of
    the epoch; ``steps`` of one call of ``task.train`` must not cross the end of an epoch, which
    is `steps_per_epoch` steps long. The hyperparameters need a ``"seed"``.

    Args:
      init: ``key -> params``.
      loss: ``(params, batch, key, hparams) -> (scalar, metrics)``.
      measure: ``(params, batch, hparams) -> metrics``, for evaluation.
      optimizer: ``hparams -> optimizer``, built inside the compiled program.
      batch_size: B.
      average_decay: of the running average of the params that is evaluated; 0 for none.
      loss_scale: see `recurrent.training.step.init_state`.
      buckets: where given, examples of like length share a batch, which is cut to one of a few
        sizes; see `recurrent.training.bucketing`.

    Raises:
      ValueError: for a batch_size below 1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from recurrent.losses import Average
      >>> def measure(params, batch, hparams):
      ...     errors = batch["mask"] * (params * batch["x"] - batch["y"]) ** 2
      ...     return {"error": Average(errors.sum(), batch["mask"].sum())}
      >>> def loss(params, batch, key, hparams):
      ...     metrics = measure(params, batch, hparams)
      ...     return metrics["error"].mean, metrics
      >>> task = minibatch_task(
      ...     init=lambda key: jnp.float32(0),
      ...     loss=loss,
      ...     measure=measure,
      ...     optimizer=lambda hparams: optax.sgd(0.5),
      ...     batch_size=2,
      ... )
      >>> x = jnp.array([1.0, -1.0, 1.0, -1.0])
      >>> hparams, data = {"seed": 0}, {"x": x, "y": 3 * x}
      >>> state, metrics = task.train(task.init(hparams), hparams, data, 2)
      >>> float(task.evaluate(task.keep(state), hparams, data)["error"].mean)
      0.0
    """
    check_sizes(batch_size=batch_size)
    lengths = buckets.lengths if buckets else ""
    slopes_of = partial(gradients, loss)
    if buckets:
        slopes_of, measure = bucketed(slopes_of, buckets), bucketed(measure, buckets)

    def init_all(hparams: HParams) -> TrainState:
        key = jax.random.key(hparams["seed"])
        keeps = average_decay > 0
        return init_state(init, optimizer(hparams), key, keep_average=keeps, loss_scale=loss_scale)

    def train(state: TrainState, hparams: HParams, data: Any, steps: int) -> Any:
        def step(state: TrainState, rows: tuple[Array, Array]) -> tuple[TrainState, Metrics]:
            batch = take(data, *rows)
            made, weight = optimizer(hparams), batch["mask"].sum()
            slopes, metrics = slopes_of(state, batch, step_key(state), hparams)
            state, update = apply_gradients(made, state, slopes, average_decay, weight)
            return state, where_applied(state, metrics) | update

        rows = next_batches(state, data, batch_size, steps, lengths)
        state, metrics = lax.scan(step, state, rows)
        return state, total(metrics)

    def evaluate_all(params: Any, hparams: HParams, data: Any) -> Metrics:
        def measure_batch(params: Any, batch: Any) -> Metrics:
            return measure(params, batch, hparams)

        return evaluate(measure_batch, params, data, lengths=lengths)

    return Task(init_all, train, evaluate_all)


def next_batches(
    state: TrainState, data: Any, batch_size: int, steps: int, lengths: str = ""
) -> tuple[Array, Array]:
    """Return the examples of the next ``steps`` batches, and which of them are real.

    Args:
      state: whose key and step decide.
      data: with N examples.
      batch_size: B.
      steps: how many batches.
      lengths: the name of an array of lengths, of which those in a batch are to be alike; ``""``
        for batches of any.

    Returns:
      Indices into the data ``[steps, B]``, and a mask of the same shape, False where a short last
      batch of the epoch was filled up.

    Raises:
      ValueError: where the epoch has fewer than ``steps`` batches, or the data no example.
    """
    size = _some(data)
    in_epoch = steps_per_epoch(size, batch_size)
    if not 1 <= steps <= in_epoch:
        raise ArgumentError(
            f"steps: expected 1 to {in_epoch}, the batches of {batch_size} in {size} examples, "
            f"got {steps}."
        )
    epoch, first = jnp.divmod(state.step, in_epoch)
    alike = jnp.asarray(data[lengths]) if lengths else None
    key = jax.random.fold_in(order_key(state), epoch)
    order, real = epoch_order(key, size, batch_size, alike)
    return (
        lax.dynamic_slice_in_dim(order, first, steps),
        lax.dynamic_slice_in_dim(real, first, steps),
    )


def evaluate(
    measure: Callable[[Any, Any], Metrics],
    params: Any,
    data: Any,
    batch_size: int = LARGEST_EVALUATION_BATCH,
    lengths: str = "",
) -> Metrics:
    """Add up ``measure(params, batch) -> metrics`` over all examples, in one `lax.scan`.

    Use the fewest batches of at most ``batch_size``, evenly filled; where an array of lengths is
    named, in their order.

    Raises:
      ValueError: for data without any example, of which there is no mean, or a batch_size below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.losses import Average
      >>> def measure(params, batch):
      ...     return {"x": Average((batch["mask"] * batch["x"]).sum(), batch["mask"].sum())}
      >>> float(evaluate(measure, None, {"x": jnp.arange(5.0)}, batch_size=2)["x"].mean)
      2.0
    """
    check_sizes(batch_size=batch_size)
    size = _some(data)
    order = jnp.argsort(data[lengths], stable=True) if lengths else jnp.arange(size)
    rows = filled_batches(order, even_batch_size(size, batch_size))

    def body(_: None, row: tuple[Array, Array]) -> tuple[None, Metrics]:
        return None, measure(params, take(data, *row))

    return total(lax.scan(body, None, rows)[1])


def total(metrics: Metrics) -> Metrics:
    """Add up metrics that are stacked along their first axis."""
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)


def example_count(data: Any) -> int:
    """Return the length of the first axis of the data."""
    return jax.tree.leaves(data)[0].shape[0]


def _some(data: Any) -> int:
    size = example_count(data)
    if size == 0:
        raise ArgumentError("data: expected at least one example, got none.")
    return size


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Return how many batches hold ``size`` examples, a short last one included.

    Example:
      >>> steps_per_epoch(10, 4)
      3
    """
    return -(-size // batch_size)


def even_batch_size(size: int, limit: int) -> int:
    """Return the batch size that splits ``size`` examples most evenly into the fewest batches.

    It is a multiple of 8, which devices can share, where the limit allows it.

    Example:
      >>> even_batch_size(360, 500), even_batch_size(1001, 500)
      (360, 336)
    """
    part = -(-size // steps_per_epoch(size, limit))
    return min(-(-part // 8) * 8, limit)


def epoch_order(
    key: Array, size: int, batch_size: int, lengths: Array | None = None
) -> tuple[Array, Array]:
    """Shuffle the examples of an epoch; return indices ``[S, B]`` and which of them are real.

    Where lengths ``[N]`` are given, a batch holds examples that follow each other in their order;
    those of one length are shuffled, and so are the batches.

    Example:
      >>> lengths = jax.numpy.array([9, 1, 1, 9, 1, 9])
      >>> rows, _ = epoch_order(jax.random.key(0), 6, 3, lengths)
      >>> sorted(sorted(row) for row in rows.tolist())
      [[0, 3, 5], [1, 2, 4]]
    """
    order = jax.random.permutation(key, size)
    if lengths is None:
        return filled_batches(order, batch_size)
    rows, real = filled_batches(order[jnp.argsort(lengths[order], stable=True)], batch_size)
    mixed = jax.random.permutation(jax.random.fold_in(key, 0), len(rows))
    return rows[mixed], real[mixed]


def filled_batches(indices: Array, batch_size: int) -> tuple[Array, Array]:
    """Split indices ``[N]`` into ``[S, B]``, filled up with 0; return also which of them are real.

    Example:
      >>> rows, real = filled_batches(jax.numpy.array([4, 5, 6]), 2)
      >>> rows.tolist(), real.tolist()
      ([[4, 5], [6, 0]], [[True, True], [True, False]])
    """
    size = indices.shape[0]
    steps = steps_per_epoch(size, batch_size)
    filled = jnp.zeros(steps * batch_size, indices.dtype).at[:size].set(indices)
    real = jnp.arange(steps * batch_size) < size
    return filled.reshape(steps, batch_size), real.reshape(steps, batch_size)  # [S, B]


def take(data: dict[str, Array], indices: Array, mask: Array) -> dict[str, Array]:
    """Return the examples at ``indices`` ``[B]``, zero where ``mask`` is False, and the mask.

    Example:
      >>> rows, mask = jax.numpy.array([2, 0]), jax.numpy.array([True, False])
      >>> batch = take({"x": jax.numpy.arange(3.0)}, rows, mask)
      >>> batch["x"].tolist(), batch["mask"].tolist()
      ([2.0, 0.0], [True, False])
    """
    # what lies outside becomes zeros
    within = jnp.where(mask, as_tokens(indices), example_count(data))
    arrays = {name: jnp.asarray(leaf) for name, leaf in data.items()}
    batch = {k: leaf.at[within].get(mode="fill", fill_value=0) for k, leaf in arrays.items()}
    return shard_batch(batch | {"mask": mask}, axis=0)


def shard_batch(batch: Any, axis: int) -> Any:
    """Share a batch along ``axis`` among the devices of the mesh that `jax.set_mesh` has set.

    Without a mesh that has an axis called ``"batch"``, or where its devices cannot share an array
    equally, the batch stays as it is. Only the place of the computation changes: the program
    is that of one device, order of the data and masks of dropout included.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if BATCH not in mesh.axis_names:
        return batch
    spec = PartitionSpec(*[None] * axis, BATCH)

    def among_devices(leaf: Array) -> Array:
        equal = leaf.shape[axis] % mesh.shape[BATCH] == 0
        return lax.with_sharding_constraint(leaf, spec) if equal else leaf

    return jax.tree.map(among_devices, batch)
