"""How often does a network read a whole string of handwritten digits correctly?

Strings of 1 to 8 digits that nearly touch, or overlap; new ones in each epoch; trained with CTC,
without being told where a digit stands. Strings of the test split are made of its images alone.

Command: ./launch.sh digit_strings [--data=digits] [--cell=gru]
         ./launch.sh predict RUN_DIRECTORY --image=FILE [--beam=10]
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array

from experiments.data.images import DATASETS, load_images
from experiments.harness.config import option
from experiments.harness.program import Exhibit, Finished, Program
from experiments.shared import digit_strips, transcribing
from experiments.shared.cell_flag import cell_option
from experiments.shared.reading import predict_command
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from experiments.shared.transcribing import EXACT, LOSS, Transcriber
from experiments.shared.transcripts import Strips, transcript_exhibits
from recurrent.training.bucketing import Buckets, bucket_sizes
from recurrent.training.task import HParams, Metrics

CLASSES = 10
SIZES = 4  # of batches


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the fields of this experiment."""

    data: str = option("mnist", "the images: scikit-learn's 8x8 or MNIST's 28x28", choices=DATASETS)
    split_seed: int = option(0, "decides which images are held out", minimum=0)
    cell: str = cell_option("lstm", ", which reads the frames in both directions")
    hidden_size: int = option(128, "H, of each direction", minimum=1, maximum=10**5)
    channels: int = option(
        24, "of the first convolution; the others have twice and four times as many", minimum=1
    )
    dropout: float = option(
        0.2, "share of features dropped before and after the cell", traced=True, minimum=0, below=1
    )
    rotation: float = option(
        7.0, "largest random rotation of a training digit, degrees", traced=True, minimum=0
    )
    scale: float = option(
        0.1,
        "largest random stretch of a training digit, a share of its size",
        traced=True,
        minimum=0,
        below=1,
    )
    average: float = 0.998
    epochs: int = 16
    batch_size: int = 32
    learning_rate: float = 2e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    splits = load_images(config.data, config.split_seed)._asdict()
    data = {
        name: digit_strips.strings_of(split, [config.split_seed, k])
        for k, (name, split) in enumerate(splits.items())
    }
    model = model_of(config)

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        keys = jax.random.split(key, 3)
        batch = digit_strips.redrawn(keys[0], batch)
        batch["images"] = digit_strips.distorted(keys[1], batch["images"], hparams)
        found = measured(params, batch, hparams["dropout"], keys[2])
        return found["loss"].mean, found

    def measured(params: Any, batch: Any, dropout: Any = 0.0, key: Any = None) -> Metrics:
        strips, widths = digit_strips.composed(batch)
        logits, frames = transcribing.frame_logits(model, params, strips, widths, dropout, key)
        return transcribing.metrics(
            logits, frames, batch["classes"], batch["counts"], batch["mask"]
        )

    limits = bucket_sizes(data["train"]["counts"], SIZES)
    cut = ("images", "classes", "gaps", "drops")
    return minibatch_program(
        config,
        data,
        partial(transcribing.init, model, digit_strips.HEIGHT),
        lambda params, batch, hparams: measured(params, batch),
        LOSS,
        loss=loss,
        report=EXACT,
        exhibits=partial(exhibits, model, data["test"]),
        buckets=Buckets("counts", limits, dict.fromkeys(cut, limits)),
    )


def model_of(config: Config) -> Transcriber:
    """Return the network."""
    channels = config.channels, 2 * config.channels, 4 * config.channels
    return transcribing.transcriber(config.cell, config.hidden_size, CLASSES, channels)


def exhibits(
    model: Transcriber, test: dict[str, np.ndarray], finished: Finished
) -> Iterator[Exhibit]:
    """Draw where digits fire, what was read wrongly, and how often."""
    images, widths = map(np.asarray, digit_strips.composed(test))
    truths = [row[:n].tolist() for row, n in zip(test["classes"], test["counts"], strict=True)]
    read = partial(transcribing.read, model, finished.kept, images, widths)
    strips = Strips(images, widths, truths, "test strings", "Greys")
    yield from transcript_exhibits(strips, read, CLASSES, finished)


commands = {"predict": predict_command(model_of)}
