"""Normalisations of the last axis, as layers."""

import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import check_sizes
from recurrent.layer import Layer


def layer_norm(size: int, *, epsilon: float = 1e-5) -> Layer:
    """Layer normalisation.

    Equation: ``y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias``, over the last axis,
    with the variance divided by ``size``. The statistics of 16-bit inputs are taken in float32.

    Params: ``{"scale": [size], "bias": [size]}``, at first 1 and 0.

    References:
      Ba et al. 2016, arXiv:1607.06450.
    """
    check_sizes(size=size)

    def apply(params, x):
        wide = _at_least_float32(x)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        return _normal(centred, epsilon).astype(x.dtype) * params["scale"] + params["bias"]

    return Layer(lambda key: {"scale": jnp.ones(size), "bias": jnp.zeros(size)}, apply)


def rms_norm(size: int, *, epsilon: float = 1e-6) -> Layer:
    """Root-mean-square normalisation.

    Equation: ``y = x / sqrt(mean(x^2) + epsilon) * scale``, over the last axis. The mean of
    16-bit inputs is taken in float32.

    Params: ``{"scale": [size]}``, at first 1.

    References:
      Zhang & Sennrich 2019, arXiv:1910.07467. Departure: epsilon.
    """
    check_sizes(size=size)

    def apply(params, x):
        return _normal(_at_least_float32(x), epsilon).astype(x.dtype) * params["scale"]

    return Layer(lambda key: {"scale": jnp.ones(size)}, apply)


def _normal(x: Array, epsilon: float) -> Array:
    return x * lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon)


def _at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
