"""Masked losses and metrics, as averages that add up exactly over batches of any size."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from recurrent.cell import Params, as_array, check_sizes


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


class LogitSummary(NamedTuple):
    """What a cross-entropy needs of the logits z of each row, ``[N]`` each.

    Attributes:
      log_sum: the logarithm of the sum of exp z.
      right: the logit of the label; 0 where there is no such logit.
      mean: of z.
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
    """`recurrent.losses.cross_entropy` of ``dense(H, V)``, without the logits ``[..., V]``.

    Equation: with ``z = h W + b`` the loss is ``log sum_v exp z_v - z_label``. Logits are computed
    ``chunk`` columns at a time, with a running maximum m and sum s:
    ``m' = max(m, max z)``, ``s' = s exp(m - m') + sum exp(z - m')``. The backward pass computes
    them once more: four products in place of three, but what lies between them stays in the
    caches. On two cores it takes 0.6 (H = 512) to 0.2 (H = 64) of the plain form's time, and memory
    for two chunks of logits, whatever V is.

    Tied weights are ``linear_cross_entropy({"kernel": params["embedding"]["kernel"].T}, ...)``
    with params of `recurrent.embedding`; the gradient of the table is then the sum of both uses.

    Args:
      params: of `recurrent.dense`, ``{"kernel": [H, V], "bias": [V]}``; the bias may be missing.
      hidden: ``[..., H]``. Where it and the kernel are narrow, as bfloat16, so are the operands of
        the products; logits and sums are float32 at least.
      labels: integers ``[...]`` below V; one outside gives NaN, in the gradient too.
      mask: ``[...]``, true where an entry counts; what is masked may be NaN, and any label.
      label_smoothing: as in `recurrent.losses.cross_entropy`.
      chunk: how many columns at a time. It was measured on a CPU, where 512 to 5120 differ little;
        an accelerator may want more.

    Returns:
      The average over the entries that count. It has no forward mode: `jax.jvp` goes through the
      plain form.

    Raises:
      ValueError: for shapes that do not fit, labels that are no integers, or a chunk below 1.

    References:
      Milakov & Gimelshein 2018, Online normalizer calculation for softmax, arXiv:1805.02867.
      Wijmans et al. 2024, Cut your losses in large-vocabulary language models, arXiv:2411.09009,
      whose gradient leaves out what is small; this one is whole.
    """
    check_sizes(chunk=chunk)
    hidden, labels = as_array("hidden", hidden), jnp.asarray(labels)
    mask = jnp.ones(labels.shape, bool) if mask is None else jnp.asarray(mask).astype(bool)
    _check_shapes(params, hidden, labels, mask)
    size = params["kernel"].shape[1]
    labels = jnp.where(mask, labels, 0)
    rows = jnp.where(mask[..., None], hidden, 0).reshape(-1, hidden.shape[-1])
    summary: Any = logit_summary(chunk, params, rows, labels.reshape(-1))
    log_sum, right, mean = (leaf.reshape(labels.shape) for leaf in summary)
    each = cross_entropy_of(log_sum - right, log_sum - mean, labels, size, label_smoothing)
    return masked_average(each, mask)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def logit_summary(chunk: int, params: Params, hidden: Array, labels: Array) -> LogitSummary:
    """The summary of ``hidden W + b`` with hidden ``[N, H]`` and labels ``[N]``."""
    size, zeros = params["kernel"].shape[1], jnp.zeros(hidden.shape[0], _wide(params, hidden))

    def add(seen: Any, start: Any, count: int) -> Any:
        peak, scale, right, total = seen
        _, z = _some_logits(params, hidden, start, count)
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
        # Each column is written once, in place: nothing as large as the kernel is added up.
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
    """``add(carry, start, count)`` for all columns below ``size``; the last may be fewer."""
    whole, rest = divmod(size, chunk)

    def body(carry: Any, index: Array) -> tuple[Any, None]:
        return add(carry, index * chunk, chunk), None

    if whole:
        carry, _ = lax.scan(body, carry, jnp.arange(whole))
    return add(carry, whole * chunk, rest) if rest else carry


def _some_logits(params: Params, hidden: Array, start: Any, count: int) -> tuple[Array, Array]:
    """So many columns of the kernel, and the logits that they give."""
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
        raise ValueError(
            "hidden: expected the shape [..., H] for a kernel [H, V], got "
            f"{list(hidden.shape)} for {list(kernel.shape)}; a table [V, H] must be transposed."
        )
    if "bias" in params and params["bias"].shape != kernel.shape[1:]:
        raise ValueError(
            f"bias: expected the shape {list(kernel.shape[1:])}, one for each column of the "
            f"kernel, got {list(params['bias'].shape)}."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels: expected integers, got {labels.dtype}.")
    for name, leaf in {"labels": labels, "mask": mask}.items():
        if leaf.shape != hidden.shape[:-1]:
            raise ValueError(
                f"{name}: expected the shape {list(hidden.shape[:-1])}, as the first axes of "
                f"hidden, got {list(leaf.shape)}."
            )
