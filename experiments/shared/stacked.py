"""Stack the layers that foretell what comes next, as a Config describes them."""

from typing import Any

import jax
from jax import Array

import recurrent
from experiments.shared.cell_flag import make_cell


def foretelling_layers(
    config: Any, input_size: int, longest: int, dropout: Any = 0.0, key: Array | None = None
) -> list[recurrent.Cell]:
    """Return the recurrent layers of a network, each followed by dropout.

    Args:
      config: its fields ``cell``, ``layers`` and ``hidden_size`` are read.
      input_size: D, of the first layer.
      longest: T, the longest sequence that is read at once.
      dropout: share of features dropped after each layer; may be traced.
      key: the random key of their masks; None in evaluation.

    Raises:
      UserError: for a cell that looks ahead, which would read what it is to foretell; it is tried
        in evaluation, whose network a program builds first.
    """
    keys = [None] * config.layers if key is None else jax.random.split(key, config.layers)
    parts: list[recurrent.Cell] = []
    made: dict[int, recurrent.Cell] = {}  # by the size of the inputs
    size, causal = input_size, longest if key is None else 0
    for own in keys:
        if size not in made:
            made[size] = make_cell(config.cell, size, config.hidden_size, causal=causal)
        cell = made[size]
        size = recurrent.output_shape(cell)[-1]
        parts += [cell, recurrent.step_dropout(size, dropout, own)]
    return parts
