"""Run Keras on JAX: `keras.layers.LSTM`, `GRU`, `SimpleRNN` by ``stateless_call``, batch-major."""

import os
from typing import Any

import numpy as np

from experiments.bench.cases import Case, layers_of
from experiments.bench.program import Network, layered
from experiments.bench.weights import Weights, each, reordered
from experiments.data.cache import cache_dir

os.environ["KERAS_BACKEND"] = "jax"
os.environ["KERAS_HOME"] = str(cache_dir() / "keras")  # ignores the user's settings
import keras  # pyright: ignore[reportMissingImports]

CELLS = ("lstm", "gru", "elman")


def build(case: Case, weights: Weights) -> Network:
    """Build the network with the given weights."""
    made = {
        (inputs, way == "backward"): _made(case, inputs, way) for way, inputs in layers_of(case)
    }

    def layer(params: Any, xs: Any, backwards: bool) -> Any:
        module = made[xs.shape[-1], backwards]
        ys, _ = module.stateless_call(params, module.non_trainable_variables, xs)
        return keras.ops.flip(ys, axis=1) if backwards else ys

    params, arrays = (_gru, _gru_arrays) if case.cell == "gru" else (_plain, _plain_arrays)
    return Network(
        layered(layer), each(params, weights), lambda p: each(arrays, p), batch_major=True
    )


def _made(case: Case, inputs: int, way: str) -> Any:
    layers = keras.layers
    made = {"lstm": layers.LSTM, "gru": layers.GRU, "elman": layers.SimpleRNN}[case.cell]
    layer = made(case.shape.hidden, return_sequences=True, go_backwards=way == "backward")
    layer.build((case.shape.batch, case.shape.time, inputs))
    return layer


def _plain(w: dict[str, Any]) -> list[Any]:
    return [w["w_x"], w["w_h"], w["b"]]


def _plain_arrays(params: list[Any]) -> dict[str, Any]:
    return dict(zip(("w_x", "w_h", "b"), params, strict=True))


def _gru(w: dict[str, Any]) -> list[Any]:
    """Convert to gates in the order z, r, n, with both biases in one matrix [2, 3 H]."""
    b_h = np.concatenate([np.zeros(2 * len(w["b_n"]), np.float32), w["b_n"]])
    return [
        reordered(array, "rzn", "zrn") for array in (w["w_x"], w["w_h"], np.stack([w["b"], b_h]))
    ]


def _gru_arrays(params: list[Any]) -> dict[str, Any]:
    w_x, w_h, biases = (reordered(array, "zrn", "rzn") for array in params)
    return {"w_x": w_x, "w_h": w_h, "b": biases[0], "b_n": np.split(biases[1], 3)[2]}
