"""Compare cells with NumPy loops written from the equations, torch and Flax, on copied weights."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn.initializers import normal

from recurrent import Cell, Hidden, LSTMState, dense, elman, gated, gru, lstm, unroll
from tests.recurrent.cases import (
    BATCH,
    HIDDEN,
    INPUT,
    TIME,
    case_of,
    disturbed,
    random_like,
    to_dtype,
    values_and_gradients,
)

pytestmark = pytest.mark.optimized

BLOCKS = {"elman_tanh": 1, "lstm": 4, "gru": 3}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    expected = np.asarray(expected)
    limit = tolerance * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=tolerance, atol=limit)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def columns(array: np.ndarray, block: int) -> np.ndarray:
    return np.asarray(array)[..., block * HIDDEN : (block + 1) * HIDDEN]


def preactivations(params: Any, x: np.ndarray, h: np.ndarray, block: int) -> tuple[Any, Any]:
    """Compute ``x W_x + b_x`` and ``h W_h + b_h`` of one block by explicit sums."""
    w_x, b_x = columns(params["input"]["kernel"], block), columns(params["input"]["bias"], block)
    w_h = columns(params["recurrent"]["kernel"], block)
    b_h = columns(params["recurrent"].get("bias", np.zeros(w_h.shape[1] * 4)), block)
    zx = np.stack([sum(row[i] * w_x[i] for i in range(INPUT)) + b_x for row in x])
    zh = np.stack([sum(row[i] * w_h[i] for i in range(HIDDEN)) + b_h for row in h])
    return zx, zh


def elman_reference(activation: Callable[..., np.ndarray], params: Any, state: Any, x: Any) -> Any:
    return (activation(np.add(*preactivations(params, x, state[0], 0))),)


def lstm_reference(forget_bias: float, params: Any, state: Any, x: np.ndarray) -> Any:
    h, c = state
    i, f, g, o = (np.add(*preactivations(params, x, h, block)) for block in range(4))
    c = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_reference(params: Any, state: Any, x: np.ndarray) -> Any:
    (h,) = state
    r = sigmoid(np.add(*preactivations(params, x, h, 0)))
    u = sigmoid(np.add(*preactivations(params, x, h, 1)))
    zx, zh = preactivations(params, x, h, 2)
    return ((1 - u) * np.tanh(zx + r * zh) + u * h,)


def own_gate_reference(params: Any, state: Any, x: np.ndarray) -> Any:
    slow, h = state
    (zx0, zh0), (zx1, zh1) = (preactivations(params, x, h, block) for block in range(2))
    rate, gain = sigmoid(params["gate"]["rate"]), params["gate"]["gain"]
    slow = rate * slow + (1 - rate) * zx0
    return slow, np.tanh(slow + gain * zh0 * zx1 - zh1)


REFERENCES: dict[str, Callable[..., Any]] = {
    "elman_tanh": partial(elman_reference, np.tanh),
    "elman_relu": partial(elman_reference, lambda z: np.maximum(z, 0)),
    "elman_sigmoid": partial(elman_reference, sigmoid),
    "lstm": partial(lstm_reference, 1.0),
    "lstm_without_forget_bias": partial(lstm_reference, 0.0),
    "gru": gru_reference,
    "own_gate": own_gate_reference,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_cells_equal_a_numpy_loop_of_their_equations(name: str) -> None:
    case = case_of(name)
    state, ys = tuple(case.state), []
    for x in case.xs:
        state = REFERENCES[name](case.params, state, x)
        ys.append(state[case.state._fields.index("hidden")])
    actual_state, actual_ys = unroll(case.cell, case.params, case.xs, case.state)
    assert_close(actual_ys, ys)
    assert_close(actual_state, state)


@pytest.mark.parametrize("name", BLOCKS)
def test_params_have_the_documented_keys_shapes_and_initial_values(name: str) -> None:
    params = case_of(name).cell.init(jax.random.key(3))
    width = BLOCKS[name] * HIDDEN
    expected = {
        "input": {"kernel": (INPUT, width), "bias": (width,)},
        "recurrent": {"kernel": (HIDDEN, width)},
    }
    if name == "gru":
        expected["recurrent"]["bias"] = (width,)
    assert jax.tree.map(jnp.shape, params) == expected
    for layer in params.values():
        np.testing.assert_array_equal(layer.get("bias", 0), 0)
    for block in range(BLOCKS[name]):
        kernel = columns(params["input"]["kernel"], block)
        limit = np.sqrt(6 / (INPUT + HIDDEN))
        assert limit / 2 < np.abs(kernel).max() <= limit
        kernel = columns(params["recurrent"]["kernel"], block)
        assert_close(kernel.T @ kernel, np.eye(HIDDEN))


def test_initial_states_are_zeros_in_named_fields() -> None:
    state = case_of("lstm").cell.initial_state(case_of("lstm").params, (BATCH,))
    assert isinstance(state, LSTMState)
    assert LSTMState._fields == ("hidden", "cell")
    assert Hidden._fields == ("hidden",)
    for leaf in state:
        np.testing.assert_array_equal(leaf, np.zeros((BATCH, HIDDEN)))


@pytest.mark.long
def test_each_initializer_draws_the_weights_of_the_same_name() -> None:
    cell = gru(
        INPUT, HIDDEN, input_init=normal(1), recurrent_init=normal(100), bias_init=normal(1e4)
    )
    params = cell.init(jax.random.key(0))
    biases = params["input"]["bias"], params["recurrent"]["bias"]
    assert 0.5 < params["input"]["kernel"].std() < 2
    assert 50 < params["recurrent"]["kernel"].std() < 200
    assert all(0.5e4 < bias.std() < 2e4 for bias in biases)
    assert np.all(biases[0] != biases[1])


@pytest.mark.parametrize("factory", [elman, lstm, gru])
@pytest.mark.parametrize(("sizes", "name"), [((0, 5), "input_size"), ((4, -1), "hidden_size")])
def test_a_size_below_one_is_an_error(
    factory: Callable[..., Cell], sizes: tuple[int, int], name: str
) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected at least 1, got {min(sizes)}"):
        factory(*sizes)


def test_an_unknown_activation_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"activation: expected one of .*'tanh'.*got 'tahn'"):
        elman(4, 5, activation="tahn")


def test_a_state_without_hidden_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected a field called hidden, got .*'real'"):
        gated(lambda zx, zh, state: state, 4, 5, gates=1, state=complex_state())


def complex_state() -> type:
    return NamedTuple("ComplexState", [("real", Any), ("imaginary", Any)])


def test_dense_equals_the_affine_equation() -> None:
    layer = dense(INPUT, HIDDEN)
    params = layer.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {"kernel": (INPUT, HIDDEN), "bias": (HIDDEN,)}
    np.testing.assert_array_equal(params["bias"], 0)
    params = disturbed(np.random.default_rng(0), params)
    xs = random_like(np.zeros((TIME, BATCH, INPUT)))
    expected = np.einsum("tbd,dh->tbh", xs, params["kernel"]) + params["bias"]
    assert_close(layer.apply(params, xs), expected)


# Torch.

TORCH = {
    "elman_tanh": ("RNN", {"nonlinearity": "tanh"}),
    "elman_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "lstm_without_forget_bias": ("LSTM", {}),
    "gru": ("GRU", {}),
}


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: it is in the bench extra")


def to_torch_weights(name: str, params: Any) -> dict[str, np.ndarray]:
    """Return torch's weights: two biases in each gate, which include the forget bias."""
    width = params["input"]["bias"].shape
    b_h = params["recurrent"].get("bias", random_like(np.zeros(width), seed=1))
    b_x = params["input"]["bias"] + np.zeros(width)
    if "bias" not in params["recurrent"]:
        b_x -= b_h
    if name == "lstm":
        b_x[HIDDEN : 2 * HIDDEN] += 1
    return {
        "weight_ih_l0": params["input"]["kernel"].T,
        "weight_hh_l0": params["recurrent"]["kernel"].T,
        "bias_ih_l0": b_x,
        "bias_hh_l0": b_h,
    }


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-6)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("name", TORCH)
def test_cells_equal_torch_in_values_and_gradients(
    torch: Any, name: str, dtype: str, tolerance: float
) -> None:
    case = case_of(name)
    kind, arguments = TORCH[name]
    module = getattr(torch.nn, kind)(INPUT, HIDDEN, dtype=getattr(torch, dtype), **arguments)

    def tensor(array: np.ndarray) -> Any:
        return torch.tensor(np.asarray(array, dtype), requires_grad=True)

    weights = to_torch_weights(name, case.params)
    module.load_state_dict({key: tensor(array).detach() for key, array in weights.items()})
    xs, *state = map(tensor, (case.xs, *(leaf[None] for leaf in case.state)))
    ys, last = module(xs, tuple(state) if kind == "LSTM" else state[0])
    outputs = [*(last if kind == "LSTM" else [last]), ys]
    shaped = type(case.state)(*[np.zeros((BATCH, HIDDEN)) for _ in state]), np.zeros(ys.shape)
    cotangents = jax.tree.leaves(random_like(shaped))
    pairs = zip(outputs, cotangents, strict=True)
    torch.autograd.backward(outputs, [tensor(c).detach().reshape(y.shape) for y, c in pairs])

    def run(params, state, xs):
        return unroll(case.cell, params, xs, state)

    args = to_dtype((case.params, case.state, case.xs), dtype)
    actual, (of_params, of_state, of_xs) = jax.jit(partial(values_and_gradients, run))(*args)

    for mine, theirs in zip(jax.tree.leaves(actual), outputs, strict=True):
        assert mine.dtype == dtype
        assert_close(mine, theirs.detach().numpy().reshape(mine.shape), tolerance)
    gradients = {key: weight.grad.numpy() for key, weight in module.named_parameters()}
    assert_close(of_params["input"]["kernel"], gradients["weight_ih_l0"].T, tolerance)
    assert_close(of_params["input"]["bias"], gradients["bias_ih_l0"], tolerance)
    assert_close(of_params["recurrent"]["kernel"], gradients["weight_hh_l0"].T, tolerance)
    if "bias" in of_params["recurrent"]:
        assert_close(of_params["recurrent"]["bias"], gradients["bias_hh_l0"], tolerance)
    assert_close(of_xs, xs.grad.numpy(), tolerance)
    for mine, theirs in zip(of_state, state, strict=True):
        assert_close(mine, theirs.grad.numpy()[0], tolerance)


