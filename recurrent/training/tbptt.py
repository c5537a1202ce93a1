"""A long sequence as parallel streams, trained on with truncated backpropagation through time.

The sequence is cut into B streams of equal length, side by side. A step reads the next window of
T tokens of each, from the state where the step before has stopped; gradients stay in the window.
Williams and Peng 1990.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from recurrent.training.step import CarryingLoss, Metrics, TrainState, carrying_step, cut, order_key

Measure = Callable[[Any, Any, Any], tuple[Metrics, Any]]


def steps_per_epoch(size: int, streams: int, window: int) -> int:
    """How many windows fit into each stream of a sequence of ``size`` tokens."""
    return size // streams // window


def train_streams(
    loss: CarryingLoss,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    tokens: Array,
    start: Callable[[Any], Any],
    *,
    streams: int,
    window: int,
    steps: int,
    average_decay: Any = 0.0,
) -> tuple[TrainState, Metrics]:
    """Several steps of one epoch as a single `lax.scan`.

    Each epoch cuts the sequence, closed to a ring, at another place, drawn from the state's key and
    the epoch's number, and begins with a fresh carry. ``steps`` must not cross its end
    (`steps_per_epoch`).

    Args:
      loss: ``(params, carry, batch, key) -> (scalar, (metrics, carry))``, the batch being
        ``{"inputs", "targets"}``, tokens ``[T, B]`` and their successors.
      optimizer: of the params.
      state: with a carry like ``start(params)``.
      tokens: ``[N]``.
      start: ``params -> carry``.
      streams: B.
      window: T.
      steps: how many.
      average_decay: see `recurrent.train.train_step`.

    Returns:
      The new state, and each metric summed over the steps.

    Raises:
      ValueError: for a sequence without a window for each stream, or more steps than an epoch has.
    """
    size = tokens.shape[0]
    in_epoch = steps_per_epoch(size, streams, window)
    if not 1 <= steps <= in_epoch:
        raise ValueError(
            f"steps: expected 1 to {in_epoch}, the windows of {window} in each of {streams} "
            f"streams of {size} tokens, got {steps}."
        )
    epoch, first = jnp.divmod(state.step, in_epoch)
    place = jax.random.randint(jax.random.fold_in(order_key(state.key), epoch), (), 0, size)
    heads = place + jnp.arange(streams) * (size // streams)

    def body(state: TrainState, k: Array) -> tuple[TrainState, Metrics]:
        fresh = start(state.params)
        carry = jax.tree.map(lambda new, old: jnp.where(k == 0, new, old), fresh, state.carry)
        read = tokens[(heads + k * window + jnp.arange(window + 1)[:, None]) % size]
        batch = cut({"inputs": read[:-1], "targets": read[1:]}, axis=1)
        state = state._replace(carry=carry)
        return carrying_step(loss, optimizer, state, batch, average_decay)

    state, metrics = lax.scan(body, state, first + jnp.arange(steps))
    return state, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)


def evaluate_streams(
    measure: Measure,
    params: Any,
    tokens: Array,
    start: Callable[[Any], Any],
    *,
    streams: int,
    window: int,
) -> Metrics:
    """Metrics over all tokens but the sequence's first, the state carried along each stream.

    Args:
      measure: ``(params, carry, batch) -> (metrics, carry)``, the batch as in `train_streams` with
        ``"mask"`` ``[T, B]``, False past the sequence's end.
      params: of the model.
      tokens: ``[N]``.
      start: ``params -> carry``.
      streams: B.
      window: T.

    Raises:
      ValueError: for a sequence of fewer than two tokens, no stream or no window.
    """
    if tokens.shape[0] < 2 or min(streams, window) < 1:
        raise ValueError(
            "tokens, streams, window: expected at least 2, 1 and 1, got "
            f"{tokens.shape[0]}, {streams} and {window}."
        )
    pairs = tokens.shape[0] - 1
    length = -(-pairs // streams)
    heads = jnp.arange(streams) * length

    def body(carry: Any, k: Array) -> tuple[Any, Metrics]:
        along = k * window + jnp.arange(window)[:, None]
        places = heads + along
        mask = (along < length) & (places < pairs)
        read = [tokens[jnp.minimum(places + ahead, pairs)] for ahead in (0, 1)]
        batch = cut({"inputs": read[0], "targets": read[1], "mask": mask}, axis=1)
        metrics, carry = measure(params, carry, batch)
        return carry, metrics

    _, metrics = lax.scan(body, start(params), jnp.arange(-(-length // window)))
    return jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)
