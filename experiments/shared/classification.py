"""From a model of images to a Program: loss, evaluation and the pictures of any classifier."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.images import DATASETS, ImageSet, Splits
from experiments.harness.config import TrainingConfig, option
from experiments.harness.program import Numbers, Picture, Program, best_step, lowest_loss
from experiments.shared.optimizer_flags import optimizer_of
from recurrent import losses
from recurrent.images import random_affine
from recurrent.training import step
from recurrent.training.task import Task

CLASSES = 10
EPOCHS = {"digits": 100, "mnist": 6}


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(TrainingConfig):
    """The fields of every image classifier."""

    epochs: int = option(
        0,
        "passes over the training images; 0 takes 100 for digits and 6 for mnist",
        minimum=0,
        maximum=10**6,
    )
    data: str = option(
        "digits", "the images: scikit-learn's 8x8 or MNIST's 28x28", choices=DATASETS
    )
    split_seed: int = option(0, "decides which images are held out", minimum=0)
    dropout: float = option(
        0.2, "share of features dropped before the read-out", traced=True, minimum=0, below=1
    )
    label_smoothing: float = option(
        0.0, "share of each label spread over all classes", traced=True, minimum=0, below=1
    )
    rotation: float = option(
        10.0, "largest random turn of a training image, degrees", traced=True, minimum=0
    )
    scale: float = option(
        0.1,
        "largest random stretch of a training image, a share of its size",
        traced=True,
        minimum=0,
        below=1,
    )
    shift: float = option(
        0.08,
        "largest random move of a training image, a share of its size",
        traced=True,
        minimum=0,
        below=1,
    )


class Classifier(NamedTuple):
    """A model: ``init: key -> params`` and its logits.

    Attributes:
      init: ``key -> params``.
      logits: ``(params, images, dropout_rate, key) -> [B, 10]`` with images ``[B, height,
        width]``, floats from 0 to 1, and the key None in evaluation.
    """

    init: Callable[[Array], Any]
    logits: Callable[[Any, Array, Any, Array | None], Array]


def classification(
    config: ClassifierConfig,
    splits: Splits,
    model: Classifier,
    own_pictures: Callable[[Any, ImageSet], Iterator[Picture]],
) -> Program:
    """The Program that trains ``model`` on ``splits``; ``own_pictures`` come after the common."""
    data = {name: as_arrays(split) for name, split in splits._asdict().items()}
    epochs = config.epochs or EPOCHS[config.data]
    steps_per_epoch = step.steps_per_epoch(len(splits.train.labels), config.batch_size)
    optimizer = optimizer_of(config, epochs, steps_per_epoch)

    def init(numbers: Numbers) -> step.TrainState:
        key = jax.random.key(numbers["seed"])
        kept: Any = {"keep_average": config.average > 0, "loss_scale": config.loss_scale}
        return step.init_state(model.init, optimizer(numbers), key, **kept)

    def train_steps(state: Any, numbers: Numbers, data: Any, steps: int):
        def loss(params, batch, key):
            return training_loss(model, numbers, params, batch, key)

        sizes = config.batch_size, steps, config.average
        return step.train_steps(loss, optimizer(numbers), state, data, *sizes)

    def evaluate(params: Any, data: Any) -> step.Metrics:
        def measure(params, batch):
            logits = model.logits(params, unit_range(batch["images"]), 0.0, None)
            return metrics(logits, batch)

        return step.evaluate(measure, params, data, batch_size=500)

    def pictures(params: Any, rows: list[dict[str, Any]]) -> Iterator[Picture]:
        yield from common_pictures(model, params, rows, splits.test)
        yield from own_pictures(params, splits.test)

    return Program(
        task=Task(init, train_steps, evaluate, lowest_loss),
        data=data,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        metric="accuracy",
        pictures=pictures,
    )


def as_arrays(split: ImageSet) -> dict[str, Array]:
    """The split on the device: images uint8 ``[N, height, width]``, labels ``[N]``."""
    return {"images": jnp.asarray(split.images), "labels": jnp.asarray(split.labels)}


def unit_range(images: Array) -> Array:
    """Bytes to floats from 0 to 1."""
    return images.astype(jnp.float32) / 255


def training_loss(
    model: Classifier, numbers: Numbers, params: Any, batch: dict[str, Array], key: Array
) -> tuple[Array, step.Metrics]:
    """Cross-entropy of one distorted batch, and the metrics that people watch."""
    distortion_key, dropout_key = jax.random.split(key)
    images = random_affine(
        distortion_key,
        unit_range(batch["images"]),
        rotation=numbers["rotation"],
        scale=numbers["scale"],
        shift=numbers["shift"],
    )
    logits = model.logits(params, images, numbers["dropout"], dropout_key)
    smooth = losses.cross_entropy(
        logits, batch["labels"], batch["mask"], label_smoothing=numbers["label_smoothing"]
    )
    return smooth.mean, metrics(logits, batch)


def metrics(logits: Array, batch: dict[str, Array]) -> step.Metrics:
    """Cross-entropy in nats and accuracy."""
    answers = logits, batch["labels"], batch["mask"]
    return {"loss": losses.cross_entropy(*answers), "accuracy": losses.accuracy(*answers)}


def common_pictures(
    model: Classifier, params: Any, rows: list[dict[str, Any]], test: ImageSet
) -> Iterator[Picture]:
    """Learning curves, confusion matrix and the test images that came out wrong."""
    from experiments.figures.classification import confusion_matrix, mistakes
    from experiments.figures.curves import learning_curves

    probabilities = class_probabilities(model, params, test.images)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    yield Picture(
        "learning_curves",
        "Learning curves",
        "Loss and accuracy after each epoch. Training images are distorted and thinned by "
        "dropout, so their curve may lie below that of the validation images.",
        learning_curves(rows, "accuracy", best_step(rows)),
    )
    yield Picture(
        "confusion_matrix",
        "Confusion matrix",
        "Test images by true digit (rows) and answer (columns); off the diagonal are mistakes.",
        confusion_matrix(confusion(test.labels, predicted)),
    )
    yield Picture(
        "mistakes",
        "What it got wrong",
        "Wrong answers on the test images, the most confident first.",
        mistakes(
            test.images[wrong],
            test.labels[wrong],
            predicted[wrong],
            probabilities[wrong].max(axis=1),
            len(test.labels),
        ),
    )


def class_probabilities(model: Classifier, params: Any, images: np.ndarray) -> np.ndarray:
    """Softmax outputs ``[N, 10]``, a thousand images at a time."""

    @jax.jit
    def softmax(params, images):
        return jax.nn.softmax(model.logits(params, unit_range(images), 0.0, None))

    parts = [softmax(params, images[i : i + 1000]) for i in range(0, len(images), 1000)]
    return np.concatenate(parts)


def confusion(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts ``[true class, predicted class]``."""
    matrix = np.zeros((CLASSES, CLASSES), int)
    np.add.at(matrix, (true, predicted), 1)
    return matrix