# Flax. Its params are a linear function of ours, so that gradients follow by the chain rule.


def flax_lstm(params: Any, forget_bias: float) -> Any:
    """Return Flax's params of an LSTM: biases are in the recurrent layers only."""
    weights = {}
    for block, gate in enumerate("ifgo"):
        bias = params["input"]["bias"][block * HIDDEN : (block + 1) * HIDDEN]
        if gate == "f":
            bias = bias + forget_bias
        weights[f"i{gate}"] = {"kernel": jnp_columns(params["input"]["kernel"], block)}
        kernel = jnp_columns(params["recurrent"]["kernel"], block)
        weights[f"h{gate}"] = {"kernel": kernel, "bias": bias}
    return weights


def flax_gru(params: Any) -> Any:
    """Return Flax's params of a GRU: gates r and z have one bias, in the input layer."""
    weights = {}
    for block, gate in enumerate("rzn"):
        b_x, b_h = (jnp_columns(params[side]["bias"], block) for side in ("input", "recurrent"))
        kernels = [jnp_columns(params[s]["kernel"], block) for s in ("input", "recurrent")]
        weights[f"i{gate}"] = {"kernel": kernels[0], "bias": b_x if gate == "n" else b_x + b_h}
        weights[f"h{gate}"] = {"kernel": kernels[1]}
        if gate == "n":
            weights["hn"]["bias"] = b_h
    return weights


