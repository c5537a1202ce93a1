"""How probable does a network that draws digits row by row find those that it has not seen?

Command: ./launch.sh row_likelihood [--data=digits] [--cell=gru]
         ./launch.sh sample RUN_DIRECTORY [--count=25] [--output=drawn.png] [--complete]
"""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.data.images import DATASETS, SHAPES, load_images
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.shared.cell_flag import cell_option, make_cell
from experiments.shared.drawing import LOSS, SEEN, Model, exhibits, init, nats
from experiments.shared.drawing_sheets import sample_command
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.losses import masked_average
from recurrent.training.task import HParams, Metrics


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the fields of this experiment."""

    data: str = option("mnist", "the images: scikit-learn's 8x8 or MNIST's 28x28", choices=DATASETS)
    split_seed: int = option(0, "decides which images are held out", minimum=0)
    ink_seed: int = option(
        0, "decides which pixels are black, each with the probability of its gray", minimum=0
    )
    cell: str = cell_option("lstm", ", which reads the rows; it must not look ahead")
    hidden_size: int = option(256, "H, of the rows", minimum=1, maximum=10**5)
    context_size: int = option(16, "features of the rows that a pixel sees", minimum=1)
    pixel_size: int = option(64, "H, of the GRU that runs along a row", minimum=1)
    dropout: float = option(
        0.2, "share of the features of the rows dropped", traced=True, minimum=0, below=1
    )
    epochs: int = 4
    batch_size: int = 64
    learning_rate: float = 3e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    data = inked_splits(config)
    model = model_of(config)

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        images = batch["images"].astype(jnp.float32)
        cost = nats(model, params, images, hparams["dropout"], key)
        found = masked_average(cost, batch["mask"])
        return found.mean, {"loss": found}

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        cost = nats(model, params, batch["images"].astype(jnp.float32))
        return {"loss": masked_average(cost, batch["mask"])}

    return minibatch_program(
        config,
        {name: {"images": images} for name, images in data.items()},
        partial(init, model),
        measure,
        LOSS,
        loss=loss,
        exhibits=partial(exhibits, model, data),
    )


def inked_splits(config: Config) -> dict[str, np.ndarray]:
    """Return the images of each split, zeros and ones ``[N, H, W]``."""
    splits = load_images(config.data, config.split_seed)._asdict()
    return {
        name: inked(split.images, [config.ink_seed, k])
        for k, (name, split) in enumerate(splits.items())
    }


def inked(images: np.ndarray, seed: list[int]) -> np.ndarray:
    """Draw each pixel black with the probability of its gray; uint8 zeros and ones, of one shape.

    Salakhutdinov & Murray 2008 did so; which pixels came out black is theirs, not ours.
    """
    gray = np.random.default_rng(seed).random(images.shape, np.float32)
    return (gray < images / np.float32(255)).astype(np.uint8)


def model_of(config: Config) -> Model:
    """Return the network for images of the data's shape.

    Raises:
      UserError: for a cell that looks ahead.
    """
    height, width = SHAPES[config.data]
    rows = make_cell(config.cell, width, config.hidden_size, causal=height)
    features = recurrent.output_shape(rows)[-1]
    return Model(
        rows=rows,
        context=recurrent.dense(features, width * config.context_size),
        pixels=recurrent.gru(1 + SEEN + config.context_size, config.pixel_size),
        readout=recurrent.dense(config.pixel_size, 1),
    )


commands = {"sample": sample_command(model_of, lambda config: inked_splits(config)["test"])}
