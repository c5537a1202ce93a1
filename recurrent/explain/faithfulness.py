"""Try whether a map names what f depends on, without trusting its picture."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.cell import check_sizes
from recurrent.errors import ArgumentError
from recurrent.explain._inputs import (
    Explain,
    Problem,
    Score,
    baselines_of,
    check_key,
    check_number,
    drawn_by_part,
    in_batches,
    map_of,
    prepare,
    units_of,
)


def deletion_curve(
    f: Score,
    xs: Any,
    map: Any,
    *,
    baseline: Any = None,
    lengths: Any = None,
    steps: int = 20,
    batch_size: int = 32,
) -> Array:
    """Return f as elements are replaced by a baseline, those with the largest values first.

    It falls soon where the map names what f depends on.

    Args:
      f: ``xs -> [B]``, or ``(xs, mask) -> [B]`` where lengths are given.
      xs: inputs ``[B, ...]``.
      map: values that broadcast to the inputs, such as ``[B, H, W]`` of images ``[B, H, W, C]``,
        whose channels then go together. Of a signed map give the absolute values, or not, as you
        ask what f depends on or what speaks for it. Equal values go in the order of memory; where a
        map has NaN, the curve is NaN.
      baseline: broadcasts to the inputs; 0 by default.
      lengths: integers ``[B]``, of sequences ``[B, T, ...]``; padding is no element.
      steps: S.
      batch_size: how many of the steps are computed at once, of the whole batch.

    Returns:
      ``[S + 1, B]``, with shares 0, 1/S, ..., 1 of the elements replaced.

    Raises:
      ValueError: for inputs, a map, a baseline or lengths that do not fit.
      TypeError: where f returns anything but ``[B]``.

    References:
      Petsiuk, Das & Saenko 2018, RISE, arXiv:1806.07421.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import deletion_curve
      >>> f, xs = lambda xs: xs.sum(1), jnp.array([[1.0, 5.0, 3.0]])
      >>> deletion_curve(f, xs, xs, steps=3)[:, 0].tolist()
      [9.0, 4.0, 1.0, 0.0]
    """
    problem = prepare(f, xs, lengths)
    base = baselines_of(problem, baseline)[0]
    places, known = _places(problem, map)
    return known(_curve(problem, places, base, steps, batch_size, insert=False))


def insertion_curve(
    f: Score,
    xs: Any,
    map: Any,
    *,
    baseline: Any = None,
    lengths: Any = None,
    steps: int = 20,
    batch_size: int = 32,
) -> Array:
    """Return f as elements of the input enter a baseline, those with the largest values first.

    It rises soon where the map names what f depends on.

    Args:
      f: as in `deletion_curve`.
      xs: as in `deletion_curve`.
      map: as in `deletion_curve`.
      baseline: as in `deletion_curve`; a blurred image leaves fewer edges that nobody drew.
      lengths: as in `deletion_curve`.
      steps: S.
      batch_size: as in `deletion_curve`.

    Returns:
      ``[S + 1, B]``, with shares 0, 1/S, ..., 1 of the elements shown.

    Raises:
      ValueError: as `deletion_curve` does.
      TypeError: where f returns anything but ``[B]``.

    References:
      Petsiuk, Das & Saenko 2018, RISE, arXiv:1806.07421.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import insertion_curve
      >>> f, xs = lambda xs: xs.sum(1), jnp.array([[1.0, 5.0, 3.0]])
      >>> insertion_curve(f, xs, xs, steps=3)[:, 0].tolist()
      [0.0, 5.0, 8.0, 9.0]
    """
    problem = prepare(f, xs, lengths)
    base = baselines_of(problem, baseline)[0]
    places, known = _places(problem, map)
    return known(_curve(problem, places, base, steps, batch_size, insert=True))


def area_under(curves: Any) -> Array:
    """Return the mean height of curves ``[..., S + 1, B]`` by the trapezoid rule, ``[..., B]``.

    Raises:
      ValueError: for curves of less than two points.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import area_under
      >>> area_under(jnp.array([[9.0], [3.0], [1.0]])).tolist()
      [4.0]
    """
    curves = jnp.asarray(curves)
    if curves.ndim < 2 or curves.shape[-2] < 2:
        raise ArgumentError(
            f"curves: expected [..., S + 1, B] with S of 1 or more, got {list(curves.shape)}."
        )
    return (curves[..., 1:, :] + curves[..., :-1, :]).mean(-2) / 2


class Faithfulness(NamedTuple):
    """Hold curves for N baselines, with those of R random orders beside them.

    Attributes:
      deletion: ``[N, S + 1, B]``.
      insertion: ``[N, S + 1, B]``.
      random_deletion: ``[N, R, S + 1, B]``.
      random_insertion: ``[N, R, S + 1, B]``.
    """

    deletion: Array
    insertion: Array
    random_deletion: Array
    random_insertion: Array


def faithfulness_curves(
    f: Score,
    xs: Any,
    map: Any,
    key: Array,
    *,
    baselines: Sequence[Any],
    lengths: Any = None,
    orders: int = 8,
    steps: int = 20,
    batch_size: int = 32,
) -> Faithfulness:
    """Compute deletion and insertion curves for several baselines, beside random orders.

    A map that does no better than random orders says nothing, and one that does so for one baseline
    alone says something about that baseline.

    Args:
      f: as in `deletion_curve`.
      xs: as in `deletion_curve`.
      map: as in `deletion_curve`.
      key: the random key of the orders.
      baselines: N of them, two or more for a conclusion; each broadcasts to the inputs.
      lengths: as in `deletion_curve`.
      orders: R.
      steps: S.
      batch_size: as in `deletion_curve`.

    Raises:
      ValueError: as `deletion_curve` does, and for no baselines.
      TypeError: where f returns anything but ``[B]``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.explain import area_under, faithfulness_curves
      >>> f, xs = lambda xs: xs.sum(1), jnp.arange(20.0)[None]
      >>> found = faithfulness_curves(f, xs, xs, jax.random.key(0), baselines=[0.0, xs.mean()])
      >>> area = area_under(found.deletion)  # [N, B]
      >>> bool((area < area_under(found.random_deletion).min(1)).all())
      True
    """
    problem = prepare(f, xs, lengths)
    check_sizes(orders=orders)
    check_key(key)
    if not len(baselines):
        raise ArgumentError("baselines: expected one or more, got none.")
    places, known = _places(problem, map)

    def shuffled(key: Array) -> Array:
        drawn = drawn_by_part(jax.random.uniform, key, places.shape[1], places.shape[2:])
        return _order(problem, jnp.broadcast_to(drawn, places.shape))

    every = jnp.concatenate(
        [places[None], jax.vmap(shuffled)(jax.random.split(key, orders))]
    )  # [1 + R, B, ...]
    bases = jnp.stack([baselines_of(problem, each)[0] for each in baselines])

    def curves(insert: bool) -> Array:
        def of_base(base: Array) -> Array:
            def of_order(places: Array) -> Array:
                return _curve(problem, places, base, steps, batch_size, insert=insert)

            return jax.lax.map(of_order, every)

        return jax.lax.map(of_base, bases)  # [N, 1 + R, S + 1, B]

    deleted, inserted = curves(False), curves(True)
    return Faithfulness(
        known(deleted[:, 0]), known(inserted[:, 0]), deleted[:, 1:], inserted[:, 1:]
    )


def max_sensitivity(
    explain: Explain,
    xs: Any,
    key: Array,
    *,
    radius: float = 0.02,
    samples: int = 20,
    relative: bool = True,
    lengths: Any = None,
    batch_size: int = 16,
) -> Array:
    """Return the largest change of a map within a small cube around the input, by sampling.

    Equation: the largest ``|R(x + e) - R(x)|``, with e uniform on ``[-radius, radius]`` for each
    element, divided by ``|R(x)|`` where relative; Euclidean norms.

    Args:
      explain: R, ``xs -> map [B, ...]``, or what holds one as its ``map``.
      xs: inputs ``[B, ...]``.
      key: the random key of e.
      radius: half the side of the cube.
      samples: how many e.
      relative: whether to divide.
      lengths: integers ``[B]``, of sequences ``[B, T, ...]``; padding stays as it is.
      batch_size: how many maps are computed at once, of the whole batch.

    Returns:
      ``[B]``; 0 where the map does not change.

    Raises:
      ValueError: for inputs or lengths that do not fit, or a radius below 0.
      TypeError: where R gives no map.

    References:
      Yeh et al. 2019, On the (in)fidelity and sensitivity of explanations, arXiv:1901.09392.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.explain import gradient, max_sensitivity
      >>> explain = lambda xs: gradient(lambda xs: (xs**2).sum(1) / 2, xs)  # the map is xs itself
      >>> bool(max_sensitivity(explain, jnp.ones((1, 1)), jax.random.key(0))[0] < 0.02)
      True
    """
    problem = prepare(lambda *_: jnp.zeros(0), xs, lengths, floating=True)
    check_sizes(samples=samples)
    check_key(key)
    check_number("radius", radius, lambda r: r >= 0, "0 or more")
    xs = problem.xs

    def explained(xs: Array) -> Array:
        return problem.without_padding(map_of("explain", explain(xs), xs))

    def size(map: Array) -> Array:
        return jnp.sqrt(jnp.square(map).sum(tuple(range(1, map.ndim))))

    whole = explained(xs)

    def moved(key: Array) -> Array:
        shape = xs.shape[2:], xs.dtype, -radius, radius
        nudge = drawn_by_part(jax.random.uniform, key, xs.shape[1], *shape)
        nudge = jnp.broadcast_to(nudge, xs.shape)
        return size(explained(xs + problem.without_padding(nudge)) - whole)

    found = in_batches(moved, jax.random.split(key, samples), batch_size).max(0)
    against = size(whole) if relative else jnp.ones_like(found)
    return found / jnp.where(against > 0, against, 1)


def _places(problem: Problem, map: Any) -> tuple[Array, Callable[[Array], Array]]:
    """Return the place of each element in the order from the largest value, 0 the first.

    Returns:
      Places, and a function that makes curves ``[..., B]`` NaN where the map has NaN.
    """
    map = units_of("map", map, problem.xs)
    unknown = problem.without_padding(jnp.isnan(map)).any(tuple(range(1, map.ndim)))
    return _order(problem, map), lambda curves: jnp.where(unknown, jnp.nan, curves)


def _order(problem: Problem, map: Array) -> Array:
    values = jnp.where(problem.real(map.ndim), map, -jnp.inf).reshape(len(map), -1)
    order = jnp.argsort(-values, axis=1, stable=True)
    return jnp.argsort(order, axis=1).reshape(map.shape)


def _curve(
    problem: Problem, places: Array, base: Array, steps: int, batch_size: int, *, insert: bool
) -> Array:
    check_sizes(steps=steps)
    xs, real = problem.xs, problem.real(places.ndim)
    axes = tuple(range(1, places.ndim))
    count = jnp.broadcast_to(real, places.shape).sum(axes, keepdims=True)

    def at(step: Array) -> Array:
        chosen = places * steps < step * count  # whole numbers, rounded up
        hidden = ~chosen if insert else chosen
        return problem.score(jnp.where(hidden & real, base, xs))

    return in_batches(at, jnp.arange(steps + 1), batch_size)
