"""How well does the survey's convolutional network recognize a handwritten digit?

Command: ./launch.sh image_cnn [--data=mnist]
         ./launch.sh predict RUN_DIRECTORY --image=FILE
         ./launch.sh explain RUN_DIRECTORY --index=N
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax import Array

from experiments.data.images import ImageSet
from experiments.harness.program import Figure, Program
from experiments.shared.classification import CLASSES, Classifier, ClassifierConfig, classification
from experiments.shared.convnet_parts import parts_of
from experiments.shared.explain_images import explain_images
from experiments.shared.predict import predict_command


@dataclasses.dataclass(frozen=True)
class Config(ClassifierConfig):
    """Hold the fields of this experiment."""

    learning_rate: float = 1e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    return classification(config, convnet_classifier)


def convnet_classifier(config: Config, image_shape: tuple[int, int]) -> Classifier:
    """Return `recurrent.convnet.ConvNet` as a Classifier."""
    from recurrent.convnet import ConvNet

    net = ConvNet(CLASSES)

    def init(key: Array) -> Any:
        return net.init(key, np.zeros((1, *image_shape, 1), np.float32))["params"]

    def logits(params: Any, images: Array, dropout_rate: Any, key: Array | None) -> Array:
        apply = net.apply({"params": params}, images[..., None], dropout_rate, key)
        return apply  # pyright: ignore[reportReturnType]

    return Classifier(init, logits, first_kernels)


commands = {
    "predict": predict_command(convnet_classifier),
    "explain": explain_images(convnet_classifier, parts_of),
}


def first_kernels(params: Any, test: ImageSet) -> Iterator[Figure]:
    """Draw the first layer's kernels."""
    from experiments.figures.kernels import kernels

    yield Figure(
        "kernels",
        "What the first layer looks for",
        "The kernels of the first convolution: red where ink counts for, blue against.",
        kernels(np.asarray(params["Conv_0"]["kernel"])),
    )
