"""Scan the linear recurrence ``h_t = a_t * h_{t-1} + b_t`` serially or in parallel over time."""

from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import as_array, is_known
from recurrent.errors import ArgumentError

Method = Literal["auto", "serial", "chunked", "associative"]


def linear_scan(
    a: Any,
    b: Any,
    h0: Any = None,
    *,
    reset: Any = None,
    reset_state: Any = None,
    reverse: bool = False,
    method: Method = "auto",
    chunk_size: int = 256,
) -> Array:
    """Compute all states of ``h_t = a_t * h_{t-1} + b_t``, elementwise, real or complex.

    The gradient is one more linear scan, in the other direction, by the same method: with the
    cotangents ``g``, ``l_t = g_t + a_{t+1} l_{t+1}``, ``da_t = l_t h_{t-1}``, ``db_t = l_t``,
    ``dh_0 = a_1 l_1``. So only ``a`` and the states are stored for it. Reverse-mode
    differentiation works to any order; forward mode is not supported.

    An ``a_t`` of exactly zero forgets everything before it, infinity and NaN included.

    The chunked and associative methods multiply the a's of several steps together before applying
    the product to a state, so they overflow where that product does. Otherwise the methods are
    about equally accurate. The table gives the largest error of float32 against float64, relative
    to the largest state, over the first 10; 1,000; 10,000 steps, with b normal and a uniform from
    0.9 to 1 (real) or of modulus 0.999 and any phase (complex), 64 channels, on a CPU (printed by
    ``pytest tests/recurrent/test_linear_scans.py -k stated -s``):

    ===========  =======================  =======================
    method       real                     complex
    ===========  =======================  =======================
    serial       0.7e-7; 1.4e-7; 1.5e-7   1.0e-7; 0.9e-6; 0.9e-6
    chunked      0.6e-7; 1.6e-7; 1.6e-7   1.9e-7; 0.7e-6; 1.0e-6
    associative  0.6e-7; 1.3e-7; 1.8e-7   1.9e-7; 0.7e-6; 0.9e-6
    ===========  =======================  =======================

    Args:
      a: coefficients ``[T, ...]`` that broadcast against b. Missing axes are taken to be the
        last ones, so ``[T, B]`` goes with ``[T, B, H]``. With a first axis of size 1 the
        coefficients are constant in time.
      b: inputs ``[T, ...]``.
      h0: the state before the first step read, ``[...]``; zero by default.
      reset: booleans ``[T, ...]``, which may lack last axes; True replaces the state by
        ``reset_state`` before the step: ``h_t = a_t * reset_state + b_t``.
      reset_state: ``[...]``; zero by default.
      reverse: read from the last step to the first: ``h_t = a_t * h_{t+1} + b_t``.
      method: ``"serial"`` is a `jax.lax.scan`. ``"associative"`` is a
        `jax.lax.associative_scan` over all of T, of depth 2 log2(T), with several times the work
        and memory. ``"chunked"`` runs serially over chunks, each an associative scan, so its
        working memory is one chunk. ``"auto"`` is serial if the default backend is a CPU, where
        that was the fastest at every size tried (2 cores, T from 64 to 10,240, 1 to 32,768
        channels; the others mostly took 2 to 6 times as long), and associative on GPU and TPU,
        where each serial step costs a kernel launch; the choice has not been measured there.
      chunk_size: the number of steps in a chunk of the chunked method; T need not be a multiple.

    Returns:
      The states ``[T, ...]``, of the broadcast shape and the promoted dtype. Use float32 or wider:
      bfloat16 is too coarse for long products.

    Raises:
      ValueError: for shapes that do not fit, integers, an unknown method, or a chunk size below 1.

    References:
      Blelloch, Prefix sums and their applications, 1990; Martin & Cundy, Parallelizing linear
      recurrent neural nets over sequence length, arXiv:1709.04057.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import linear_scan
      >>> a, b = jnp.array([0.5, 0.5, 0.25]), jnp.array([4.0, 2.0, 8.0])
      >>> linear_scan(a, b, h0=2.0).tolist()
      [5.0, 4.5, 9.125]
      >>> linear_scan(a, b, h0=2.0, reset=jnp.array([False, True, False])).tolist()
      [5.0, 2.0, 8.5]
    """
    chosen = choose_method(method, chunk_size)
    a, b, h0 = _aligned(a, b, h0)
    if b.shape[0] == 0:
        return b
    if reset is not None:
        a, b = _with_resets(a, b, reset, reset_state)
    return _scan(a, b, h0, reverse, chosen, chunk_size)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _scan(a: Array, b: Array, h0: Array, reverse: bool, method: str, chunk_size: int) -> Array:
    if method == "serial":
        return _serial(a, b, h0, reverse)
    a = jnp.broadcast_to(a, (b.shape[0], *a.shape[1:]))
    if method == "associative" and is_known(b.shape[0]):
        return _associative(a, b, h0, reverse)
    return _chunked(a, b, h0, reverse, chunk_size)


def _scan_forward(a, b, h0, reverse, method, chunk_size):
    hs = _scan(a, b, h0, reverse, method, chunk_size)
    return hs, (a, h0, hs)


def _scan_backward(reverse, method, chunk_size, residuals, g):
    a, h0, hs = residuals
    end = jnp.zeros((1, *a.shape[1:]), a.dtype)
    if reverse:
        a_next = jnp.concatenate([end, a[:-1]])
        h_previous = jnp.concatenate([hs[1:], h0[None]])
    else:
        a_next = jnp.concatenate([a[1:], end])
        h_previous = jnp.concatenate([h0[None], hs[:-1]])
    if a.shape[0] != hs.shape[0]:  # constant in time
        a_next = a
    dhs: Array = _scan(a_next, g, jnp.zeros_like(h0), not reverse, method, chunk_size)
    # dh0 = a_1 l_1, by a scan of one step, so that a zero in a stops infinity and NaN here too.
    first = slice(-1, None) if reverse else slice(0, 1)
    dh0: Array = _scan(a[first], jnp.zeros_like(dhs[first]), dhs[first][0], reverse, "serial", 1)
    return _sum_to(dhs * h_previous, a.shape), dhs, dh0[0]


