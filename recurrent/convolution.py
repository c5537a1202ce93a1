"""Convolution and pooling that are quick on a CPU too, inside a training scan."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from recurrent.linear_map import product


def convolve(images: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated`, as a product of image patches on CPU.

    XLA's CPU backward pass of a convolution is slow inside a loop: 0.9 s for one step of the
    article's network on 64 MNIST images, 0.06 s as a product (two cores). Accelerators, strides,
    dilation and groups go to XLA's convolution.

    Args:
      images: ``[B, height, width, channels]``.
      kernel: ``[kernel height, kernel width, channels, features]``.
      strides: of the window, one for each image axis.
      padding: ``"SAME"``, ``"VALID"`` or pairs of (low, high).
      **options: the other arguments of `jax.lax.conv_general_dilated`.

    Returns:
      ``[B, height', width', features]``.
    """

    def by_xla(images: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(images, kernel, strides, padding, **options)

    dilations = [*options.get("lhs_dilation", ()), *options.get("rhs_dilation", ())]
    plain = set(strides) == {1} and set(dilations) <= {1}
    if not plain or options.get("feature_group_count", 1) != 1:
        return by_xla(images, kernel)

    def by_product(images: Array, kernel: Array) -> Array:
        pads = padding
        if isinstance(padding, str):
            pads = lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], (1, 1), padding)
        return patch_product(images, kernel, pads, precision=options.get("precision"))

    return lax.platform_dependent(images, kernel, cpu=by_product, default=by_xla)


def convolve_same(x: Array, kernel: Array, compute_dtype: Any = None) -> Array:
    """Convolution of stride 1 with zeros around, so that sizes stay; on a CPU as in `convolve`.

    Args:
      x: ``[..., *sizes, C]``, with one to three sizes.
      kernel: ``[*kernel sizes, C, F]``.
      compute_dtype: as in `recurrent.gated`; with it, a product of patches on every platform.

    Returns:
      ``[..., *sizes, F]``.
    """
    pads = [((size - 1) // 2, size // 2) for size in kernel.shape[:-2]]

    def by_product(x: Array, kernel: Array) -> Array:
        return patch_product(x, kernel, pads, compute_dtype=compute_dtype)

    def by_xla(x: Array, kernel: Array) -> Array:
        rank = len(pads)
        axes = "DHW"[-rank:]
        batch = x.shape[: x.ndim - rank - 1]
        z = lax.conv_general_dilated(
            x.reshape(-1, *x.shape[len(batch) :]),
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
    precision: Any = None,
    compute_dtype: Any = None,
) -> Array:
    """Convolution of stride 1 as one matrix product: every patch of the image is a row.

    Args:
      x: ``[..., *sizes, C]``.
      kernel: ``[*kernel sizes, C, F]``.
      padding: zeros before and after along each of the sizes.
      precision: of the product, as in `jax.numpy.matmul`.
      compute_dtype: as in `recurrent.gated`.
    """
    *kernel_sizes, _, features = kernel.shape
    rank = len(kernel_sizes)
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - rank - 1) + [*padding, (0, 0)])
    ends = padded.shape[x.ndim - rank - 1 : -1]
    sizes = [end - size + 1 for end, size in zip(ends, kernel_sizes, strict=True)]

    def shifted(offsets: tuple[int, ...]) -> Array:
        cuts = [slice(low, low + size) for low, size in zip(offsets, sizes, strict=True)]
        return padded[(..., *cuts, slice(None))]

    offsets = itertools.product(*map(range, kernel_sizes))
    patches = jnp.concatenate([shifted(each) for each in offsets], axis=-1)
    return product(patches, kernel.reshape(-1, features), compute_dtype, precision)


def max_pool_2x2(images: Array) -> Array:
    """The largest of each 2x2 block ``[B, H, W, C] -> [B, H // 2, W // 2, C]``.

    An odd last row or column is left out. Where a block has several largest entries, its gradient
    is shared among them, as `jnp.max` does.
    """
    batch, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    blocks = even.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return blocks.max(axis=(2, 4))
