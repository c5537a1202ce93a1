"""Compute masked losses and metrics, as averages that add up exactly over batches of any size."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from recurrent.cell import Params, as_array, as_tokens, check_sizes, weighted
from recurrent.errors import ArgumentError


class Average(NamedTuple):
    """Hold a mean as a sum and a count, so that averages of batches add up to that of the whole.

    Attributes:
      total: the sum over the entries that count, in float32 or wider.
      weight: the number of entries that count; a float where they count in parts.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.losses import masked_average
      >>> batches = masked_average(jnp.array([1.0, 2.0, 6.0])), masked_average(jnp.array([7.0]))
      >>> jax.tree.map(jnp.add, *batches).mean.item()
      4.0
    """

    total: Array
    weight: Array

    @property
    def mean(self) -> Array:
        """Return ``total / weight``, or zero if no entry counts."""
        counts = self.weight > 0
        return jnp.where(counts, self.total, 0) / jnp.where(counts, self.weight, 1)


def masked_average(values: Any, mask: Any = None) -> Average:
    """Average ``values`` over the entries where ``mask`` is true.

    Masked values, NaN included, affect neither the result nor the gradient.

    Args:
      values: floats of any shape; narrow ones, such as bfloat16, are added up in float32.
      mask: true where an entry counts; of the shape of the values or of their leading axes. None
        if all count.

    Returns:
      The average, with an int32 count, which is exact up to 2,147,483,647 entries.

    Raises:
      ValueError: for a mask of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.losses import masked_average
      >>> average = masked_average(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False]))
      >>> average.mean.item(), average.weight.item()
      (1.5, 2)
    """
    values = jnp.asarray(values)
    mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
    if mask.shape != values.shape[: mask.ndim]:
        raise ArgumentError(
            f"mask: expected the shape {list(values.shape)} of the values, or its first axes, "
            f"got {list(mask.shape)}."
        )
    mask = jnp.broadcast_to(
        mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values.shape
    )
    wide = jnp.promote_types(values.dtype, jnp.float32)
    return Average(jnp.where(mask, values, 0).sum(dtype=wide), mask.sum(dtype=jnp.int32))


def cross_entropy(
    logits: Any, labels: Any, mask: Any = None, *, label_smoothing: Any = 0.0
) -> Average:
    """Compute the softmax cross-entropy in nats.

    Args:
      logits: floats ``[..., C]``; narrow ones, such as bfloat16, are cast to float32 first.
      labels: integers ``[...]`` from 0 to C - 1. Any other label gives NaN, in the gradient too,
        unless it is masked.
      mask: ``[...]``, true where an entry counts; None if all count. Masked logits may be NaN.
      label_smoothing: the fraction of each target that is spread evenly over the C classes
        (Szegedy et al. 2016); may be traced.

    Returns:
      The average over the entries that count.

    Raises:
      ValueError: for logits that are not floats, labels that are not integers, or labels or a mask
        of another shape than the logits without their last axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.losses import cross_entropy
      >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
      >>> loss = cross_entropy(logits, jnp.array([0, 1]))
      >>> round(float(jnp.exp(2 * loss.mean)), 3)  # 1 / (0.25 * 0.5)
      8.0
    """
    logits, labels, mask = _checked_logits(logits, labels, mask)
    # float16 has no number for the sum of 70000 exponentials, and bfloat16 three digits
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if mask is not None:
        logits = jnp.where(mask[..., None], logits, 0)
        labels = jnp.where(mask, labels, 0)
    right = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    even = -jax.nn.log_softmax(logits).mean(axis=-1)
    each = cross_entropy_of(right, even, labels, logits.shape[-1], label_smoothing)
    return masked_average(each, mask)


def cross_entropy_of(
    right: Array, even: Array, labels: Array, classes: int, label_smoothing: Any
) -> Array:
    """Combine two cross-entropies of each entry into the one with label smoothing.

    Args:
      right: ``[...]``, the cross-entropy with the label as the target.
      even: ``[...]``, the cross-entropy with a target that is uniform over the classes.
      labels: integers ``[...]``. One that is not a class gives NaN, in the gradient too.
      classes: the number of classes.
      label_smoothing: the weight of ``even``; may be traced.

    Returns:
      ``[...]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.losses import cross_entropy_of
      >>> right, even, labels = jnp.array([2.0, 4.0]), jnp.array([4.0, 4.0]), jnp.array([0, 3])
      >>> cross_entropy_of(right, even, labels, classes=3, label_smoothing=0.5).tolist()
      [3.0, nan]
    """
    labels = as_tokens(labels)
    is_class = (labels >= 0) & (labels < classes)
    # Where any logit is -inf, the even term is infinite.
    smoothed = weighted(1 - label_smoothing, right) + weighted(label_smoothing, even)
    # A product, since jnp.where would keep the gradient finite and training would go on.
    return smoothed * jnp.where(is_class, 1, jnp.nan)


def accuracy(logits: Any, labels: Any, mask: Any = None) -> Average:
    """Compute the fraction of entries whose largest logit is that of the label.

    Args:
      logits: floats ``[..., C]``. Where they hold NaN, no label is right.
      labels: integers ``[...]``.
      mask: ``[...]``, true where an entry counts; None if all count.

    Returns:
      The average over the entries that count.

    Raises:
      ValueError: as `cross_entropy` does.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.losses import accuracy
      >>> logits = jnp.array([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [6.0, 7.0]])
      >>> accuracy(logits, jnp.array([0, 1, 1, 1])).mean.item()
      0.75
    """
    logits, labels, mask = _checked_logits(logits, labels, mask)
    right = (logits.argmax(-1) == labels) & ~jnp.isnan(logits).any(-1)
    return masked_average(right.astype(jnp.float32), mask)


def _checked_logits(logits: Any, labels: Any, mask: Any) -> tuple[Array, Array, Array | None]:
    logits, labels = jnp.asarray(logits), as_tokens(labels)
    if logits.ndim < 1 or not logits.shape[-1] or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ArgumentError(
            "logits: expected floats of the shape [..., C], with a C of at least 1, got "
            f"{logits.dtype} of the shape {list(logits.shape)}."
        )
    mask = None if mask is None else jnp.asarray(mask).astype(bool)
    _check_entries("logits", logits, labels, mask)
    return logits, labels, mask


def _check_entries(name: str, values: Array, labels: Array, mask: Array | None) -> None:
    """Check that there is an integer label, and a flag, for each row of the values."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ArgumentError(f"labels: expected integers, got {labels.dtype}.")
    for own, leaf in {"labels": labels, "mask": mask}.items():
        if leaf is not None and leaf.shape != values.shape[:-1]:
            raise ArgumentError(
                f"{own}: expected the shape {list(values.shape[:-1])}, as the first axes of "
                f"{name}, got {list(leaf.shape)}."
            )


