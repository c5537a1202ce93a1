"""Layers without memory, as pairs of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from recurrent.cell import check_sizes
from recurrent.gated import affine
from recurrent.initializers import Initializer, named


class Layer(NamedTuple):
    """``init: key -> params`` and ``apply: (params, x) -> y``."""

    init: Callable[[Array], Any]
    apply: Callable[[Any, Any], Any]


def dense(
    input_size: int,
    output_size: int,
    *,
    kernel_init: Initializer | str = "glorot_uniform",
) -> Layer:
    """The readout ``y_t = W_hy h_t + b_y``, and any other affine map of the last axis.

    Params: ``{"kernel": [input_size, output_size], "bias": [output_size]}``; the bias starts
    at zero.

    Raises:
      ValueError: for a size below 1 or an unknown initialiser.
    """
    check_sizes(input_size=input_size, output_size=output_size)
    draw = named(kernel_init, "kernel_init")

    def init(key: Array) -> Any:
        bias = jax.numpy.zeros(output_size)
        return {"kernel": draw(key, (input_size, output_size)), "bias": bias}

    return Layer(init, affine)
