"""Map inputs and states affinely, with weight gradients that are one product over all steps.

A `LinearMap` holds a map beside its two gradients, so that the backward pass of a whole sequence
can compute the gradient of the state in each step, and that of the weights once at the end.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import Params

Apply = Callable[[Params, Array], Array]


# Both sizes are in array elements, and were measured on CPUs.
# About what the caches hold (4 MiB of float32): a larger kernel is slow to read in every step.
CPU_CACHE_SIZE = 2**20
# For a batch of one row, multiplying by the transpose of a kernel that is stored as it is was
# faster by up to a half up to about this size (3.7 million); above it, a copy transposed before
# the loop was faster.
SINGLE_ROW_TRANSPOSE_SIZE = 7 * 2**19
# A kernel with an odd number of columns, whose rows are not aligned, was up to 3.8 times as slow as
# it is stored (JAX 0.12.0); from about this size on it was faster, as others are.
UNALIGNED_SIZE = 2**18


class LinearMap(NamedTuple):
    """Hold an affine map and its gradients.

    Attributes:
      apply: ``(params, x) -> z``.
      to_input: ``params -> (x, d_z) -> d_x``, the gradient with respect to the input. It is
        called in two stages, so that what depends on the params alone is computed once per loop.
      to_params: ``(params, x, d_z) -> d_params``, the gradient with respect to the params, summed
        over any leading axes.
    """

    apply: Apply
    to_input: Callable[[Params], Callable[[Array, Array], Array]]
    to_params: Callable[[Params, Array, Array], Params]


class Maps(NamedTuple):
    """Hold the two maps of a gated cell, from x_t and h_{t-1} to the pre-activations zx and zh.

    Attributes:
      input: the map from x to zx.
      recurrent: the map from h to zh.
      input_blocks: the number of equal arrays into which zx is split, along the last axis, before
        the gate gets it.
      recurrent_blocks: the same for zh.
    """

    input: LinearMap
    recurrent: LinearMap
    input_blocks: int = 1
    recurrent_blocks: int = 1


def dense_maps(compute_dtype: Any = None) -> Maps:
    """Return dense maps of x and of h for `recurrent.gated_cell`, each with one block.

    Args:
      compute_dtype: the type of the products' operands, such as ``jnp.bfloat16``; by default that
        of the arrays.

    Returns:
      The maps. Each computes ``x W + b`` from the params ``{"kernel": W, "bias": b}``, or ``x W``
      if there is no bias.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import dense_maps
      >>> maps = dense_maps()
      >>> params = {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([0.0, 1.0])}
      >>> maps.input.apply(params, jnp.array([3.0])).tolist()
      [3.0, 7.0]
    """
    return Maps(dense_map(compute_dtype), dense_map(compute_dtype))


def dense_map(compute_dtype: Any = None) -> LinearMap:
    """Return the map `affine`, whose gradients use operands of ``compute_dtype`` as well."""

    def to_input(params: Params) -> Callable[[Array, Array], Array]:
        kernel, transposed = params["kernel"], params["kernel"].T

        def apply(x: Array, d_z: Array) -> Array:
            as_stored = is_read_as_stored(d_z, kernel)
            return product(d_z, kernel.T if as_stored else transposed, compute_dtype)

        return apply

    def to_params(params: Params, x: Array, d_z: Array) -> Params:
        rows = tuple(range(d_z.ndim - 1))
        kernel = product(x, d_z, compute_dtype, axes=(rows, rows))
        bias = {"bias": d_z.sum(rows)} if "bias" in params else {}
        return {"kernel": kernel, **bias}

    return LinearMap(partial(affine, compute_dtype=compute_dtype), to_input, to_params)


def is_read_as_stored(d_z: Array, kernel: Array) -> bool:
    """Return whether a product with a kernel's transpose reads the kernel as it is stored.

    A kernel transposed before the loop is read row by row in each step: on a CPU up to three times
    as fast, but slower by up to a half for the product with a single row. This rule was measured
    there; `experiments.bench.drawn` tells by how much it misses.
    """
    aligned = kernel.shape[-1] % 2 == 0 or kernel.size >= UNALIGNED_SIZE
    return is_single_row(d_z) and aligned and kernel.size <= SINGLE_ROW_TRANSPOSE_SIZE


def derived_map(apply: Apply) -> LinearMap:
    """Return a map whose gradients are derived by `jax.vjp`.

    Args:
      apply: ``(params, x) -> z``, affine in x.

    Returns:
      The map, for one of the fields of `Maps`.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import derived_map
      >>> elementwise = derived_map(lambda params, h: params["kernel"] * h)
      >>> params, h = {"kernel": jnp.array([2.0, 3.0])}, jnp.array([5.0, 7.0])
      >>> d_z = jnp.array([1.0, 10.0])
      >>> elementwise.to_input(params)(h, d_z).tolist()
      [2.0, 30.0]
      >>> elementwise.to_params(params, h, d_z)["kernel"].tolist()
      [5.0, 70.0]
    """

    def to_input(params: Params) -> Callable[[Array, Array], Array]:
        return lambda x, d_z: jax.vjp(partial(apply, params), x)[1](d_z)[0]

    def to_params(params: Params, x: Array, d_z: Array) -> Params:
        return jax.vjp(lambda params: apply(params, x), params)[1](d_z)[0]

    return LinearMap(apply, to_input, to_params)


def affine(params: Params, x: Array, compute_dtype: Any = None) -> Array:
    """Compute ``x W + b``, or ``x W`` if the params hold no bias.

    The operands of the product are cast to ``compute_dtype``, if one is given.
    """
    kernel = params["kernel"]
    if len(kernel) == 1:
        # XLA turns a product with a kernel of a single row into a multiplication, which on a CPU
        # it fuses with the gate and then does not vectorize. A second row, of zeros, prevents it.
        x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, 1)])
        kernel = jnp.pad(kernel, [(0, 1), (0, 0)])
    z = product(x, kernel, compute_dtype)
    return z + params["bias"] if "bias" in params else z


def joined_affine(
    maps: Maps, of_input: Params, of_recurrent: Params
) -> Callable[[Array, Array], Array] | None:
    """Return ``(x, h) -> zx + zh`` of two dense maps as one product; None for other maps.

    Args:
      maps: of x and of h, with results of one size.
      of_input: the params of the first.
      of_recurrent: those of the second.

    Example:
      >>> import jax.numpy as jnp
      >>> of_input = {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.array([0.5, 0.0])}
      >>> of_recurrent = {"kernel": jnp.array([[10.0, 0.0], [0.0, 10.0]])}
      >>> both = joined_affine(dense_maps(), of_input, of_recurrent)
      >>> both(jnp.array([3.0]), jnp.array([1.0, 2.0])).tolist()
      [13.5, 26.0]
    """
    first, second = maps.input.apply, maps.recurrent.apply
    if not (isinstance(first, partial) and isinstance(second, partial)):
        return None
    if not (first.func is second.func is affine and first.keywords == second.keywords):
        return None
    kernel = jnp.concatenate([of_input["kernel"], of_recurrent["kernel"]])
    biases = [params["bias"] for params in (of_input, of_recurrent) if "bias" in params]
    params = {"kernel": kernel} | ({"bias": sum(biases[1:], biases[0])} if biases else {})
    return lambda x, h: first(params, jnp.concatenate([x, h], axis=-1))


def product(a: Array, b: Array, dtype: Any = None, precision: Any = None, axes: Any = 1) -> Array:
    """Apply `jax.numpy.tensordot` to operands cast to ``dtype``, accumulating in ``b``'s type."""
    if dtype is None:
        return jnp.tensordot(a, b, axes, precision=precision)
    return jnp.tensordot(a.astype(dtype), b.astype(dtype), axes, preferred_element_type=b.dtype)


def is_single_row(x: Array) -> bool:
    """Return whether all axes but the last together have length 1, as far as is known."""
    return math.prod(x.shape[:-1]) == 1
