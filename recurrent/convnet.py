"""Define a convolutional network in Flax Linen."""

import math
from typing import Any

from flax import linen as nn
from jax import Array

from recurrent.convolution import convolve, max_pool_2x2
from recurrent.regularization import dropout


class ConvNet(nn.Module):
    """Classify images by the convolutional network of "the article".

    "The article" is a survey of recurrent networks and deep learning that this codebase makes
    real. The layers are: convolution 32 3x3, max-pool 2, convolution 64 3x3, max-pool 2, dense
    128, dense ``classes``, with ReLU between them. Images may have any size from 4x4; padding
    keeps the size in each convolution. Departure: dropout before the last layer, off at rate 0.

    Attributes:
      classes: the size of the output. None leaves out the last layer and its dropout, so that the
        output is the 128 features before it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.convnet import ConvNet
      >>> network, images = ConvNet(classes=10), jnp.zeros((2, 28, 28, 1))
      >>> run = network.init_with_output  # returns the logits and the params
      >>> logits, params = jax.eval_shape(run, jax.random.key(0), images)
      >>> logits.shape
      (2, 10)
    """

    classes: int | None = 10

    @nn.compact
    def __call__(self, images: Array, dropout_rate: Any = 0.0, key: Array | None = None) -> Array:
        """Map images to logits.

        Args:
          images: ``[B, height, width, channels]``.
          dropout_rate: of the dropout before the last layer, as in `recurrent.dropout`.
          key: the random key of the dropout; None turns it off.

        Returns:
          Logits ``[B, classes]``, or the features ``[B, 128]`` if ``classes`` is None.
        """
        x = images
        for features in (32, 64):
            x = nn.relu(nn.Conv(features, (3, 3), conv_general_dilated=convolve)(x))
            x = max_pool_2x2(x)  # [B, height // 2, width // 2, features]
        x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], math.prod(x.shape[1:]))))
        if self.classes is None:
            return x
        return nn.Dense(self.classes)(dropout(x, dropout_rate, key))
