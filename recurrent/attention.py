"""Attend from a decoder to a memory, or from every step of a sequence to the others.

`additive_attention`, `multiplicative_attention` and `last_context` serve one query at a time, as a
recurrent decoder needs; `multi_head_attention` serves whole sequences. Attention as a recurrent
cell is in `recurrent.cells.attention`.

Axis letters, in addition to those of `recurrent.cell`: S steps of the memory, E its features, Q
features of a query, N heads, K key-value heads, F features of a head. All public functions take
and return time-major arrays.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from recurrent.cell import Params, check_sizes, in_one_type, where_flag
from recurrent.errors import ArgumentError
from recurrent.layers import dense
from recurrent.linear_map import affine

_kernel_init = jax.nn.initializers.glorot_uniform()


class Memory(NamedTuple):
    """Hold what a decoder attends to, prepared once per sequence.

    Attributes:
      values: ``[S, ..., E]``, zero where masked.
      keys: ``[S, ..., A]``, the part of the scores that does not depend on the query.
      mask: booleans ``[S, ...]``, True where a step is real; None if all are.
    """

    values: Array
    keys: Array
    mask: Array | None


class Attention(NamedTuple):
    """Hold the functions by which one query attends to a memory.

    Attributes:
      init: ``key -> params``.
      precompute: ``(params, values, mask=None) -> Memory`` with values ``[S, ..., E]`` and a mask
        ``[S, ...]``, True where a step is real. Masked values, NaN included, affect neither
        results nor gradients.
      attend: ``(params, query, memory) -> (context, weights)`` with a query ``[..., Q]``, the
        context ``[..., E]`` and weights ``[S, ...]``, which sum to 1. The weight of a masked
        step is exactly 0. If all steps are masked, the context is 0 as well.
      query_size: Q.
      memory_size: E.
    """

    init: Callable[[Array], Params]
    precompute: Callable[..., Memory]
    attend: Callable[[Params, Any, Memory], tuple[Array, Array]]
    query_size: int
    memory_size: int


def additive_attention(query_size: int, memory_size: int, attention_size: int) -> Attention:
    """Build attention whose scores come from a network with one hidden layer.

    Equation, with the query q and the memory m_s: ``e_s = v^T tanh(W q + U m_s + b)``,
    ``a = softmax(e)``, ``context = sum_s a_s m_s``. ``U m_s + b`` is computed once.

    Args:
      query_size: Q.
      memory_size: E.
      attention_size: A, the size of the hidden layer.

    Returns:
      The attention. Params: ``{"query": {"kernel": [Q, A]}, "key": {"kernel": [E, A],
      "bias": [A]}, "score": {"kernel": [A, 1]}}``.

    Raises:
      ValueError: for a size below 1.

    References:
      Bahdanau et al. 2014, arXiv:1409.0473, appendix A.1.2. Departure: the bias b.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import additive_attention
      >>> attention = additive_attention(query_size=3, memory_size=4, attention_size=5)
      >>> def attend(key, query, values):  # [B, Q], [S, B, E]
      ...     params = attention.init(key)
      ...     return attention.attend(params, query, attention.precompute(params, values))
      >>> query, values = jnp.ones((2, 3)), jnp.ones((7, 2, 4))
      >>> context, weights = jax.eval_shape(attend, jax.random.key(0), query, values)
      >>> context.shape, weights.shape
      ((2, 4), (7, 2))
    """
    check_sizes(query_size=query_size, memory_size=memory_size, attention_size=attention_size)

    def init(key):
        query_key, memory_key, score_key = jax.random.split(key, 3)
        return {
            "query": _linear(query_key, query_size, attention_size),
            "key": dense(memory_size, attention_size).init(memory_key),
            "score": _linear(score_key, attention_size, 1),
        }

    def project(params, values):
        return affine(params["key"], values)

    def score(params, query, keys):
        hidden = jnp.tanh(affine(params["query"], query) + keys)  # [S, ..., A]
        return affine(params["score"], hidden)[..., 0]  # [S, ...]

    return _attention(init, project, score, query_size, memory_size)


def multiplicative_attention(
    query_size: int,
    memory_size: int,
    *,
    score: Literal["general", "dot"] = "general",
    scaled: bool = False,
) -> Attention:
    """Build attention whose scores are products of the query and the memory.

    Equation, with the query q and the memory m_s: ``e_s = q^T W m_s`` for the general score,
    ``e_s = q^T m_s`` for the dot score, divided by ``sqrt(Q)`` if scaled; ``a = softmax(e)``,
    ``context = sum_s a_s m_s``. ``W m_s`` is computed once.

    Args:
      query_size: Q.
      memory_size: E.
      score: ``"general"``, or ``"dot"``, which has no params and needs Q = E.
      scaled: divide the scores by ``sqrt(Q)``.

    Returns:
      The attention. Params: ``{"key": {"kernel": [E, Q]}}`` for the general score, else ``{}``.

    Raises:
      ValueError: for a size below 1, an unknown score, or a dot score with sizes that differ.

    References:
      Luong et al. 2015, arXiv:1508.04025, section 3.1; scaled: Vaswani et al. 2017,
      arXiv:1706.03762.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import multiplicative_attention
      >>> attention = multiplicative_attention(query_size=2, memory_size=2, score="dot")
      >>> memory = attention.precompute({}, jnp.array([[9.0, 0.0], [0.0, 9.0]]))  # [S, E]
      >>> context, weights = attention.attend({}, jnp.array([0.0, 5.0]), memory)
      >>> weights.round(3).tolist()
      [0.0, 1.0]
    """
    check_sizes(query_size=query_size, memory_size=memory_size)
    if score not in ("general", "dot"):
        raise ArgumentError(f'score: expected "general" or "dot", got {score!r}.')
    if score == "dot" and query_size != memory_size:
        raise ArgumentError(
            f"query_size: expected memory_size={memory_size} for the dot score, got {query_size}; "
            'take score="general" for different sizes.'
        )
    scale = query_size**-0.5 if scaled else 1.0

    def init(key):
        return {"key": _linear(key, memory_size, query_size)} if score == "general" else {}

    def project(params, values):
        return affine(params["key"], values) if score == "general" else values

    def product(params, query, keys):
        return jnp.einsum("...q,s...q->s...", query * scale, keys)

    return _attention(init, project, product, query_size, memory_size)


def last_context(query_size: int, memory_size: int) -> Attention:
    """Build the baseline without attention: the context is the last real step of the memory.

    The query has no influence. It can replace any attention, to measure what attention
    contributes. ``precompute`` keeps a memory of one step.

    Args:
      query_size: Q.
      memory_size: E.

    Returns:
      The attention, with the params ``{}``.

    Raises:
      ValueError: for a size below 1.

    References:
      Cho et al. 2014, arXiv:1406.1078.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import last_context
      >>> attention = last_context(query_size=3, memory_size=1)
      >>> values, mask = jnp.array([[1.0], [2.0], [3.0]]), jnp.array([True, True, False])
      >>> context, _ = attention.attend({}, jnp.ones(3), attention.precompute({}, values, mask))
      >>> context.tolist()
      [2.0]
    """
    check_sizes(query_size=query_size, memory_size=memory_size)

    def precompute(params, values, mask=None):
        if mask is None:
            return attention.precompute(params, values[-1:])
        last = values.shape[0] - 1 - jnp.argmax(mask[::-1], axis=0)
        values = jnp.take_along_axis(values, last[None, ..., None], axis=0)  # [1, ..., E]
        return attention.precompute(params, values, mask.any(axis=0, keepdims=True))

    def score(params, query, keys):
        return jnp.zeros(keys.shape[:-1], keys.dtype)

    attention = _attention(
        lambda key: {}, lambda params, values: values, score, query_size, memory_size
    )
    return attention._replace(precompute=precompute)


def masked_softmax(scores: Any, mask: Any = None, axis: int = -1) -> Array:
    """Compute the softmax over the entries where the mask is True.

    The result is exactly 0 elsewhere, and everywhere along an axis without True entries. Masked
    scores, NaN included, affect neither the result nor the gradient. 16-bit scores are computed in
    float32.

    Args:
      scores: floats of any shape.
      mask: booleans that broadcast to the scores; None for no mask.
      axis: the axis that sums to 1.

    Returns:
      The weights, in the shape and type of the scores.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.attention import masked_softmax
      >>> masked_softmax(jnp.array([2.0, 7.0, 2.0]), jnp.array([True, False, True])).tolist()
      [0.5, 0.0, 0.5]
    """
    scores = jnp.asarray(scores)
    mask = jnp.ones_like(scores, bool) if mask is None else mask
    wide = jnp.where(mask, scores, 0).astype(jnp.promote_types(scores.dtype, jnp.float32))
    top = jnp.max(wide, axis=axis, keepdims=True, where=mask, initial=-jnp.inf)
    top = lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    exponentials = jnp.where(mask, jnp.exp(jnp.where(mask, wide - top, 0)), 0)
    total = exponentials.sum(axis=axis, keepdims=True)
    return (exponentials / jnp.where(total == 0, 1, total)).astype(scores.dtype)


def rotary(x: Any, positions: Any, *, base: float = 10_000.0) -> Array:
    """Apply the rotary position embedding to queries or keys.

    Equation, with each pair of neighboring features as a complex number,
    ``z_j = x_2j + i x_2j+1``: ``z_j * exp(i * position * base^(-2j / F))``. The dot product of a
    rotated query and a rotated key depends on their positions only through the difference.

    Args:
      x: ``[..., N, F]`` with F even.
      positions: integers or floats that broadcast to the axes of x before N.
      base: the larger it is, the more slowly the pairs rotate.

    Returns:
      The rotated array, in the shape and type of x.

    Raises:
      ValueError: for an odd F.

    References:
      Su et al. 2021, arXiv:2104.09864, equation 34. Angles are computed in float32 or wider.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.attention import rotary
      >>> x = jnp.array([[[1.0, 0.0]], [[1.0, 0.0]]])  # [T, N, F]
      >>> rotary(x, jnp.array([0.0, jnp.pi / 2])).round(3).tolist()
      [[[1.0, 0.0]], [[-0.0, 1.0]]]
    """
    x = jnp.asarray(x)
    size = x.shape[-1]
    if size % 2:
        raise ArgumentError(f"x: expected an even size of the last axis, got {size}.")
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    frequencies = base ** (-np.arange(0, size, 2) / size)
    angles = jnp.asarray(positions, dtype)[..., None, None] * jnp.asarray(frequencies, dtype)
    even, odd = x[..., 0::2].astype(dtype), x[..., 1::2].astype(dtype)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    pairs = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)  # [..., F/2, 2]
    return pairs.reshape(x.shape).astype(x.dtype)


class MultiHead(NamedTuple):
    """Hold the functions of multi-head attention, to the sequence itself or to a memory.

    Attributes:
      init: ``key -> params``.
      apply: ``(params, xs, memory=None, *, mask=None) -> ys`` with xs ``[T, ..., D]``, the
        memory ``[S, ..., E]`` and ys ``[T, ..., D]``. Without a memory the sequence attends to
        itself. The mask, booleans ``[S, ...]``, is True where a step of the attended sequence is
        real; masked steps, NaN included, affect neither results nor gradients. Where a step has
        nothing to attend to, its heads' outputs are zero, before the output map. In
        self-attention the outputs at masked steps are zero.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Array]


