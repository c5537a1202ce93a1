"""Turn a model into the function that is explained: one number for each example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from recurrent.cell import as_array
from recurrent.errors import ArgumentError, ReturnError
from recurrent.explain._inputs import returned


def chosen_output(model: Callable[..., Any], index: Any, step: Any = None) -> Callable[..., Array]:
    """Return the function from inputs to one of the model's outputs for each example.

    Args:
      model: ``xs [B, ...] -> outputs [B, C]``, or ``[B, T, C]`` where a step is chosen; further
        arguments, such as a mask, are passed on.
      index: which output, such as the class: one integer, or ``[B]`` of them; -1 is the last.
      step: which step, one integer or ``[B]`` of them; None where outputs have no axis of time.
        Steps below 0 count from the end, where there is a mask ``[B, T]`` from the last step in it,
        so that -1 is the last step of each sequence.

    Returns:
      ``(xs, ...) -> [B]``.

    Raises:
      ValueError: when it is called, for an index or a step that is no integer or not there; what is
        traced cannot be checked.
      TypeError: when it is called, for outputs of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import chosen_output, gradient
      >>> weights = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> gradient(chosen_output(lambda xs: xs @ weights, [0, 1]), jnp.ones((2, 2))).tolist()
      [[1.0, 3.0], [2.0, 4.0]]
    """

    def score(xs: Array, *rest: Any) -> Array:
        outputs = returned("model", model(xs, *rest))
        axes = 2 if step is None else 3
        if outputs.ndim != axes or outputs.shape[0] != xs.shape[0]:
            raise ReturnError(
                f"model: expected outputs {'[B, C]' if step is None else '[B, T, C]'} with B = "
                f"{xs.shape[0]}, got {list(outputs.shape)}."
            )
        rows = jnp.arange(outputs.shape[0])
        at = _places("index", index, outputs.shape[0], outputs.shape[-1])
        if step is None:
            return outputs[rows, at]
        times = _places("step", step, *outputs.shape[:2])
        return outputs[rows, _real_places(times, _mask_of(rest, outputs)), at]

    return score


def _places(name: str, chosen: Any, batch: int, count: int) -> Array:
    """Return which places of an axis are chosen, ``[]`` or ``[B]``, if they are there."""
    places = as_array(name, chosen)
    if not jnp.issubdtype(places.dtype, jnp.integer) or places.shape not in ((), (batch,)):
        raise ArgumentError(
            f"{name}: expected an integer, or one for each of {batch} examples, got {chosen!r}."
        )
    if not isinstance(places, Tracer):
        known = np.asarray(places)
        if (known < -count).any() or (known >= count).any():
            raise ArgumentError(
                f"{name}: expected 0 to {count - 1}, or from -{count} on from the end, got "
                f"{chosen!r}."
            )
    return places


def _mask_of(rest: tuple[Any, ...], outputs: Array) -> Array | None:
    mask = rest[0] if rest else None
    if not isinstance(mask, jax.Array | np.ndarray):
        return None
    fits = mask.dtype == np.bool_ and mask.shape == outputs.shape[:2]
    return jnp.asarray(mask) if fits else None


def _real_places(times: Array, mask: Array | None) -> Array:
    """Count steps below 0 from the last one in a mask ``[B, T]``; refuse those outside of it."""
    if mask is None:
        return times
    times = jnp.broadcast_to(times, mask.shape[:1])
    from_end = jnp.cumsum(mask[:, ::-1], 1)[:, ::-1] * mask  # 1 at the last step in the mask
    found = jnp.where(times < 0, jnp.argmax(from_end == -times[:, None], 1), times)
    there = jnp.where(times < 0, mask.sum(1) >= -times, mask[jnp.arange(len(mask)), found])
    there |= ~mask.any(1)  # of an empty sequence no step is
    if not isinstance(there, Tracer) and not there.all():
        row = int(jnp.argmin(there))
        raise ArgumentError(
            f"step: expected a step of the {int(mask[row].sum())} that sequence {row} has, got "
            f"{int(times[row])}; -1 is the last."
        )
    return found


def time_major(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return a model of sequences ``[B, T, ...]`` from one of ``[T, B, ...]``.

    Explanations are batch-first, as images are, while `recurrent.unroll` is time-major.

    Args:
      model: ``(xs [T, B, ...], mask [T, B]) -> outputs`` with B in front, or without the mask.

    Returns:
      ``(xs [B, T, ...], mask [B, T]) -> outputs``, or without the mask.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import gru, unroll
      >>> from recurrent.explain import chosen_output, gradient, time_major
      >>> cell = gru(3, 4)
      >>> params = cell.init(jax.random.key(0))
      >>> def last_state(xs, mask):
      ...     return unroll(cell, params, xs, mask=mask)[0].hidden
      >>> f = chosen_output(time_major(last_state), 2)
      >>> found = gradient(f, jnp.ones((2, 5, 3)), lengths=[5, 3])  # [B, T, F]
      >>> found.shape, found[1, 3:].tolist()
      ((2, 5, 3), [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    """

    def batch_first(xs: Array, *mask: Array) -> Any:
        return model(*(jnp.swapaxes(a, 0, 1) for a in (xs, *mask)))

    return batch_first
