"""The same weights for every library, in a form that belongs to none.

A network is a list of layers, a layer a dict of directions (``forward``, ``backward``), and a
direction a dict of arrays: ``w_x [I, gates H]``, ``w_h [H, gates H]``, ``b [gates H]``, with the
blocks i, f, g, o of an LSTM and r, z, n of a GRU, whose ``b_n [H]`` is added to h W_n inside the
reset. That one is zero, since Flax's nnx has no such bias; its gradient is compared all the same.
No constant is added to the forget gate.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench.cases import Case, blocks

Weights = list[dict[str, dict[str, Any]]]
WAYS = ("forward", "backward")


def draw(case: Case, seed: int = 0) -> tuple[Weights, np.ndarray]:
    """Weights, uniform within 1 / sqrt(H), and normal inputs ``[T, B, I]``, in float32."""
    source = np.random.default_rng(seed)
    shape = case.shape
    columns = blocks(case.cell) * shape.hidden

    def uniform(*size: int) -> np.ndarray:
        return (source.uniform(-1, 1, size) / np.sqrt(shape.hidden)).astype(np.float32)

    def direction(inputs: int) -> dict[str, np.ndarray]:
        arrays = {
            "w_x": uniform(inputs, columns),
            "w_h": uniform(shape.hidden, columns),
            "b": uniform(columns),
        }
        return arrays | ({"b_n": np.zeros(shape.hidden, np.float32)} if case.cell == "gru" else {})

    weights = [{way: direction(inputs) for way in case.ways} for inputs in case.input_sizes]
    xs = source.standard_normal((shape.time, shape.batch, shape.inputs)).astype(np.float32)
    return weights, xs


def each(change: Callable[[Any], Any], layers: list[dict[str, Any]]) -> list[Any]:
    """``change`` of every direction of every layer."""
    return [{way: change(layer[way]) for way in WAYS if way in layer} for layer in layers]


def named(weights: Weights) -> dict[str, np.ndarray]:
    """As one dict of arrays, such as ``layer 0, forward, w_x``."""
    return {
        f"layer {k}, {way}, {name}": np.asarray(array)
        for k, layer in enumerate(weights)
        for way, arrays in layer.items()
        for name, array in arrays.items()
    }


def as_moments(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By other names, of Adam's first moment, since its first step tells no gradient's size."""
    return {f"moment of {name}": array for name, array in arrays.items()}


def split(array: Any, names: str) -> dict[str, Any]:
    """The blocks of the last axis by their names, one letter each."""
    return dict(zip(names, np.split(np.asarray(array), len(names), axis=-1), strict=True))


def join(parts: dict[str, Any], names: str) -> np.ndarray:
    """The inverse of `split`, in the order of ``names``."""
    return np.concatenate([np.asarray(parts[name]) for name in names], axis=-1)


def reordered(array: Any, names: str, order: str) -> np.ndarray:
    """Blocks called ``names`` put into another order."""
    return join(split(array, names), order)
