"""Masked losses and metrics, as averages that add up exactly over batches of any size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class Average(NamedTuple):
    """A mean that keeps its parts, so that averages of batches add up to that of the whole.

    Attributes:
      total: the sum over the entries that count.
      weight: how many entries count.
    """

    total: Array
    weight: Array

    @property
    def mean(self) -> Array:
        """``total / weight``; zero where nothing counts."""
        return self.total / jnp.maximum(self.weight, 1)


def masked_average(values: Array, mask: Array | None = None) -> Average:
    """The average of ``values`` where ``mask`` (of the same shape, or its leading axes) is true.

    What is masked reaches neither the value nor the gradient, NaN included.
    """
    mask = jnp.ones(values.shape, bool) if mask is None else mask.astype(bool)
    mask = jnp.broadcast_to(
        mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values.shape
    )
    return Average(jnp.where(mask, values, 0).sum(), mask.sum().astype(jnp.float32))


def cross_entropy(
    logits: Array, labels: Array, mask: Array | None = None, *, label_smoothing: Any = 0.0
) -> Average:
    """Softmax cross-entropy in nats.

    Args:
      logits: ``[..., C]``.
      labels: integers ``[...]`` below C; one outside gives NaN, in the gradient too.
      mask: ``[...]``, true where an entry counts.
      label_smoothing: the share of each label that is spread evenly over the C classes
        (Szegedy et al. 2016); may be traced.
    """
    if mask is not None:
        logits = jnp.where(mask.astype(bool)[..., None], logits, 0)
        labels = jnp.where(mask.astype(bool), labels, 0)
    right = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    even = -jax.nn.log_softmax(logits).mean(axis=-1)
    each = cross_entropy_of(right, even, labels, logits.shape[-1], label_smoothing)
    return masked_average(each, mask)


def cross_entropy_of(
    right: Array, even: Array, labels: Array, classes: int, label_smoothing: Any
) -> Array:
    """The cross-entropy of each entry, from that with its label and that with an even target.

    A label that is none of the classes gives NaN, in the gradient too: by a product, since what
    `jnp.where` replaces would leave the gradient finite, and training would go on.
    """
    is_class = (labels >= 0) & (labels < classes)
    smoothed = (1 - label_smoothing) * right + label_smoothing * even
    return smoothed * jnp.where(is_class, 1, jnp.nan)


def accuracy(logits: Array, labels: Array, mask: Array | None = None) -> Average:
    """The share of entries whose largest logit is the label's; shapes as in `cross_entropy`."""
    return masked_average((logits.argmax(-1) == labels).astype(jnp.float32), mask)
