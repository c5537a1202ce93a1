"""Make one update from several batches, whose gradients are averaged by the examples they hold."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax


class Accumulated(NamedTuple):
    """Hold the state of `accumulate` between two batches.

    Attributes:
      inner: the state of the optimizer that makes the updates.
      mean: the weighted mean of the gradients since the last update, in float32 or wider. Their
        weighted sum may be beyond the range of its type, where they and their mean are not.
      weight: the sum of their weights, ``[]``.
      batches: how many they are, ``[]``.
      updates: how many updates have been made, ``[]``.
    """

    inner: Any
    mean: Any
    weight: Array
    batches: Array
    updates: Array


def accumulate(
    optimizer: optax.GradientTransformation, every: int
) -> optax.GradientTransformationExtraArgs:
    """Let an optimizer make an update of the mean gradient of every so many batches.

    `optax.MultiSteps` gives a short last batch as much weight as a full one; here a batch counts by
    its ``weight``, so that batches of 8 and 4 examples make the update of one batch of 12.

    Args:
      optimizer: makes the updates. It is not called for the batches between them.
      every: the number of batches.

    Returns:
      A transformation whose ``update`` takes a keyword ``weight``, 1 by default. For the batches
      between two updates it returns zeros.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> twice = accumulate(optax.sgd(1.0), every=2)
      >>> updates, state = twice.update(jnp.float32(3), twice.init(jnp.float32(0)), weight=2)
      >>> float(updates)
      0.0
      >>> updates, state = twice.update(jnp.float32(6), state, weight=1)
      >>> float(updates), int(state.updates)
      (-4.0, 1)
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Accumulated:
        weight, batches, updates = jnp.float32(0), jnp.int32(0), jnp.int32(0)
        return Accumulated(inner.init(params), _zeros(params), weight, batches, updates)

    def update(
        updates: Any, state: Any, params: Any = None, *, weight: Any = 1.0, **extra: Any
    ) -> tuple[Any, Accumulated]:
        seen = state.weight + weight
        share = weight / jnp.where(seen > 0, seen, 1)
        rest = state.weight / jnp.where(seen > 0, seen, 1)

        def moved(mean: Array, gradient: Array) -> Array:
            return (rest * mean + share * gradient.astype(mean.dtype)).astype(mean.dtype)

        mean = jax.tree.map(moved, state.mean, updates)

        def make() -> tuple[Any, Accumulated]:
            means = jax.tree.map(lambda mean, leaf: mean.astype(leaf.dtype), mean, updates)
            made, after = inner.update(means, state.inner, params, **extra)
            return made, Accumulated(
                after, _zeros(updates), jnp.float32(0), jnp.int32(0), state.updates + 1
            )

        def wait() -> tuple[Any, Accumulated]:
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            later = state._replace(mean=mean, weight=seen, batches=state.batches + 1)
            return nothing, later

        shapes = jax.eval_shape(make)[0]
        return lax.cond(state.batches + 1 == every, make, wait)

    return optax.GradientTransformationExtraArgs(init, update)


def _zeros(tree: Any) -> Any:
    wide = jax.tree.map(lambda leaf: jnp.promote_types(leaf.dtype, jnp.float32), tree)
    return jax.tree.map(lambda leaf, dtype: jnp.zeros(leaf.shape, dtype), tree, wide)
