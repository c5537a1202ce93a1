"""The cells under test: add a line here and a cell inherits every property of the table."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from recurrent import Cell, elman, gru, lstm

TIME, BATCH, INPUT, HIDDEN = 7, 3, 4, 5

CELLS: dict[str, Callable[[int, int], Cell]] = {
    "elman_tanh": elman,
    "elman_relu": partial(elman, activation="relu"),
    "elman_sigmoid": partial(elman, activation="sigmoid"),
    "lstm": lstm,
    "lstm_without_forget_bias": partial(lstm, forget_bias=0.0),
    "gru": gru,
}


class Case(NamedTuple):
    """A cell with float64 params, state ``[B, ...]`` and inputs ``[T, B, D]``, all random."""

    cell: Cell
    params: Any
    state: Any
    xs: Array


@lru_cache
def case_of(name: str) -> Case:
    """Biases and states too are random: at their usual zeros they would hide mistakes."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        cell = CELLS[name](INPUT, HIDDEN)
        params = disturbed(rng, cell.init(jax.random.key(0)))
        state = disturbed(rng, cell.initial_state(params, (BATCH,)))
        return Case(cell, params, state, jnp.asarray(rng.normal(size=(TIME, BATCH, INPUT))))


def disturbed(rng: np.random.Generator, tree: Any, amount: float = 0.3) -> Any:
    """The tree with noise on each of its floating-point leaves."""

    def disturb(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf + jnp.asarray(amount * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(disturb, tree)


def values_and_gradients(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Outputs, and the gradients of a random weighted sum of all of them for each argument."""
    outputs, pull_back = jax.vjp(function, *args)
    return outputs, pull_back(random_like(outputs))


def random_like(tree: Any, seed: int = 0) -> Any:
    """Normal noise in the shapes and types of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), tree)


def to_dtype(tree: Any, dtype: Any) -> Any:
    """The tree with every leaf cast."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
