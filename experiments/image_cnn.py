"""How well does the article's convolutional network recognise a handwritten digit?

Command: ./launch.sh image_cnn [--data=mnist]
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax import Array

from experiments.data.images import ImageSet, load_images
from experiments.harness.program import Picture, Program
from experiments.shared.classification import CLASSES, Classifier, ClassifierConfig, classification


@dataclasses.dataclass(frozen=True)
class Config(ClassifierConfig):
    """The fields of this experiment."""

    learning_rate: float = 1e-3


def program(config: Config) -> Program:
    """The training run that ``config`` describes."""
    splits = load_images(config.data, config.split_seed)
    height, width = splits.train.images.shape[1:]
    return classification(config, splits, convnet_classifier(height, width), kernel_picture)


def convnet_classifier(height: int, width: int) -> Classifier:
    """`recurrent.convnet.ConvNet` as a Classifier."""
    from recurrent.convnet import ConvNet

    net = ConvNet(CLASSES)

    def init(key: Array) -> Any:
        return net.init(key, np.zeros((1, height, width, 1), np.float32))["params"]

    def logits(params: Any, images: Array, dropout_rate: Any, key: Array | None) -> Array:
        apply = net.apply({"params": params}, images[..., None], dropout_rate, key)
        return apply  # pyright: ignore[reportReturnType]

    return Classifier(init, logits)


def kernel_picture(params: Any, test: ImageSet) -> Iterator[Picture]:
    """The first layer's kernels."""
    from experiments.figures.kernels import kernels

    yield Picture(
        "kernels",
        "What the first layer looks for",
        "The kernels of the first convolution: red where ink counts for, blue against.",
        kernels(np.asarray(params["Conv_0"]["kernel"])),
    )
