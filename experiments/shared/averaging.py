"""Name the class of an image by the mean of what layers made of it, read as a sequence."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax import Array

import recurrent
from experiments.shared.blocks import Pyramid
from experiments.shared.classification import CLASSES, Classifier
from recurrent.layers import init_all


def averaged_classifier(layers: Pyramid, size: int, read: Callable[[Any], Any]) -> Classifier:
    """Return the model in which a readout of the mean of all steps names the class.

    Args:
      layers: from sequences ``[T, B, D]`` to ``[T', B, H]``.
      size: H.
      read: from images ``[B, height, width]`` to sequences.
    """
    head = recurrent.dense(size, CLASSES)

    init = partial(init_all, {"layers": layers, "head": head})

    def logits(params: Any, images: Array, dropout_rate: Any, key: Array | None) -> Array:
        mean = layers.apply(params["layers"], read(images)).mean(0)
        return head.apply(params["head"], recurrent.dropout(mean, dropout_rate, key))

    return Classifier(init, logits, lambda params, test: iter(()))
