"""How well does a recurrent network read a handwritten digit, one row at a time?

Command: ./launch.sh sequential_digits [--data=mnist] [--order=pixel] [--cell=gru]
             [--cell=diagonal_s5 --blocks=3 --pool=4]
         ./launch.sh predict RUN_DIRECTORY --image=FILE
         ./launch.sh explain RUN_DIRECTORY --index=N
"""

import dataclasses

import numpy as np

from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Program
from experiments.shared import cell_flag
from experiments.shared.averaging import averaged_classifier
from experiments.shared.blocks import block, pyramid
from experiments.shared.classification import Classifier, ClassifierConfig, classification
from experiments.shared.explain_images import explain_images
from experiments.shared.predict import predict_command
from experiments.shared.sequence_classifier import (
    ORDERS,
    SHUFFLE_SEED,
    reader,
    sequence_classifier,
)


@dataclasses.dataclass(frozen=True)
class Config(ClassifierConfig):
    """Hold the fields of this experiment."""

    cell: str = cell_flag.cell_option("lstm")
    hidden_size: int = option(128, "H, the size of the hidden state", minimum=1, maximum=10**5)
    order: str = option(
        "row",
        "what a time step shows: a row, a pixel, or a pixel in an order shuffled once, that of "
        f"numpy.random.default_rng({SHUFFLE_SEED}).permutation",
        choices=ORDERS,
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
