"""Draw the same weights for every library, in a library-independent form.

A network is a list of layers, a layer a dict of directions (``forward``, ``backward``), and a
direction a dict of arrays: ``w_x [I, gates H]``, ``w_h [H, gates H]``, ``b [gates H]``. The blocks
of H columns are i, f, g, o for an LSTM and r, z, n for a GRU, which also has ``b_n [H]``, added to
h W_n inside the reset. ``b_n`` is zero because Flax nnx has no such bias; its gradient is compared
all the same. No constant is added to the forget gate.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench.cases import Case, blocks

Weights = list[dict[str, dict[str, Any]]]
WAYS = ("forward", "backward")


def draw(case: Case, seed: int = 0) -> tuple[Weights, np.ndarray]:
    """Draw weights, uniform within 1 / sqrt(H), and normal inputs ``[T, B, I]``, in float32."""
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
    """Apply ``change`` to every direction of every layer."""
    return [{way: change(layer[way]) for way in WAYS if way in layer} for layer in layers]


def named(weights: Weights) -> dict[str, np.ndarray]:
    """Flatten weights into one dict of arrays, with names such as ``layer 0, forward, w_x``."""
    return {
        f"layer {k}, {way}, {name}": np.asarray(array)
        for k, layer in enumerate(weights)
        for way, arrays in layer.items()
        for name, array in arrays.items()
    }


def as_moments(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the arrays as Adam's first moment.

    It is compared because the first step of Adam does not depend on the size of the gradient.
    """
    return {f"moment of {name}": array for name, array in arrays.items()}


def split(array: Any, names: str) -> dict[str, Any]:
    """Split the last axis into equal blocks, named by one letter each."""
    return dict(zip(names, np.split(np.asarray(array), len(names), axis=-1), strict=True))


def join(parts: dict[str, Any], names: str) -> np.ndarray:
    """Concatenate blocks in the order of ``names``, the inverse of `split`."""
    return np.concatenate([np.asarray(parts[name]) for name in names], axis=-1)


def reordered(array: Any, names: str, order: str) -> np.ndarray:
    """Move the blocks of the last axis from the order ``names`` to the order ``order``."""
    return join(split(array, names), order)
