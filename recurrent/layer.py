"""Layers without memory, as pairs of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from recurrent.gated import Initializer, affine


class Layer(NamedTuple):
    """``init: key -> params`` and ``apply: (params, x) -> y``."""

    init: Callable[[Array], Any]
    apply: Callable[[Any, Any], Any]


def dense(
    input_size: int,
    output_size: int,
    *,
    kernel_init: Initializer = jax.nn.initializers.glorot_uniform(),
) -> Layer:
    """The readout ``y_t = W_hy h_t + b_y``, and any other affine map of the last axis.

    Params: ``{"kernel": [input_size, output_size], "bias": [output_size]}``; the bias starts
    at zero.
    """

    def init(key: Array) -> Any:
        bias = jax.numpy.zeros(output_size)
        return {"kernel": kernel_init(key, (input_size, output_size)), "bias": bias}

    return Layer(init, affine)
