"""Linear maps of inputs and states, with gradients that are one product over all steps."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import Params

Apply = Callable[[Params, Array], Array]


CACHED = 2**20  # numbers that a CPU's caches hold


TURNED = 7 * 2**19  # numbers of a kernel that is better transposed for a single row too


class LinearMap(NamedTuple):
    """An affine map and its gradients.

    Attributes:
      apply: ``(params, x) -> z``.
      to_input: ``params -> (x, d_z) -> d_x``; what it makes of the params is made once for a loop.
      to_params: ``(params, x, d_z) -> d_params``, with any leading axes.
    """

    apply: Apply
    to_input: Callable[[Params], Callable[[Array, Array], Array]]
    to_params: Callable[[Params, Array, Array], Params]


class Maps(NamedTuple):
    """How x_t and h_{t-1} reach the pre-activations of a gated cell: zx and zh.

    Attributes:
      input: from x to zx.
      recurrent: from h to zh.
      input_blocks: into how many arrays, along the last axis, zx is cut for the gate.
      recurrent_blocks: the same for zh.
    """

    input: LinearMap
    recurrent: LinearMap
    input_blocks: int = 1
    recurrent_blocks: int = 1


def dense_maps(compute_dtype: Any = None) -> Maps:
    """`affine` for both x and h."""
    return Maps(dense_map(compute_dtype), dense_map(compute_dtype))


def dense_map(compute_dtype: Any = None) -> LinearMap:
    """`affine`, with the products of its gradients narrowed like its own."""

    def to_input(params: Params) -> Callable[[Array, Array], Array]:
        kernel, transposed = params["kernel"], params["kernel"].T

        def apply(x: Array, d_z: Array) -> Array:
            # Transposed before a loop, it is read row by row in each step: on a CPU up to three
            # times as fast, but slower by up to a half for the product with a single row.
            small = _is_single_row(d_z) and kernel.size <= TURNED
            return product(d_z, kernel.T if small else transposed, compute_dtype)

        return apply

    def to_params(params: Params, x: Array, d_z: Array) -> Params:
        rows = tuple(range(d_z.ndim - 1))
        kernel = product(x, d_z, compute_dtype, axes=(rows, rows))
        bias = {"bias": d_z.sum(rows)} if "bias" in params else {}
        return {"kernel": kernel, **bias}

    return LinearMap(partial(affine, compute_dtype=compute_dtype), to_input, to_params)


def derived_map(apply: Apply) -> LinearMap:
    """A map with the gradients that `jax.vjp` derives."""

    def to_input(params: Params) -> Callable[[Array, Array], Array]:
        return lambda x, d_z: jax.vjp(partial(apply, params), x)[1](d_z)[0]

    def to_params(params: Params, x: Array, d_z: Array) -> Params:
        return jax.vjp(lambda params: apply(params, x), params)[1](d_z)[0]

    return LinearMap(apply, to_input, to_params)


def affine(params: Params, x: Array, compute_dtype: Any = None) -> Array:
    """``x W + b``, or ``x W`` where there is no bias; the product's operands may be narrower."""
    kernel = params["kernel"]
    if len(kernel) == 1:
        # A product by a single row becomes a multiplication, which XLA on a CPU fuses with the
        # gate and then does not vectorise. With a row of zeros it stays a product.
        x = jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, 1)])
        kernel = jnp.pad(kernel, [(0, 1), (0, 0)])
    z = product(x, kernel, compute_dtype)
    return z + params["bias"] if "bias" in params else z


def product(a: Array, b: Array, dtype: Any = None, precision: Any = None, axes: Any = 1) -> Array:
    """`jax.numpy.tensordot` with operands of ``dtype``, accumulated in the type of ``b``."""
    if dtype is None:
        return jnp.tensordot(a, b, axes, precision=precision)
    return jnp.tensordot(a.astype(dtype), b.astype(dtype), axes, preferred_element_type=b.dtype)


def _is_single_row(x: Array) -> bool:
    return math.prod(x.shape[:-1]) == 1
