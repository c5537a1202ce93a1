"""Train a classifier of images: data, model, loss, evaluation, and the figures of the report."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.images import DATASETS, ImageSet, load_images
from experiments.harness.config import option
from experiments.harness.program import Exhibit, Figure, Finished, Program
from experiments.shared.tasks import MinibatchConfig, minibatch_task
from recurrent import images, losses
from recurrent.training.minibatch import steps_per_epoch
from recurrent.training.task import HParams, Metric, Metrics

CLASSES = 10
EPOCHS = {"digits": 100, "mnist": 6}
# On a small split, accuracies tie too often to choose by.
LOSS = Metric("loss", higher_is_better=False)
ACCURACY = Metric("accuracy", higher_is_better=True, format="{:.2%}")


@dataclasses.dataclass(frozen=True)
class ClassifierConfig(MinibatchConfig):
    """Hold the fields of every image classifier."""

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
        0.2, "share of features dropped before the readout", traced=True, minimum=0, below=1
    )
    label_smoothing: float = option(
        0.0, "share of each label spread over all classes", traced=True, minimum=0, below=1
    )
    rotation: float = option(
        10.0, "largest random rotation of a training image, degrees", traced=True, minimum=0
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
        "largest random shift of a training image, a share of its size",
        traced=True,
        minimum=0,
        below=1,
    )


class Classifier(NamedTuple):
    """Hold a model of images.

    Attributes:
      init: ``key -> params``.
      logits: ``(params, images, dropout_rate, key) -> [B, 10]`` with images ``[B, height,
        width]``, floats from 0 to 1, and the key None in evaluation.
      exhibits: ``(params, test images) -> exhibits`` of this model alone.
      by_rows: ``(params, images, lengths [B]) -> [B, 10]`` of a model that reads rows one after the
        other, of which only the first are read; None of other models.
    """

    init: Callable[[Array], Any]
    logits: Callable[[Any, Array, Any, Array | None], Array]
    exhibits: Callable[[Any, ImageSet], Iterator[Exhibit]]
    by_rows: Callable[[Any, Array, Array], Array] | None = None


def classification(config: Any, model_of: Callable[[Any, tuple[int, int]], Classifier]) -> Program:
    """Return the Program that trains ``model_of(config, image shape)`` on its images."""
    splits = load_images(config.data, config.split_seed)
    data = {name: as_arrays(split) for name, split in splits._asdict().items()}
    model = model_of(config, splits.train.images.shape[1:])
    epochs, examples = config.epochs or EPOCHS[config.data], len(splits.train.labels)

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        distortion_key, dropout_key = jax.random.split(key)
        seen = distort(distortion_key, unit_range(batch["images"]), hparams)
        logits = model.logits(params, seen, hparams["dropout"], dropout_key)
        smooth = losses.cross_entropy(
            logits, batch["labels"], batch["mask"], label_smoothing=hparams["label_smoothing"]
        )
        return smooth.mean, metrics(logits, batch)

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        return metrics(model.logits(params, unit_range(batch["images"]), 0.0, None), batch)

    def exhibits(finished: Finished) -> Iterator[Exhibit]:
        yield from common_exhibits(model, finished, splits.test)
        yield from model.exhibits(finished.kept, splits.test)

    return Program(
        task=minibatch_task(config, model.init, loss, measure, examples=examples, epochs=epochs),
        data=data,
        evaluations=epochs,
        steps_per_evaluation=steps_per_epoch(examples, config.batch_size),
        select=LOSS,
        report=ACCURACY,
        exhibits=exhibits,
    )


def as_arrays(split: ImageSet) -> dict[str, Array]:
    """Put a split on the device: images uint8 ``[N, height, width]``, labels ``[N]``."""
    return {"images": jnp.asarray(split.images), "labels": jnp.asarray(split.labels)}


def unit_range(images: Array) -> Array:
    """Convert bytes to floats from 0 to 1."""
    return images.astype(jnp.float32) / 255


def distort(key: Array, batch: Array, hparams: HParams) -> Array:
    """Rotate, stretch and shift each image by random amounts."""
    return images.random_affine(
        key,
        batch,
        rotation=hparams["rotation"],
        scale=hparams["scale"],
        shift=hparams["shift"],
    )


def metrics(logits: Array, batch: dict[str, Array]) -> Metrics:
    """Return cross-entropy in nats and accuracy."""
    return {
        "loss": losses.cross_entropy(logits, batch["labels"], batch["mask"]),
        "accuracy": losses.accuracy(logits, batch["labels"], batch["mask"]),
    }


def common_exhibits(model: Classifier, finished: Finished, test: ImageSet) -> Iterator[Exhibit]:
    """Draw learning curves, the confusion matrix and the test images that came out wrong."""
    from experiments.figures.classification import confusion_matrix, mistakes
    from experiments.figures.curves import learning_curves

    probabilities = class_probabilities(model, finished.kept, test.images)
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    yield Figure(
        "learning_curves",
        "Learning curves",
        "Training metrics are computed with augmentation and dropout on, so training accuracy can "
        "be lower, and training loss higher, than validation.",
        learning_curves(finished.rows, [LOSS, ACCURACY], finished.best_step),
    )
    yield Figure(
        "confusion_matrix",
        "Confusion matrix",
        "Test images by true digit (rows) and answer (columns); off the diagonal are mistakes.",
        confusion_matrix(confusion(test.labels, predicted)),
    )
    yield Figure(
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
    """Return softmax outputs ``[N, 10]``, computed a thousand images at a time."""

    @jax.jit
    def softmax(params: Any, images: Any) -> Array:
        return jax.nn.softmax(model.logits(params, unit_range(images), 0.0, None))

    parts = [softmax(params, images[i : i + 1000]) for i in range(0, len(images), 1000)]
    return np.concatenate(parts)


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int = CLASSES) -> np.ndarray:
    """Return counts ``[true class, predicted class]``."""
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (true, predicted), 1)
    return matrix
