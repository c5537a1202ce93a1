"""Distort images at random, and turn images and videos into sequences of features."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.errors import ArgumentError


def random_affine(
    key: Array, images: Array, *, rotation: Any = 0.0, scale: Any = 0.0, shift: Any = 0.0
) -> Array:
    """Rotate, stretch and shift each image by its own random amounts.

    Args:
      key: the random key for the whole batch.
      images: floats ``[B, height, width]``; pixels from outside the image are zero.
      rotation: the largest rotation in either direction, in degrees.
      scale: the largest stretch or shrinkage along each axis, as a fraction of its length.
      shift: the largest shift along each axis in either direction, as a fraction of its length.

    Returns:
      Images of the same shape, interpolated linearly.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.images import random_affine
      >>> images = jnp.arange(12.0).reshape(2, 2, 3)
      >>> distorted = jax.jit(random_affine)(jax.random.key(0), images, rotation=10, shift=0.1)
      >>> distorted.shape
      (2, 2, 3)
    """
    turn_key, scale_key, shift_key = jax.random.split(key, 3)
    size = jnp.asarray(images.shape[1:], images.dtype)
    pair = (images.shape[0], 2)
    turns = jnp.deg2rad(rotation) * jax.random.uniform(turn_key, pair[:1], minval=-1)
    scales = (1 + scale) ** jax.random.uniform(scale_key, pair, minval=-1)
    shifts = shift * size * jax.random.uniform(shift_key, pair, minval=-1)
    return jax.vmap(affine_image)(images, turns, scales, shifts)


def affine_image(image: Array, turn: Array, scale: Array, shift: Array) -> Array:
    """Transform one image ``[height, width]`` by an affine map about its center.

    Output pixel p is the input at ``R(turn) (p - center) * scale + shift + center``, interpolated
    linearly, and zero outside the image.

    Args:
      image: floats ``[height, width]``.
      turn: the angle of the rotation R, in radians.
      scale: ``[2]``, the factors along height and width.
      shift: ``[2]``, in pixels along height and width.

    Returns:
      The image of the same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.images import affine_image
      >>> image = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
      >>> affine_image(image, jnp.array(0.0), jnp.ones(2), jnp.array([0.0, 1.0])).tolist()
      [[2.0, 3.0, 0.0], [5.0, 6.0, 0.0]]
    """
    center = (jnp.asarray(image.shape, image.dtype) - 1) / 2
    axes = [jnp.arange(n, dtype=image.dtype) for n in image.shape]
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1) - center  # [height, width, 2]
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    points = grid @ jnp.array([[cos, sin], [-sin, cos]]) * scale + shift + center
    return jax.scipy.ndimage.map_coordinates(image, [points[..., 0], points[..., 1]], order=1)


def frame_features(network: Callable[[Array], Any], frames: Array) -> Array:
    """Apply a network to each frame of a video by itself.

    Args:
      network: ``[N, height, width, channels] -> [N, F]``, for example
        ``partial(ConvNet(classes=None).apply, params)``.
      frames: ``[T, ..., height, width, channels]``.

    Returns:
      Features ``[T, ..., F]``, the inputs of a recurrent network.

    Raises:
      ValueError: for frames of fewer than four axes, or without any pixel.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import frame_features
      >>> video = jnp.arange(32.0).reshape(4, 2, 2, 2, 1)  # [T, B, height, width, channels]
      >>> frame_features(lambda frames: frames.mean(axis=(1, 2)), video)[:, 0, 0].tolist()
      [1.5, 9.5, 17.5, 25.5]
    """
    if frames.ndim < 4 or 0 in frames.shape[-3:]:
        raise ArgumentError(
            "frames: expected the shape [T, ..., height, width, channels] with at least one pixel, "
            f"got {list(frames.shape)}."
        )
    features = network(frames.reshape(-1, *frames.shape[-3:]))  # [N, F]
    return features.reshape(*frames.shape[:-3], *features.shape[1:])


def image_columns(images: Array, width: int = 1) -> Array:
    """Turn images into sequences of their columns, from left to right.

    Args:
      images: ``[..., H, W, C]``.
      width: the number of adjacent columns in one step.

    Returns:
      The sequences ``[W / width, ..., H, width, C]``.

    Raises:
      ValueError: for images of fewer than three axes, or a width that does not divide W.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import image_columns
      >>> image = jnp.array([[1, 2, 3, 4], [5, 6, 7, 8]])[..., None]
      >>> image_columns(image, width=2)[..., 0].tolist()
      [[[1, 2], [5, 6]], [[3, 4], [7, 8]]]
    """
    if images.ndim < 3 or width < 1 or images.shape[-2] % width:
        raise ArgumentError(
            f"images: expected the shape [..., H, W, C] with W a multiple of width={width}, "
            f"got {list(images.shape)}."
        )
    *batch, height, total, channels = images.shape
    slices = images.reshape(*batch, height, total // width, width, channels)
    time = slices.ndim - 3  # the axis of size W / width
    return slices.transpose(time, *range(time), time + 1, time + 2)
