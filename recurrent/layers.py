"""Layers without memory, as pairs of pure functions."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from recurrent.cell import (
    Params,
    check_sizes,
)
from recurrent.initializers import Initializer, resolve
from recurrent.linear_map import affine


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
    draw = resolve(kernel_init, "kernel_init")

    def init(key: Array) -> Any:
        bias = jax.numpy.zeros(output_size)
        return {"kernel": draw(key, (input_size, output_size)), "bias": bias}

    return Layer(init, affine)


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


_MLP_KINDS: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "relu": (jax.nn.relu, False),
    "gelu": (jax.nn.gelu, False),
    "geglu": (jax.nn.gelu, True),
    "swiglu": (jax.nn.silu, True),
}


def mlp(
    size: int, hidden_size: int, *, kind: Literal["relu", "gelu", "geglu", "swiglu"] = "gelu"
) -> Layer:
    """A multilayer perceptron of one hidden layer.

    Equation: ``y = f(x W_1 + b_1) W_2 + b_2``; the gated kinds multiply ``f(...)`` by
    ``x W_g + b_g``. f is relu, gelu (tanh form; geglu too) or silu (swiglu).

    Params: ``{"input": {"kernel": [size, hidden_size], "bias": [hidden_size]}, "output":
    {"kernel": [hidden_size, size], "bias": [size]}}``, and ``"gate"`` like ``"input"`` for the
    gated kinds.

    Raises:
      ValueError: for an unknown kind.

    References:
      Hendrycks & Gimpel 2016, arXiv:1606.08415; gated: Shazeer 2020, arXiv:2002.05202.
      Departure from the latter: biases.
    """
    if kind not in _MLP_KINDS:
        raise ValueError(f"kind: expected one of {list(_MLP_KINDS)}, got {kind!r}.")
    activation, is_gated = _MLP_KINDS[kind]
    layers = {"input": dense(size, hidden_size), "output": dense(hidden_size, size)}
    if is_gated:
        layers["gate"] = dense(size, hidden_size)

    def apply(params, x):
        hidden = activation(affine(params["input"], x))
        if is_gated:
            hidden = hidden * affine(params["gate"], x)
        return affine(params["output"], hidden)

    return Layer(partial(_init_all, layers), apply)


def _init_all(parts: dict[str, Any], key: Array) -> Params:
    keys = jax.random.split(key, len(parts))
    return {name: part.init(k) for k, (name, part) in zip(keys, parts.items(), strict=True)}


def embedding(vocabulary: int, size: int, *, kernel_init: Initializer | None = None) -> Layer:
    """A trained vector for each token: integers ``[...]`` to ``[..., size]``.

    Below a cell: ``stack(embedding(V, D), cell, input_shape=())`` reads tokens ``[T, B]``.

    Args:
      vocabulary: V; tokens are 0 to V - 1.
      size: of a vector.
      kernel_init: draws the vectors; normal of standard deviation ``1 / sqrt(size)`` by default.

    Returns:
      The layer, with params ``{"kernel": [V, size]}``. A traced token outside the vocabulary
      gives NaN, negative ones too: nothing is clipped or wrapped.

    Raises:
      ValueError: for sizes below 1, tokens that are not integers, and, where their values are
        known, tokens outside the vocabulary.
    """
    check_sizes(vocabulary=vocabulary, size=size)

    def apply(params: Params, tokens: Any) -> Array:
        _check_tokens(tokens, vocabulary)
        rows = jnp.asarray(params["kernel"]).at[tokens]
        return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    draw = kernel_init or jax.nn.initializers.normal(size**-0.5)
    return Layer(lambda key: {"kernel": draw(key, (vocabulary, size))}, apply)


def _check_tokens(tokens: Any, vocabulary: int) -> None:
    if not jnp.issubdtype(jnp.result_type(tokens), jnp.integer):
        raise ValueError(f"tokens: expected integers, got {jnp.result_type(tokens)}.")
    if isinstance(tokens, Tracer):
        return
    outside = np.asarray(tokens)[(np.asarray(tokens) < 0) | (np.asarray(tokens) >= vocabulary)]
    if outside.size:
        raise ValueError(f"tokens: expected 0 to {vocabulary - 1}, got {outside[0]}.")
