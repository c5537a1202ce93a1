"""Read from a cell's outputs what it has made of a whole sequence."""

import jax.numpy as jnp
from jax import Array


def summary(ys: Array, ahead: bool) -> Array:
    """Return the outputs at which a cell has read the whole sequence.

    It is the last output; of a cell that looks ahead the first and the last, side by side. A
    direction that reads backwards has seen everything at the first step, and at the last step one
    input alone; one that reads forwards, the other way round. What stands above the two directions,
    such as a dense layer, mixes them, so both steps are read as a whole.

    Args:
      ys: outputs ``[T, ..., H]`` of sequences of one length.
      ahead: whether the cell looks ahead, from `experiments.shared.causality.looks_ahead`.

    Returns:
      ``[..., H]``, or ``[..., 2 H]`` of a cell that looks ahead.

    Example:
      >>> import jax.numpy as jnp
      >>> ys = jnp.arange(6.0).reshape(3, 2)  # [T, H]
      >>> summary(ys, ahead=False).tolist(), summary(ys, ahead=True).tolist()
      ([4.0, 5.0], [0.0, 1.0, 4.0, 5.0])
    """
    return jnp.concatenate([ys[0], ys[-1]], axis=-1) if ahead else ys[-1]
