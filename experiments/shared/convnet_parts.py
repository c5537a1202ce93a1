"""Split `recurrent.convnet.ConvNet` at its last convolution."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from recurrent.convolution import convolve, max_pool_2x2


def parts_of(params: Any) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Return ``features``, images to the maps of the last convolution, and ``head``, to logits.

    Images are ``[B, H, W]``, maps ``[B, H // 2, W // 2, 64]``.
    """

    def convolution(x: Array, name: str) -> Array:
        order = ("NHWC", "HWIO", "NHWC")
        found = convolve(x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=order)
        return jax.nn.relu(found + params[name]["bias"])

    def dense(x: Array, name: str) -> Array:
        return x @ params[name]["kernel"] + params[name]["bias"]

    def features(images: Array) -> Array:
        return convolution(max_pool_2x2(convolution(images[..., None], "Conv_0")), "Conv_1")

    def head(maps: Array) -> Array:
        x = max_pool_2x2(maps)
        flat = x.reshape(len(x), math.prod(x.shape[1:]))
        return dense(jax.nn.relu(dense(flat, "Dense_0")), "Dense_1")

    return features, head
