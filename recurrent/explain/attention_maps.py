"""Explain by the weights of attention, followed through all layers."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from recurrent.attention import masked_softmax, rotary, split_heads
from recurrent.cell import unroll
from recurrent.errors import ArgumentError
from recurrent.explain._inputs import check_number, real_steps
from recurrent.layers import rms_norm
from recurrent.linear_map import affine
from recurrent.transformers import transformer_block


def self_attention_weights(
    params: Any,
    xs: Any,
    *,
    head_size: int,
    causal: bool = False,
    window: int | None = None,
    rotary_base: float | None = None,
    lengths: Any = None,
) -> Array:
    """Return the weights with which `multi_head_attention` or `attention_cell` attends.

    Args:
      params: of the attention.
      xs: what it reads, batch-first ``[B, T, D]``.
      head_size: F.
      causal: as in `recurrent.multi_head_attention`; True for `recurrent.attention_cell`.
      window: as there.
      rotary_base: as there; `attention_cell` has 10000 by default.
      lengths: integers ``[B]``; None where nothing is padding.

    Returns:
      ``[B, N, T, T]``, from each step (second to last axis) to each that it attends to (last).
      Rows sum to 1, but are 0 in padding.

    Raises:
      ValueError: for inputs or lengths that do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import multi_head_attention
      >>> from recurrent.explain import self_attention_weights
      >>> attention = multi_head_attention(size=4, heads=2, causal=True)
      >>> params = attention.init(jax.random.key(0))
      >>> found = self_attention_weights(params, jnp.ones((1, 2, 4)), head_size=2, causal=True)
      >>> found.round(2)[0, 0].tolist()
      [[1.0, 0.0], [0.5, 0.5]]
    """
    xs = jnp.asarray(xs)
    if xs.ndim != 3:
        raise ArgumentError(f"xs: expected [B, T, D], got {list(xs.shape)}.")
    time = xs.shape[1]
    mask = real_steps(lengths, xs)
    mask = jnp.ones(xs.shape[:2], bool) if mask is None else mask
    xs = jnp.where(mask[..., None], xs, 0)
    queries, keys = (split_heads(params[name], xs, head_size) for name in ("query", "key"))
    if rotary_base is not None:
        queries, keys = (rotary(a, jnp.arange(time), base=rotary_base) for a in (queries, keys))
    keys = jnp.repeat(keys, queries.shape[2] // keys.shape[2], axis=2)
    scores = jnp.einsum("btnf,bsnf->bnts", queries, keys) / head_size**0.5
    distance = jnp.arange(time)[:, None] - jnp.arange(time)
    near = distance >= 0 if causal else jnp.ones_like(distance, bool)
    near &= True if window is None else abs(distance) < window
    seen = near & mask[:, None, None] & mask[:, None, :, None]
    return masked_softmax(scores, seen)


def transformer_attention(
    params: Any, xs: Any, *, heads: int = 4, window: int = 256, lengths: Any = None, **options: Any
) -> list[Array]:
    """Return the weights with which each block of `recurrent.transformer` attends.

    Args:
      params: of the transformer, which say its sizes and depth.
      xs: what it reads, batch-first ``[B, T, D]``.
      heads: as in `recurrent.transformer`, like all that follow but the lengths.
      window: as there.
      lengths: integers ``[B]``; None where nothing is padding.
      **options: as there.

    Returns:
      For each block ``[B, N, T, T]``, as `self_attention_weights` returns them.

    Raises:
      ValueError: for inputs or lengths that do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import transformer
      >>> from recurrent.explain import attention_rollout, transformer_attention
      >>> cell = transformer(3, 8, depth=2, heads=2)
      >>> params = cell.init(jax.random.key(0))
      >>> weights = transformer_attention(params, jnp.ones((1, 5, 3)), heads=2)
      >>> len(weights), weights[0].shape, attention_rollout(weights).shape
      (2, (1, 2, 5, 5), (1, 5, 5))
    """
    xs = jnp.asarray(xs)
    if xs.ndim != 3:
        raise ArgumentError(f"xs: expected [B, T, D], got {list(xs.shape)}.")
    mask = real_steps(lengths, xs)
    size = params["layer_0"]["kernel"].shape[1]
    block = transformer_block(size, heads, window=window, **options)
    normalize = options.get("norm", rms_norm)(size)
    how = {
        "head_size": options.get("head_size") or size // heads,
        "rotary_base": options.get("rotary_base", 10_000.0),
    }
    xs, found = affine(params["layer_0"], xs), []
    for k in range(1, len(params) - 1):
        own = params[f"layer_{k}"]
        read = normalize.apply(own["mixing_norm"], xs)
        found.append(
            self_attention_weights(
                own["mixing"], read, causal=True, window=window, lengths=lengths, **how
            )
        )
        _, ys = unroll(block, own, xs.swapaxes(0, 1), mask=None if mask is None else mask.T)
        xs = ys.swapaxes(0, 1)
    return found


def attention_rollout(
    attentions: Sequence[Any], *, residual: float = 0.5, lengths: Any = None
) -> Array:
    """Follow attention through all layers: how much of each step reaches each output.

    Equation: the product of ``(1 - r) A_l + r I`` over the layers l, the last one on the left, with
    A the mean over heads, and rows that sum to 1.

    Args:
      attentions: the weights of each layer from the first on, ``[B, T, T]`` or with heads ``[B, N,
        T, T]``, such as from `self_attention_weights`.
      residual: r, the share that goes past the attention of a layer.
      lengths: integers ``[B]``; None where nothing is padding.

    Returns:
      ``[B, T, T]``: row t says how much each step enters output t. 0 in padding; other rows sum
      to 1.

    Raises:
      ValueError: for no layers, other shapes, or a residual that is not from 0 to 1.

    References:
      Abnar & Zuidema 2020, Quantifying attention flow in transformers, arXiv:2005.00928.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import attention_rollout
      >>> layer = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])  # both steps attend to the first
      >>> attention_rollout([layer, layer]).tolist()
      [[[1.0, 0.0], [0.75, 0.25]]]
    """
    if not len(attentions):
        raise ArgumentError("attentions: expected the weights of one layer or more, got none.")
    check_number("residual", residual, lambda r: (r >= 0) & (r <= 1), "0 to 1")
    layers = [_mean_of_heads(each) for each in attentions]
    if len({layer.shape for layer in layers}) > 1:
        raise ArgumentError(
            f"attentions: expected one shape, got {[list(layer.shape) for layer in layers]}."
        )
    mask = real_steps(lengths, layers[0])
    real = True if mask is None else mask[:, :, None] & mask[:, None]
    eye = jnp.eye(layers[0].shape[-1], dtype=layers[0].dtype)
    found = jnp.where(real, eye, 0)
    for layer in layers:
        mixed = jnp.where(real, (1 - residual) * jnp.where(real, layer, 0) + residual * eye, 0)
        total = mixed.sum(-1, keepdims=True)
        found = mixed / jnp.where(total > 0, total, 1) @ found
    return found


def _mean_of_heads(weights: Any) -> Array:
    weights = jnp.asarray(weights)
    if weights.ndim not in (3, 4) or weights.shape[-1] != weights.shape[-2]:
        raise ArgumentError(
            f"attentions: expected [B, T, T] or [B, N, T, T], got {list(weights.shape)}."
        )
    return weights if weights.ndim == 3 else weights.mean(1)
