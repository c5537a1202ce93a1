"""One train step and one loop for every model: pure functions over a `TrainState`.

A loss is ``(params, batch, key) -> (scalar, metrics)`` with metrics a dict of `Average`. Data is
a dict of arrays whose first axis counts examples; a batch is the same dict with ``"mask"`` ``[B]``,
False where a short last batch was filled up.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import PartitionSpec

from recurrent.losses import Average

Loss = Callable[[Any, Any, Array], tuple[Array, dict[str, Average]]]
CarryingLoss = Callable[[Any, Any, Any, Array], tuple[Array, tuple[dict[str, Average], Any]]]
Metrics = dict[str, Average]

BATCH = "batch"  # the axis of a mesh whose devices share each batch


class LossScale(NamedTuple):
    """A factor of the loss that keeps small gradients within the range of float16.

    It is halved by a gradient that is not finite, doubled after `STEPS_TO_DOUBLE` finite ones, and
    stays within 1 and `LARGEST_SCALE`.
    Micikevicius et al. 2018, arXiv:1710.03740.

    Attributes:
      factor: ``[]``.
      finite: steps since it changed, ``[]``.
    """

    factor: Array
    finite: Array


STEPS_TO_DOUBLE = 2000
LARGEST_SCALE = 2.0**24


class TrainState(NamedTuple):
    """All that a step changes.

    Attributes:
      step: steps taken, skipped ones included; with ``key`` it decides data order and noise.
      params: what is trained.
      opt_state: the optimiser's.
      key: the run's random key; never changes.
      skipped: steps in a row, up to now, whose gradient was not finite.
      carry: what the loss hands from step to step, such as a recurrent state; often nothing.
      average: the running average of the params; nothing where none is kept.
      scale: of the loss; nothing where it is not scaled.
    """

    step: Array
    params: Any
    opt_state: Any
    key: Array
    skipped: Array
    carry: Any = ()
    average: Any = ()
    scale: LossScale | tuple[()] = ()

    @property
    def weights(self) -> Any:
        """What to evaluate: the average of the params where one is kept, else the params."""
        return self.average if jax.tree.leaves(self.average) else self.params


def init_state(
    init: Callable[[Array], Any],
    optimizer: optax.GradientTransformation,
    key: Array,
    carry: Callable[[Any], Any] = lambda params: (),
    *,
    keep_average: bool = False,
    loss_scale: float = 0.0,
) -> TrainState:
    """The state before the first step, with ``init: key -> params``, ``carry: params -> carry``.

    A ``loss_scale`` other than 0 is the first factor of a `LossScale`, for losses that compute in
    float16 with params in float32.

    Raises:
      ValueError: for a scale that is neither 0 nor within 1 and `LARGEST_SCALE`.
    """
    if loss_scale and not 1 <= loss_scale <= LARGEST_SCALE:
        raise ValueError(f"loss_scale: expected 0, or 1 to {LARGEST_SCALE:g}, got {loss_scale}.")
    init_key, run_key = jax.random.split(key)
    params = init(init_key)
    step, skipped = jnp.zeros((2,), jnp.int32)  # two arrays: a donated one must not stand twice
    average = jax.tree.map(jnp.copy, params) if keep_average else ()
    moments = optimizer.init(params)
    scale = LossScale(jnp.float32(loss_scale), jnp.int32(0)) if loss_scale else ()
    return TrainState(step, params, moments, run_key, skipped, carry(params), average, scale)


def train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    average_decay: Any = 0.0,
) -> tuple[TrainState, Metrics]:
    """One optimiser step; where the gradient is not finite, no weight, moment or average changes.

    Finiteness is judged on the global norm before any clipping. The metrics are the loss's own
    and ``gradient_norm``, none of which counts a skipped step, and ``skipped``. Where the state
    keeps an average of the params, ``d average + (1 - d) params`` is the next, with d the
    ``average_decay``, but less in the first steps: at most ``(1 + step) / (10 + step)``.
    """

    def carrying(params: Any, carry: Any, batch: Any, key: Array) -> tuple[Array, Any]:
        value, metrics = loss(params, batch, key)
        return value, (metrics, carry)

    return carrying_step(carrying, optimizer, state, batch, average_decay)


def carrying_step(
    loss: CarryingLoss,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    average_decay: Any = 0.0,
) -> tuple[TrainState, Metrics]:
    """`train_step` with a loss that reads the carry and returns the next; no gradient enters it.

    A skipped step changes the carry no more than the weights.
    """
    key = jax.random.fold_in(_noise_key(state.key), state.step)
    gradients, (metrics, carry) = _gradients(loss, state, batch, key)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(norm)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = _averaged(state, params, average_decay)
    params, opt_state, carry, average = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state, carry, average),
        (state.params, state.opt_state, state.carry, state.average),
    )
    one = jnp.ones_like(norm)
    metrics = metrics | {"gradient_norm": Average(norm, one)}
    metrics = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), metrics)
    metrics = metrics | {"skipped": Average(jnp.where(finite, jnp.zeros_like(one), one), one)}
    skipped = jnp.where(finite, 0, state.skipped + 1)
    scale = _rescaled(state.scale, finite)
    new = TrainState(state.step + 1, params, opt_state, state.key, skipped, carry, average, scale)
    return new, metrics


def _gradients(loss: CarryingLoss, state: TrainState, batch: Any, key: Array) -> Any:
    factor = state.scale.factor if isinstance(state.scale, LossScale) else 1.0

    def scaled(params: Any) -> tuple[Array, Any]:
        value, rest = loss(params, state.carry, batch, key)
        return value * factor, rest

    gradients, rest = jax.grad(scaled, has_aux=True)(state.params)
    return jax.tree.map(lambda leaf: (leaf / factor).astype(leaf.dtype), gradients), rest


def _rescaled(scale: Any, finite: Array) -> Any:
    if not isinstance(scale, LossScale):
        return scale
    count = jnp.where(finite, scale.finite + 1, 0)
    double = count == STEPS_TO_DOUBLE
    factor = scale.factor * jnp.where(finite, jnp.where(double, 2.0, 1.0), 0.5)
    factor = jnp.clip(factor, 1.0, LARGEST_SCALE)
    return LossScale(factor, jnp.where(double, 0, count))


def _averaged(state: TrainState, params: Any, decay: Any) -> Any:
    """Young averages forget sooner, so that they do not hold on to the first weights."""
    if not jax.tree.leaves(state.average):
        return state.average
    keep = jnp.minimum(decay, (1 + state.step) / (10 + state.step))

    def moved(old: Array, new: Array) -> Array:
        return (keep * old + (1 - keep) * new).astype(new.dtype)

    return jax.tree.map(moved, state.average, params)


def train_steps(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    data: Any,
    batch_size: int,
    steps: int,
    average_decay: Any = 0.0,
) -> tuple[TrainState, Metrics]:
    """Several steps of one epoch as a single `lax.scan`.

    Each epoch visits every example once, in an order drawn from the state's key and the epoch's
    number. ``steps`` must not cross the end of an epoch (``steps_per_epoch`` steps long).

    Returns:
      The new state, and each metric summed over the steps.
    """
    size = jax.tree.leaves(data)[0].shape[0]
    epoch, first = jnp.divmod(state.step, steps_per_epoch(size, batch_size))
    order, real = epoch_order(jax.random.fold_in(order_key(state.key), epoch), size, batch_size)
    rows = lax.dynamic_slice_in_dim(order, first, steps)
    masks = lax.dynamic_slice_in_dim(real, first, steps)

    def body(state: TrainState, row: tuple[Array, Array]) -> tuple[TrainState, Metrics]:
        return train_step(loss, optimizer, state, take(data, *row), average_decay)

    state, metrics = lax.scan(body, state, (rows, masks))
    return state, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)


def evaluate(
    measure: Callable[[Any, Any], Metrics], params: Any, data: Any, batch_size: int
) -> Metrics:
    """``measure(params, batch) -> metrics`` summed over all examples, in one `lax.scan`.

    It takes as few batches of at most ``batch_size`` as hold them all, and fills up little.
    """
    size = jax.tree.leaves(data)[0].shape[0]
    rows = filled_batches(jnp.arange(size), even_part(size, batch_size))

    def body(_: None, row: tuple[Array, Array]) -> tuple[None, Metrics]:
        return None, measure(params, take(data, *row))

    _, metrics = lax.scan(body, None, rows)
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)


def steps_per_epoch(size: int, batch_size: int) -> int:
    """How many batches hold ``size`` examples, a short last one included."""
    return -(-size // batch_size)


def even_part(size: int, limit: int) -> int:
    """The batch size that cuts ``size`` examples most evenly into the fewest batches.

    A multiple of 8, which devices can share, where the limit allows it.
    """
    part = -(-size // steps_per_epoch(size, limit))
    return min(-(-part // 8) * 8, limit)


def epoch_order(key: Array, size: int, batch_size: int) -> tuple[Array, Array]:
    """Indices ``[S, B]`` of one epoch's batches in random order, and which of them are real."""
    return filled_batches(jax.random.permutation(key, size), batch_size)


