"""Random distortions of images, pure and jittable."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def random_affine(
    key: Array, images: Array, *, rotation: Any = 0.0, scale: Any = 0.0, shift: Any = 0.0
) -> Array:
    """Rotates, stretches and shifts each image by its own random amounts.

    Args:
      key: drawn from once for the whole batch.
      images: floats ``[B, height, width]``; what comes in from outside the image is zero.
      rotation: the largest turn either way, degrees.
      scale: the largest stretch or shrink of each axis, as a share of its length.
      shift: the largest move of each axis either way, as a share of its length.

    Returns:
      Images of the same shape, interpolated linearly.
    """
    turn_key, scale_key, shift_key = jax.random.split(key, 3)
    size = jnp.asarray(images.shape[1:], images.dtype)
    pair = (images.shape[0], 2)
    turns = jnp.deg2rad(rotation) * jax.random.uniform(turn_key, pair[:1], minval=-1)
    scales = (1 + scale) ** jax.random.uniform(scale_key, pair, minval=-1)
    shifts = shift * size * jax.random.uniform(shift_key, pair, minval=-1)
    return jax.vmap(affine_image)(images, turns, scales, shifts)


def affine_image(image: Array, turn: Array, scale: Array, shift: Array) -> Array:
    """The image ``[height, width]`` seen through one affine map about its centre.

    Output pixel p shows the input at ``R(turn) (p - centre) * scale + shift + centre``.
    """
    centre = (jnp.asarray(image.shape, image.dtype) - 1) / 2
    axes = [jnp.arange(n, dtype=image.dtype) for n in image.shape]
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1) - centre
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    points = grid @ jnp.array([[cos, sin], [-sin, cos]]) * scale + shift + centre
    return jax.scipy.ndimage.map_coordinates(image, [points[..., 0], points[..., 1]], order=1)


def frame_features(network: Callable[[Array], Any], frames: Array) -> Array:
    """Applies a network to each frame alone.

    Args:
      network: ``[N, height, width, channels] -> [N, F]``, for example
        ``partial(ConvNet(classes=None).apply, params)``.
      frames: ``[T, ..., height, width, channels]``.

    Returns:
      ``[T, ..., F]``, the inputs of a recurrent network.

    Raises:
      ValueError: for frames of fewer than four axes.
    """
    if frames.ndim < 4:
        raise ValueError(
            "frames: expected the shape [T, ..., height, width, channels], "
            f"got {list(frames.shape)}."
        )
    features = network(frames.reshape(-1, *frames.shape[-3:]))
    return features.reshape(*frames.shape[:-3], *features.shape[1:])


def image_columns(images: Array, width: int = 1) -> Array:
    """Images ``[..., H, W, C]`` as sequences of their columns, ``[W / width, ..., H, width, C]``.

    From left to right; ``width`` neighbouring columns are one step.

    Raises:
      ValueError: for images of fewer than three axes, or a width that does not divide W.
    """
    if images.ndim < 3 or width < 1 or images.shape[-2] % width:
        raise ValueError(
            f"images: expected the shape [..., H, W, C] with W a multiple of width={width}, "
            f"got {list(images.shape)}."
        )
    *batch, height, total, channels = images.shape
    slices = images.reshape(*batch, height, total // width, width, channels)
    time = slices.ndim - 3
    return slices.transpose(time, *range(time), time + 1, time + 2)
