"""Explain what a classifier of images says of one: ``./launch.sh explain RUN --index=N``."""

import dataclasses
import functools
from typing import Any

import numpy as np
from jax import Array

from experiments.data.images import SHAPES
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.runs import Command, Run
from experiments.shared.classification import CLASSES
from experiments.shared.explainable import (
    Example,
    Explainable,
    Inside,
    Network,
    from_the_output,
    leaving_out,
)
from experiments.shared.explaining import ExplainFlags, explain_command
from experiments.shared.predict import ModelOf, read_image

BACKGROUND = 8  # training images over which SHAP averages


@dataclasses.dataclass(frozen=True)
class ExplainImage(ExplainFlags):
    """Hold the flags of ``./launch.sh explain``."""

    index: int = option(0, "which image of the test split", minimum=0)
    image: str = option("", "an image file in its place, of the size of the training images")


def explain_images(model_of: ModelOf, inside: Inside | None = None) -> Command:
    """Return the command, for an experiment whose network is ``model_of(config, image shape)``.

    Args:
      model_of: makes the network.
      inside: ``params -> (features, head)`` of its last convolution, if it has one.
    """
    return explain_command(ExplainImage, functools.partial(explainable, model_of, inside))


def explainable(
    model_of: ModelOf, inside: Inside | None, run: Run, flags: ExplainImage
) -> Explainable:
    """Return an image and the network that names its class; raises as `chosen_image` does."""
    shape = SHAPES[run.config.data]
    network = image_network(model_of, inside, run.config, shape, from_the_output(run.kept))
    image, title = chosen_image(flags, run.program.data, shape)
    train = np.asarray(run.program.data["train"]["images"])
    background = train[:BACKGROUND].astype(np.float32) / 255
    mean = train.mean(0, dtype=np.float32) / 255
    by_rows = model_of(run.config, shape).by_rows
    return Explainable(
        network=network,
        params=run.kept,
        example=Example(
            xs=image[None].astype(np.float32) / 255,
            lengths=None if by_rows is None else np.array([shape[0]]),
            baselines=np.stack([np.zeros_like(mean), mean]),
            background=background,
        ),
        answers=[str(k) for k in range(CLASSES)],
        baselines=("black", "mean image"),
        axes=("row", "column"),
        what="image",
        title=title,
    )


@functools.cache
def image_network(
    model_of: ModelOf,
    inside: Inside | None,
    config: Any,
    shape: tuple[int, int],
    layers: tuple[str, ...],
) -> Network:
    """Return the network of a Config; the same one each time, so that it compiles once."""
    model = model_of(config, shape)

    def logits(params: Any, xs: Array, mask: Array | None) -> Array:
        return model.logits(params, xs, 0.0, None)

    outputs = logits if model.by_rows is None else leaving_out(model.by_rows)
    return Network(outputs, model.init, layers, inside, sequence=False)


def chosen_image(flags: ExplainImage, data: Any, shape: tuple[int, int]) -> tuple[np.ndarray, str]:
    """Return one image as bytes, and what it is.

    Raises:
      UserError: for an index beyond the test split, or a file that cannot be read.
    """
    if flags.image:
        return read_image(flags.image, shape), flags.image
    check_index(flags.index, len(data["test"]["images"]))
    label = int(data["test"]["labels"][flags.index])
    return np.asarray(data["test"]["images"][flags.index]), f"test image {flags.index}, a {label}"


def check_index(index: int, count: int) -> None:
    """Raise `UserError` for an index beyond the test split."""
    if index >= count:
        raise UserError(f"--index: expected at most {count - 1}, got {index}.")
