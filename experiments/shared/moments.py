"""Follow mean and variance of numbers that come batch by batch, and scale others by them."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

SMALLEST = 1e-8  # a variance
FARTHEST = 10.0  # standard deviations from the mean, beyond which a scaled number is clipped


class Moments(NamedTuple):
    """Hold mean ``[...]`` and variance ``[...]`` of numbers, and how many were counted ``[]``."""

    mean: Array
    variance: Array
    counted: Array


def no_moments(shape: tuple[int, ...] = ()) -> Moments:
    """Return those of no numbers, by which `standardized` changes nothing but what is far off."""
    return Moments(jnp.zeros(shape), jnp.ones(shape), jnp.float32(0))


def extended(moments: Moments, values: Array) -> Moments:
    """Return the moments with further values ``[N, ...]`` counted in.

    References:
      Chan, Golub & LeVeque 1979, Updating formulae and a pairwise algorithm for computing sample
      variances.
    """
    size = values.shape[0]
    counted = moments.counted + size
    delta = values.mean(0) - moments.mean
    squares = moments.variance * moments.counted + values.var(0) * size
    squares += delta**2 * moments.counted * size / counted
    return Moments(moments.mean + delta * size / counted, squares / counted, counted)


def standardized(moments: Moments, values: Array) -> Array:
    """Return values in standard deviations from the mean, clipped to `FARTHEST`."""
    scaled = (values - moments.mean) / deviation(moments)
    return jnp.clip(scaled, -FARTHEST, FARTHEST)


def deviation(moments: Moments) -> Array:
    """Return the standard deviation, or 1 where it is too small to divide by."""
    return jnp.where(moments.variance > SMALLEST, jnp.sqrt(moments.variance), 1)
