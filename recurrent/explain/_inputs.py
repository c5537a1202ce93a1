"""Prepare what every explanation starts from: inputs without padding, baselines and groups."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from recurrent.cell import as_array, check_sizes, is_known, length_mask
from recurrent.errors import ArgumentError, ReturnError

Score = Callable[..., Array]  # xs [B, ...], and mask [B, T] where lengths are given -> [B]
Explain = Callable[[Array], Array]  # xs [B, ...] -> map


class Problem(NamedTuple):
    """Hold inputs without padding and the function of them that is explained.

    Attributes:
      f: as the caller gave it.
      xs: ``[B, ...]``, 0 in padding.
      mask: booleans ``[B, T]``, or None where no lengths were given.
    """

    f: Score
    xs: Array
    mask: Array | None

    def score(self, xs: Array, mask: Array | None = None, *, differentiable: bool = False) -> Array:
        """Return one number for each example; whole ones and booleans as floating-point numbers.

        Raises:
          TypeError: where f returns something else, or whole numbers where it is differentiated.
        """
        mask = self.mask if mask is None else mask
        found = returned("f", self.f(xs) if mask is None else self.f(xs, mask))
        if found.shape != xs.shape[:1]:
            raise ReturnError(
                f"f: expected one number for each example, so the shape {list(xs.shape[:1])}, got "
                f"{list(found.shape)}; choose an output, as by `chosen_output(model, index)`."
            )
        if jnp.issubdtype(found.dtype, jnp.floating):
            return found
        if differentiable or jnp.issubdtype(found.dtype, jnp.complexfloating):
            raise ReturnError(
                f"f: expected floating-point numbers, got {found.dtype}; return a logit or a "
                "probability."
            )
        return found.astype(jnp.result_type(float))

    def real(self, ndim: int) -> Array:
        """Return booleans with ``ndim`` axes, True outside padding, that broadcast to maps."""
        if self.mask is None:
            return jnp.ones((1,) * ndim, bool)
        return self.mask.reshape(*self.mask.shape, *[1] * (ndim - 2))

    def without_padding(self, values: Array) -> Array:
        """Set what belongs to padding to exactly 0, NaN included."""
        return jnp.where(self.real(values.ndim), values, 0)


def prepare(f: Score, xs: Any, lengths: Any = None, *, floating: bool = False) -> Problem:
    """Check inputs and lengths, and set padding to 0.

    Raises:
      ValueError: for inputs without a batch axis, lengths of another number of sequences, and,
        where ``floating`` is asked for, for whole numbers.
    """
    xs = as_array("xs", xs)
    if xs.ndim < 2 or any(is_known(size) and size == 0 for size in xs.shape):
        raise ArgumentError(
            f"xs: expected a batch of one example or more [B, ...], got {list(xs.shape)}."
        )
    check_function("f", f, masked=lengths is not None)
    if floating and not jnp.issubdtype(xs.dtype, jnp.floating):
        raise ArgumentError(
            f"xs: expected floating-point numbers, got {xs.dtype}; of tokens take gradients with "
            "respect to their embeddings, and scale images of bytes."
        )
    problem = Problem(f, xs, real_steps(lengths, xs))
    return problem._replace(xs=problem.without_padding(xs))


def check_function(name: str, function: Any, masked: bool) -> None:
    """Raise `ArgumentError` for what cannot be called with inputs, and a mask where there is one.

    A function that does not tell what it takes is left to be called.
    """
    asked = "a function of (xs, mask), as lengths are given" if masked else "a function of xs"
    if not callable(function):
        raise ArgumentError(f"{name}: expected {asked}, got {type(function).__name__}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*range(1 + masked))
    except TypeError as error:
        raise ArgumentError(f"{name}: expected {asked}, got one of {signature}.") from error


def returned(name: str, found: Any) -> Array:
    """Return what a function returned as an array.

    Raises:
      TypeError: where it is none.
    """
    if not isinstance(found, jax.Array | np.ndarray | np.generic | float | int):
        raise ReturnError(f"{name}: expected an array, got {type(found).__name__}.")
    return jnp.asarray(found)


def map_of(name: str, found: Any, xs: Array | None = None) -> Array:
    """Return the map of what a method gave: an array, or what holds one as its ``map``.

    Args:
      name: of the function or argument that it came from.
      found: what came.
      xs: inputs, of which there must be as many examples.

    Raises:
      TypeError: where it is no map ``[B, ...]``.
    """
    map = getattr(found, "map", found)
    if not isinstance(map, jax.Array | np.ndarray):
        raise ReturnError(
            f"{name}: expected a map [B, ...], or what has one as its .map, got "
            f"{type(found).__name__}."
        )
    batch = "B" if xs is None else len(xs)
    if map.ndim < 2 or (xs is not None and len(map) != batch):
        raise ReturnError(
            f"{name}: expected a map [{batch}, ...], a number for each part of an example, got "
            f"{list(map.shape)}."
        )
    return jnp.asarray(map)


def check_number(name: str, value: Any, fits: Callable[[Any], Any], asked: str) -> None:
    """Raise `ArgumentError` for a number that does not fit; one that is traced is not known.

    Args:
      name: of the argument.
      value: what came.
      fits: of a NumPy array, where it does.
      asked: what is expected, in words.
    """
    if isinstance(value, Tracer):
        return
    number = np.asarray(value)
    known = number.dtype != bool and jnp.issubdtype(number.dtype, jnp.number)
    if not known or not np.all(fits(number)):
        raise ArgumentError(f"{name}: expected {asked}, got {value!r}.")


def check_key(key: Any) -> None:
    """Raise `ArgumentError` for what is no random key."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if (typed and key.shape == ()) or (dtype == np.uint32 and key.ndim == 1):
        return
    shape = "" if dtype is None else f" {list(key.shape)}"
    raise ArgumentError(
        f"key: expected a random key, such as jax.random.key(0), got {type(key).__name__}{shape}."
    )


