"""Turn a model into the function that is explained: one number for each example."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from recurrent.errors import ReturnError


def chosen_output(model: Callable[..., Any], index: Any, step: Any = None) -> Callable[..., Array]:
    """Return the function from inputs to one of the model's outputs for each example.

    Args:
      model: ``xs [B, ...] -> outputs [B, C]``, or ``[B, T, C]`` where a step is chosen; further
        arguments, such as a mask, are passed on.
      index: which output, such as the class: one integer, or ``[B]`` of them.
      step: which step, one integer or ``[B]`` of them; None where outputs have no axis of time.

    Returns:
      ``(xs, ...) -> [B]``.

    Raises:
      TypeError: when it is called, for outputs of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import chosen_output, gradient
      >>> weights = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> gradient(chosen_output(lambda xs: xs @ weights, [0, 1]), jnp.ones((2, 2))).tolist()
      [[1.0, 3.0], [2.0, 4.0]]
    """

    def score(xs: Array, *rest: Any) -> Array:
        outputs = jnp.asarray(model(xs, *rest))
        axes = 2 if step is None else 3
        if outputs.ndim != axes or outputs.shape[0] != xs.shape[0]:
            raise ReturnError(
                f"model: expected outputs {'[B, C]' if step is None else '[B, T, C]'} with B = "
                f"{xs.shape[0]}, got {list(outputs.shape)}."
            )
        rows = jnp.arange(outputs.shape[0])
        at = jnp.asarray(index)
        return outputs[rows, at] if step is None else outputs[rows, jnp.asarray(step), at]

    return score


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
