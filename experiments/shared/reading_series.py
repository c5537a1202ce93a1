"""Read whole time series of unequal lengths, in both directions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import recurrent
from experiments.shared.cell_flag import make_cell
from recurrent.training.minibatch import steps_per_epoch

STEPS = 1500  # of a training, by default


def epochs_of(config: Any, examples: int) -> int:
    """Return the epochs of a training; where the Config has none, as many as make `STEPS` steps."""
    return config.epochs or -(-STEPS // steps_per_epoch(examples, config.batch_size))


class Reader(NamedTuple):
    """Say how series are read.

    Attributes:
      cell: the name of ``--cell``.
      input_size: D.
      hidden_size: H, of each direction.
      layers: how many are stacked.
    """

    cell: str
    input_size: int
    hidden_size: int
    layers: int

    def model(self, rate: Any = 0.0, key: Array | None = None) -> recurrent.Cell:
        """Return the stack of layers, each read in both directions, with dropout between them."""
        keys = [None] * self.layers if key is None else jax.random.split(key, self.layers)
        parts: list[recurrent.Cell] = []
        size = self.input_size
        for own in keys:
            if parts:
                parts.append(recurrent.variational_dropout(size, rate, own))
            ahead, back = (make_cell(self.cell, size, self.hidden_size) for _ in range(2))
            parts.append(recurrent.bidirectional(ahead, back))
            size = recurrent.output_shape(parts[-1])[-1]
        return recurrent.stack(*parts)

    @property
    def size(self) -> int:
        """Return how many features `read` gives."""
        return 4 * recurrent.output_shape(self.model())[-1]


def read(
    reader: Reader, params: Any, xs: Array, lengths: Array, rate: Any, key: Array | None
) -> Array:
    """Return the features of series ``[B, F]``, after dropout.

    They are the mean and the largest of the outputs over the real steps, and the outputs at both
    ends, at which one direction or the other has read everything.

    Args:
      reader: the network.
      params: of its model.
      xs: ``[T, B, D]``.
      lengths: ``[B]``; the examples that fill up a batch have none, and features of zeros.
      rate: share of features dropped; may be traced.
      key: the random key of the masks; None in evaluation.
    """
    keys = (None, None) if key is None else jax.random.split(key)
    _, ys = recurrent.unroll(reader.model(rate, keys[0]), params, xs, lengths=lengths)
    real = recurrent.length_mask(lengths, len(ys))[..., None]
    mean = ys.sum(0) / jnp.maximum(lengths, 1)[:, None]  # outputs past the end are 0
    most = jnp.where(real.any(0), jnp.where(real, ys, -jnp.inf).max(0), 0)
    features = jnp.concatenate([mean, most, recurrent.last_output(ys, lengths), ys[0]], axis=-1)
    return recurrent.dropout(features, rate, keys[1])
