"""Try whether a map depends on what was learned, by making layers random again."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from recurrent.cell import Params
from recurrent.errors import ArgumentError
from recurrent.explain._inputs import in_batches, map_of
from recurrent.explain.agreement import rank_correlation


class Randomization(NamedTuple):
    """Hold the maps of networks with random layers, beside that of the trained one.

    Attributes:
      maps: ``[L, B, ...]``, one for each layer.
      rank_correlation: ``[L, B]``, Spearman's, with the map of the trained network.
      absolute_rank_correlation: ``[L, B]``, of absolute values.
      cosine: ``[L, B]``, the cosine of the angle between absolute values.
    """

    maps: Array
    rank_correlation: Array
    absolute_rank_correlation: Array
    cosine: Array


def random_networks(
    params: Params, fresh: Params, layers: Sequence[str], *, cascading: bool = True
) -> Params:
    """Return params of networks in which layers are replaced by random ones, one for each layer.

    Args:
      params: trained.
      fresh: random ones of the same shapes, such as ``init(key)``.
      layers: as in `randomize_layers`.
      cascading: as in `randomize_layers`.

    Returns:
      Params with a first axis of L more.

    Raises:
      ValueError: as `randomize_layers` does.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import random_networks
      >>> trained, fresh = ({"a": jnp.array(x), "b": jnp.array(x)} for x in (1, 9))
      >>> found = random_networks(trained, fresh, ["b", "a"])
      >>> found["a"].tolist(), found["b"].tolist()
      ([1, 9], [9, 9])
    """
    _check_alike(params, fresh)
    flags = _flags(params, layers, cascading)  # [L, leaves]
    leaves, structure = jax.tree.flatten(params)
    pairs = zip(flags.T, leaves, jax.tree.leaves(fresh), strict=True)
    return structure.unflatten(
        [
            jnp.where(own.reshape(-1, *[1] * jnp.ndim(leaf)), other, leaf)
            for own, leaf, other in pairs
        ]
    )


def randomize_layers(
    explain: Callable[[Params], Array],
    params: Params,
    fresh: Params,
    layers: Sequence[str],
    *,
    cascading: bool = True,
    lengths: Any = None,
    batch_size: int = 1,
) -> Randomization:
    """Compare maps before and after layers are replaced by random ones.

    Where a map of a network that has forgotten what it learned looks the same, it shows the input,
    not the network.

    Args:
      explain: ``params -> map [B, ...]``, or what holds one as its ``map``, such as ``lambda
        params: gradient(partial(f, params), xs)``.
      params: trained.
      fresh: random ones of the same shapes, such as ``init(key)``.
      layers: names from the output down, such as ``["head", "cell"]``, or of parts, such as
        ``"cell/recurrent"``; a name stands for all below it.
      cascading: whether each layer joins those before it in the list; False makes one layer at a
        time random, independently.
      lengths: integers ``[B]``, of maps ``[B, T, ...]``; padding does not count.
      batch_size: how many networks are computed at once.

    Raises:
      ValueError: for params of two structures or shapes, no layers, or a name that is not there.

    References:
      Adebayo et al. 2018, Sanity checks for saliency maps, arXiv:1810.03292, whose third measure,
      structural similarity, is of images alone and left out.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import gradient, randomize_layers
      >>> xs = jnp.ones((1, 3))
      >>> def explain(params):
      ...     return gradient(lambda xs: params["head"]["scale"] * (xs @ params["map"]["w"]), xs)
      >>> trained = {"map": {"w": jnp.array([1.0, 2.0, 3.0])}, "head": {"scale": jnp.array(1.0)}}
      >>> fresh = {"map": {"w": jnp.array([2.0, 1.0, 0.0])}, "head": {"scale": jnp.array(0.5)}}
      >>> found = randomize_layers(explain, trained, fresh, ["head", "map"])
      >>> found.rank_correlation[:, 0].round(4).tolist()  # the scale has no say in the order
      [1.0, -1.0]
    """
    networks = random_networks(params, fresh, layers, cascading=cascading)

    def map_from(params: Params) -> Array:
        return map_of("explain", explain(params))

    maps = in_batches(map_from, networks, batch_size)
    return compare_maps(maps, map_from(params), lengths=lengths)


def compare_maps(maps: Any, trained: Any, *, lengths: Any = None) -> Randomization:
    """Compare maps of random networks with that of the trained one.

    A map passes where both rank correlations are small: with signs alone, a map that shows the
    input times random signs would pass as well.

    Args:
      maps: ``[L, B, ...]``.
      trained: ``[B, ...]``.
      lengths: integers ``[B]``, of maps ``[B, T, ...]``; padding does not count.

    Raises:
      ValueError: for maps that are not of the trained one's shape, or lengths that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.explain import compare_maps
      >>> trained, signs = jnp.array([[1.0, 2.0, 3.0, 0.0]]), jnp.array([1.0, -1.0, 1.0, 1.0])
      >>> found = compare_maps((trained * signs)[None], trained)
      >>> round(float(found.rank_correlation[0, 0]), 1)
      0.4
      >>> round(float(found.absolute_rank_correlation[0, 0]), 1)
      1.0
    """
    maps, trained = jnp.asarray(maps), jnp.asarray(trained)
    if maps.shape[1:] != trained.shape or maps.ndim < 3:
        raise ArgumentError(
            f"maps: expected [L, {', '.join(map(str, trained.shape))}], got {list(maps.shape)}."
        )

    def likeness(maps: Array, trained: Array) -> Array:
        return jax.vmap(lambda each: rank_correlation(each, trained, lengths=lengths))(maps)

    return Randomization(
        maps=maps,
        rank_correlation=likeness(maps, trained),
        absolute_rank_correlation=likeness(abs(maps), abs(trained)),
        cosine=_cosine(abs(maps), abs(trained)),
    )


def _cosine(maps: Array, trained: Array) -> Array:
    maps = maps.reshape(*maps.shape[:2], -1)
    trained = trained.reshape(len(trained), -1)
    size = jnp.linalg.norm(maps, axis=-1) * jnp.linalg.norm(trained, axis=-1)
    return jnp.einsum("lbn,bn->lb", maps, trained) / jnp.where(size == 0, 1, size)


def _check_alike(params: Params, fresh: Params) -> None:
    def shapes(tree: Params) -> Any:
        return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]

    if shapes(params) != shapes(fresh):
        raise ArgumentError(
            "fresh: expected params of the structure and shapes of the trained ones; take the init "
            "of the same network."
        )


def _flags(params: Params, layers: Sequence[str], cascading: bool) -> np.ndarray:
    """Return which leaves are random in each network, booleans ``[L, leaves]``."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(params)
    ]
    if isinstance(layers, str) or not len(layers):
        raise ArgumentError(f"layers: expected a list of names, got {layers!r}.")
    rows = [[path == name or path.startswith(f"{name}/") for path in paths] for name in layers]
    for name, row in zip(layers, rows, strict=True):
        if not any(row):
            raise ArgumentError(
                f"layers: expected names among {', '.join(paths)}, or of what is above them, got "
                f"{name}."
            )
    flags = np.array(rows)
    return np.logical_or.accumulate(flags) if cascading else flags
