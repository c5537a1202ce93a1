"""Train on a long sequence as parallel streams, by truncated backpropagation through time.

The sequence is split into B streams of equal length, side by side. A step reads the next window of
T tokens of each, from the state where the step before has stopped; gradients stay in the window.
Williams and Peng 1990.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from recurrent.errors import ArgumentError
from recurrent.training.minibatch import shard_batch, total
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


def tbptt_task(
    init: Callable[[Array], Any],
    start: Callable[[Any, int], Any],
    loss: Callable[[Any, Any, Array, Any, HParams], tuple[Array, tuple[Metrics, Any]]],
    measure: Callable[[Any, Any, Any, HParams], tuple[Metrics, Any]],
    optimizer: Callable[[HParams], optax.GradientTransformation],
    *,
    streams: int,
    window: int,
    evaluation_streams: int,
    average_decay: float = 0.0,
    loss_scale: float = 0.0,
) -> Task:
    """Build the task that minimizes a loss over the windows of a long sequence.

    Its data is a dict with ``"tokens"`` ``[N]``. Each epoch closes the sequence to a ring, splits
    it at another position, drawn from the state's key and the number of the epoch, and begins with
    fresh states; ``steps`` of one call of ``task.train`` must not cross the end of an epoch, which
    is `steps_per_epoch` steps long. The hyperparameters need a ``"seed"``.

    Args:
      init: ``key -> params``.
      start: ``(params, streams) -> carry``, the recurrent state before the first token.
      loss: ``(params, batch, key, carry, hparams) -> (scalar, (metrics, carry))``, the batch being
        ``{"inputs", "targets"}``, tokens ``[T, B]`` and their successors. No gradient enters the
        carry.
      measure: ``(params, batch, carry, hparams) -> (metrics, carry)``, the batch with ``"mask"``
        ``[T, B]``, False past the sequence's end.
      optimizer: ``hparams -> optimizer``, built inside the compiled program.
      streams: B.
      window: T.
      evaluation_streams: B in evaluations.
      average_decay: of the running average of the params that is evaluated; 0 for none.
      loss_scale: see `recurrent.training.step.init_state`.

    Raises:
      ValueError: by ``task.train``, for a sequence without a window for each stream, or more steps
        than an epoch has; by ``task.evaluate``, for a sequence of fewer than two tokens.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from recurrent.losses import Average
      >>> def measure(params, batch, carry, hparams):
      ...     seen = carry + batch["inputs"].sum(axis=0)
      ...     return {"tokens": Average(batch["mask"].sum(), jnp.int32(1))}, seen
      >>> task = tbptt_task(
      ...     init=lambda key: {"w": jnp.zeros(1)},
      ...     start=lambda params, streams: jnp.zeros(streams, jnp.int32),
      ...     loss=lambda params, batch, key, carry, hparams: (params["w"].sum(), ({}, carry)),
      ...     measure=measure,
      ...     optimizer=lambda hparams: optax.sgd(1.0),
      ...     streams=2, window=4, evaluation_streams=2,
      ... )
      >>> state = task.init({"seed": 0})
      >>> state, _ = task.train(state, {}, {"tokens": jnp.arange(24)}, 3)
      >>> float(task.evaluate(state.params, {}, {"tokens": jnp.arange(24)})["tokens"].total)
      23.0
    """

    def init_all(hparams: HParams) -> TrainState:
        return init_state(
            init,
            optimizer(hparams),
            jax.random.key(hparams["seed"]),
            lambda params: start(params, streams),
            keep_average=average_decay > 0,
            loss_scale=loss_scale,
        )

    def train(state: TrainState, hparams: HParams, data: Any, steps: int) -> Any:
        tokens = data["tokens"]
        heads, first = next_windows(state, tokens.shape[0], streams, window, steps)

        def step(state: TrainState, k: Array) -> tuple[TrainState, Metrics]:
            fresh = start(state.params, streams)
            carry = jax.tree.map(lambda new, old: jnp.where(k == 0, new, old), fresh, state.carry)
            batch = window_at(tokens, heads + k * window, window)

            key = step_key(state)
            slopes, (metrics, after) = gradients(loss, state, batch, key, carry, hparams)
            state, update = apply_gradients(optimizer(hparams), state, slopes, average_decay)
            # a skipped step changes the carry no more than the weights
            state = state._replace(carry=where_applied(state, after, carry))
            return state, where_applied(state, metrics) | update

        state, metrics = lax.scan(step, state, first + jnp.arange(steps))
        return state, total(metrics)

    def evaluate(params: Any, hparams: HParams, data: Any) -> Metrics:
        def of_window(params: Any, batch: Any, carry: Any) -> tuple[Metrics, Any]:
            return measure(params, batch, carry, hparams)

        return evaluate_streams(
            of_window, params, data["tokens"], start, streams=evaluation_streams, window=window
        )

    return Task(init_all, train, evaluate)


def steps_per_epoch(size: int, streams: int, window: int) -> int:
    """Return how many windows fit into each stream of a sequence of ``size`` tokens.

    Example:
      >>> steps_per_epoch(100, streams=4, window=10)
      2
    """
    return size // streams // window


def next_windows(
    state: TrainState, size: int, streams: int, window: int, steps: int
) -> tuple[Array, Array]:
    """Return where the streams of the current epoch begin ``[B]``, and its next window ``[]``.

    Raises:
      ValueError: where the epoch has fewer than ``steps`` windows.
    """
    in_epoch = steps_per_epoch(size, streams, window)
    if not 1 <= steps <= in_epoch:
        raise ArgumentError(
            f"steps: expected 1 to {in_epoch}, the windows of {window} in each of {streams} "
            f"streams of {size} tokens, got {steps}."
        )
    epoch, first = jnp.divmod(state.step, in_epoch)
    split = jax.random.randint(jax.random.fold_in(order_key(state), epoch), (), 0, size)
    return split + jnp.arange(streams) * (size // streams), first


def window_at(tokens: Array, heads: Array, window: int) -> dict[str, Array]:
    """Return the inputs and targets ``[T, B]`` that begin at ``heads`` ``[B]`` of a ring of tokens.

    Example:
      >>> import jax.numpy as jnp
      >>> batch = window_at(jnp.arange(6), jnp.array([0, 4]), 2)
      >>> batch["inputs"].tolist(), batch["targets"].tolist()
      ([[0, 4], [1, 5]], [[1, 5], [2, 0]])
    """
    read = tokens[(heads + jnp.arange(window + 1)[:, None]) % tokens.shape[0]]  # [T + 1, B]
    return shard_batch({"inputs": read[:-1], "targets": read[1:]}, axis=1)


def evaluate_streams(
    measure: Callable[[Any, Any, Any], tuple[Metrics, Any]],
    params: Any,
    tokens: Array,
    start: Callable[[Any, int], Any],
    *,
    streams: int,
    window: int,
) -> Metrics:
    """Add up metrics over all tokens but the first, the state carried along each stream.

    Args:
      measure: ``(params, batch, carry) -> (metrics, carry)``, the batch as in `tbptt_task` with
        ``"mask"`` ``[T, B]``, False past the sequence's end.
      params: of the model.
      tokens: ``[N]``.
      start: ``(params, streams) -> carry``.
      streams: B.
      window: T.

    Raises:
      ValueError: for a sequence of fewer than two tokens, no stream or no window.
    """
    if tokens.shape[0] < 2 or min(streams, window) < 1:
        raise ArgumentError(
            "tokens, streams, window: expected at least 2, 1 and 1, got "
            f"{tokens.shape[0]}, {streams} and {window}."
        )
    pairs = tokens.shape[0] - 1
    length = -(-pairs // streams)
    heads = jnp.arange(streams) * length

    def body(carry: Any, k: Array) -> tuple[Any, Metrics]:
        along = k * window + jnp.arange(window)[:, None]  # [T, 1]
        at = heads + along  # [T, B]
        mask = (along < length) & (at < pairs)
        read = [tokens[jnp.minimum(at + ahead, pairs)] for ahead in (0, 1)]
        batch = shard_batch({"inputs": read[0], "targets": read[1], "mask": mask}, axis=1)
        metrics, carry = measure(params, batch, carry)
        return carry, metrics

    _, metrics = lax.scan(body, start(params, streams), jnp.arange(-(-length // window)))
    return total(metrics)
