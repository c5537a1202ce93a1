"""Run Flax nnx: `nnx.RNN`, time-major, split into a graph and parameters for `jax.jit`."""

from typing import Any

from flax import nnx

from experiments.bench.cases import Case, layers_of
from experiments.bench.program import Network, layered
from experiments.bench.weights import Weights, each

CELLS = ("lstm", "gru", "elman")


def build(case: Case, weights: Weights) -> Network:
    """Build the network with the given weights; its GRU has no b_n."""
    made = {
        (inputs, way == "backward"): _made(case, inputs, way) for way, inputs in layers_of(case)
    }

    def layer(params: Any, xs: Any, backwards: bool) -> Any:
        graph, state, rest = made[xs.shape[-1], backwards]
        state = nnx.map_state(lambda path, leaf: leaf, state)  # a copy
        nnx.replace_by_pure_dict(state, {"cell": params})
        return nnx.merge(graph, state, rest)(xs, rngs=nnx.Rngs(0))

    side = "dense_h" if case.cell == "lstm" else "dense_i"  # where the bias is

    def to_params(w: dict[str, Any]) -> Any:
        params = {"dense_i": {"kernel": w["w_x"]}, "dense_h": {"kernel": w["w_h"]}}
        params[side]["bias"] = w["b"]
        return params

    def arrays(params: Any) -> dict[str, Any]:
        kernels = {"w_x": params["dense_i"]["kernel"], "w_h": params["dense_h"]["kernel"]}
        return kernels | {"b": params[side]["bias"]}

    return Network(layered(layer), each(to_params, weights), lambda p: each(arrays, p))


def _made(case: Case, inputs: int, way: str) -> Any:
    cells = {"lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell, "elman": nnx.SimpleCell}
    cell = cells[case.cell](inputs, case.shape.hidden, rngs=nnx.Rngs(0))
    backwards = way == "backward"
    rnn = nnx.RNN(cell, time_major=True, reverse=backwards, keep_order=True, rngs=nnx.Rngs(0))
    return nnx.split(rnn, nnx.Param, ...)
