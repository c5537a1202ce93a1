"""Convolutional networks, in Flax Linen."""

from typing import Any

from flax import linen as nn
from jax import Array

from recurrent.convolution import convolve, max_pool_2x2
from recurrent.regularization import dropout


class ConvNet(nn.Module):
    """The article's image classifier.

    Conv 32 3x3, max-pool 2, conv 64 3x3, max-pool 2, dense 128, dense ``classes``, with ReLU
    between. Images of any size from 4x4; padding keeps each convolution's size. Departure: dropout
    before the last layer, off at rate 0.

    Attributes:
      classes: size of the output; None leaves out the last layer and its dropout, so that the
        output is the 128 features before it.
    """

    classes: int | None = 10

    @nn.compact
    def __call__(self, images: Array, dropout_rate: Any = 0.0, key: Array | None = None) -> Array:
        """Images ``[B, height, width, channels]`` to logits ``[B, classes]`` or features."""
        x = images
        for features in (32, 64):
            x = nn.relu(nn.Conv(features, (3, 3), conv_general_dilated=convolve)(x))
            x = max_pool_2x2(x)
        x = nn.relu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
        if self.classes is None:
            return x
        return nn.Dense(self.classes)(dropout(x, dropout_rate, key))
