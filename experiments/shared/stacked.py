"""Stack the layers that predict what comes next, as a Config describes them."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

import recurrent
from experiments.harness.errors import UserError
from experiments.shared.cell_flag import make_cell
from recurrent.errors import ArgumentError


def autoregressive_layers(
    config: Any,
    input_size: int,
    longest: int,
    dropout: Any = 0.0,
    key: Array | None = None,
    *,
    drop: Callable[..., recurrent.Cell] = recurrent.step_dropout,
    weight_drop: float = 0.0,
) -> list[recurrent.Cell]:
    """Return the recurrent layers of a network, each followed by dropout.

    Args:
      config: its fields ``cell``, ``layers`` and ``hidden_size`` are read.
      input_size: D, of the first layer.
      longest: T, the longest sequence that is read at once.
      dropout: share of features dropped after each layer; may be traced.
      key: the random key of their masks; None in evaluation.
      drop: builds the dropout of features, from their number, its rate and a key.
      weight_drop: share of the recurrent weights dropped, as in `recurrent.weight_drop`.

    Raises:
      UserError: for a cell that looks ahead, which would read what it is to predict; it is tried
        in evaluation, whose network a program builds first. Where weights are to be dropped that
        the cell does not have.
    """
    count = 2 * config.layers
    keys = iter([None] * count if key is None else jax.random.split(key, count))
    parts: list[recurrent.Cell] = []
    made: dict[int, recurrent.Cell] = {}  # by the size of the inputs
    size, causal = input_size, longest if key is None else 0
    for _ in range(config.layers):
        if size not in made:
            made[size] = make_cell(config.cell, size, config.hidden_size, causal=causal)
        cell = made[size]
        size = recurrent.output_shape(cell)[-1]
        thin = thinned(cell, config.cell, weight_drop, next(keys))
        parts += [thin, drop(size, dropout, next(keys))]
    return parts


def thinned(cell: recurrent.Cell, name: str, rate: float, key: Array | None) -> recurrent.Cell:
    """Return a cell a share of whose recurrent weights is dropped.

    Raises:
      UserError: where it has none.
    """
    if not rate:
        return cell
    try:
        return recurrent.weight_drop(cell, rate, key)
    except ArgumentError as error:
        raise UserError(
            f"--weight_drop: the cell {name} has no weights of the name recurrent/kernel; leave it "
            "out, or choose a cell such as lstm."
        ) from error
