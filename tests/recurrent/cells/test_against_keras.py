"""Compare cells with the layers of Keras on JAX, with masks: values, and gradients of both ways.

``pytest -m long -rP`` on this file prints the largest difference of each case.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import Cell, Hidden, LSTMState, bidirectional, elman, gru, lstm, unroll
from recurrent.combinators import BidirectionalState
from tests.recurrent.cases import random_like, values_and_gradients

pytestmark = [pytest.mark.optimized, pytest.mark.long]

INPUT, HIDDEN = 4, 5
# Whole, padded behind, padded before, with holes, and nothing but padding: [T, B].
MASK = np.array([[*map(int, row)] for row in ("111111", "111000", "000111", "101101", "000000")])
MASK = MASK.T.astype(bool)
TOLERANCE = 64 * 2.0**-52  # units in the last place of float64


class Kind(NamedTuple):
    """Hold a Keras layer's name and arguments, our cell, and the layer's weights from its params.

    The weights are a linear function of the params, so that gradients follow by the chain rule.
    """

    layer: str
    arguments: dict[str, Any]
    cell: Callable[[], Cell]
    weights: Callable[[Any], list[Any]]
    state: Any = Hidden


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Import Keras without the user's settings, which it would otherwise write as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        return pytest.importorskip("keras", reason="keras is not installed: it is in bench")


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def plain(params: Any) -> list[Any]:
    """Return the weights of SimpleRNN, and of LSTM, whose gates are i, f, c, o."""
    return [params["input"]["kernel"], params["recurrent"]["kernel"], params["input"]["bias"]]


def update_first(array: Any) -> Any:
    """Move the update gate, which is Keras' z, before the reset gate."""
    reset, update, *candidate = jnp.split(array, array.shape[-1] // HIDDEN, axis=-1)
    return jnp.concatenate([update, reset, *candidate], axis=-1)


def reset_after(params: Any) -> list[Any]:
    biases = jnp.stack([params["input"]["bias"], params["recurrent"]["bias"]])
    kernels = params["input"]["kernel"], params["recurrent"]["kernel"]
    return [*map(update_first, (*kernels, biases))]


def reset_before(params: Any) -> list[Any]:
    x, h, bias = map(update_first, plain(params))
    return [x, jnp.concatenate([h, params["gate"]["kernel"]], axis=-1), bias]


SIZES = (INPUT, HIDDEN)
KINDS = {
    "tanh": Kind("SimpleRNN", {}, partial(elman, *SIZES), plain),
    "relu": Kind(
        "SimpleRNN", {"activation": "relu"}, partial(elman, *SIZES, activation="relu"), plain
    ),
    "lstm": Kind("LSTM", {}, partial(lstm, *SIZES, forget_bias=0.0), plain, LSTMState),
    "gru after": Kind("GRU", {"reset_after": True}, partial(gru, *SIZES), reset_after),
    "gru before": Kind(
        "GRU", {"reset_after": False}, partial(gru, *SIZES, reset="before"), reset_before
    ),
}


def built(keras: Any, kind: Kind, way: str) -> Any:
    """Build a layer whose outputs of masked steps are zero, as ours are, and not repeated.

    Its tanh is JAX's, since that of Keras returns float32.
    """
    layer = getattr(keras.layers, kind.layer)(
        HIDDEN,
        return_sequences=True,
        return_state=True,
        zero_output_for_mask=True,
        go_backwards=way == "backward",
        dtype="float64",
        **kind.arguments,
    )
    if way == "both":
        layer = keras.layers.Bidirectional(layer, dtype="float64")
    layer.build((MASK.shape[1], MASK.shape[0], INPUT))
    for each in [layer.forward_layer, layer.backward_layer] if way == "both" else [layer]:
        if each.cell.activation is keras.activations.tanh:
            each.cell.activation = jnp.tanh
    return layer


@pytest.mark.parametrize(
    ("way", "is_masked"),
    [("forward", False), ("forward", True), ("backward", True), ("both", True)],
    ids=["forward without mask", "forward", "backward", "both"],
)
@pytest.mark.parametrize("name", KINDS)
def test_cells_equal_keras(keras: Any, name: str, way: str, is_masked: bool) -> None:
    kind, mask = KINDS[name], MASK if is_masked else None
    layer, one = built(keras, kind, way), kind.cell()
    cell = bidirectional(one, one) if way == "both" else one
    fields = len(kind.state._fields)

    def ours(params: Any, state: Any, xs: Any) -> Any:
        return unroll(cell, params, xs, state, mask=mask, reverse=way == "backward")

    def theirs(params: Any, state: Any, xs: Any) -> Any:
        parts = [params["forward"], params["backward"]] if way == "both" else [params]
        (ys, *lasts), _ = layer.stateless_call(
            [weight for part in parts for weight in kind.weights(part)],
            [variable.value for variable in layer.non_trainable_variables],
            xs.swapaxes(0, 1),
            initial_state=jax.tree.leaves(state),
            mask=None if mask is None else mask.T,
        )
        ys = ys.swapaxes(0, 1)
        ys = ys[::-1] if way == "backward" else ys  # Keras gives them in the order of reading
        states = [kind.state(*lasts[:fields]), kind.state(*lasts[fields:])] if way == "both" else []
        return (BidirectionalState(*states) if states else kind.state(*lasts)), ys

    params = random_like(jax.eval_shape(cell.init, jax.random.key(0)))
    state = random_like(cell.initial_state(params, MASK.shape[1:]), seed=1)
    args = params, state, random_like(np.zeros((*MASK.shape, INPUT)), seed=2)
    runs = [partial(values_and_gradients, f) if way == "both" else f for f in (ours, theirs)]
    difference = largest_difference(*(jax.jit(run)(*args) for run in runs))
    print(f"Keras {name}, {way}: {difference:.1e}")
    assert difference <= TOLERANCE


def largest_difference(actual: Any, expected: Any) -> float:
    """Return the largest of two trees, relative to the leaf's largest value if above 1."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)

    def of_leaf(a: Any, b: Any) -> float:
        assert (a.shape, a.dtype) == (b.shape, np.float64)
        return float(abs(a - b).max() / max(1.0, abs(b).max()))

    return max(jax.tree.leaves(jax.tree.map(of_leaf, actual, expected)))
