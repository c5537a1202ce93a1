"""Convolve and pool images in a way that is also fast on a CPU, inside a training loop."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from recurrent.linear_map import product


def convolve(images: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """Compute `jax.lax.conv_general_dilated`, on a CPU as a matrix product of image patches.

    XLA's CPU backward pass of a convolution is slow inside a loop: one training step of
    `recurrent.convnet.ConvNet` on 64 MNIST images took 0.9 s, and 0.06 s with a product instead
    (two cores). XLA's convolution is used on accelerators, and for dilation and groups.

    Args:
      images: ``[B, height, width, channels]``.
      kernel: ``[kernel height, kernel width, channels, features]``.
      strides: of the window, one for each image axis.
      padding: ``"SAME"``, ``"VALID"`` or pairs of (low, high).
      **options: the other arguments of `jax.lax.conv_general_dilated`.

    Returns:
      ``[B, height', width', features]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.convolution import convolve
      >>> image = jnp.arange(9.0).reshape(1, 3, 3, 1)
      >>> layout = ("NHWC", "HWIO", "NHWC")
      >>> sums = convolve(image, jnp.ones((2, 2, 1, 1)), (1, 1), "VALID", dimension_numbers=layout)
      >>> sums[0, ..., 0].tolist()
      [[8.0, 12.0], [20.0, 24.0]]
    """

    def by_xla(images: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(images, kernel, strides, padding, **options)

    dilations = [*options.get("lhs_dilation", ()), *options.get("rhs_dilation", ())]
    if set(dilations) - {1} or options.get("feature_group_count", 1) != 1:
        return by_xla(images, kernel)

    def by_product(images: Array, kernel: Array) -> Array:
        pads = padding
        if isinstance(padding, str):
            pads = lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
        return patch_product(
            images, kernel, pads, strides=strides, precision=options.get("precision")
        )

    return lax.platform_dependent(images, kernel, cpu=by_product, default=by_xla)


def convolve_same(x: Array, kernel: Array, compute_dtype: Any = None) -> Array:
    """Convolve with stride 1 and with zero padding that keeps the sizes.

    On a CPU this is a matrix product of patches, as in `convolve`.

    Args:
      x: ``[..., *sizes, C]``, with one to three sizes.
      kernel: ``[*kernel sizes, C, F]``.
      compute_dtype: as in `recurrent.gated`; if given, a matrix product of patches is used on
        every platform.

    Returns:
      ``[..., *sizes, F]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.convolution import convolve_same
      >>> line = jnp.array([[1.0], [2.0], [4.0]])
      >>> convolve_same(line, jnp.ones((3, 1, 1)))[:, 0].tolist()
      [3.0, 7.0, 6.0]
    """
    pads = [((size - 1) // 2, size // 2) for size in kernel.shape[:-2]]

    def by_product(x: Array, kernel: Array) -> Array:
        return patch_product(x, kernel, pads, compute_dtype=compute_dtype)

    def by_xla(x: Array, kernel: Array) -> Array:
        rank = len(pads)
        axes = "DHW"[-rank:]
        batch = x.shape[: x.ndim - rank - 1]
        z = lax.conv_general_dilated(
            x.reshape(math.prod(batch), *x.shape[len(batch) :]),  # XLA takes one batch axis
            kernel,
            window_strides=(1,) * rank,
            padding=pads,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        )
        return z.reshape(*batch, *z.shape[1:])

    if compute_dtype is not None:
        return by_product(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=by_product, default=by_xla)


def patch_product(
    x: Array,
    kernel: Array,
    padding: Sequence[tuple[int, int]],
    *,
    strides: Sequence[int] = (),
    precision: Any = None,
    compute_dtype: Any = None,
) -> Array:
    """Convolve by one matrix product, in which every patch of the image is a row.

    Args:
      x: ``[..., *sizes, C]``.
      kernel: ``[*kernel sizes, C, F]``.
      padding: for each of the sizes, the number of zeros before and after.
      strides: for each of the sizes, the pixels between two patches; all 1 by default.
      precision: of the product, as in `jax.numpy.matmul`.
      compute_dtype: as in `recurrent.gated`.

    Returns:
      ``[..., *new sizes, F]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.convolution import patch_product
      >>> line = jnp.array([[1.0], [2.0], [4.0]])
      >>> patch_product(line, jnp.ones((2, 1, 1)), padding=[(0, 0)])[:, 0].tolist()
      [3.0, 6.0]
    """
    *kernel_sizes, _, features = kernel.shape
    rank = len(kernel_sizes)
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - rank - 1) + [*padding, (0, 0)])
    ends = padded.shape[x.ndim - rank - 1 : -1]
    sizes = [end - size + 1 for end, size in zip(ends, kernel_sizes, strict=True)]
    steps = [*strides] or [1] * rank

    def shifted(offsets: tuple[int, ...]) -> Array:
        spans = zip(offsets, sizes, steps, strict=True)
        cuts = [slice(low, low + size, step) for low, size, step in spans]
        return padded[(..., *cuts, slice(None))]

    offsets = itertools.product(*map(range, kernel_sizes))
    # [..., *new sizes, kernel entries * C]
    patches = jnp.concatenate([shifted(each) for each in offsets], axis=-1)
    return product(patches, kernel.reshape(-1, features), compute_dtype, precision)


def max_pool_2x2(images: Array) -> Array:
    """Take the maximum of each 2x2 block: ``[B, H, W, C] -> [B, H // 2, W // 2, C]``.

    An odd last row or column is left out. If a block has several largest entries, the gradient is
    shared among them, as by `jnp.max`.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.convolution import max_pool_2x2
      >>> max_pool_2x2(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, ..., 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    batch, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    blocks = even.reshape(batch, height // 2, 2, width // 2, 2, channels)  # [B, H', 2, W', 2, C]
    return blocks.max(axis=(2, 4))