def drawn_by_part(draw: Callable[..., Array], key: Array, parts: int, *rest: Any) -> Array:
    """Draw for each part by a key of its own, so that those that follow change nothing.

    So what an example gets does not depend on how far it was padded. All examples of a batch are to
    see the same draws; then it does not depend on the others, either.

    Args:
      draw: such as `jax.random.normal`, called with a key and ``rest``.
      key: the random key.
      parts: how many, such as steps.
      *rest: further arguments of ``draw``, the shape first.

    Returns:
      ``[parts, *shape]``.
    """
    keys = jax.vmap(lambda part: jax.random.fold_in(key, part))(jnp.arange(parts))
    return jax.vmap(lambda key: draw(key, *rest))(keys)


def wide(dtype: Any) -> Any:
    """Return the type in which sums and linear algebra are done, float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def real_steps(lengths: Any, xs: Array) -> Array | None:
    """Return booleans ``[B, T]`` from lengths ``[B]``; None for None."""
    if lengths is None:
        return None
    mask = length_mask(lengths, xs.shape[1]).T
    if mask.shape != xs.shape[:2]:
        raise ArgumentError(
            f"lengths: expected {xs.shape[0]} of them, one for each sequence, got the shape "
            f"{list(mask.shape[:-1])}."
        )
    return mask


def slope(problem: Problem, xs: Array) -> Array:
    """Return the gradient of each example's number with respect to that example."""
    return jax.grad(lambda xs: problem.score(xs, differentiable=True).sum())(xs)


def baselines_of(problem: Problem, baseline: Any = None, background: Any = None) -> Array:
    """Return baselines ``[N, 1 or B, ...]``; one of zeros by default.

    Raises:
      ValueError: where both are given, or one of another shape than the inputs.
    """
    xs = problem.xs
    if baseline is not None and background is not None:
        raise ArgumentError("background: expected None where a baseline is given; choose one.")
    if background is not None:
        background = as_array("background", background)
        if (
            background.shape[1:] != xs.shape[1:]
            or background.ndim != xs.ndim
            or not len(background)
        ):
            raise ArgumentError(
                f"background: expected examples [N, {', '.join(map(str, xs.shape[1:]))}], got the "
                f"shape {list(background.shape)}."
            )
        check_whole("background", background, xs)
        return background[:, None].astype(xs.dtype)
    baseline = as_array("baseline", 0 if baseline is None else baseline)
    check_broadcast("baseline", baseline.shape, xs.shape)
    check_whole("baseline", baseline, xs)
    return jnp.broadcast_to(baseline, xs.shape)[None].astype(xs.dtype)


def check_whole(name: str, values: Array, xs: Array) -> None:
    """Raise `ArgumentError` for what inputs that are whole numbers, such as tokens, cannot be."""
    if jnp.issubdtype(xs.dtype, jnp.floating):
        return
    if isinstance(values, Tracer):
        fits = not jnp.issubdtype(values.dtype, jnp.inexact)
    else:
        fits = np.array_equal(np.asarray(values.astype(xs.dtype)), np.asarray(values))
    if not fits:
        raise ArgumentError(
            f"{name}: expected numbers that {xs.dtype} holds, as the inputs are, got {values}."
        )


