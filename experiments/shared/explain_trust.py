"""Try whether the maps of an example name what its answer depends on."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.shared.explain_maps import WITHOUT_SIGN, Maps, all_maps, by_step, quick_maps
from experiments.shared.explainable import Example, Network, probability_of
from recurrent import explain

ORDERS = 8  # random ones, beside the curves
STEPS = 20  # of a curve


class Explained(NamedTuple):
    """Hold maps of one example, and what tells whether to trust them.

    Attributes:
      maps: by name, and their numbers.
      probabilities: of the answers ``[C]``.
      deletion: ``[baselines, methods + ORDERS, STEPS + 1]``, random orders last.
      insertion: the same.
      agreement: rank correlations of absolute values, ``[methods, methods]``.
      cascading: by name, ``[layers]``, rank correlations with the map of a network in which ever
        more layers are random.
      independent: the same, where one layer at a time is random.
    """

    maps: Maps
    probabilities: Array
    deletion: Array
    insertion: Array
    agreement: Array
    cascading: OrderedDict[str, Array]
    independent: OrderedDict[str, Array]


def explained(
    network: Network, params: Any, example: Example, target: Any, key: Array
) -> Explained:
    """Compute all of it; the network is static where this is compiled."""
    keys = jax.random.split(key, 3)
    quick, sanity = quick_and_random(network, params, example, target, keys[1])
    maps = all_maps(network, params, example, target, quick, keys[0])
    stacked = jnp.stack(list(maps.by_name.values()))[:, None]  # [methods, 1, ...]
    orders = ranked(stacked, list(maps.by_name), keys[2])
    probability = probability_of(network, params, target)
    return Explained(
        maps=maps,
        probabilities=probabilities(network, params, example),
        deletion=_curves(explain.deletion_curve, probability, example, orders),
        insertion=_curves(explain.insertion_curve, probability, example, orders),
        agreement=explain.agreement_matrix(list(abs(stacked)), lengths=example.lengths)[..., 0],
        cascading=OrderedDict((name, each[: len(network.layers)]) for name, each in sanity.items()),
        independent=OrderedDict(
            (name, each[len(network.layers) :]) for name, each in sanity.items()
        ),
    )


def quick_and_random(
    network: Network, params: Any, example: Example, target: Any, key: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the cheap maps of the trained network, and how like it random ones are.

    All networks go through one loop, so that each method is compiled once.

    Returns:
      Maps ``[1, ...]`` by name, and rank correlations ``[2 * layers]`` by name: as ever more layers
      are random, and as one at a time is.
    """
    fresh = network.init(key)
    parts = [jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params)]
    parts += [
        explain.random_networks(params, fresh, network.layers, cascading=cascading)
        for cascading in (True, False)
    ]
    networks = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    maps, likeness = {}, {}
    for name, of in quick_maps(network, example, target).items():
        every = jax.lax.map(of, networks)  # [1 + 2 layers, 1, ...]
        maps[name] = every[0]
        shown = by_step(network, name, every.reshape(-1, *every.shape[2:]))[:, None]
        likeness[name] = jnp.stack(
            [
                explain.rank_correlation(other, shown[0], lengths=example.lengths)[0]
                for other in shown[1:]
            ]
        )
    return maps, likeness


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
