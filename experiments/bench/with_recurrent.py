"""Run ours: `recurrent.unroll`, with `stack` and `bidirectional` for more layers or directions."""

from typing import Any

import numpy as np

from experiments.bench.cases import Case
from experiments.bench.program import Network
from experiments.bench.weights import WAYS, Weights, each
from recurrent import bidirectional, elman, gru, lstm, stack, unroll

CELLS = ("lstm", "gru", "elman")


def build(case: Case, weights: Weights) -> Network:
    """Build the network with the given weights."""
    made = {"lstm": lambda *size: lstm(*size, forget_bias=0.0), "gru": gru, "elman": elman}
    layers = []
    for inputs in case.input_sizes:
        cells = [made[case.cell](inputs, case.shape.hidden) for _ in case.ways]
        layers.append(bidirectional(*cells) if len(cells) == 2 else cells[0])
    cell = layers[0] if len(layers) == 1 else stack(*layers)

    def apply(params: Any, xs: Any) -> Any:
        return unroll(cell, params, xs)[1]

    return Network(apply, to_params(weights), from_params)


def to_params(weights: Weights) -> Any:
    """Convert weights to the parameters of our cell."""
    layers = [ways if len(ways) == 2 else ways["forward"] for ways in each(_cell, weights)]
    return layers[0] if len(layers) == 1 else {f"layer_{k}": p for k, p in enumerate(layers)}


def from_params(params: Any) -> Weights:
    """Convert parameters of our cell, or their gradient, back to weights."""
    layers = [params[f"layer_{k}"] for k in range(len(params))] if "layer_0" in params else [params]
    ways = [layer if WAYS[1] in layer else {WAYS[0]: layer} for layer in layers]
    return each(_arrays, ways)


def _cell(w: dict[str, Any]) -> Any:
    recurrent = {"kernel": w["w_h"]}
    if "b_n" in w:
        recurrent["bias"] = np.concatenate([np.zeros(2 * len(w["b_n"]), w["b_n"].dtype), w["b_n"]])
    return {"input": {"kernel": w["w_x"], "bias": w["b"]}, "recurrent": recurrent}


def _arrays(cell: Any) -> dict[str, Any]:
    inputs, recurrent = cell["input"], cell["recurrent"]
    arrays = {"w_x": inputs["kernel"], "w_h": recurrent["kernel"], "b": inputs["bias"]}
    if "bias" in recurrent:
        arrays["b_n"] = np.split(np.asarray(recurrent["bias"]), 3)[2]
    return arrays