def multi_head_attention(
    size: int,
    heads: int,
    *,
    memory_size: int | None = None,
    key_value_heads: int | None = None,
    head_size: int | None = None,
    causal: bool = False,
    window: int | None = None,
    rotary_base: float | None = None,
    bias: bool = False,
) -> MultiHead:
    """Build scaled dot-product attention with several heads.

    Equation, for each head: ``softmax(q k^T / sqrt(F)) v``, where q is an affine map of xs, and k
    and v are affine maps of the memory; a last affine map reads the concatenated heads.

    Args:
      size: D, of inputs and outputs.
      heads: N.
      memory_size: E; D by default.
      key_value_heads: K, a divisor of N; each is shared by N / K consecutive heads. N by default;
        1 is multi-query attention.
      head_size: F; D / N by default.
      causal: step t attends only to the steps s <= t.
      window: step t attends only to the steps s with ``|t - s| < window``; padded steps count in
        the distance. None for no limit.
      rotary_base: the base of `rotary` positions, which only self-attention can use; None for no
        positions.
      bias: whether the four affine maps have biases.

    Returns:
      The attention. Params: ``{"query": {"kernel": [D, N * F]}, "key": {"kernel": [E, K * F]},
      "value": {"kernel": [E, K * F]}, "output": {"kernel": [N * F, D]}}``, and a ``"bias"`` in
      each if ``bias`` is True.

    Raises:
      ValueError: for a size below 1, a number of heads that does not divide D (if ``head_size`` is
        None), a number of key-value heads that does not divide N, an odd head size with rotary
        positions, or, in ``apply``, a memory together with rotary positions.

    References:
      Vaswani et al. 2017, arXiv:1706.03762; grouped heads: Ainslie et al. 2023,
      arXiv:2305.13245. Computed by `jax.nn.dot_product_attention`, except in float64: its softmax
      is always in float32 and would lose half of the digits.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import multi_head_attention
      >>> attention = multi_head_attention(size=4, heads=2, causal=True)
      >>> params = attention.init(jax.random.key(0))
      >>> xs = jnp.linspace(-1, 1, 24).reshape(3, 2, 4)  # [T, B, D]
      >>> ys = attention.apply(params, xs)
      >>> ys.shape
      (3, 2, 4)
    """
    sizes = head_sizes(size, heads, key_value_heads, head_size, rotary_base is not None)
    memory_size = size if memory_size is None else memory_size
    check_sizes(size=size, memory_size=memory_size, window=1 if window is None else window)

    def init(key):
        return init_heads(key, size, memory_size, size, sizes, bias)

    def apply(
        params: Params, xs: Array, memory: Array | None = None, *, mask: Array | None = None
    ) -> Array:
        if memory is not None and rotary_base is not None:
            raise ArgumentError("memory: expected None with rotary positions, got a memory.")
        params = in_one_type(params)
        _check_features("xs", xs, size)
        attended = xs if memory is None else memory
        attended = _real_part("memory", attended, mask, memory_size)
        queries = split_heads(params["query"], xs if memory is not None else attended, sizes.size)
        keys, values = (
            split_heads(params[name], attended, sizes.size) for name in ("key", "value")
        )
        if rotary_base is not None:
            time = xs.shape[0]
            positions = jnp.arange(time).reshape(time, *[1] * (xs.ndim - 2))
            queries, keys = (rotary(a, positions, base=rotary_base) for a in (queries, keys))
        contexts = _attend_to_real(queries, keys, values, mask, causal, window)  # [T, B, N, F]
        width = math.prod(contexts.shape[2:])
        ys = affine(params["output"], contexts.reshape(*xs.shape[:-1], width))  # [T, ..., D]
        if mask is None or memory is not None:
            return ys
        return where_flag(mask, ys, jnp.zeros_like(ys))

    return MultiHead(init, apply)


