"""Run Flax Linen: `nn.RNN`, time-major, over the cells that Flax recommends."""

from typing import Any

import numpy as np
from flax import linen as nn

from experiments.bench.cases import Case
from experiments.bench.program import Network, layered
from experiments.bench.weights import Weights, each, join, split

CELLS = ("lstm", "gru", "elman")
_GATES = {"lstm": "ifgo", "gru": "rzn"}


def build(case: Case, weights: Weights) -> Network:
    """Build the network with the given weights."""
    cells = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "elman": nn.SimpleCell}

    def layer(params: Any, xs: Any, backwards: bool) -> Any:
        cell = cells[case.cell](case.shape.hidden, param_dtype=xs.dtype)
        rnn = nn.RNN(cell, time_major=True, reverse=backwards, keep_order=True)
        return rnn.apply({"params": {"cell": params}}, xs)

    def to_params(w: dict[str, Any]) -> Any:
        return _gates(w, _GATES[case.cell]) if case.cell in _GATES else _elman(w)

    def arrays(params: Any) -> dict[str, Any]:
        return _arrays(params, _GATES[case.cell]) if case.cell in _GATES else _elman_arrays(params)

    return Network(layered(layer), each(to_params, weights), lambda p: each(arrays, p))


def _elman(w: dict[str, Any]) -> Any:
    return {"i": {"kernel": w["w_x"], "bias": w["b"]}, "h": {"kernel": w["w_h"]}}


def _elman_arrays(params: Any) -> dict[str, Any]:
    return {"w_x": params["i"]["kernel"], "w_h": params["h"]["kernel"], "b": params["i"]["bias"]}


def _gates(w: dict[str, Any], gates: str) -> Any:
    x, h, b = (split(w[name], gates) for name in ("w_x", "w_h", "b"))
    params: dict[str, Any] = {f"{side}{k}": {} for side in "ih" for k in gates}
    for k in gates:
        params[f"i{k}"]["kernel"], params[f"h{k}"]["kernel"] = x[k], h[k]
        params[f"{_bias_side(gates)}{k}"]["bias"] = b[k]
    if "b_n" in w:
        params["hn"]["bias"] = w["b_n"]
    return params


def _arrays(params: Any, gates: str) -> dict[str, Any]:
    def joined(side: str, leaf: str) -> np.ndarray:
        return join({k: params[f"{side}{k}"][leaf] for k in gates}, gates)

    kernels = {"w_x": joined("i", "kernel"), "w_h": joined("h", "kernel")}
    arrays = kernels | {"b": joined(_bias_side(gates), "bias")}
    return arrays | ({"b_n": params["hn"]["bias"]} if gates == "rzn" else {})


def _bias_side(gates: str) -> str:
    """Return which kernel has the bias: that of h in an LSTM, that of x in a GRU."""
    return "h" if gates == "ifgo" else "i"
