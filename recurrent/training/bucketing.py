"""Read sequences of unequal lengths in batches of a few shapes, so that little is padding.

A compiled program has fixed shapes, and the longest sequence of the data decides them for all.
Here examples of like length share a batch, and a batch is cut to the smallest of a few sizes that
holds its longest example. Each size is compiled once.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from recurrent.errors import ArgumentError


class Buckets(NamedTuple):
    """Say which arrays of the data are cut, and to which sizes.

    Attributes:
      lengths: the name of an array ``[N]``, by which examples are sorted.
      limits: rising; a batch is in the first bucket whose limit none of its lengths exceeds.
      sizes: by the name of an array ``[N, T, ...]``, the steps that are kept of it in each bucket;
        the last one is T, and in no bucket may it be too few for an example that is allowed there.
    """

    lengths: str
    limits: tuple[int, ...]
    sizes: dict[str, tuple[int, ...]]


def bucket_sizes(lengths: Any, count: int) -> tuple[int, ...]:
    """Return up to ``count`` sizes that leave the fewest padded steps; the last is the longest.

    They are the best there are, found by dynamic programming over the distinct lengths.

    Args:
      lengths: integers ``[N]`` of 1 or more.
      count: the most sizes; each costs a compilation.

    Raises:
      ValueError: for no lengths, one below 1, or a count below 1.

    Example:
      >>> bucket_sizes([2, 2, 2, 3, 9, 10], 2)
      (3, 10)
    """
    lengths = np.asarray(lengths)
    whole = lengths.ndim == 1 and lengths.size and lengths.dtype.kind in "iu"
    if not whole or lengths.min() < 1 or count < 1:
        raise ArgumentError(
            "lengths, count: expected at least one length, an integer of 1 or more, and one size "
            f"or more, got lengths {lengths.dtype} {list(lengths.shape)} and {count} sizes."
        )
    sizes, counts = np.unique(lengths, return_counts=True)
    up_to = np.concatenate([[0], np.cumsum(counts)])  # examples among the first k lengths
    cost, ends = sizes * up_to[1:], [np.zeros(len(sizes), int)]  # of one bucket
    for _ in range(1, min(count, len(sizes))):
        before = np.concatenate([[0], cost])[:, None]  # [start, end]: the last bucket's lengths
        whole = before[:-1] + sizes * (up_to[None, 1:] - up_to[:-1, None])
        whole = np.where(np.tri(len(sizes), dtype=bool).T, whole, np.iinfo(np.int64).max)
        ends.append(whole.argmin(axis=0))
        cost = whole.min(axis=0)
    chosen, end = [], len(sizes)
    for starts in reversed(ends):
        if end:
            chosen.append(int(sizes[end - 1]))
            end = starts[end - 1]
    return tuple(reversed(chosen))


def bucketed(function: Callable[..., Any], buckets: Buckets) -> Callable[..., Any]:
    """Return a function ``(first, batch, ...)`` that sees its batch cut as its bucket says.

    The results may not depend on padding in shape or value. Where gradients are due, let the
    function compute them, as `recurrent.training.minibatch_task` does: the gradient of what is
    returned keeps what the backward passes of all buckets need. Under `jax.vmap` over batches of
    several buckets all of them are computed; `jax.lax.map` computes one each.

    Raises:
      ValueError: for limits that do not rise; where it is called, for an array whose sizes are not
        one for each bucket, or that is not as long as the last.

    Example:
      >>> buckets = Buckets("lengths", (2, 4), {"x": (2, 4)})
      >>> batch = {"x": jnp.ones((3, 4)), "lengths": jnp.array([1, 2, 2])}
      >>> float(bucketed(lambda params, batch: batch["x"].sum(), buckets)((), batch))
      6.0
    """
    if list(buckets.limits) != sorted(set(buckets.limits)) or not buckets.limits:
        raise ArgumentError(f"limits: expected some that rise, got {list(buckets.limits)}.")

    def of_bucket(bucket: int) -> Callable[..., Any]:
        def call(rest: tuple[Any, ...], first: Any, batch: dict[str, Array]) -> Any:
            cut = {name: batch[name][:, : sizes[bucket]] for name, sizes in buckets.sizes.items()}
            return function(first, batch | cut, *rest)

        return call

    branches = [of_bucket(bucket) for bucket in range(len(buckets.limits))]

    def choose(first: Any, batch: dict[str, Array], *rest: Any) -> Any:
        _check(batch, buckets)
        limits = jnp.asarray(buckets.limits)
        bucket = jnp.searchsorted(limits, batch[buckets.lengths].max())
        return lax.switch(bucket, [partial(branch, rest) for branch in branches], first, batch)

    return choose


def _check(batch: dict[str, Array], buckets: Buckets) -> None:
    for name, sizes in buckets.sizes.items():
        if batch[name].shape[1:2] != sizes[-1:] or len(sizes) != len(buckets.limits):
            raise ArgumentError(
                f"buckets: expected a size of {name!r} for each of {len(buckets.limits)} limits, "
                f"the last one its {batch[name].shape[1]} steps, got {list(sizes)}."
            )
