"""Build layers without memory, each a pair of pure functions."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from recurrent.cell import Params, check_sizes
from recurrent.errors import ArgumentError
from recurrent.initializers import Initializer, resolve
from recurrent.linear_map import affine


class Layer(NamedTuple):
    """Hold a layer without memory: ``init: key -> params`` and ``apply: (params, x) -> y``."""

    init: Callable[[Array], Any]
    apply: Callable[[Any, Any], Any]


def dense(
    input_size: int,
    output_size: int,
    *,
    kernel_init: Initializer | str = "glorot_uniform",
) -> Layer:
    """Build a dense layer, such as the readout ``y_t = W_hy h_t + b_y``.

    It is an affine map of the last axis.

    Args:
      input_size: the size of the last axis of the input.
      output_size: the size of the last axis of the output.
      kernel_init: draws the kernel: an initializer or its name.

    Returns:
      The layer, with params ``{"kernel": [input_size, output_size], "bias": [output_size]}``; the
      bias starts at zero.

    Raises:
      ValueError: for a size below 1 or an unknown initializer.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import dense
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.array([0.5, 0.0])}
      >>> dense(2, 2).apply(params, jnp.array([1.0, 10.0])).tolist()
      [31.5, 42.0]
    """
    check_sizes(input_size=input_size, output_size=output_size)
    draw = resolve(kernel_init, "kernel_init")

    def init(key: Array) -> Any:
        bias = jax.numpy.zeros(output_size)
        return {"kernel": draw(key, (input_size, output_size)), "bias": bias}

    return Layer(init, affine)


def layer_norm(size: int, *, epsilon: float = 1e-5) -> Layer:
    """Build a layer normalization over the last axis.

    Equation: ``y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias``, over the last axis,
    with the variance divided by ``size``. The statistics of 16-bit inputs are computed in float32.

    Args:
      size: the size of the last axis.
      epsilon: added to the variance.

    Returns:
      The layer, with params ``{"scale": [size], "bias": [size]}``, initially 1 and 0.

    Raises:
      ValueError: for a size below 1.

    References:
      Ba et al. 2016, arXiv:1607.06450.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import layer_norm
      >>> norm = layer_norm(2)
      >>> params = norm.init(jax.random.key(0))
      >>> norm.apply(params, jnp.array([3.0, 7.0])).round(3).tolist()
      [-1.0, 1.0]
    """
    check_sizes(size=size)

    def apply(params, x):
        wide = _at_least_float32(x)
        centered = wide - wide.mean(axis=-1, keepdims=True)
        return _normal(centered, epsilon).astype(x.dtype) * params["scale"] + params["bias"]

    return Layer(lambda key: {"scale": jnp.ones(size), "bias": jnp.zeros(size)}, apply)


def rms_norm(size: int, *, epsilon: float = 1e-6) -> Layer:
    """Build a root-mean-square normalization over the last axis.

    Equation: ``y = x / sqrt(mean(x^2) + epsilon) * scale``, over the last axis. The mean of
    16-bit inputs is computed in float32.

    Args:
      size: the size of the last axis.
      epsilon: added to the mean square.

    Returns:
      The layer, with params ``{"scale": [size]}``, initially 1.

    Raises:
      ValueError: for a size below 1.

    References:
      Zhang & Sennrich 2019, arXiv:1910.07467. Departure: epsilon.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import rms_norm
      >>> norm = rms_norm(4)
      >>> params = norm.init(jax.random.key(0))
      >>> norm.apply(params, jnp.array([0.0, 0.0, 0.0, 6.0])).round(3).tolist()
      [0.0, 0.0, 0.0, 2.0]
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
    """Build a multilayer perceptron with one hidden layer.

    Equation: ``y = f(x W_1 + b_1) W_2 + b_2``; the gated kinds multiply ``f(...)`` by
    ``x W_g + b_g``. f is relu, gelu (the tanh approximation, for geglu too) or silu (for swiglu).

    Args:
      size: the size of inputs and outputs.
      hidden_size: the number of hidden units.
      kind: the activation; ``"geglu"`` and ``"swiglu"`` are the gated kinds.

    Returns:
      The layer, with params ``{"input": {"kernel": [size, hidden_size], "bias": [hidden_size]},
      "output": {"kernel": [hidden_size, size], "bias": [size]}}``, and ``"gate"`` like ``"input"``
      for the gated kinds.

    Raises:
      ValueError: for an unknown kind or a size below 1.

    References:
      Hendrycks & Gimpel 2016, arXiv:1606.08415; gated: Shazeer 2020, arXiv:2002.05202.
      Departure from the latter: biases.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import mlp
      >>> layer = mlp(3, 4, kind="swiglu")
      >>> params = layer.init(jax.random.key(0))
      >>> sorted(params), layer.apply(params, jnp.ones((5, 2, 3))).shape
      (['gate', 'input', 'output'], (5, 2, 3))
    """
    if kind not in _MLP_KINDS:
        raise ArgumentError(f"kind: expected one of {list(_MLP_KINDS)}, got {kind!r}.")
    activation, is_gated = _MLP_KINDS[kind]
    layers = {"input": dense(size, hidden_size), "output": dense(hidden_size, size)}
    if is_gated:
        layers["gate"] = dense(size, hidden_size)

    def apply(params, x):
        hidden = activation(affine(params["input"], x))
        if is_gated:
            hidden = hidden * affine(params["gate"], x)
        return affine(params["output"], hidden)

    return Layer(partial(init_all, layers), apply)


def init_all(parts: dict[str, Any], key: Array) -> Params:
    """Draw the params of several parts, each from a key of its own."""
    keys = jax.random.split(key, len(parts))
    return {name: part.init(k) for k, (name, part) in zip(keys, parts.items(), strict=True)}


def embedding(vocabulary: int, size: int, *, kernel_init: Initializer | None = None) -> Layer:
    """Build an embedding: a trained vector for each token, integers ``[...]`` to ``[..., size]``.

    To let a cell read tokens ``[T, B]``: ``stack(embedding(V, D), cell, input_shape=())``.

    Args:
      vocabulary: V; tokens are 0 to V - 1.
      size: the size of a vector.
      kernel_init: draws the vectors; by default from a normal distribution of standard deviation
        ``1 / sqrt(size)``.

    Returns:
      The layer, with params ``{"kernel": [V, size]}``. A traced token outside the vocabulary, also
      a negative one, gives NaN: no index is clipped or wrapped.

    Raises:
      ValueError: for sizes below 1, tokens that are not integers, and tokens outside the vocabulary
        unless they are traced.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import embedding
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
      >>> embedding(vocabulary=2, size=2).apply(params, jnp.array([1, 0])).tolist()
      [[3.0, 4.0], [1.0, 2.0]]
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
        raise ArgumentError(f"tokens: expected integers, got {jnp.result_type(tokens)}.")
    if isinstance(tokens, Tracer):
        return
    outside = np.asarray(tokens)[(np.asarray(tokens) < 0) | (np.asarray(tokens) >= vocabulary)]
    if outside.size:
        raise ArgumentError(f"tokens: expected 0 to {vocabulary - 1}, got {outside[0]}.")
