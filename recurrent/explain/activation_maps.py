"""Explain by the maps inside a network that is split in two: features, then a head.

``features`` maps inputs ``[B, ...]`` to activations ``[B, *places, K]`` with K channels, such as
``[B, h, w, K]`` of images or ``[B, T, K]`` of sequences, and ``head`` maps those to one number for
each example, ``[B]``. Where lengths are given, both get the mask ``[B, T]`` too.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.errors import ArgumentError, ReturnError
from recurrent.explain._inputs import Problem, Score, check_function, prepare, returned, slope


def grad_cam(
    features: Callable[..., Array],
    head: Score,
    xs: Any,
    *,
    lengths: Any = None,
    resize: bool = True,
) -> Array:
    """Weigh the channels of an inner layer by the mean gradient that reaches them.

    Equation: ``relu(sum over k of a_k A_k)``, where a_k is the mean over all places of ``d head /
    d A_k``.

    Args:
      features: ``xs -> A [B, *places, K]``.
      head: ``A -> [B]``.
      xs: inputs ``[B, ...]``.
      lengths: integers ``[B]``, of sequences ``[B, T, ...]``.
      resize: whether to interpolate to the size of the inputs.

    Returns:
      ``[B, *places]``, from 0 up; as ``[B, H, W]`` or ``[B, T]`` where resized. 0 in padding.

    Raises:
      ValueError: for inputs or lengths that do not fit.
      TypeError: where the functions return other shapes.

    References:
      Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import grad_cam
      >>> features = lambda xs: jnp.stack([xs, -xs], -1)  # [B, H, W] -> [B, H, W, 2]
      >>> head = lambda a: a[..., 0].mean((1, 2))
      >>> grad_cam(features, head, jnp.array([[[4.0, 0.0], [-1.0, 8.0]]])).tolist()
      [[[1.0, 0.0], [0.0, 2.0]]]
    """
    problem, activations, real = _activations(features, head, xs, lengths)
    slopes = slope(problem, activations)
    weights = _place_mean(slopes, real)
    found = jax.nn.relu(jnp.einsum("bk,b...k->b...", weights, activations))
    return _finish(problem, found, real, resize)


def activation_map(
    features: Callable[..., Array],
    xs: Any,
    *,
    weights: Any = None,
    lengths: Any = None,
    resize: bool = True,
) -> Array:
    """Return the activations of an inner layer, summed over channels.

    With the weights of the class in a dense layer that reads the mean over all places, it is the
    class activation map, which says how much each place adds to the class.

    Args:
      features: ``xs -> A [B, *places, K]``.
      xs: inputs ``[B, ...]``.
      weights: of the channels, ``[K]`` or ``[B, K]``; None for the mean of absolute activations.
      lengths: integers ``[B]``, of sequences ``[B, T, ...]``.
      resize: whether to interpolate to the size of the inputs.

    Returns:
      As `grad_cam`, but signed where weights are given.

    Raises:
      ValueError: for inputs, weights or lengths that do not fit.
      TypeError: where features returns another shape.

    References:
      Zhou et al. 2016, Learning deep features for discriminative localization, arXiv:1512.04150.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import activation_map
      >>> features = lambda xs: jnp.stack([xs, 2 * xs], -1)
      >>> xs = jnp.array([[[1.0, -1.0]]])
      >>> activation_map(features, xs, weights=[1.0, 1.0]).tolist()
      [[[3.0, -3.0]]]
      >>> activation_map(features, xs).tolist()
      [[[1.5, 1.5]]]
    """
    problem, activations, real = _activations(features, lambda a, *_: a, xs, lengths)
    batch, channels = len(activations), activations.shape[-1]
    if weights is None:
        return _finish(problem, abs(activations).mean(-1), real, resize)
    weights = jnp.asarray(weights)
    if weights.shape not in ((channels,), (batch, channels)):
        raise ArgumentError(
            f"weights: expected [{channels}] or [{batch}, {channels}], one for each channel, got "
            f"{list(weights.shape)}."
        )
    weights = jnp.broadcast_to(weights, (batch, channels))
    return _finish(problem, jnp.einsum("bk,b...k->b...", weights, activations), real, resize)


def _activations(
    features: Callable[..., Array], head: Score, xs: Any, lengths: Any
) -> tuple[Problem, Array, Array]:
    """Return the problem of the head, activations, and which places ``[B, *places]`` are real."""
    problem = prepare(head, xs, lengths)
    xs, mask = problem.xs, problem.mask
    check_function("features", features, masked=mask is not None)
    found = returned("features", features(xs) if mask is None else features(xs, mask))
    if jnp.ndim(found) < 3 or len(found) != len(xs):
        raise ReturnError(
            f"features: expected activations [B, *places, K] with B = {len(xs)}, got "
            f"{list(jnp.shape(found))}."
        )
    if mask is None:
        return problem, found, jnp.ones((1,) * (found.ndim - 1), bool)
    # a step of fewer, as after pooling, is real where the first step that it covers is
    first = jnp.arange(found.shape[1]) * mask.shape[1] // found.shape[1]
    real = mask[:, first].reshape(*found.shape[:2], *[1] * (found.ndim - 3))
    return problem, jnp.where(real[..., None], found, 0), real


def _place_mean(slopes: Array, real: Array) -> Array:
    """Average over the real places: from ``[B, *places, K]`` to ``[B, K]``."""
    axes = tuple(range(1, slopes.ndim - 1))
    real = jnp.broadcast_to(real[..., None], slopes.shape)
    count = jnp.maximum(real.sum(axes), 1)
    return jnp.where(real, slopes, 0).sum(axes) / count


def _finish(problem: Problem, found: Array, real: Array, resize: bool) -> Array:
    found = jnp.where(real, found, 0)
    shape = problem.xs.shape[: found.ndim]
    if not resize or found.shape == shape:
        return found
    if len(shape) < found.ndim:
        raise ReturnError(
            f"features: expected at most {problem.xs.ndim - 1} axes of places, as many as an "
            f"example has, got {found.ndim - 1}; or take resize=False."
        )
    return problem.without_padding(jax.image.resize(found, shape, "linear"))