def filled_batches(indices: Array, batch_size: int) -> tuple[Array, Array]:
    """Indices ``[N]`` cut into ``[S, B]``, the last batch filled up with 0, and which are real."""
    size = indices.shape[0]
    steps = steps_per_epoch(size, batch_size)
    filled = jnp.zeros(steps * batch_size, indices.dtype).at[:size].set(indices)
    real = jnp.arange(steps * batch_size) < size
    return filled.reshape(steps, batch_size), real.reshape(steps, batch_size)


def take(data: dict[str, Array], indices: Array, mask: Array) -> dict[str, Array]:
    """The examples at ``indices`` ``[B]``, zero where ``mask`` is False, and the mask."""
    size = jax.tree.leaves(data)[0].shape[0]
    within = jnp.where(mask, indices, size)  # what lies outside is filled with zeros
    batch = {name: leaf.at[within].get(mode="fill", fill_value=0) for name, leaf in data.items()}
    return cut(batch | {"mask": mask}, axis=0)


def order_key(key: Array) -> Array:
    """Of the order of the data, from the run's key."""
    return jax.random.split(key)[1]


def cut(batch: Any, axis: int) -> Any:
    """The batch, its ``axis`` cut among the devices of the mesh that `jax.set_mesh` has set.

    Without a mesh that has an axis called ``"batch"``, or where its devices cannot share an array
    equally, it stays as it is. It changes where things are computed, and nothing else: the program
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


def _noise_key(key: Array) -> Array:
    return jax.random.split(key)[0]
