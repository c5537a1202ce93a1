"""Figures of convolution kernels."""

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.style import (
    DIVERGING,
    _colour_bar,
    _symmetric,
    _tiles,
)


def kernels(kernel: np.ndarray) -> Figure:
    """The kernels of a convolution, the strongest first, on one scale centred at zero.

    Several input channels stand below one another in a tile.

    Args:
      kernel: [height, width, in, out].

    Raises:
      ValueError: If the kernel has not four axes, or is empty.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 4 or not kernel.size:
        raise ValueError(f"Expected a kernel [height, width, in, out], got {kernel.shape}.")
    height, width, channels, outputs = kernel.shape
    strength = np.sqrt(np.nansum(np.square(kernel, dtype=float), axis=(0, 1, 2)))
    order = np.argsort(-strength, kind="stable")
    message = f"{outputs} kernels of {height} \u00d7 {width}, strongest first"
    message += f"; {channels} input channels below one another" if channels > 1 else ""
    broken = np.count_nonzero(~np.isfinite(kernel))
    message += f"; {broken:,} of {kernel.size:,} weights not finite" if broken else ""
    figure = _tiles(
        message,
        [_stack_channels(kernel[..., i]) for i in order],
        [str(i) for i in order],
        columns=8 if outputs <= 32 else 16,
        cmap=DIVERGING,
        limits=_symmetric(kernel),
        margin=0.9,
    )
    _colour_bar(figure, figure.axes[0].images[0], "weight")
    return figure


def _stack_channels(kernel: np.ndarray) -> np.ndarray:
    """[height, width, in] as one image with a blank row between the channels."""
    gap = np.full((1, kernel.shape[1]), np.nan)
    parts = [part for i in range(kernel.shape[2]) for part in (gap, kernel[..., i])]
    return np.concatenate(parts[1:])