class _HeadSizes(NamedTuple):
    heads: int
    key_value_heads: int
    size: int


def _attend_to_real(
    queries: Array, keys: Array, values: Array, mask: Any, causal: bool, window: int | None
) -> Array:
    """Return the contexts ``[T, B, N, F]``, zero where a query has nothing to attend to.

    The arguments are time-major too, with any number of batch axes.
    """
    queries, keys, values = (_batch_first(a, 2) for a in (queries, keys, values))
    seen = None if mask is None else _batch_first(mask, 0)[:, None, None, :]
    contexts = dot_product_attention(queries, keys, values, seen, causal, window)
    if seen is not None:
        sees_any = (seen & _near(queries, keys, causal, window)).any(axis=-1)[:, 0]
        contexts = where_flag(sees_any, contexts, jnp.zeros_like(contexts))
    return jnp.moveaxis(contexts, 0, 1)


def dot_product_attention(
    queries: Array,
    keys: Array,
    values: Array,
    seen: Array | None,
    causal: bool = False,
    window: int | None = None,
) -> Array:
    """Return the contexts ``[B, T, N, F]``, batch-first as in `jax.nn.dot_product_attention`.

    ``seen``, booleans ``[B, 1, T or 1, S]``, is True where a query may attend to a key. A query
    without any such key gets an arbitrary context.
    """
    if queries.dtype == jnp.float64:
        return _float64_attention(queries, keys, values, seen, causal, window)
    return jax.nn.dot_product_attention(
        queries,
        keys,
        values,
        mask=seen,
        is_causal=causal,
        local_window_size=None if window is None else (window - 1, window - 1),
    )


