"""Read few images row by row, or few words of a text: two jobs that any network soon overfits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.images import DATASETS, ImageSet, load_images
from experiments.data.text import whole_text
from experiments.data.words import numbered_words, windows
from experiments.harness.errors import UserError
from experiments.shared.classification import ACCURACY, CLASSES, as_arrays, metrics, unit_range
from recurrent import losses
from recurrent.training.task import Metric, Metrics

HELD_OUT = 1000  # images that choose, at most
FEW = {"images": 500, "words": 16_000}
WINDOW = 32  # words that are read from a fresh state
MOST_WORDS = 2000  # with a number of their own


class Job(NamedTuple):
    """Hold what is read, and what is asked.

    Attributes:
      data: the splits, each a dict of arrays ``[examples, ...]``.
      steps: T.
      features: D, of the inputs of the cell; 0 where there are words, with vectors of their own.
      classes: C, from which the answers are chosen.
      read: ``batch -> xs``, ``[T, B, D]`` or tokens ``[T, B]``.
      answers: ``ys [T, B, H] -> [..., H]``, those outputs that answer.
      judge: ``(logits [..., C], batch) -> metrics``.
      report: the metric that people read.
    """

    data: dict[str, Any]
    steps: int
    features: int
    classes: int
    read: Callable[[Any], Array]
    answers: Callable[[Array], Array]
    judge: Callable[[Array, Any], Metrics]
    report: Metric


def job_of(config: Any) -> Job:
    """Return the job of a Config: its fields ``data``, ``text``, ``examples``, ``split_seed``.

    Raises:
      UserError: for more examples than there are, and as reading the data does.
    """
    if config.data in DATASETS and not config.text:
        return rows_of_images(config.data, config.examples or FEW["images"], config.split_seed)
    return words_of_text(whole_text(config.data, config.text), config.examples or FEW["words"])


def rows_of_images(name: str, examples: int, split_seed: int) -> Job:
    """Return the job of naming the digit of an image after its last row."""
    splits = load_images(name, split_seed)
    found = len(splits.train.labels)
    if examples > found:
        raise UserError(f"--examples: expected at most the {found} images of {name}.")
    few = chosen(splits.train, examples, split_seed)
    held_out = chosen(splits.valid, min(HELD_OUT, len(splits.valid.labels)), split_seed)
    height, width = few.images.shape[1:]
    parts = {"train": few, "valid": held_out, "test": splits.test}
    return Job(
        data={name: as_arrays(part) for name, part in parts.items()},
        steps=height,
        features=width,
        classes=CLASSES,
        read=lambda batch: 2 * unit_range(batch["images"]).swapaxes(0, 1) - 1,
        answers=lambda ys: ys[-1],
        judge=metrics,
        report=ACCURACY,
    )


def chosen(images: ImageSet, count: int, seed: int) -> ImageSet:
    """Return images chosen at random, without repetition."""
    rows = np.random.default_rng(seed).permutation(len(images.labels))[:count]
    return ImageSet(images.images[rows], images.labels[rows])


def words_of_text(text: str, examples: int) -> Job:
    """Return the job of predicting each next word, in windows that begin with a fresh state."""
    words = numbered_words(text, examples, MOST_WORDS)
    parts = {"train": words.train, "valid": words.valid, "test": words.test}

    def judge(logits: Array, batch: Any) -> Metrics:
        targets, real = batch["targets"].T, batch["real"].T & batch["mask"]
        return {
            "loss": losses.cross_entropy(logits, targets, real),
            "accuracy": losses.accuracy(logits, targets, real),
        }

    return Job(
        data={
            name: {k: jnp.asarray(v) for k, v in windows(part, WINDOW).items()}
            for name, part in parts.items()
        },
        steps=WINDOW,
        features=0,
        classes=words.vocabulary.size,
        read=lambda batch: batch["tokens"].T,
        answers=lambda ys: ys,
        judge=judge,
        report=Metric("loss", higher_is_better=False, format="{:.4f} nats a word"),
    )