_scan.defvjp(_scan_forward, _scan_backward)


def _serial(a: Array, b: Array, h0: Array, reverse: bool) -> Array:
    varies = a.shape[0] == b.shape[0]

    def body(h, inputs):
        a_t, b_t = inputs
        h = _then(a_t if varies else a[0], h, b_t)
        return h, h

    return lax.scan(body, h0, (a if varies else None, b), reverse=reverse)[1]


def _associative(a: Array, b: Array, h0: Array, reverse: bool) -> Array:
    products, sums = lax.associative_scan(_compose, (a, b), reverse=reverse)
    return _then(products, h0, sums)


def _chunked(a: Array, b: Array, h0: Array, reverse: bool, chunk_size: int) -> Array:
    time = b.shape[0]
    size = min(chunk_size, time) if is_known(time) else chunk_size

    def body(h, chunk):
        a, b = chunk
        hs = _associative(a, b, h, reverse)
        return hs[0 if reverse else -1], hs

    chunks = chunked(a, size, reverse, 1), chunked(b, size, reverse, 0)
    hs = lax.scan(body, h0, chunks, reverse=reverse)[1]  # [chunks, size, ...]
    padded = hs.shape[0] * size
    hs = hs.reshape(padded, *b.shape[1:])
    return hs[padded - time :] if reverse else hs[:time]


def chunked(x: Array, size: int, reverse: bool = False, fill: Any = 0) -> Array:
    """Reshape ``[T, ...]`` to ``[chunks, size, ...]``, padding the end that is read last.

    Args:
      x: ``[T, ...]``.
      size: the number of steps in a chunk.
      reverse: whether the first step is the one read last.
      fill: the value of the padding.
    """
    count = -(-x.shape[0] // size)
    padding = jnp.full((count * size - x.shape[0], *x.shape[1:]), fill, x.dtype)
    x = jnp.concatenate([padding, x] if reverse else [x, padding])
    return x.reshape(count, size, *x.shape[1:])


def _compose(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
    a_1, b_1 = earlier
    a_2, b_2 = later
    return a_2 * a_1, _then(a_2, b_1, b_2)


def _then(a: Array, h: Array, b: Any) -> Array:
    """Return ``a h + b``, in which a zero in ``a`` stops infinity and NaN in ``h`` too."""
    return jnp.where(a == 0, b, a * h + b)


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    axes = [axis for axis, size in enumerate(shape) if size == 1 and x.shape[axis] != 1]
    return x.sum(axis=axes, keepdims=True)


def choose_method(method: str, chunk_size: int) -> str:
    """Return the method that ``"auto"`` stands for, or the one asked for.

    Raises:
      ValueError: for an unknown method, or a chunk size below 1.
    """
    if method not in get_args(Method):
        raise ArgumentError(f"method: expected one of {list(get_args(Method))}, got {method!r}.")
    if chunk_size < 1:
        raise ArgumentError(f"chunk_size: expected at least 1, got {chunk_size}.")
    if method == "auto":
        return "serial" if jax.default_backend() == "cpu" else "associative"
    return method


def _aligned(a: Any, b: Any, h0: Any) -> tuple[Array, Array, Array]:
    """Convert all to one dtype, a and b to one rank, and b and h0 to the full shape."""
    a, b = as_array("a", a), as_array("b", b)
    dtype = jnp.result_type(a, b, *([] if h0 is None else [h0]))
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ArgumentError(f"a, b: expected floating-point or complex numbers, got {dtype}.")
    rank = max(a.ndim, b.ndim, 1)
    a, b = _with_last_axes(a.astype(dtype), rank), _with_last_axes(b.astype(dtype), rank)
    try:
        shape: Any = jnp.broadcast_shapes(a.shape, b.shape)
    except ValueError as error:
        raise ArgumentError(
            f"a, b: expected shapes [T, ...] that broadcast, got {list(a.shape)} and "
            f"{list(b.shape)} (missing axes are taken to be the last ones)."
        ) from error
    h0 = jnp.zeros(shape[1:], dtype) if h0 is None else jnp.asarray(h0, dtype)
    return a, jnp.broadcast_to(b, shape), _state("h0", h0, shape)


def _with_resets(a: Array, b: Array, reset: Any, reset_state: Any) -> tuple[Array, Array]:
    reset = jnp.asarray(reset)
    if reset.dtype != jnp.bool_ or reset.shape != b.shape[: reset.ndim] or not reset.ndim:
        raise ArgumentError(
            f"reset: expected booleans with the first axes of {list(b.shape)}, "
            f"got {reset.dtype} {list(reset.shape)}."
        )
    reset = _with_last_axes(reset, b.ndim)
    if reset_state is not None:
        state = _state("reset_state", jnp.asarray(reset_state, b.dtype), b.shape)
        b = jnp.where(reset, a * state + b, b)
    return jnp.where(reset, 0, a), b


def _state(name: str, state: Array, shape: tuple[int, ...]) -> Array:
    try:
        return jnp.broadcast_to(state, shape[1:])
    except ValueError as error:
        raise ArgumentError(
            f"{name}: expected a shape that broadcasts to {list(shape[1:])} (one step of b), "
            f"got {list(state.shape)}."
        ) from error


def _with_last_axes(x: Array, rank: int) -> Array:
    return x.reshape(x.shape + (1,) * (rank - x.ndim))
