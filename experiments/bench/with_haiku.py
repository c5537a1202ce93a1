"""Run Haiku: `hk.dynamic_unroll` over `hk.LSTM` and `hk.GRU`. Its `VanillaRNN` has no tanh."""

from typing import Any

import haiku as hk  # pyright: ignore[reportMissingImports]
import numpy as np

from experiments.bench.cases import Case
from experiments.bench.program import Network, layered
from experiments.bench.weights import Weights, each, join, reordered, split

CELLS = ("lstm", "gru")
RESET = "before"


def build(case: Case, weights: Weights) -> Network:
    """Build the network with the given weights; the GRU resets before the product, without b_n."""
    made = {"lstm": hk.LSTM, "gru": hk.GRU}[case.cell]

    def layer(params: Any, xs: Any, backwards: bool) -> Any:
        def unrolled(xs: Any) -> Any:
            core = made(case.shape.hidden)
            return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]), reverse=backwards)

        return hk.without_apply_rng(hk.transform(unrolled)).apply(params, xs)[0]

    to_params, arrays = {"lstm": (_lstm, _lstm_arrays), "gru": (_gru, _gru_arrays)}[case.cell]
    hidden = case.shape.hidden
    return Network(
        layered(layer), each(to_params, weights), lambda p: each(lambda q: arrays(q, hidden), p)
    )


def _lstm(w: dict[str, Any]) -> Any:
    """Convert to one kernel for x and h stacked, with gates in the order i, g, f, o.

    The bias of f is reduced by 1, because the cell adds 1 to it.
    """
    kernel = np.concatenate([w["w_x"], w["w_h"]])
    bias = split(w["b"], "ifgo")
    bias["f"] = bias["f"] - np.float32(1)
    return {"lstm/linear": {"w": reordered(kernel, "ifgo", "igfo"), "b": join(bias, "igfo")}}


def _lstm_arrays(params: Any, hidden: int) -> dict[str, Any]:
    ours = {name: reordered(a, "igfo", "ifgo") for name, a in params["lstm/linear"].items()}
    return {"w_x": ours["w"][:-hidden], "w_h": ours["w"][-hidden:], "b": ours["b"]}


def _gru(w: dict[str, Any]) -> Any:
    """Convert to gates in the order z, r, n, with the sign of z changed.

    Haiku's update gate is one minus ours.
    """
    names = {"w_i": "w_x", "w_h": "w_h", "b": "b"}
    return {"gru": {name: _from_ours(w[ours]) for name, ours in names.items()}}


def _from_ours(array: Any) -> np.ndarray:
    parts = split(array, "rzn")
    return join(parts | {"z": -parts["z"]}, "zrn")


def _gru_arrays(params: Any, hidden: int) -> dict[str, Any]:
    names = {"w_x": "w_i", "w_h": "w_h", "b": "b"}
    parts = {ours: split(params["gru"][name], "zrn") for ours, name in names.items()}
    return {ours: join(part | {"z": -part["z"]}, "rzn") for ours, part in parts.items()}