def flax_elman(params: Any) -> Any:
    return {"i": params["input"], "h": params["recurrent"]}


def jnp_columns(array: Any, block: int) -> Any:
    return array[..., block * HIDDEN : (block + 1) * HIDDEN]


FLAX: dict[str, tuple[str, nn.RNNCellBase, Callable[..., Any]]] = {
    "optimized lstm": ("lstm", nn.OptimizedLSTMCell(HIDDEN), partial(flax_lstm, forget_bias=1.0)),
    "lstm": (
        "lstm_without_forget_bias",
        nn.LSTMCell(HIDDEN),
        partial(flax_lstm, forget_bias=0.0),
    ),
    "gru": ("gru", nn.GRUCell(HIDDEN), flax_gru),
    "elman": ("elman_tanh", nn.SimpleCell(HIDDEN), flax_elman),
}


@pytest.mark.long
@pytest.mark.parametrize("flax_name", FLAX)
def test_cells_equal_flax_in_values_and_gradients(flax_name: str) -> None:
    name, module, convert = FLAX[flax_name]
    case = case_of(name)
    rnn = nn.RNN(module, time_major=True, return_carry=True)

    def theirs(params, state, xs):
        carry = (state.cell, state.hidden) if isinstance(state, LSTMState) else state.hidden
        carry, ys = rnn.apply({"params": {"cell": convert(params)}}, xs, initial_carry=carry)
        last = LSTMState(carry[1], carry[0]) if isinstance(state, LSTMState) else Hidden(carry)
        return last, ys

    def ours(params, state, xs):
        return unroll(case.cell, params, xs, state)

    args = case.params, case.state, case.xs
    actual, expected = (
        jax.jit(partial(values_and_gradients, function))(*args) for function in (ours, theirs)
    )
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(assert_close, actual, expected)
