"""Define convolutional networks in Flax Linen: of whole images, and of strips read sideways."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from recurrent.convolution import convolve, max_pool_2x2
from recurrent.errors import ArgumentError
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


class StripNet(nn.Module):
    """Turn strips, such as lines of writing or spectrograms, into sequences of features.

    The layers are: convolution 3x3, max-pool 2, convolution 3x3, max-pool 2, then, for each further
    entry of ``channels``, a convolution 3x3 and a max-pool of the height alone; then a dense layer
    over what is left of each column, which is shared by all columns. ReLU follows each of them. So
    the height becomes 1, and a frame is `COLUMNS_A_FRAME` columns of the strip. What lies beyond
    the width of a strip is 0 in every layer: the frames of a strip do not depend on how wide the
    array is that holds it.

    Attributes:
      channels: of the convolutions, two or more.
      features: F, of a frame.

    References:
      Shi, Bai & Yao 2015, An end-to-end trainable neural network for image-based sequence
      recognition, arXiv:1507.05717. Departure: fewer and smaller layers, no batch normalization.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.convnet import StripNet
      >>> network, strips = StripNet(), jnp.zeros((2, 32, 100, 1))
      >>> run = network.init_with_output  # returns the features and the params
      >>> ys, params = jax.eval_shape(run, jax.random.key(0), strips, jnp.array([100, 70]))
      >>> ys.shape
      (25, 2, 128)
    """

    channels: Sequence[int] = (16, 32, 64)
    features: int = 128

    @nn.compact
    def __call__(
        self, strips: Array, widths: Array, dropout_rate: Any = 0.0, key: Array | None = None
    ) -> Array:
        """Map strips to sequences, time first.

        Args:
          strips: ``[B, height, width, channels]``, with a width that is a multiple of
            `COLUMNS_A_FRAME`.
          widths: ``[B]``, the columns of each strip.
          dropout_rate: of the dropout before the dense layer, as in `recurrent.dropout`.
          key: the random key of the dropout; None turns it off.

        Returns:
          ``[T, B, F]``, where T is the width over `COLUMNS_A_FRAME`; `frames_of` says how many
          frames of it each strip has.

        Raises:
          ValueError: for strips of another rank or width, and fewer than two convolutions.
        """
        check_strips(strips, self.channels)
        x = within(strips, widths)
        for place, channels in enumerate(self.channels):
            x = nn.relu(nn.Conv(channels, (3, 3), conv_general_dilated=convolve)(x))
            if place < 2:
                x, widths = max_pool_2x2(x), (widths + 1) // 2
            else:
                x = _max_pool_height(x)
            x = within(x, widths)
        batch, height, time, channels = x.shape
        x = x.transpose(2, 0, 1, 3).reshape(time, batch, height * channels)
        return nn.relu(nn.Dense(self.features)(dropout(x, dropout_rate, key)))


COLUMNS_A_FRAME = 4


def frames_of(widths: Any) -> Any:
    """Return how many frames strips have that are so many columns wide, a part of one included.

    Example:
      >>> [frames_of(width) for width in (0, 1, 4, 5)]
      [0, 1, 1, 2]
    """
    return -(-widths // COLUMNS_A_FRAME)


def check_strips(strips: Array, channels: Sequence[int]) -> None:
    """Raise `ValueError` for what a `StripNet` cannot read."""
    height = 2 ** len(channels)
    if strips.ndim != 4 or strips.shape[2] % COLUMNS_A_FRAME or strips.shape[1] < height:
        raise ArgumentError(
            f"strips: expected the shape [B, height, width, channels] with a height of {height} or "
            f"more and a width that is a multiple of {COLUMNS_A_FRAME}, got {list(strips.shape)}."
        )
    if len(channels) < 2:
        raise ArgumentError(f"channels: expected two or more, got {list(channels)}.")


def within(strips: Array, widths: Array) -> Array:
    """Return strips ``[B, height, width, C]`` that are 0 beyond their own widths ``[B]``.

    Example:
      >>> within(jnp.ones((2, 1, 3, 1)), jnp.array([1, 3]))[:, 0, :, 0].tolist()
      [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    real = jnp.arange(strips.shape[2]) < widths[:, None]  # [B, W]
    return jnp.where(real[:, None, :, None], strips, 0)


def _max_pool_height(x: Array) -> Array:
    batch, height, width, channels = x.shape
    even = x[:, : height // 2 * 2]
    return even.reshape(batch, height // 2, 2, width, channels).max(axis=2)
