"""List the cells under test: a cell added to `CELLS` is tested for every property of the table."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import (
    Cell,
    Layer,
    antisymmetric_rnn,
    attention_cell,
    convolutional_lstm,
    dense,
    dense_connection,
    diagonal_s5,
    elman,
    gated,
    gated_deltanet,
    griffin,
    gru,
    indrnn,
    layer_norm,
    layer_norm_gru,
    layer_norm_lstm,
    learned_state,
    lem,
    lru,
    lstm,
    lstmp,
    min_gru,
    min_lstm,
    minimal_gated_unit,
    mlstm,
    orthogonal_rnn,
    residual,
    rg_lru,
    rms_norm,
    selective_ssm,
    skip_stack,
    slstm,
    stack,
    ugrnn,
)

TIME, BATCH, INPUT, HIDDEN = 7, 3, 4, 5


class Leaky(NamedTuple):
    """Hold a state whose ``hidden`` is not the first field."""

    slow: Any
    hidden: Any


def own_gate(input_size: int, hidden_size: int) -> Cell:
    """Build a cell as a user may: two state fields, two biases, and parameters of the gate."""

    def gate(zx, zh, state, rate, gain):
        rate = jax.nn.sigmoid(rate)
        slow = rate * state.slow + (1 - rate) * zx[0]
        return Leaky(slow, jnp.tanh(slow + gain * zh[0] * zx[1] - zh[1]))

    def gate_params(key):
        return {"rate": jax.random.normal(key, (hidden_size,)), "gain": jnp.ones(())}

    return gated(
        gate,
        input_size,
        hidden_size,
        gates=2,
        state=Leaky,
        recurrent_bias=True,
        gate_params=gate_params,
    )


def convolutional(input_size: int, hidden_size: int) -> Cell:
    """Build a convolutional LSTM between layers that reshape its input and its output."""
    line = Layer(lambda key: {}, lambda params, x: x[..., None])
    vector = Layer(lambda key: {}, lambda params, x: x[..., 0])
    cell = convolutional_lstm((hidden_size, 1), 1, peepholes=True)
    return stack(dense(input_size, hidden_size), line, cell, vector, input_shape=(input_size,))


def hybrid(input_size: int, hidden_size: int) -> Cell:
    """Build Griffin, whose heads must have an even size."""
    return stack(griffin(input_size, 6, depth=3, heads=1, window=4), dense(6, hidden_size))


def deep(input_size: int, hidden_size: int) -> Cell:
    """Build a stack of all combinators and layers, without dropout and other noise."""
    inner = residual(stack(layer_norm(hidden_size), elman(hidden_size, hidden_size)))
    skipped = skip_stack(min_gru(hidden_size, 2), learned_state(lstm(hidden_size + 2, 2)))
    return stack(
        *(dense(input_size, hidden_size), dense_connection(inner)),
        *(dense(2 * hidden_size, hidden_size), skipped, rms_norm(4), dense(4, hidden_size)),
        input_shape=(input_size,),
    )


CELLS: dict[str, Callable[[int, int], Cell]] = {
    "elman_tanh": elman,
    "elman_relu": partial(elman, activation="relu"),
    "elman_sigmoid": partial(elman, activation="sigmoid"),
    "lstm": lstm,
    "lstm_without_forget_bias": partial(lstm, forget_bias=0.0),
    "gru": gru,
    "own_gate": own_gate,
    "lstm_peepholes": partial(lstm, peepholes=True),
    "lstm_coupled": partial(lstm, coupled=True),
    "lstmp": partial(lstmp, cell_size=7),
    "gru_reset_before": partial(gru, reset="before"),
    "minimal_gated_unit": minimal_gated_unit,
    "ugrnn": ugrnn,
    "indrnn": indrnn,
    "antisymmetric_rnn": partial(antisymmetric_rnn, gated=True),
    "lem": partial(lem, step_size=0.5),
    "orthogonal_rnn": orthogonal_rnn,
    "layer_norm_lstm": layer_norm_lstm,
    "layer_norm_gru": layer_norm_gru,
    "slstm": slstm,
    "slstm_heads": partial(slstm, heads=5, forget="exponential", recurrent_init="glorot_uniform"),
    "mlstm": partial(mlstm, chunk_size=3),
    "mlstm_heads": partial(mlstm, heads=5, key_size=4, forget="exponential"),
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "lru": lru,
    "diagonal_s5": diagonal_s5,
    "rg_lru": rg_lru,
    "selective_ssm": partial(selective_ssm, state_size=3),
    "gated_deltanet": partial(gated_deltanet, key_size=3, chunk_size=3),
    "attention_cell": partial(attention_cell, heads=1, head_size=4, window=4),
    "griffin": hybrid,
    "convolutional_lstm": convolutional,
    "deep": deep,
}


# Cells of a kind that another one stands for are tested with `-m long`, those that differ little
# from another one only with `-m slow`.
LONG = {
    *("antisymmetric_rnn", "indrnn", "ugrnn", "minimal_gated_unit", "lstm_peepholes", "lstmp"),
    *("layer_norm_lstm", "diagonal_s5", "convolutional_lstm", "own_gate", "deep"),
}
SLOW = {
    *("elman_relu", "elman_sigmoid", "lstm_without_forget_bias", "lstm_coupled"),
    *("gru_reset_before", "layer_norm_gru", "slstm_heads", "mlstm_heads", "min_lstm", "griffin"),
}
# XLA of jaxlib 0.10 gets gradients of this one wrong if it neither optimises nor has its fusion
# emitters, as only these tests ask of it; with either of the two they are those without jit.
OPTIMIZED = {"slstm_heads"}


def marks(name: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a cell's tests."""
    known = {"long": LONG, "slow": SLOW, "optimized": OPTIMIZED}
    return [getattr(pytest.mark, mark) for mark, names in known.items() if name in names]


PARAMETERS = [pytest.param(name, marks=marks(name)) for name in CELLS]


class Case(NamedTuple):
    """Hold a cell, and random params, state ``[B, ...]`` and inputs ``[T, B, D]`` in float64."""

    cell: Cell
    params: Any
    state: Any
    xs: np.ndarray


@lru_cache
def case_of(name: str) -> Case:
    """Return the case of a name, with random biases and states: zeros would hide mistakes."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        cell = CELLS[name](INPUT, HIDDEN)
        params = disturbed(rng, cell.init(jax.random.key(0)))
        state = disturbed(rng, cell.initial_state(params, (BATCH,)))
        return Case(cell, params, state, rng.normal(size=(TIME, BATCH, INPUT)))


def disturbed(rng: np.random.Generator, tree: Any, amount: float = 0.3) -> Any:
    """Return a tree of NumPy arrays with noise added to each floating-point leaf."""

    def disturb(leaf: np.ndarray) -> np.ndarray:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf + (amount * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(disturb, jax.device_get(tree))


def values_and_gradients(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Return the outputs, and the gradients of a random weighted sum of them for each argument."""
    outputs, pull_back = jax.vjp(function, *args)
    return outputs, pull_back(random_like(outputs))


def random_like(tree: Any, seed: int = 0) -> Any:
    """Return normal noise in the shapes and types of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), tree)


def to_dtype(tree: Any, dtype: Any) -> Any:
    """Return the tree with every leaf cast."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
