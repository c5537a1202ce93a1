"""Run Equinox: `jax.lax.scan` over its cell, under `jax.vmap` over the batch. No Elman cell."""

from typing import Any

import equinox as eqx  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp

from experiments.bench.cases import Case, layers_of
from experiments.bench.program import Network, layered
from experiments.bench.weights import Weights, each

CELLS = ("lstm", "gru")


def build(case: Case, weights: Weights) -> Network:
    """Build the network with the given weights."""
    made = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[case.cell]
    cells = {n: made(n, case.shape.hidden, key=jax.random.key(0)) for _, n in layers_of(case)}

    def layer(params: Any, xs: Any, backwards: bool) -> Any:
        cell = _with(cells[xs.shape[-1]], params)

        def sequence(xs: Any) -> Any:
            zeros = jnp.zeros(case.shape.hidden, xs.dtype)
            state = (zeros, zeros) if case.cell == "lstm" else zeros

            def body(state: Any, x: Any) -> Any:
                state = cell(x, state)
                return state, state[0] if case.cell == "lstm" else state

            return jax.lax.scan(body, state, xs, reverse=backwards)[1]

        return jax.vmap(sequence, in_axes=1, out_axes=1)(xs)

    return Network(layered(layer), each(_params, weights), lambda p: each(_arrays, p))


def _with(cell: Any, params: dict[str, Any]) -> Any:
    names = list(params)
    return eqx.tree_at(
        lambda cell: [getattr(cell, name) for name in names], cell, list(params.values())
    )


def _params(w: dict[str, Any]) -> dict[str, Any]:
    params = {"weight_ih": w["w_x"].T.copy(), "weight_hh": w["w_h"].T.copy(), "bias": w["b"]}
    return params | ({"bias_n": w["b_n"]} if "b_n" in w else {})


def _arrays(params: dict[str, Any]) -> dict[str, Any]:
    arrays = {"w_x": params["weight_ih"].T, "w_h": params["weight_hh"].T, "b": params["bias"]}
    return arrays | ({"b_n": params["bias_n"]} if "bias_n" in params else {})