def _float64_attention(
    queries: Array, keys: Array, values: Array, seen: Any, causal: bool, window: int | None
) -> Array:
    # jax.nn.dot_product_attention computes its softmax in float32, whatever the inputs.
    _, _, heads, size = queries.shape
    keys, values = (jnp.repeat(a, heads // a.shape[2], axis=2) for a in (keys, values))
    scores = jnp.einsum("btnf,bsnf->bnts", queries, keys) / np.sqrt(size)
    near = _near(queries, keys, causal, window)
    weights = masked_softmax(scores, near if seen is None else near & seen)
    return jnp.einsum("bnts,bsnf->btnf", weights, values)


def _near(queries: Array, keys: Array, causal: bool, window: int | None) -> Array:
    distance = jnp.arange(queries.shape[1])[:, None] - jnp.arange(keys.shape[1])
    near = distance >= 0 if causal else jnp.ones_like(distance, bool)
    return near if window is None else near & (abs(distance) < window)


def _attention(
    init: Callable[[Array], Params],
    project: Callable[[Params, Array], Array],
    score: Callable[[Params, Array, Array], Array],
    query_size: int,
    memory_size: int,
) -> Attention:
    """Make an `Attention` from functions that compute its keys and its scores.

    They are ``project(params, values) -> keys`` and ``score(params, query, keys) -> scores``.
    """

    def precompute(params: Params, values: Array, mask: Array | None = None) -> Memory:
        values = _real_part("values", values, mask, memory_size)
        return Memory(values, project(params, values), mask)

    def attend(params: Params, query: Array, memory: Memory) -> tuple[Array, Array]:
        weights = masked_softmax(score(params, query, memory.keys), memory.mask, axis=0)
        return jnp.einsum("s...,s...e->...e", weights, memory.values), weights

    return Attention(init, precompute, attend, query_size, memory_size)


def _real_part(name: str, values: Array, mask: Array | None, size: int) -> Array:
    """Check the values and their mask, and return them with zeros where they are masked."""
    _check_features(name, values, size)
    if mask is None:
        return values
    shape = values.shape[:-1]
    if mask.shape != shape or mask.dtype != jnp.bool_:
        raise ArgumentError(
            f"mask: expected booleans {list(shape)}, got {mask.dtype} {list(mask.shape)}."
        )
    return where_flag(mask, values, jnp.zeros_like(values))


def _check_features(name: str, values: Array, size: int) -> None:
    if values.ndim < 2 or values.shape[-1] != size:
        raise ArgumentError(
            f"{name}: expected the shape [time, ..., {size}] (time first), got "
            f"{list(values.shape)}."
        )


def init_heads(
    key: Array, size: int, memory_size: int, output_size: int, heads: _HeadSizes, bias: bool
) -> Params:
    """Draw the projections of queries, keys, values and outputs."""
    query_width, key_width = heads.heads * heads.size, heads.key_value_heads * heads.size
    shapes = {
        "query": (size, query_width),
        "key": (memory_size, key_width),
        "value": (memory_size, key_width),
        "output": (query_width, output_size),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: _linear(k, *shape, bias)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def _linear(key: Array, rows: int, columns: int, bias: bool = False) -> Params:
    params = dense(rows, columns, kernel_init=_kernel_init).init(key)
    return params if bias else {"kernel": params["kernel"]}


def split_heads(params: Params, xs: Array, size: int) -> Array:
    """Project inputs ``[..., D]`` to heads ``[..., heads, size]``."""
    projected = affine(params, xs)
    heads = projected.shape[-1] // size
    return projected.reshape(*projected.shape[:-1], heads, size)


def _batch_first(array: Array, features: int) -> Array:
    """Reshape ``[T, ..., *features]`` to ``[B, T, *features]``, with ``features`` last axes."""
    time, *batch = array.shape[: array.ndim - features]
    shape = array.shape[array.ndim - features :]
    return jnp.moveaxis(array.reshape(time, math.prod(batch), *shape), 1, 0)


def head_sizes(
    size: int, heads: int, key_value_heads: int | None, head_size: int | None, rotates: bool
) -> _HeadSizes:
    """Check the sizes of heads, and fill in those that were left out."""
    key_value_heads = heads if key_value_heads is None else key_value_heads
    check_sizes(heads=heads, key_value_heads=key_value_heads)
    if heads % key_value_heads:
        raise ArgumentError(
            f"key_value_heads: expected a divisor of {heads}, got {key_value_heads}."
        )
    if head_size is None and size % heads:
        raise ArgumentError(
            f"heads: expected a divisor of the size {size}, got {heads}; or give a head_size."
        )
    head_size = size // heads if head_size is None else head_size
    check_sizes(head_size=head_size)
    if rotates and head_size % 2:
        raise ArgumentError(
            f"head_size: expected an even size for rotary positions, got {head_size}."
        )
    return _HeadSizes(heads, key_value_heads, head_size)