class LogitSummary(NamedTuple):
    """Hold what a cross-entropy needs to know about the logits z of each row; ``[N]`` each.

    Attributes:
      log_sum: ``log sum_v exp z_v``.
      right: the logit of the label; 0 if there is no such logit.
      mean: the mean of z.
    """

    log_sum: Array
    right: Array
    mean: Array


def linear_cross_entropy(
    params: Params,
    hidden: Any,
    labels: Any,
    mask: Any = None,
    *,
    label_smoothing: Any = 0.0,
    chunk: int = 1024,
) -> Average:
    """Compute the cross-entropy of a linear readout without storing its logits ``[..., V]``.

    The result is that of `recurrent.losses.cross_entropy` with the logits of
    ``recurrent.dense(H, V)``.

    Equation: with ``z = h W + b`` the loss is ``log sum_v exp z_v - z_label``. Logits are computed
    ``chunk`` columns at a time, with a running maximum m and sum s:
    ``m' = max(m, max z)``, ``s' = s exp(m - m') + sum exp(z - m')``. The backward pass computes
    the logits once more: four matrix products in place of three, but the values between them stay
    in the caches. On two CPU cores it takes 0.6 (H = 512) to 0.2 (H = 64) of the time of the plain
    form, and memory for two chunks of logits, however large V is.

    For weights tied to the params of a `recurrent.embedding`, call
    ``linear_cross_entropy({"kernel": params["embedding"]["kernel"].T}, ...)``; the gradient of the
    table is then the sum over both uses.

    Args:
      params: of `recurrent.dense`, ``{"kernel": [H, V], "bias": [V]}``; the bias is optional.
      hidden: ``[..., H]``. If it and the kernel are in a narrow type such as bfloat16, so are the
        operands of the products; logits and sums are at least float32.
      labels: integers ``[...]`` from 0 to V - 1. Any other label gives NaN, in the gradient too,
        unless it is masked.
      mask: ``[...]``, true where an entry counts; None if all count. Masked entries may have NaN in
        ``hidden``, and any label.
      label_smoothing: as in `recurrent.losses.cross_entropy`.
      chunk: the number of columns computed at a time. The default was chosen on a CPU, where 512
        to 5120 differ little; an accelerator may be faster with more.

    Returns:
      The average over the entries that count. Forward-mode differentiation is not supported; for
      `jax.jvp` use the plain form.

    Raises:
      ValueError: for shapes that do not fit, labels that are not integers, or a chunk below 1.

    References:
      Milakov & Gimelshein 2018, Online normalizer calculation for softmax, arXiv:1805.02867.
      Wijmans et al. 2024, Cut your losses in large-vocabulary language models, arXiv:2411.09009.
      Departure: their gradient omits small terms; this one is complete.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import linear_cross_entropy
      >>> params = {"kernel": jnp.log(jnp.array([[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]]))}
      >>> loss = linear_cross_entropy(params, jnp.eye(2), jnp.array([1, 0]), chunk=2)
      >>> round(float(jnp.exp(2 * loss.mean)), 3)  # 1 / (0.5 * 0.125)
      16.0
    """
    check_sizes(chunk=chunk)
    hidden, labels = as_array("hidden", hidden), as_tokens(labels)
    mask = jnp.ones(labels.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
    _check_shapes(params, hidden, labels, mask)
    size = params["kernel"].shape[1]
    labels = jnp.where(mask, labels, 0)
    rows = math.prod(labels.shape)
    flat = jnp.where(mask[..., None], hidden, 0).reshape(rows, hidden.shape[-1])
    summary: Any = logit_summary(chunk, params, flat, labels.reshape(rows))
    log_sum, right, mean = (leaf.reshape(labels.shape) for leaf in summary)
    each = cross_entropy_of(log_sum - right, log_sum - mean, labels, size, label_smoothing)
    return masked_average(each, mask)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def logit_summary(chunk: int, params: Params, hidden: Array, labels: Array) -> LogitSummary:
    """Summarize the logits ``hidden W + b`` without storing all of them.

    Args:
      chunk: the number of columns computed at a time; static.
      params: ``{"kernel": [H, V], "bias": [V]}``; the bias is optional.
      hidden: ``[N, H]``.
      labels: integers ``[N]``.

    Returns:
      The summary, differentiable in reverse mode with respect to params and hidden.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.losses import logit_summary
      >>> params = {"kernel": jnp.array([[1.0, 5.0, 3.0]])}
      >>> summary = logit_summary(2, params, jnp.array([[2.0]]), jnp.array([1]))
      >>> summary.right.tolist(), summary.mean.tolist()
      ([10.0], [6.0])
    """
    size, zeros = params["kernel"].shape[1], jnp.zeros(hidden.shape[0], _wide(params, hidden))

    def add(seen: Any, start: Any, count: int) -> Any:
        peak, scale, right, total = seen
        _, z = _some_logits(params, hidden, start, count)  # [N, count]
        higher = jnp.maximum(peak, z.max(axis=1))
        scale = scale * jnp.exp(peak - higher) + jnp.exp(z - higher[:, None]).sum(axis=1)
        right = right + jnp.where(_is_label(labels, start, count), z, 0).sum(axis=1)
        return higher, scale, right, total + z.sum(axis=1)

    lowest = jnp.full_like(zeros, jnp.finfo(zeros.dtype).min)
    peak, scale, right, total = _over_chunks(add, (lowest, zeros, zeros, zeros), size, chunk)
    return LogitSummary(peak + jnp.log(scale), right, total / size)


def _forward(chunk: int, params: Params, hidden: Array, labels: Array) -> tuple[LogitSummary, Any]:
    summary: Any = logit_summary(chunk, params, hidden, labels)
    return summary, (params, hidden, labels, summary.log_sum)


def _backward(chunk: int, saved: Any, gradient: LogitSummary) -> tuple[Params, Array, None]:
    params, hidden, labels, log_sum = saved
    size, wide = params["kernel"].shape[1], _wide(params, hidden)
    d_log_sum, d_right, d_mean = (leaf[:, None] for leaf in gradient)

    def add(gradients: Any, start: Any, count: int) -> Any:
        d_params, d_hidden = gradients
        kernel, z = _some_logits(params, hidden, start, count)
        d_z = d_log_sum * jnp.exp(z - log_sum[:, None]) + d_mean / size
        d_z += jnp.where(_is_label(labels, start, count), d_right, 0)
        d_bias = d_z.sum(axis=0)
        d_z = d_z.astype(jnp.result_type(kernel, hidden))
        d_kernel = jnp.matmul(hidden.T, d_z, preferred_element_type=wide)
        d_columns = {"kernel": d_kernel, "bias": d_bias}
        # Each column is written once, in place, so no sum as large as the kernel is ever formed.
        d_params = {
            name: lax.dynamic_update_slice_in_dim(
                whole, d_columns[name].astype(whole.dtype), start, axis=-1
            )
            for name, whole in d_params.items()
        }
        return d_params, d_hidden + jnp.matmul(d_z, kernel.T, preferred_element_type=wide)

    zeros = jax.tree.map(jnp.zeros_like, params), jnp.zeros(hidden.shape, wide)
    d_params, d_hidden = _over_chunks(add, zeros, size, chunk)
    return d_params, d_hidden.astype(hidden.dtype), None


logit_summary.defvjp(_forward, _backward)


def _over_chunks(add: Callable[[Any, Any, int], Any], carry: Any, size: int, chunk: int) -> Any:
    """Apply ``add(carry, start, count)`` to chunks of the columns; the last may be smaller."""
    whole, rest = divmod(size, chunk)

    def body(carry: Any, index: Array) -> tuple[Any, None]:
        return add(carry, index * chunk, chunk), None

    if whole:
        carry, _ = lax.scan(body, carry, jnp.arange(whole))
    return add(carry, whole * chunk, rest) if rest else carry


def _some_logits(params: Params, hidden: Array, start: Any, count: int) -> tuple[Array, Array]:
    """Return ``count`` columns of the kernel, beginning at ``start``, and their logits."""
    columns = {
        name: lax.dynamic_slice_in_dim(leaf, start, count, axis=-1) for name, leaf in params.items()
    }
    wide = _wide(params, hidden)
    z = jnp.matmul(hidden, columns["kernel"], preferred_element_type=wide)
    return columns["kernel"], z + columns["bias"] if "bias" in columns else z


def _is_label(labels: Array, start: Any, count: int) -> Array:
    return labels[:, None] == start + jnp.arange(count)


def _wide(params: Params, hidden: Array) -> Any:
    return jnp.promote_types(jnp.result_type(params["kernel"], hidden), jnp.float32)


def _check_shapes(params: Params, hidden: Array, labels: Array, mask: Array) -> None:
    kernel = params["kernel"]
    if hidden.ndim < 1 or kernel.ndim != 2 or hidden.shape[-1] != kernel.shape[0]:
        raise ArgumentError(
            "hidden: expected the shape [..., H] for a kernel [H, V], got "
            f"{list(hidden.shape)} for {list(kernel.shape)}; a table [V, H] must be transposed."
        )
    if "bias" in params and params["bias"].shape != kernel.shape[1:]:
        raise ArgumentError(
            f"bias: expected the shape {list(kernel.shape[1:])}, one for each column of the "
            f"kernel, got {list(params['bias'].shape)}."
        )
    _check_entries("hidden", hidden, labels, mask)
