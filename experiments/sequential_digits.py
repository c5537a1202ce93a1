"""How well does a recurrent network read a handwritten digit, one row at a time?

Command: ./launch.sh sequential_digits [--data=mnist] [--order=pixel] [--cell=gru]
             [--cell=diagonal_s5 --blocks=3 --pool=4]
         ./launch.sh predict RUN_DIRECTORY --image=FILE
         ./launch.sh explain RUN_DIRECTORY --index=N
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

import recurrent
from experiments.data.images import ImageSet
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Figure, Program
from experiments.shared import cell_flag
from experiments.shared.averaging import averaged_classifier
from experiments.shared.blocks import block, pyramid
from experiments.shared.causality import looks_ahead
from experiments.shared.classification import CLASSES, Classifier, ClassifierConfig, classification
from experiments.shared.explain_images import explain_images
from experiments.shared.predict import predict_command
from experiments.shared.summary import summary

SHUFFLE_SEED = 0


@dataclasses.dataclass(frozen=True)
class Config(ClassifierConfig):
    """Hold the fields of this experiment."""

    cell: str = cell_flag.cell_option("lstm")
    hidden_size: int = option(128, "H, the size of the hidden state", minimum=1, maximum=10**5)
    order: str = option(
        "row",
        "what a time step shows: a row, a pixel, or a pixel in an order shuffled once, that of "
        f"numpy.random.default_rng({SHUFFLE_SEED}).permutation",
        choices=("row", "pixel", "permuted"),
    )
    blocks: int = option(
        0,
        "residual blocks of norm, cell and gated perceptron, the outputs of the last of which are "
        "averaged over time; 0 takes the cell alone, and its last output",
        minimum=0,
        maximum=100,
    )
    pool: int = option(
        1, "steps averaged into one between two blocks, so that they see ever fewer", minimum=1
    )
    learning_rate: float = 3e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    return classification(config, model_of)


def model_of(config: Config, image_shape: tuple[int, int]) -> Classifier:
    """Return the network that a Config asks for.

    Raises:
      UserError: for steps to be averaged between blocks where there are none.
    """
    if config.pool > 1 and config.blocks < 2:
        raise UserError(
            f"--pool: expected two --blocks or more, between which steps are averaged, got "
            f"{config.blocks}; leave it out, or add blocks."
        )
    read = reader(config.order, image_shape)
    steps, _, features = read(np.zeros((1, *image_shape))).shape
    if config.blocks:
        one = block(config.cell, config.hidden_size)
        layers = pyramid(features, [one] * config.blocks, config.pool)
        return averaged_classifier(layers, config.hidden_size, read)
    cell = cell_flag.make_cell(config.cell, features, config.hidden_size)
    found = sequence_classifier(cell, read, cell_flag.looks_ahead(config.cell, cell, steps))
    return found if config.order == "row" else found._replace(by_rows=None)


commands = {"predict": predict_command(model_of), "explain": explain_images(model_of)}


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
