"""Read images as sequences, and name their class by what a cell makes of the whole of one."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

import recurrent
from experiments.data.images import ImageSet
from experiments.harness.program import Figure
from experiments.shared.causality import looks_ahead
from experiments.shared.classification import CLASSES, Classifier
from experiments.shared.summary import summary

ORDERS = ("row", "pixel", "permuted")
SHUFFLE_SEED = 0


def reader(order: str, image_shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """Return the function from images ``[B, height, width]``, 0 to 1, to sequences ``[T, B, D]``.

    Rows give T = height and D = width; pixels T = height * width and D = 1.
    """
    pixels = np.arange(np.prod(image_shape))
    if order == "permuted":
        pixels = np.random.default_rng(SHUFFLE_SEED).permutation(pixels)

    def read(images: Any) -> Any:
        centered = 2 * images - 1
        if order == "row":
            return centered.swapaxes(0, 1)  # [height, B, width]
        return centered.reshape(len(images), len(pixels)).T[pixels, :, None]  # [T, B, 1]

    return read


def sequence_classifier(
    cell: recurrent.Cell, read: Callable[[Any], Any], ahead: bool | None = None
) -> Classifier:
    """Return the model in which a readout of what the cell made of the sequence names the class.

    That is its last output; of a cell that looks ahead, such as a bidirectional one, its first and
    its last output: see `experiments.shared.summary.summary`.

    Args:
      cell: the cell.
      read: from images to sequences, a `reader`.
      ahead: whether the cell looks ahead; None has it tried.
    """
    ahead = looks_ahead(cell) if ahead is None else ahead
    head = recurrent.dense(recurrent.output_shape(cell)[-1] * (2 if ahead else 1), CLASSES)

    def init(key: Array) -> Any:
        cell_key, head_key = jax.random.split(key)
        return {"cell": cell.init(cell_key), "head": head.init(head_key)}

    def logits(params: Any, images: Array, dropout_rate: Any, key: Array | None) -> Array:
        _, ys = recurrent.unroll(cell, params["cell"], read(images))  # [T, B, H]
        whole = recurrent.dropout(summary(ys, ahead), dropout_rate, key)
        return head.apply(params["head"], whole)

    def by_rows(params: Any, images: Array, lengths: Array) -> Array:
        _, ys = recurrent.unroll(cell, params["cell"], read(images), lengths=lengths)
        ends = jax.numpy.stack([ys[0], recurrent.last_output(ys, lengths)])  # ys is 0 past each end
        return head.apply(params["head"], summary(ends, ahead))

    def exhibits(params: Any, test: ImageSet) -> Iterator[Figure]:
        yield hidden_state(cell, params["cell"], read(test.images[:1] / 255), test.labels[0])

    return Classifier(init, logits, exhibits, by_rows)


def hidden_state(cell: recurrent.Cell, params: Any, xs: np.ndarray, label: Any) -> Figure:
    """Draw what the cell's outputs do while it reads one image ``[T, 1, D]``."""
    from experiments.figures.states import hidden_over_time

    _, ys = recurrent.unroll(cell, params, jax.numpy.asarray(xs, "float32"))
    return Figure(
        "hidden_state",
        "The hidden state over time",
        f"What every hidden unit does while the network reads a {label} from the test set.",
        hidden_over_time(np.asarray(ys)[:, 0], xs[:, 0], f"Reading a {label}"),
    )
