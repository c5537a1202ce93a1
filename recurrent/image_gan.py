"""Define a convolutional generator and discriminator of images in Flax Linen.

Both can be told what an image shows (Mirza & Osindero 2014, arXiv:1411.1784): the generator by
numbers beside its noise, the discriminator by the choice of one of its outputs. Departure: there
the label is an input of the discriminator.
"""

import math

from flax import linen as nn
from jax import Array

from recurrent.convolution import convolve

SLOPE = 0.2  # of the leaky ReLU below zero


class Generator(nn.Module):
    """Draw images from noise by convolutions that double the size.

    The layers are: dense to F, which decides about the image as a whole; dense to ``[height / 4,
    width / 4, 2 C]``; a convolution 3x3; then twice one whose output has four times the channels,
    each four of which become a square of 2x2 pixels (Shi et al. 2016, arXiv:1609.05158): it is a
    transposed convolution of stride 2 with a kernel of 6x6, and quick on a CPU. Leaky ReLU stands
    between them, and but for the first group normalization (Wu & He 2018), no batch normalization:
    an image depends on its own noise alone. The output is logistic.
    Departure: where the channels are no multiple of 8, there are fewer than 8 groups.

    Attributes:
      height: of the images, a multiple of 4.
      width: of the images, a multiple of 4.
      channels: C.
      features: F.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.image_gan import Generator
      >>> generator, noise = Generator(28, 28), jnp.zeros((2, 64))
      >>> run = generator.init_with_output
      >>> jax.eval_shape(run, jax.random.key(0), noise)[0].shape
      (2, 28, 28)
    """

    height: int
    width: int
    channels: int = 32
    features: int = 512

    @nn.compact
    def __call__(self, noise: Array) -> Array:
        """Map noise ``[B, Z]`` to images ``[B, height, width]`` from 0 to 1."""
        small = self.height // 4, self.width // 4, 2 * self.channels
        x = nn.leaky_relu(nn.Dense(self.features)(noise), SLOPE)
        x = nn.Dense(small[0] * small[1] * small[2])(x).reshape(-1, *small)
        x = nn.leaky_relu(self.normalized(x), SLOPE)
        x = nn.Conv(small[2], (3, 3), conv_general_dilated=convolve)(x)
        x = nn.leaky_relu(self.normalized(x), SLOPE)
        x = nn.Conv(4 * self.channels, (3, 3), conv_general_dilated=convolve)(x)
        x = nn.leaky_relu(self.normalized(doubled(x)), SLOPE)
        x = nn.Conv(4, (3, 3), conv_general_dilated=convolve)(x)
        return nn.sigmoid(doubled(x))[..., 0]

    def normalized(self, x: Array) -> Array:
        """Normalize over the pixels and the channels of each of 8 groups."""
        return nn.GroupNorm(math.gcd(8, x.shape[-1]))(x)


class Discriminator(nn.Module):
    """Give images logits, high for those taken for real, by convolutions that halve the size.

    The layers are: convolutions 4x4 of stride 2 with C, 2 C and 4 C features, dense F, which sees
    the image as a whole, dense K; with leaky ReLU between them, and without normalization. Output k
    says how real the image is as one of class k.

    Attributes:
      channels: C.
      classes: K; with 1, what the images show is not asked.
      features: F.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.image_gan import Discriminator
      >>> run = Discriminator(classes=10).init_with_output
      >>> jax.eval_shape(run, jax.random.key(0), jnp.zeros((2, 28, 28)))[0].shape
      (2, 10)
    """

    channels: int = 32
    classes: int = 1
    features: int = 256

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map images ``[B, height, width]`` from 0 to 1 to logits ``[B, K]``."""
        x = 2 * images[..., None] - 1
        for features in (self.channels, 2 * self.channels, 4 * self.channels):
            x = nn.Conv(features, (4, 4), (2, 2), conv_general_dilated=convolve)(x)
            x = nn.leaky_relu(x, SLOPE)
        x = nn.leaky_relu(nn.Dense(self.features)(x.reshape(len(x), -1)), SLOPE)
        return nn.Dense(self.classes)(x)


def doubled(x: Array) -> Array:
    """Spread each four channels over a square of 2x2 pixels, ``[B, 2 H, 2 W, C / 4]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.image_gan import doubled
      >>> doubled(jnp.arange(4.0).reshape(1, 1, 1, 4))[0, ..., 0].tolist()
      [[0.0, 1.0], [2.0, 3.0]]
    """
    batch, height, width, channels = x.shape
    squares = x.reshape(batch, height, width, 2, 2, channels // 4)
    return squares.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, channels // 4)
