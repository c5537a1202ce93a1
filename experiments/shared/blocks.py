"""Stack residual blocks of a cell that a flag names."""

from typing import Any

import recurrent
from experiments.harness.errors import UserError
from experiments.shared.cell_flag import make_cell


def deep(
    name: str, input_size: int, hidden_size: int, blocks: int, options: dict[str, Any]
) -> recurrent.Cell:
    """Return residual blocks of the cell of that name, each followed by a gated perceptron.

    Each is ``x' = x + cell(norm(x))``, ``y = x' + mlp(norm(x'))`` with RMS norms, after an affine
    map of the input; a last norm follows.

    Args:
      name: of the cell.
      input_size: D.
      hidden_size: H, of all blocks.
      blocks: how many.
      options: of the cell.

    Raises:
      UserError: where the cell is none, or changes the size of what it reads.
    """
    cell = make_cell(name, hidden_size, hidden_size, **options)
    if recurrent.output_shape(cell) != cell.input_shape:
        raise UserError(
            f"--blocks: expected a cell that returns as many numbers as it reads; {name} reads "
            f"{hidden_size} and returns {list(recurrent.output_shape(cell))}; take another --cell."
        )
    block = recurrent.pre_norm_block(cell, recurrent.mlp(hidden_size, hidden_size, kind="swiglu"))
    return recurrent.stack(
        recurrent.dense(input_size, hidden_size),
        *[block] * blocks,
        recurrent.rms_norm(hidden_size),
        input_shape=(input_size,),
    )
