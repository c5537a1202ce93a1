"""Draw the kernels of a convolution."""

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.style import DIVERGING, color_bar, symmetric_limits, tiled_images
from recurrent.errors import ArgumentError


def kernels(kernel: np.ndarray) -> Figure:
    """Draw the kernels of a convolution, largest norm first, on one scale centered at zero.

    Each tile is one output channel; its input channels are drawn below one another.

    Args:
      kernel: [height, width, in, out].

    Raises:
      ValueError: If the kernel does not have four axes, or is empty.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 4 or not kernel.size:
        raise ArgumentError(f"Expected a kernel [height, width, in, out], got {kernel.shape}.")
    height, width, channels, outputs = kernel.shape
    strength = np.sqrt(np.nansum(np.square(kernel, dtype=float), axis=(0, 1, 2)))
    order = np.argsort(-strength, kind="stable")
    message = f"{outputs} kernels of {height} \u00d7 {width}, largest norm first"
    message += f"; {channels} input channels from top to bottom" if channels > 1 else ""
    broken = np.count_nonzero(~np.isfinite(kernel))
    message += f"; {broken:,} of {kernel.size:,} weights not finite" if broken else ""
    figure = tiled_images(
        message,
        [_stack_channels(kernel[..., i]) for i in order],
        [str(i) for i in order],
        columns=8 if outputs <= 32 else 16,
        cmap=DIVERGING,
        limits=symmetric_limits(kernel),
        margin=0.9,
    )
    color_bar(figure, figure.axes[0].images[0], "weight")
    return figure


def _stack_channels(kernel: np.ndarray) -> np.ndarray:
    """Join the channels of [height, width, in] in one image, with a blank row between them."""
    gap = np.full((1, kernel.shape[1]), np.nan)
    parts = [part for i in range(kernel.shape[2]) for part in (gap, kernel[..., i])]
    return np.concatenate(parts[1:])  # [in * (height + 1) - 1, width]
