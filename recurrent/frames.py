"""Pictures as sequences, for a convolutional front end before a recurrent network."""

from collections.abc import Callable
from typing import Any

from jax import Array


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
