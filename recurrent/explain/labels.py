"""Group the elements of an example: patches, time steps, features, segments, boxes."""

from collections.abc import Sequence

import numpy as np

from recurrent.cell import check_sizes
from recurrent.errors import ArgumentError


def grid_labels(shape: Sequence[int], sizes: Sequence[int | None]) -> np.ndarray:
    """Divide an example into the boxes of a grid, as groups for occlusion, LIME and SHAP.

    Any other integers that broadcast to the inputs do as well, such as the superpixels of
    `skimage.segmentation.slic`.

    Args:
      shape: of one example, such as ``(H, W)``, ``(H, W, C)`` or ``(T, F)``.
      sizes: of a box along each axis; None for the whole axis. Of ``(T, F)``, ``(1, None)`` are
        time steps, ``(5, None)`` segments of five steps, ``(None, 1)`` features, and ``(5, 1)``
        boxes of one feature in five steps. Boxes at the end may be smaller.

    Returns:
      Integers of the given shape, from 0.

    Raises:
      ValueError: for another number of sizes than axes, or a size below 1.

    Example:
      >>> from recurrent.explain import grid_labels
      >>> grid_labels((4, 3), (2, None)).tolist()
      [[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]]
    """
    if len(shape) != len(sizes):
        raise ArgumentError(
            f"sizes: expected one for each axis of {list(shape)}, got {list(sizes)}; None stands "
            "for a whole axis."
        )
    labels = np.zeros(tuple(shape), int)
    for axis, (length, size) in enumerate(zip(shape, sizes, strict=True)):
        size = length if size is None else size
        check_sizes(size=size)
        place = np.arange(length) // size
        labels = labels * (-(-length // size)) + place.reshape(-1, *[1] * (len(shape) - axis - 1))
    return labels
