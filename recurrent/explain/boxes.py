"""Measure maps where the truth is known: sequences with a box of time x features that decides.

References:
  Ismail et al. 2020, Benchmarking deep learning interpretability in time series predictions,
  arXiv:2010.13924.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from recurrent.cell import check_sizes
from recurrent.errors import ArgumentError
from recurrent.explain._inputs import check_key, check_number


class Box(NamedTuple):
    """Say where the signal lies in a sequence.

    Attributes:
      steps: how many.
      features: how many.
      start: the first step and the first feature; None draws them anew for each sequence.
    """

    steps: int
    features: int
    start: tuple[int, int] | None


# Of sequences of 50 steps and 50 features, as in the authors' code.
BOXES = {
    "middle": Box(30, 30, (10, 10)),
    "small_middle": Box(14, 14, (18, 18)),
    "moving_middle": Box(30, 30, None),
    "moving_small_middle": Box(15, 15, None),
    "rare_time": Box(6, 40, (22, 5)),
    "moving_rare_time": Box(6, 40, None),
    "rare_feature": Box(40, 6, (5, 22)),
    "moving_rare_feature": Box(40, 6, None),
}


class BoxData(NamedTuple):
    """Hold sequences of two classes, and the boxes that tell them apart.

    Attributes:
      xs: ``[B, T, F]``.
      labels: the classes ``[B]``, 0 or 1.
      inside: booleans ``[B, T, F]``, True in the box.
    """

    xs: Array
    labels: Array
    inside: Array


def box_data(
    key: Array,
    count: int,
    box: Box,
    *,
    steps: int = 50,
    features: int = 50,
    signal: float = 1.0,
    autoregression: float = 0.0,
) -> BoxData:
    """Draw noise, and add to a box of it a number that is the class.

    Equation: ``x = noise + signal * (2 label - 1)`` inside of the box and ``x = noise`` outside,
    where the noise of each feature is ``n_t = a n_{t-1} + sqrt(1 - a^2) e_t`` with standard normal
    e and standard deviation 1.

    Args:
      key: the random key.
      count: B.
      box: its size and place, such as ``BOXES["rare_time"]``.
      steps: T.
      features: F.
      signal: how much is added.
      autoregression: a, from -1 to 1, both excluded; 0 is white noise.

    Raises:
      ValueError: for a box that does not fit, a size below 1, or an a outside its range.

    Example:
      >>> import jax
      >>> from recurrent.explain import BOXES, box_data
      >>> data = box_data(jax.random.key(0), 4, BOXES["moving_rare_time"])
      >>> data.xs.shape, data.inside.sum((1, 2)).tolist()
      ((4, 50, 50), [240, 240, 240, 240])
    """
    check_sizes(count=count, steps=steps, features=features)
    _check_box(box, (steps, features))
    check_key(key)
    check_number("autoregression", autoregression, lambda a: abs(a) < 1, "between -1 and 1")
    check_number("signal", signal, np.isfinite, "a finite number")
    label_key, place_key, noise_key = jax.random.split(key, 3)
    labels = jax.random.bernoulli(label_key, 0.5, (count,)).astype(jnp.int32)
    room = jnp.array([steps - box.steps, features - box.features]) + 1
    starts = jax.random.randint(place_key, (count, 2), 0, room)
    if box.start is not None:
        starts = jnp.broadcast_to(jnp.array(box.start), (count, 2))
    inside = _within(starts[:, :1], box.steps, steps)[:, :, None]
    inside &= _within(starts[:, 1:], box.features, features)[:, None]
    noise = _noise(noise_key, (count, steps, features), autoregression)
    signs = (2 * labels - 1)[:, None, None]
    return BoxData(noise + jnp.where(inside, signal * signs, 0), labels, inside)


class BoxScores(NamedTuple):
    """Hold how well maps find the boxes, for each share of the saliency that is kept.

    Attributes:
      precision: ``[P, B]``.
      recall: ``[P, B]``.
      precision_area: ``[B]``, the mean height of the curve, 1 for a map that is in the box alone.
      recall_area: ``[B]``, the same; such a map has the mean of the shares, or more where it has
        few large values.
    """

    precision: Array
    recall: Array
    precision_area: Array
    recall_area: Array


def box_scores(maps: Any, inside: Any, shares: Any = None) -> BoxScores:
    """Return precision and recall of maps, weighted by saliency.

    Equation: of the absolute values s of a map, scaled to 0 to 1, the largest are kept until they
    hold a share of the sum. With TP the sum of s kept inside the box, FP kept outside, and FN left
    inside, precision is ``TP / (TP + FP)`` and recall ``TP / (TP + FN)``.

    Args:
      maps: ``[B, T, F]``.
      inside: booleans ``[B, T, F]``, True where the signal is.
      shares: P of them, rising, between 0 and 1; 0.1, 0.2, ..., 0.9 by default.

    Returns:
      The scores; 0 for a map that is constant, which the authors leave out, and NaN for one that
      has NaN.

    Raises:
      ValueError: for maps and boxes of two shapes, or shares that are not as said.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import box_scores
      >>> maps = jnp.array([[[3.0, 0.0], [1.0, 0.0]]])
      >>> found = box_scores(maps, jnp.array([[[True, True], [False, False]]]), [0.5, 0.9])
      >>> found.precision[:, 0].tolist(), found.recall[:, 0].tolist()
      ([1.0, 0.75], [1.0, 1.0])
    """
    maps, inside = jnp.asarray(getattr(maps, "map", maps)), jnp.asarray(inside, bool)
    if maps.shape != inside.shape or maps.ndim < 2:
        raise ArgumentError(
            f"maps: expected the shape of the boxes, {list(inside.shape)}, got {list(maps.shape)}."
        )
    shares = np.arange(1, 10) / 10 if shares is None else np.asarray(shares)
    if shares.ndim != 1 or not len(shares) or not (shares > 0).all() or not (shares < 1).all():
        raise ArgumentError(f"shares: expected numbers between 0 and 1, got {shares}.")
    if (np.diff(shares) <= 0).any():
        raise ArgumentError(f"shares: expected them to rise, got {shares}.")
    batch = len(maps)
    flat, inside = abs(maps).reshape(batch, -1), inside.reshape(batch, -1)
    low = flat.min(1, keepdims=True)
    flat = (flat - low) / jnp.maximum(flat.max(1, keepdims=True) - low, 1e-30)  # NaN everywhere
    order = jnp.argsort(-flat, axis=1, stable=True)
    flat, inside = (jnp.take_along_axis(each, order, 1) for each in (flat, inside))
    before = jnp.cumsum(flat, 1) - flat  # what the larger ones hold
    total, true = flat.sum(1), jnp.where(inside, flat, 0).sum(1)

    def at(share: Array) -> tuple[Array, Array]:
        kept = jnp.where(before < share * total[:, None] * (1 - 1e-6), flat, 0)
        hit = jnp.where(inside, kept, 0).sum(1)
        return _ratio(hit, kept.sum(1)), _ratio(hit, true)

    found = jax.lax.map(at, jnp.asarray(shares, flat.dtype))
    precision, recall = (jnp.where(jnp.isnan(total), jnp.nan, each) for each in found)
    return BoxScores(precision, recall, _area(precision, shares), _area(recall, shares))


def _ratio(part: Array, whole: Array) -> Array:
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1), 0)


def _area(curve: Array, shares: np.ndarray) -> Array:
    """Return the mean height by the trapezoid rule."""
    if len(shares) == 1:
        return curve[0]
    widths = np.diff(shares) / (shares[-1] - shares[0])
    return jnp.tensordot(jnp.asarray(widths, curve.dtype), (curve[1:] + curve[:-1]) / 2, 1)


def _within(starts: Array, size: int, length: int) -> Array:
    places = jnp.arange(length)
    return (places >= starts) & (places < starts + size)


def _noise(key: Array, shape: tuple[int, int, int], autoregression: float) -> Array:
    drawn = jax.random.normal(key, shape)
    if not autoregression:
        return drawn
    scale = (1 - autoregression**2) ** 0.5

    def step(last: Array, new: Array) -> tuple[Array, Array]:
        now = autoregression * last + scale * new
        return now, now

    _, rest = jax.lax.scan(step, drawn[:, 0], drawn[:, 1:].swapaxes(0, 1))
    return jnp.concatenate([drawn[:, :1], rest.swapaxes(0, 1)], 1)


def _check_box(box: Box, shape: tuple[int, int]) -> None:
    if not isinstance(box, Box):
        raise ArgumentError(f"box: expected a Box, such as BOXES['middle'], got {box!r}.")
    check_sizes(**{"box.steps": box.steps, "box.features": box.features})
    start = (0, 0) if box.start is None else box.start
    ends = [s + size for s, size in zip(start, box[:2], strict=True)]
    if min(start) < 0 or ends[0] > shape[0] or ends[1] > shape[1]:
        raise ArgumentError(
            f"box: expected one within {shape[0]} steps and {shape[1]} features, got {box}."
        )
