"""Try whether the maps of an example name what its answer depends on."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.shared.explain_maps import (
    WITHOUT_SIGN,
    Method,
    by_step,
    numbers_of,
    quick_methods,
    slope_of,
    slow_methods,
)
from experiments.shared.explainable import Example, Network, probability_of
from recurrent import explain

ORDERS = 8  # random ones, beside the curves
STEPS = 20  # of a curve
RANDOM = 3  # networks without any trained layer
FEW_PARTS, MORE = 64, 8  # in an example of at most so many, where chance has more say, so many


class Maps(NamedTuple):
    """Hold maps of one example, and the numbers that came with them.

    Attributes:
      by_name: ``[...]`` of the example's shape each.
      numbers: by a word.
    """

    by_name: OrderedDict[str, Array]  # of which JAX keeps the order
    numbers: OrderedDict[str, Array]


class Explained(NamedTuple):
    """Hold maps of one example, and what tells whether to trust them.

    Attributes:
      maps: by name, and their numbers.
      probabilities: of the answers ``[C]``.
      deletion: ``[baselines, methods + ORDERS, STEPS + 1]``, random orders last.
      insertion: the same.
      agreement: rank correlations of absolute values, ``[methods, methods]``.
      random: by name, ``[2, R]``, rank correlations with the maps of networks without any
        trained layer: of the maps as they are, and of absolute values.
      cascading: by name of a quick method, ``[layers]``, the larger of the two, with the map of a
        network in which ever more layers are random.
      independent: the same, where one layer at a time is random.
    """

    maps: Maps
    probabilities: Array
    deletion: Array
    insertion: Array
    agreement: Array
    random: OrderedDict[str, Array]
    cascading: OrderedDict[str, Array]
    independent: OrderedDict[str, Array]


def explained(
    network: Network, params: Any, example: Example, target: Any, key: Array
) -> Explained:
    """Compute all of it; the network is static where this is compiled."""
    keys = jax.random.split(key, 4)
    found, likeness = tried(network, params, example, target, keys[:2])
    slope = slope_of(network, params, example, target)
    sensitivity = explain.max_sensitivity(slope, example.xs, keys[3], lengths=example.lengths)
    maps = Maps(
        OrderedDict(
            (name, by_step(network, name, map_of(each))[0]) for name, each in found.items()
        ),
        OrderedDict(numbers_of(found) | {"sensitivity": sensitivity[0]}),
    )
    stacked = jnp.stack(list(maps.by_name.values()))[:, None]  # [methods, 1, ...]
    orders = ranked(stacked, list(maps.by_name), keys[2])
    probability = probability_of(network, params, target)
    drawn = random_count(network, example)
    layers = {n: each for n, each in likeness.items() if each.shape[1] > drawn}
    larger = {n: each[:, drawn:].max(0) for n, each in layers.items()}  # [2 * layers]
    count = len(network.layers)
    return Explained(
        maps=maps,
        probabilities=probabilities(network, params, example),
        deletion=_curves(explain.deletion_curve, probability, example, orders),
        insertion=_curves(explain.insertion_curve, probability, example, orders),
        agreement=explain.agreement_matrix(list(abs(stacked)), lengths=example.lengths)[..., 0],
        random=OrderedDict((name, each[:, :drawn]) for name, each in likeness.items()),
        cascading=OrderedDict((name, each[:count]) for name, each in larger.items()),
        independent=OrderedDict((name, each[count:]) for name, each in larger.items()),
    )


def random_count(network: Network, example: Example) -> int:
    """Return R, how many networks without any trained layer are tried."""
    shape = example.xs.shape[1:]
    parts = shape[0] if network.tokens else math.prod(shape)
    return MORE if parts <= FEW_PARTS else RANDOM


def map_of(found: Any) -> Array:
    """Return the map of what a method gave."""
    return getattr(found, "map", found)


def tried(
    network: Network, params: Any, example: Example, target: Any, keys: Array
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what each method gives of the trained network, and how like it random ones are.

    All networks go through one loop, so that each method is compiled once.

    Returns:
      What each method gave, by name, and rank correlations, ``[2, R]`` or of a quick method ``[2, R
      + 2 * layers]``: of the maps as they are and of absolute values, with networks that are
      random as a whole, in ever more layers, and in one layer at a time.
    """
    keys_of_networks = jax.random.split(keys[0], random_count(network, example))
    fresh = jax.lax.map(network.init, keys_of_networks)  # [R, ...]
    whole = jax.tree.map(lambda own, others: jnp.concatenate([own[None], others]), params, fresh)
    first = jax.tree.map(lambda leaf: leaf[0], fresh)
    parts = [
        explain.random_networks(params, first, network.layers, cascading=cascading)
        for cascading in (True, False)
    ]
    by_layers = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), whole, *parts)
    quick, slow = (
        compared(network, methods, networks, example.lengths)
        for methods, networks in (
            (quick_methods(network, example, target), by_layers),
            (slow_methods(network, example, target, keys[1]), whole),
        )
    )
    return quick[0] | slow[0], quick[1] | slow[1]


def compared(
    network: Network, methods: dict[str, Method], networks: Any, lengths: Any
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what each method gives of the first network, and how like the others' maps are.

    Returns:
      What each method gave, by name, and rank correlations ``[2, N]`` with the N other networks, of
      the maps as they are and of absolute values.
    """
    every = {name: jax.lax.map(of, networks) for name, of in methods.items()}
    maps = {name: map_of(each) for name, each in every.items()}  # [1 + N, 1, ...] each
    shown = [by_step(network, name, each[:, 0]) for name, each in maps.items()]
    stacked = jnp.stack(shown, 1)  # [1 + N, methods, ...]
    if lengths is not None:
        lengths = jnp.broadcast_to(lengths, (len(shown),))
    found = explain.compare_maps(stacked[1:], stacked[0], lengths=lengths)
    both = jnp.stack([found.rank_correlation, found.absolute_rank_correlation])
    first = {name: jax.tree.map(lambda leaf: leaf[0], each) for name, each in every.items()}
    return first, {name: both[..., k] for k, name in enumerate(every)}


def ranked(maps: Array, names: list[str], key: Array) -> Array:
    """Return what orders the elements: maps ``[methods, 1, ...]``, and random numbers after them.

    Where the sign of a method says nothing, its size orders.
    """
    sign = jnp.array([name in WITHOUT_SIGN for name in names])
    sign = sign.reshape(-1, *[1] * (maps.ndim - 1))
    drawn = jax.random.uniform(key, (ORDERS, *maps.shape[1:]))
    return jnp.concatenate([jnp.where(sign, abs(maps), maps), drawn])


def probabilities(network: Network, params: Any, example: Example) -> Array:
    """Return the probabilities of all answers ``[C]``."""
    xs, lengths = jnp.asarray(example.xs), example.lengths
    mask = None if lengths is None else jnp.arange(xs.shape[1]) < lengths[:, None]
    return jax.nn.softmax(network.outputs(params, xs, mask))[0]


def _curves(
    method: Callable[..., Array], probability: Callable[..., Array], example: Example, orders: Array
) -> Array:
    """Return the curves of each baseline and order, one after the other."""

    def at(base: Array, order: Array) -> Array:
        return method(
            probability,
            example.xs,
            order,
            baseline=base,
            lengths=example.lengths,
            steps=STEPS,
            batch_size=STEPS + 1,
        )[:, 0]

    def of_base(base: Array) -> Array:
        return jax.lax.map(lambda order: at(base, order), orders)

    return jax.lax.map(of_base, jnp.asarray(example.baselines))