def check_broadcast(name: str, shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    """Raise `ArgumentError` where NumPy would not broadcast one shape to the other."""
    try:
        fits = np.broadcast_shapes(shape, to) == to
    except ValueError:
        fits = False
    if not fits:
        raise ArgumentError(
            f"{name}: expected a shape that broadcasts to the inputs' {list(to)}, got "
            f"{list(shape)}; write an axis that it lacks as 1, such as [H, W, 1]."
        )


class Groups(NamedTuple):
    """Hold which elements belong together.

    Attributes:
      labels: integers ``[1 or B, ...]`` that broadcast to the inputs.
      active: booleans ``[1 or B, G]``, whether a group has an element outside padding.
    """

    labels: Array
    active: Array

    @property
    def size(self) -> int:
        """Return G."""
        return self.active.shape[-1]

    def spread(self, values: Array) -> Array:
        """Give each element what its group has, from ``[1 or B, G]`` to ``[1 or B, ...]``."""
        if self.labels.shape[0] == 1:
            return values[:, self.labels[0]]
        values = jnp.broadcast_to(values, (self.labels.shape[0], values.shape[1]))
        return jax.vmap(lambda values, labels: values[labels])(values, self.labels)


def groups_of(problem: Problem, labels: Any = None, count: int | None = None) -> Groups:
    """Check labels; by default every element is a group of its own.

    Raises:
      ValueError: for labels that are no whole numbers from 0 to ``count - 1``, do not broadcast to
        the inputs, or are traced while the count is not given.
    """
    xs = problem.xs
    if labels is None:
        labels = np.arange(np.prod(xs.shape[1:], dtype=int)).reshape(1, *xs.shape[1:])
    count = group_count(labels, count)
    labels = as_array("labels", labels)
    check_broadcast("labels", labels.shape, xs.shape)
    labels = labels.reshape(*[1] * (xs.ndim - labels.ndim), *labels.shape)
    real = problem.real(xs.ndim)
    real = jnp.broadcast_to(real, (real.shape[0], *labels.shape[1:2], *real.shape[2:]))
    rows = max(len(labels), len(real))
    shape = (rows, *np.broadcast_shapes(labels.shape[1:], real.shape[1:]))
    real = jnp.broadcast_to(real, shape)
    active = jax.vmap(lambda labels, real: jnp.zeros(count, bool).at[labels].max(real))(
        jnp.broadcast_to(labels, shape), real
    )
    return Groups(labels, active)


def group_count(labels: Any, count: int | None) -> int:
    """Return the number of groups, read off the labels where it is not given."""
    if count is not None:
        check_sizes(count=count)
    if isinstance(labels, Tracer):
        if count is None:
            raise ArgumentError("count: expected the number of groups, since labels are traced.")
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ArgumentError(f"labels: expected whole numbers, got {labels.dtype}.")
        return count
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer) or not labels.size:
        raise ArgumentError(f"labels: expected whole numbers, got {labels.dtype} {labels.shape}.")
    top = int(labels.max()) + 1
    if labels.min() < 0 or (count is not None and top > count):
        raise ArgumentError(
            f"labels: expected 0 to {top - 1 if count is None else count - 1}, got "
            f"{labels.min()} to {labels.max()}."
        )
    return top if count is None else count


def coalition_values(
    problem: Problem, groups: Groups, baselines: Array, keeps: Array, batch_size: int
) -> Array:
    """Return ``[K, B]``: f where only some groups are shown, averaged over the baselines.

    Args:
      problem: inputs and f.
      groups: of elements.
      baselines: ``[N, 1 or B, ...]``, what the elements of the other groups show instead.
      keeps: booleans ``[K, 1 or B, G]``, which groups are shown.
      batch_size: how many of K are computed at once.
    """
    padding = ~problem.real(problem.xs.ndim)

    def value(keep: Array) -> Array:
        shown = groups.spread(keep) | padding

        def with_one(baseline: Array) -> Array:
            return problem.score(jnp.where(shown, problem.xs, baseline))

        if len(baselines) == 1:
            return with_one(baselines[0])
        return lax.map(with_one, baselines).mean(0)

    return in_batches(value, keeps, batch_size)


def in_batches(function: Callable[[Any], Any], items: Any, batch_size: int) -> Any:
    """Apply a function to each item along the first axis, ``batch_size`` of them at once."""
    check_sizes(batch_size=batch_size)
    count = len(jax.tree.leaves(items)[0])
    return lax.map(function, items, batch_size=min(batch_size, count))


def weighted_sum(
    function: Callable[[Any], Array], items: Any, weights: Any, batch_size: int
) -> Array:
    """Return the sum of weight times function of each item, without keeping them all."""
    check_sizes(batch_size=batch_size)
    count = len(weights)
    batch_size = min(batch_size, count)
    lacking = -count % batch_size  # filled by repeats of weight 0

    def in_rows(leaf: Array) -> Array:
        leaf = jnp.concatenate([leaf, leaf[:lacking]])
        return leaf.reshape(-1, batch_size, *leaf.shape[1:])

    weights = jnp.asarray(weights)
    weights = jnp.concatenate([weights, jnp.zeros(lacking, weights.dtype)])
    rows = jax.tree.map(in_rows, items), weights.reshape(-1, batch_size)
    like = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], items))

    def body(total: Array, row: Any) -> tuple[Array, None]:
        items, weights = row
        found = jax.vmap(function)(items)
        return total + jnp.tensordot(weights.astype(found.dtype), found, 1), None

    return lax.scan(body, jnp.zeros(like.shape, like.dtype), rows)[0]


def units_of(name: str, map: Any, xs: Array) -> Array:
    """Return a map with as many axes as the inputs, such as ``[B, H, W, 1]`` for ``[B, H, W]``.

    Raises:
      ValueError: where it does not fit the inputs.
    """
    map = as_array(name, getattr(map, "map", map))
    map = map.reshape(*map.shape, *[1] * (xs.ndim - map.ndim))
    if map.shape[:1] != xs.shape[:1]:
        raise ArgumentError(
            f"{name}: expected a map of each of {len(xs)} examples, got {list(map.shape)}."
        )
    check_broadcast(name, map.shape, xs.shape)
    return map
