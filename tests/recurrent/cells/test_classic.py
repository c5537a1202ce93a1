"""Compare the other gated cells with NumPy loops, torch, and each other in special cases."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import lax

from recurrent import Cell, output_shape, unroll
from recurrent.cells.classic import (
    LSTMState,
    antisymmetric_rnn,
    elman,
    gru,
    indrnn,
    irnn,
    lstm,
    lstmp,
    minimal_gated_unit,
    ugrnn,
)
from recurrent.cells.convolutional import convolutional_lstm
from recurrent.cells.gates import Hidden, gated
from recurrent.cells.layer_norm import layer_norm_gru, layer_norm_lstm
from recurrent.cells.long_memory import LEMState, lem, orthogonal_rnn
from recurrent.cells.xlstm import MLSTMState, SLSTMState, mlstm, slstm
from recurrent.convolution import convolve_same
from tests.recurrent.cases import disturbed, random_like, to_dtype, values_and_gradients

T, B, D, H, C = 7, 3, 4, 6, 8
SIZES = 3, 2


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# The equations in NumPy, with the symbols of the papers. Each gate is a block of columns.


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def parts(z: np.ndarray, count: int) -> list[np.ndarray]:
    return np.split(z, count, axis=-1)


def into(params: Any, x: np.ndarray, count: int) -> list[np.ndarray]:
    return parts(x @ params["kernel"] + params.get("bias", 0), count)


def both(params: Any, x: np.ndarray, h: np.ndarray, count: int) -> list[np.ndarray]:
    pairs = zip(into(params["input"], x, count), into(params["recurrent"], h, count), strict=True)
    return [zx + zh for zx, zh in pairs]


def lstm_with_peepholes(params: Any, state: Any, x: np.ndarray) -> Any:
    p, (h, c) = params["gate"], state
    i, f, g, o = both(params, x, h, 4)
    c = sigmoid(f + 1 + p["forget"] * c) * c + sigmoid(i + p["input"] * c) * np.tanh(g)
    return sigmoid(o + p["output"] * c) * np.tanh(c), c


def lstm_with_coupled_gates(params: Any, state: Any, x: np.ndarray) -> Any:
    p, (h, c) = params["gate"], state
    i, g, o = both(params, x, h, 3)
    i = sigmoid(i + p["input"] * c - 0.5)
    c = (1 - i) * c + i * np.tanh(g)
    return sigmoid(o + p["output"] * c) * np.tanh(c), c


def projected_lstm(params: Any, state: Any, x: np.ndarray) -> Any:
    h, c = state
    i, f, g, o = both(params, x, h, 4)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return (sigmoid(o) * np.tanh(c)) @ params["gate"]["projection"], c


def gru_with_reset_before(params: Any, state: Any, x: np.ndarray) -> Any:
    (h,) = state
    x_r, x_u, x_n = into(params["input"], x, 3)
    h_r, h_u = into(params["recurrent"], h, 2)
    r, u = sigmoid(x_r + h_r), sigmoid(x_u + h_u)
    return ((1 - u) * np.tanh(x_n + (r * h) @ params["gate"]["kernel"]) + u * h,)


def mgu(params: Any, state: Any, x: np.ndarray) -> Any:
    (h,) = state
    x_f, x_n = into(params["input"], x, 2)
    f = sigmoid(x_f + into(params["recurrent"], h, 1)[0])
    return ((1 - f) * h + f * np.tanh(x_n + (f * h) @ params["gate"]["kernel"]),)


def mgu_with_reset_after(params: Any, state: Any, x: np.ndarray) -> Any:
    (h,) = state
    (x_f, x_n), (h_f, h_n) = into(params["input"], x, 2), into(params["recurrent"], h, 2)
    f = sigmoid(x_f + h_f)
    return ((1 - f) * h + f * np.tanh(x_n + f * h_n),)


def update_gate(params: Any, state: Any, x: np.ndarray) -> Any:
    (h,) = state
    g, c = both(params, x, h, 2)
    g = sigmoid(g + 1)
    return (g * h + (1 - g) * np.maximum(c, 0),)


def independent(params: Any, state: Any, x: np.ndarray) -> Any:
    (h,) = state
    return (np.maximum(into(params["input"], x, 1)[0] + params["recurrent"]["kernel"] * h, 0),)


def antisymmetric(gated: bool, params: Any, state: Any, x: np.ndarray) -> Any:
    (h,) = state
    w = params["recurrent"]["kernel"].T
    m = w - w.T - 0.3 * np.eye(H)
    z, *gate = into(params["input"], x, 2 if gated else 1)
    mh = np.stack([m @ row for row in h])
    scale = sigmoid(gate[0] + mh) if gated else 1
    return (h + 0.2 * scale * np.tanh(z + mh),)


def expressive_memory(params: Any, state: Any, x: np.ndarray) -> Any:
    y, z = state
    s, m, c, new = into(params["input"], x, 4)
    ys, ym, yc = into(params["recurrent"], y, 3)
    d, e = 0.5 * sigmoid(m + ym), 0.5 * sigmoid(s + ys)
    z = z + d * (np.tanh(c + yc) - z)
    return y + e * (np.tanh(new + z @ params["gate"]["kernel"]) - y), z


def turning(params: Any, state: Any, x: np.ndarray) -> Any:
    (h,) = state
    a = params["recurrent"]["kernel"]
    q = np.linalg.inv(np.eye(H) + a - a.T) @ (np.eye(H) - (a - a.T))
    z = x @ params["input"]["kernel"] + np.stack([q @ row for row in h])
    b = np.broadcast_to(params["gate"]["bias"], z.shape)
    return (np.where(abs(z) + b > 0, z + b * np.sign(z), 0),)


def normalize(params: Any, z: np.ndarray) -> np.ndarray:
    mean, variance = z.mean(-1, keepdims=True), z.var(-1, keepdims=True)
    return (z - mean) / np.sqrt(variance + 1e-5) * params["scale"] + params["bias"]


def normalized_lstm(params: Any, state: Any, x: np.ndarray) -> Any:
    p, (h, c) = params["gate"], state
    zx, zh = x @ params["input"]["kernel"], h @ params["recurrent"]["kernel"]
    i, f, g, o = parts(normalize(p["input_norm"], zx) + normalize(p["recurrent_norm"], zh), 4)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(normalize(p["cell_norm"], c)), c


def normalized_gru(params: Any, state: Any, x: np.ndarray) -> Any:
    p, (h,) = params["gate"], state
    zx, zh = x @ params["input"]["kernel"], h @ params["recurrent"]["kernel"]
    gates = normalize(p["input_norm"], zx[:, : 2 * H])
    r, u = parts(sigmoid(gates + normalize(p["recurrent_norm"], zh[:, : 2 * H])), 2)
    old = normalize(p["recurrent_candidate_norm"], zh[:, 2 * H :])
    n = np.tanh(normalize(p["input_candidate_norm"], zx[:, 2 * H :]) + r * old)
    return ((1 - u) * n + u * h,)


def scalar_lstm(forget: Any, heads: int, params: Any, state: Any, x: np.ndarray) -> Any:
    """Compute the sLSTM without a stabilizer, converting the state to the equation's and back."""
    h, c, n, m = state
    c, n, bias = c * np.exp(m), n * np.exp(m), 1 if forget is sigmoid else 0
    kernel = np.asarray(params["recurrent"]["kernel"]).reshape(heads, H // heads, 4, H // heads)
    r = np.zeros((H, 4, H))
    for head in range(heads):
        own = slice(head * H // heads, (head + 1) * H // heads)
        r[own, :, own] = kernel[head]
    z, i, f, o = map(np.add, into(params["input"], x, 4), parts(h @ r.reshape(H, -1), 4))
    i, f, log_i = np.exp(i), forget(f + bias), i
    c, n = f * c + i * np.tanh(z), f * n + i
    m = np.maximum(np.log(f) + m, log_i)
    return sigmoid(o) * c / n, c / np.exp(m), n / np.exp(m), m


def matrix_lstm(forget: Any, heads: int, keys: int, params: Any, state: Any, x: np.ndarray) -> Any:
    """Compute the mLSTM without a stabilizer, for one example and one head at a time."""
    inputs, gates = into(params["input"], x, 1)[0], into(params["gates"], x, 1)[0]
    outputs = sigmoid(into(params["output_gate"], x, 1)[0])
    values = H // heads
    new = [leaf.copy() for leaf in state]
    ys = np.zeros((len(x), heads, values))
    for b in range(len(x)):
        q, k, v = np.split(inputs[b], [heads * keys, 2 * heads * keys])
        for head in range(heads):
            memory, n, m = (leaf[b, head] for leaf in state)
            memory, n = memory * np.exp(m), n * np.exp(m)
            q_t, k_t = (u.reshape(heads, keys)[head] for u in (q, k))
            v_t, k_t = v.reshape(heads, values)[head], k_t / np.sqrt(keys)
            i, f = np.exp(gates[b, head]), forget(gates[b, heads + head])
            memory, n = f * memory + i * np.outer(k_t, v_t), f * n + i * k_t
            m = max(np.log(f) + m, gates[b, head], 0)
            ys[b, head] = memory.T @ q_t / max(abs(n @ q_t), 1)
            new[0][b, head], new[1][b, head] = memory / np.exp(m), n / np.exp(m)
            new[2][b, head] = m
    return outputs * ys.reshape(len(x), H), *new


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve pixel by pixel, padded by zeros, with more at the end for an even window."""
    height, width, _, features = kernel.shape
    y = np.zeros((*x.shape[:-1], features))
    for top in range(x.shape[1]):
        for left in range(x.shape[2]):
            for i in range(height):
                for j in range(width):
                    row, column = top + i - (height - 1) // 2, left + j - (width - 1) // 2
                    if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                        y[:, top, left] += x[:, row, column] @ kernel[i, j]
    return y


def convolved_lstm(params: Any, state: Any, x: np.ndarray) -> Any:
    p, (h, c) = params["gate"], state
    z = convolve(x, params["input"]["kernel"]) + convolve(h, params["recurrent"]["kernel"])
    i, f, g, o = parts(z + params["input"]["bias"], 4)
    c = sigmoid(f + 1 + p["forget"] * c) * c + sigmoid(i + p["input"] * c) * np.tanh(g)
    return sigmoid(o + p["output"] * c) * np.tanh(c), c


def film(input_size: int, features: int, **options: Any) -> Cell:
    return convolutional_lstm((*SIZES, input_size), features, kernel_size=(2, 3), **options)


# A cell, its reference, and whether the reference returns its output before its state.
CASES: dict[str, tuple[Callable[..., Cell], Callable[..., Any], bool]] = {
    "lstm, peepholes": (
        partial(lstm, peepholes=True, peephole_init=jax.random.normal),
        lstm_with_peepholes,
        False,
    ),
    "lstm, peepholes, coupled": (
        partial(lstm, peepholes=True, coupled=True, forget_bias=0.5),
        lstm_with_coupled_gates,
        False,
    ),
    "lstmp": (partial(lstmp, cell_size=C), projected_lstm, False),
    "gru, reset before": (partial(gru, reset="before"), gru_with_reset_before, False),
    "minimal_gated_unit": (minimal_gated_unit, mgu, False),
    "minimal_gated_unit, reset after": (
        partial(minimal_gated_unit, reset="after"),
        mgu_with_reset_after,
        False,
    ),
    "ugrnn": (partial(ugrnn, activation="relu"), update_gate, False),
    "indrnn": (indrnn, independent, False),
    "antisymmetric_rnn": (
        partial(antisymmetric_rnn, step_size=0.2, diffusion=0.3),
        partial(antisymmetric, False),
        False,
    ),
    "antisymmetric_rnn, gated": (
        partial(antisymmetric_rnn, step_size=0.2, diffusion=0.3, gated=True),
        partial(antisymmetric, True),
        False,
    ),
    "lem": (partial(lem, step_size=0.5), expressive_memory, False),
    "orthogonal_rnn": (orthogonal_rnn, turning, False),
    "layer_norm_lstm": (layer_norm_lstm, normalized_lstm, False),
    "layer_norm_gru": (layer_norm_gru, normalized_gru, False),
    "slstm": (slstm, partial(scalar_lstm, sigmoid, 1), False),
    "slstm, exponential, heads": (
        partial(slstm, forget="exponential", heads=2),
        partial(scalar_lstm, np.exp, 2),
        False,
    ),
    "mlstm": (partial(mlstm, chunk_size=3), partial(matrix_lstm, sigmoid, 1, H), True),
    "mlstm, exponential, heads": (
        partial(mlstm, forget="exponential", heads=2, key_size=5, forget_bias=(0, 1), chunk_size=4),
        partial(matrix_lstm, np.exp, 2, 5),
        True,
    ),
    "convolutional_lstm": (partial(film, peepholes=True), convolved_lstm, False),
}


def zero_params(cell: Cell) -> Any:
    """Return zeros in the shapes of `init`, which would take seconds to compile."""
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


class Case(NamedTuple):
    cell: Cell
    params: Any
    state: Any
    xs: np.ndarray


@lru_cache
def case_of(name: str) -> Case:
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        cell = CASES[name][0](D, H)
        params = disturbed(rng, zero_params(cell), 0.5)
        state = disturbed(rng, cell.initial_state(params, (B,)))
        if isinstance(state, SLSTMState):  # which is positive, as a sum of exponentials
            state = state._replace(normalizer=1 + abs(state.normalizer))
        return Case(cell, params, state, rng.normal(size=(T, B, *cell.input_shape)))


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_cells_equal_a_numpy_loop_of_their_equations(name: str) -> None:
    cell, params, first, xs = case_of(name)
    _, reference, output_first = CASES[name]
    state, ys = tuple(first), []
    for x in xs:
        new = reference(params, state, x)
        ys.append(new[0])
        state = new[1:] if output_first else new
    actual, actual_ys = jax.jit(partial(unroll, cell))(params, xs, first)
    assert_close(actual_ys, ys)
    for mine, theirs in zip(actual, state, strict=True):
        assert_close(mine, theirs)


# Cells whose linear maps the table in `test_properties.py` does not cover.
VARIANTS = [
    "lstm, peepholes, coupled",
    "antisymmetric_rnn",
    "slstm, exponential, heads",
    "convolutional_lstm",
]


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_whole_sequences_equal_a_scan_in_values_and_gradients(name: str) -> None:
    rng = np.random.default_rng(3)
    cell, params, state, xs = case_of(name)
    mask, reset = rng.random((T, B)) < 0.7, rng.random((T, B)) < 0.3

    def run(method: Any, params: Any, state: Any, xs: Any) -> Any:
        options: Any = {"mask": mask, "reset": reset, "reverse": True, "method": method}
        return unroll(cell, params, xs, state, **options)

    auto, scan = (
        jax.jit(partial(values_and_gradients, partial(run, method)))(params, state, xs)
        for method in ("auto", "scan")
    )
    assert cell.sequence is not None
    jax.tree.map(assert_close, auto, scan)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(scan[1]))


SHAPES: dict[str, Any] = {
    "lstm, peepholes": {
        "input": {"kernel": (D, 4 * H), "bias": (4 * H,)},
        "recurrent": {"kernel": (H, 4 * H)},
        "gate": dict.fromkeys(["input", "forget", "output"], (H,)),
    },
    "lstmp": {
        "input": {"kernel": (D, 4 * C), "bias": (4 * C,)},
        "recurrent": {"kernel": (H, 4 * C)},
        "gate": {"projection": (C, H)},
    },
    "gru, reset before": {
        "input": {"kernel": (D, 3 * H), "bias": (3 * H,)},
        "recurrent": {"kernel": (H, 2 * H)},
        "gate": {"kernel": (H, H)},
    },
    "indrnn": {
        "input": {"kernel": (D, H), "bias": (H,)},
        "recurrent": {"kernel": (H,)},
    },
    "lem": {
        "input": {"kernel": (D, 4 * H), "bias": (4 * H,)},
        "recurrent": {"kernel": (H, 3 * H)},
        "gate": {"kernel": (H, H)},
    },
    "orthogonal_rnn": {
        "input": {"kernel": (D, H)},
        "recurrent": {"kernel": (H, H)},
        "gate": {"bias": (H,)},
    },
    "layer_norm_lstm": {
        "input": {"kernel": (D, 4 * H)},
        "recurrent": {"kernel": (H, 4 * H)},
        "gate": {
            "input_norm": {"scale": (4 * H,), "bias": (4 * H,)},
            "recurrent_norm": {"scale": (4 * H,), "bias": (4 * H,)},
            "cell_norm": {"scale": (H,), "bias": (H,)},
        },
    },
    "slstm, exponential, heads": {
        "input": {"kernel": (D, 4 * H), "bias": (4 * H,)},
        "recurrent": {"kernel": (2, H // 2, 2 * H)},
    },
    "mlstm, exponential, heads": {
        "input": {"kernel": (D, 2 * (5 + 5 + H // 2)), "bias": (2 * (5 + 5 + H // 2),)},
        "gates": {"kernel": (D, 4), "bias": (4,)},
        "output_gate": {"kernel": (D, H), "bias": (H,)},
    },
    "convolutional_lstm": {
        "input": {"kernel": (2, 3, D, 4 * H), "bias": (4 * H,)},
        "recurrent": {"kernel": (2, 3, H, 4 * H)},
        "gate": dict.fromkeys(["input", "forget", "output"], (*SIZES, H)),
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_params_have_the_documented_keys_and_shapes(name: str) -> None:
    assert jax.tree.map(jnp.shape, case_of(name).params) == SHAPES[name]


@pytest.mark.parametrize("name", CASES)
def test_initial_states_are_zeros_and_outputs_of_the_hidden_size(name: str) -> None:
    cell, params, _, _ = case_of(name)
    state = cell.initial_state(params, (2, B))
    assert all(leaf.shape[:2] == (2, B) and not leaf.any() for leaf in state)
    sizes = SIZES if name == "convolutional_lstm" else ()
    assert output_shape(cell) == (*sizes, H)


# Torch.


def test_lstmp_equals_torch_in_values_and_gradients() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: it is in the bench extra")
    cell = lstmp(D, H, cell_size=C, forget_bias=0)
    params, first, xs = case_of("lstmp")[1:]
    module = torch.nn.LSTM(D, C, proj_size=H, dtype=torch.float64)
    zeros = np.zeros(4 * C)
    weights = {
        "weight_ih_l0": params["input"]["kernel"].T,
        "weight_hh_l0": params["recurrent"]["kernel"].T,
        "weight_hr_l0": params["gate"]["projection"].T,
        "bias_ih_l0": params["input"]["bias"],
        "bias_hh_l0": zeros,
    }
    module.load_state_dict({key: torch.tensor(array) for key, array in weights.items()})
    inputs, h, c = (torch.tensor(a, requires_grad=True) for a in (xs, *(f[None] for f in first)))
    ys, last = module(inputs, (h, c))
    cotangents = random_like(
        (LSTMState(*(leaf[0].detach().numpy() for leaf in last)), xs[..., :1] + np.zeros(H))
    )
    outputs = [last[0][0], last[1][0], ys]
    leaves = zip(outputs, jax.tree.leaves(cotangents), strict=True)
    loss: Any = sum((output * torch.tensor(c)).sum() for output, c in leaves)
    loss.backward()

    def run(params: Any, state: Any, xs: Any) -> Any:
        return unroll(cell, params, xs, state)

    differentiate = jax.jit(partial(values_and_gradients, run))
    actual, (of_params, of_state, of_xs) = differentiate(params, first, xs)
    for mine, theirs in zip(jax.tree.leaves(actual), outputs, strict=True):
        assert_close(mine, theirs.detach().numpy())
    gradients = {key: weight.grad.numpy() for key, weight in module.named_parameters()}
    assert_close(of_params["input"]["kernel"].T, gradients["weight_ih_l0"])
    assert_close(of_params["input"]["bias"], gradients["bias_ih_l0"])
    assert_close(of_params["recurrent"]["kernel"].T, gradients["weight_hh_l0"])
    assert_close(of_params["gate"]["projection"].T, gradients["weight_hr_l0"])
    assert_close(of_xs, inputs.grad.numpy())
    assert_close(of_state.hidden, h.grad.numpy()[0])
    assert_close(of_state.cell, c.grad.numpy()[0])


# Special cases in which one cell equals another.


def outputs(cell: Cell, params: Any, state: Any, xs: Any) -> np.ndarray:
    return np.asarray(jax.jit(partial(unroll, cell))(params, xs, state)[1])


def test_peepholes_of_zero_equal_no_peepholes() -> None:
    cell, params, state, xs = case_of("lstm, peepholes")
    blind = {key: value for key, value in params.items() if key != "gate"}
    seeing = blind | {"gate": jax.tree.map(np.zeros_like, params["gate"])}
    np.testing.assert_array_equal(
        outputs(cell, seeing, state, xs), outputs(lstm(D, H), blind, state, xs)
    )


def test_coupled_gates_equal_an_lstm_with_opposite_gate_weights() -> None:
    _, params, state, xs = case_of("lstm, peepholes, coupled")
    params = {key: dict(params[key]) for key in ("input", "recurrent")}

    def with_forget_gate(array: np.ndarray, shift: float = 0) -> np.ndarray:
        i, g, o = parts(array, 3)
        return np.concatenate([i - shift, -i, g, o], axis=-1)

    full = {key: {"kernel": with_forget_gate(params[key]["kernel"])} for key in params}
    full["input"]["bias"] = with_forget_gate(params["input"]["bias"], 0.7)
    coupled = outputs(lstm(D, H, coupled=True, forget_bias=0.7), params, state, xs)
    assert_close(coupled, outputs(lstm(D, H, forget_bias=0.7), full, state, xs))


@pytest.mark.parametrize("factory", [gru, minimal_gated_unit])
def test_reset_before_equals_reset_after_for_a_diagonal_kernel(factory: Any) -> None:
    xs, rng = case_of("gru, reset before").xs, np.random.default_rng(4)
    before = factory(D, H, reset="before")
    params = disturbed(rng, zero_params(before))
    kernel = np.diag(rng.normal(size=H))
    params["gate"]["kernel"] = kernel
    joined = np.concatenate([params["recurrent"]["kernel"], kernel], axis=1)
    recurrent = {"kernel": joined, "bias": np.zeros(joined.shape[1])}
    after = {"input": params["input"], "recurrent": recurrent}
    state = Hidden(jnp.asarray(rng.normal(size=(B, H))))
    expected = outputs(factory(D, H, reset="after"), after, state, xs)
    assert_close(outputs(before, params, state, xs), expected)


def test_irnn_without_input_keeps_the_initial_state() -> None:
    cell = irnn(D, H)
    state = Hidden(np.abs(case_of("ugrnn").state.hidden))
    last, ys = unroll(cell, cell.init(jax.random.key(0)), np.zeros((T, B, D)), state)
    np.testing.assert_array_equal(last.hidden, state.hidden)
    np.testing.assert_array_equal(ys, np.broadcast_to(state.hidden, (T, B, H)))


def test_indrnn_is_an_elman_network_with_a_diagonal_kernel() -> None:
    cell, params, state, xs = case_of("indrnn")
    dense = params | {"recurrent": {"kernel": np.diag(params["recurrent"]["kernel"])}}
    expected = outputs(elman(D, H, activation="relu"), dense, state, xs)
    assert_close(outputs(cell, params, state, xs), expected)


@pytest.mark.long
def test_slstm_heads_do_not_mix() -> None:
    cell, params, state, xs = case_of("slstm, exponential, heads")
    step = jax.jacfwd(lambda h: cell.step(params, state._replace(hidden=h), xs[0])[1].sum(0))
    jacobian = np.asarray(step(state.hidden)).sum(1)
    assert np.all(jacobian[: H // 2, : H // 2] != 0)
    np.testing.assert_array_equal(jacobian[: H // 2, H // 2 :], 0)
    np.testing.assert_array_equal(jacobian[H // 2 :, : H // 2], 0)


def test_antisymmetric_rnn_rates_lie_between_minus_diffusion_and_zero() -> None:
    step_size, diffusion = 0.2, 0.3
    cell, params, _, _ = case_of("antisymmetric_rnn")
    x, h = np.zeros(D), np.zeros(H)
    params = params | {"input": params["input"] | {"bias": np.zeros(H)}}
    jacobian = jax.jacfwd(lambda h: cell.step(params, Hidden(h), x)[1])

    def rates(h: np.ndarray) -> Any:
        return np.linalg.eigvals((np.asarray(jacobian(h)) - np.eye(H)) / step_size)

    assert_close(rates(h).real, np.full(H, -diffusion))
    assert np.abs(rates(h).imag).max() > 0.1
    # Elsewhere the slope of tanh is between 0 and 1, so the rates are between -diffusion and 0.
    elsewhere = rates(np.random.default_rng(0).normal(size=H)).real
    assert np.all((elsewhere > -diffusion) & (elsewhere < 0))


# Memories of thousands of steps.


@pytest.mark.long
@pytest.mark.parametrize("size", [6, 7])
def test_orthogonal_rnn_keeps_the_norms_of_states_and_gradients(size: int) -> None:
    cell = orthogonal_rnn(D, size)
    params = cell.init(jax.random.key(0))
    first, end = np.random.default_rng(0).normal(size=(2, size))
    xs = np.zeros((1000, D))

    def last(h: Any) -> Any:
        return unroll(cell, params, xs, Hidden(h))[1][-1]

    h, back = jax.jit(lambda h: (last(h), jax.vjp(last, h)[1](end)[0]))(first)
    assert_close(np.linalg.norm(h), np.linalg.norm(first), 1e-10)
    assert_close(np.linalg.norm(back), np.linalg.norm(end), 1e-10)
    assert np.abs(h - first).max() > 0.1


@pytest.mark.long
def test_orthogonal_rnn_turns_by_uniform_angles_at_first() -> None:
    size = 301
    cell = orthogonal_rnn(1, size)
    params = cell.init(jax.random.key(0))
    matrix = jax.vmap(lambda h: cell.step(params, Hidden(h), np.zeros(1))[1])(np.eye(size))
    angles = np.sort(np.angle(np.linalg.eigvals(matrix)))
    assert_close(angles, -angles[::-1], 1e-10)
    assert_close(angles[size // 2], 0, 1e-10)  # an odd size leaves one direction as it is
    positive = 2 / np.pi * angles[size // 2 + 1 :]
    assert scipy.stats.kstest(positive, "uniform").pvalue > 1e-3


def test_a_recurrent_matrix_stays_orthogonal_whatever_is_learned() -> None:
    cell, params, _, _ = case_of("orthogonal_rnn")
    open_gate = params | {"gate": {"bias": np.zeros(H)}}
    jacobian = jax.jacfwd(lambda h: cell.step(open_gate, Hidden(h), np.zeros(D))[1])
    matrix = np.asarray(jacobian(np.random.default_rng(0).normal(size=H)))
    assert_close(matrix @ matrix.T, np.eye(H))


def test_lem_states_move_by_at_most_two_steps_and_stay_within_one() -> None:
    cell = lem(D, H, step_size=0.125)
    params = disturbed(np.random.default_rng(0), zero_params(cell), 10)
    xs = 10 * np.random.default_rng(1).normal(size=(100, B, D))
    _, ys = unroll(cell, params, xs)
    assert np.abs(ys).max() <= 1
    moved = np.abs(np.diff(np.concatenate([np.zeros((1, B, H)), ys]), axis=0))
    assert 0.125 < moved.max() <= 0.25


# Exponential gates.


def test_the_first_output_of_slstm_does_not_depend_on_the_size_of_the_input_gate() -> None:
    cell, params, _, xs = case_of("slstm")
    kernel = params["input"]["kernel"].copy()
    kernel[:, H : 2 * H] = 0
    for bias in (-1e4, 0.0, 1e4):
        biases = params["input"]["bias"].copy()
        biases[H : 2 * H] = bias
        own = to_dtype(params | {"input": {"kernel": kernel, "bias": biases}}, np.float32)
        z, _, _, o = into(own["input"], xs[0].astype(np.float32), 4)
        _, y = cell.step(own, cell.initial_state(own, (B,)), xs[0])
        assert_close(y, sigmoid(o) * np.tanh(z), 1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["slstm", "slstm, exponential, heads", "mlstm", "mlstm, exponential, heads"]
)
def test_huge_gates_give_finite_values_and_gradients(name: str) -> None:
    cell, params, _, xs = case_of(name)
    gates = "gates" if name.startswith("mlstm") else "input"

    @jax.jit
    def run(params: Any, xs: Any) -> Any:
        return values_and_gradients(partial(unroll, cell), params, xs)

    for scale in (1e2, 1e4):
        for sign in (1, -1):  # all gates open, then all gates closed
            huge = jax.tree.map(lambda leaf, scale=scale: leaf * scale, params)
            huge[gates]["bias"] += 10 * sign * scale
            (_, ys), gradients = run(*to_dtype((huge, xs), np.float32))
            for leaf in jax.tree.leaves((ys, gradients)):
                assert np.isfinite(leaf).all()
            assert gates == "gates" or np.abs(ys).max() <= 1


@pytest.mark.long
def test_mlstm_recalls_the_value_written_under_a_key() -> None:
    """Write pairs of one-hot keys and random values, and read each value by its key."""
    cell = mlstm(H, H, key_size=H, chunk_size=2)
    params = zero_params(cell)
    values = np.random.default_rng(0).normal(size=(H, H))
    keys = np.sqrt(H) * np.eye(H)
    params["input"]["kernel"] = np.concatenate([np.eye(H), keys, values], axis=1)
    params["gates"]["bias"] = np.array([0.0, 50.0])  # input gates of 1, forget gates of 1
    params["output_gate"]["bias"] += 50.0
    _, ys = unroll(cell, params, np.eye(H)[:, None])
    assert_close(ys[:, 0], values, 1e-9)


# Convolutions.


def test_convolutional_lstm_with_kernel_size_one_is_an_lstm_at_each_pixel() -> None:
    cell = convolutional_lstm((*SIZES, D), H, kernel_size=1)
    rng = np.random.default_rng(5)
    params = disturbed(rng, zero_params(cell))
    xs = rng.normal(size=(T, B, *SIZES, D))
    flat = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[-2:] if leaf.ndim > 1 else -1), params)
    state, ys = jax.jit(partial(unroll, cell))(params, xs)
    expected_state, expected = jax.jit(partial(unroll, lstm(D, H)))(flat, xs)
    assert_close(ys, expected)
    assert_close(state.cell, expected_state.cell)


@pytest.mark.parametrize("sizes", [(5,), (4, 3), (3, 4, 2)])
@pytest.mark.parametrize("window", [2, 3])
def test_convolve_same_equals_xla_in_values_and_gradients(
    sizes: tuple[int, ...], window: int
) -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 3, *sizes, D))
    kernel = rng.normal(size=(*[window] * len(sizes), D, H))
    axes = "DHW"[-len(sizes) :]

    def by_xla(x: Any, kernel: Any) -> Any:
        names = f"N{axes}C", f"{axes}IO", f"N{axes}C"
        strides = (1,) * len(sizes)
        z = lax.conv_general_dilated(
            x.reshape(-1, *x.shape[2:]), kernel, strides, "SAME", dimension_numbers=names
        )
        return z.reshape(*x.shape[:2], *z.shape[1:])

    expected, actual = (
        jax.jit(partial(values_and_gradients, function))(x, kernel)
        for function in (by_xla, convolve_same)
    )
    jax.tree.map(assert_close, actual, expected)


@pytest.mark.parametrize("sizes", [(5,), (3, 2, 2)])
def test_convolutional_lstm_in_one_and_three_dimensions_runs_with_and_without_a_batch(
    sizes: tuple[int, ...],
) -> None:
    cell = convolutional_lstm((*sizes, 2), 3, kernel_size=2)
    rng = np.random.default_rng(7)
    params = disturbed(rng, zero_params(cell))
    xs = rng.normal(size=(2, B, *sizes, 2))
    ys = outputs(cell, params, None, xs)
    assert ys.shape == (2, B, *sizes, 3)
    for b in range(B):
        assert_close(outputs(cell, params, None, xs[:, b]), ys[:, b])


# Precision.

GATED: dict[str, Callable[..., Cell]] = {
    "elman": elman,
    "lstm": lstm,
    "gru": gru,
    **{name: case[0] for name, case in CASES.items()},
}


@lru_cache
def narrow_and_wide(name: str) -> tuple[Cell, Cell, Any, np.ndarray]:
    factory = GATED[name]
    wide, narrow = factory(D, H), factory(D, H, compute_dtype=jnp.bfloat16)
    rng = np.random.default_rng(8)
    params = to_dtype(disturbed(rng, zero_params(wide), 0.4), np.float32)
    xs = rng.normal(size=(T, B, *wide.input_shape)).astype(np.float32)
    return wide, narrow, params, xs


@pytest.mark.long
@pytest.mark.parametrize("name", GATED)
def test_bfloat16_products_give_close_outputs_of_the_same_types(name: str) -> None:
    """Allow errors of 2^-5 of the largest output; rounding the operands costs 2^-9 each."""
    wide, narrow, params, xs = narrow_and_wide(name)
    expected, actual = jax.jit(
        lambda params, xs: [unroll(cell, params, xs)[1] for cell in (wide, narrow)]
    )(params, xs)
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert 1e-6 < error < 2**-5

    def run(params: Any, state: Any, xs: Any) -> Any:
        return unroll(narrow, params, xs, state)

    state = narrow.initial_state(params, (B,))
    everything = jax.eval_shape(partial(values_and_gradients, run), params, state, xs)
    assert {leaf.dtype for leaf in jax.tree.leaves(everything)} == {np.dtype(np.float32)}


@pytest.mark.long
@pytest.mark.parametrize("name", ["gru, reset before", "lstmp", "convolutional_lstm"])
def test_bfloat16_products_give_close_gradients(name: str) -> None:
    wide, narrow, params, xs = narrow_and_wide(name)

    def gradient(cell: Cell) -> Any:
        return jax.jit(jax.grad(lambda params: (unroll(cell, params, xs)[1] ** 2).sum()))(params)

    pairs = zip(jax.tree.leaves(gradient(narrow)), jax.tree.leaves(gradient(wide)), strict=True)
    for actual, expected in pairs:
        error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
        assert 1e-6 < error < 2**-5


# Invalid arguments.


@pytest.mark.parametrize("name", GATED)
@pytest.mark.fault("N8")
def test_inputs_of_a_wrong_type_or_shape_are_an_error(name: str) -> None:
    cell = GATED[name](D, H)
    params = zero_params(cell)
    state = cell.initial_state(params, (B,))
    shape = ", ".join(map(str, cell.input_shape))
    expected = rf"x: expected floating-point numbers of the shape \[\.\.\., {shape}\], got"
    right = np.zeros((B, *cell.input_shape))
    for kind in (np.int32, np.uint8, np.bool_, np.complex128):
        with pytest.raises(ValueError, match=rf"{expected} {np.dtype(kind)} of the shape"):
            cell.step(params, state, right.astype(kind))
        with pytest.raises(ValueError, match=rf"xs: expected floating.*got {np.dtype(kind)};"):
            unroll(cell, params, right[None].astype(kind))
    with pytest.raises(ValueError, match=rf"{expected} float64 of the shape \[3, .*{D + 1}\]"):
        cell.step(params, state, np.zeros((B, *cell.input_shape[:-1], D + 1)))


@pytest.mark.parametrize("name", ["lstm", "slstm", "mlstm", "convolutional_lstm"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_inputs_are_cast_to_the_type_of_the_params(name: str, dtype: Any) -> None:
    cell = GATED[name](D, H)
    params = to_dtype(zero_params(cell), dtype)
    xs = np.zeros((T, B, *cell.input_shape))
    for method in ("auto", "scan"):
        shapes = jax.eval_shape(partial(unroll, cell, method=method), params, xs)
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(dtype)}


@pytest.mark.long
@pytest.mark.parametrize("name", ["slstm, exponential, heads", "mlstm, exponential, heads"])
def test_exponential_gates_in_bfloat16_are_close_to_float64(name: str) -> None:
    cell, params, _, xs = case_of(name)
    narrow = to_dtype(params, jnp.bfloat16)
    expected = outputs(cell, to_dtype(narrow, np.float64), None, xs.astype(jnp.bfloat16))
    for method in ("auto", "scan"):
        run = jax.jit(partial(unroll, cell, method=method))
        actual = np.asarray(run(narrow, xs)[1], np.float64)
        assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


def wrong(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: gru(D, H, reset=wrong("never")),
            r'reset: expected "after" or "before", got \'never\'',
        ),
        (lambda: minimal_gated_unit(D, H, reset=wrong("")), "reset: expected"),
        (lambda: lstmp(D, H, cell_size=0), "cell_size: expected at least 1, got 0"),
        (lambda: indrnn(D, 0), "hidden_size: expected at least 1, got 0"),
        (lambda: ugrnn(D, H, activation="tahn"), "activation: expected one of"),
        (lambda: antisymmetric_rnn(D, H, step_size=0), "step_size, diffusion: expected above 0"),
        (lambda: antisymmetric_rnn(D, H, diffusion=-1), "got 0.1 and -1"),
        (lambda: lem(D, H, step_size=0), "step_size: expected above 0 and at most 1, got 0"),
        (lambda: lem(D, H, step_size=1.5), "step_size: expected above 0 and at most 1, got 1.5"),
        (lambda: orthogonal_rnn(D, 0), "hidden_size: expected at least 1, got 0"),
        (lambda: layer_norm_gru(0, H), "input_size: expected at least 1, got 0"),
        (lambda: slstm(D, H, heads=4), "heads: expected a divisor of hidden_size=6, got 4"),
        (lambda: slstm(D, H, heads=0), "heads: expected at least 1, got 0"),
        (lambda: slstm(D, H, forget=wrong("exp")), r'forget: expected "sigmoid" or "exponential"'),
        (lambda: mlstm(D, H, heads=4), "heads: expected a divisor of hidden_size=6, got 4"),
        (lambda: mlstm(D, H, heads=0), "heads: expected at least 1, got 0"),
        (lambda: mlstm(D, H, chunk_size=0), "chunk_size: expected at least 1, got 0"),
        (lambda: mlstm(D, H, forget=wrong("")), "forget: expected"),
        (lambda: convolutional_lstm((4,), H), "input_shape: expected one to three sizes"),
        (lambda: convolutional_lstm((2, 2, 2, 2, 1), H), "the channels, got 5 numbers"),
        (lambda: convolutional_lstm((4, 0), H), "channels: expected at least 1, got 0"),
        (lambda: convolutional_lstm((4, 1), 0), "features: expected at least 1, got 0"),
        (lambda: convolutional_lstm((4, 1), H, kernel_size=0), "kernel_size: expected 1 sizes"),
        (lambda: convolutional_lstm((4, 4, 1), H, kernel_size=(3,)), r"2 sizes .* got \(3,\)"),
    ],
)
def test_cell_options_out_of_range_are_an_error(make: Callable[[], Cell], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_slstm_and_mlstm_states_have_the_documented_fields() -> None:
    assert SLSTMState._fields == ("hidden", "cell", "normalizer", "log_scale")
    assert MLSTMState._fields == ("memory", "normalizer", "log_scale")
    assert LEMState._fields == ("hidden", "memory")


def test_the_default_cell_size_of_lstmp_is_twice_the_hidden_size() -> None:
    assert zero_params(lstmp(D, H))["gate"]["projection"].shape == (2 * H, H)


@pytest.mark.long
@pytest.mark.parametrize("factory", [lstm, ugrnn, lstmp, layer_norm_lstm, antisymmetric_rnn, lem])
def test_constants_of_a_gate_may_be_vmapped(factory: Callable[..., Cell]) -> None:
    name = "step_size" if factory in (antisymmetric_rnn, lem) else "forget_bias"
    params, xs = factory(D, H).init(jax.random.key(0)), random_like(np.zeros((T, B, D)))

    def total(value: Any) -> Any:
        return unroll(factory(D, H, **{name: value}), params, xs)[1].sum()

    other = 1.0 if factory is lem else 2.0  # the longest step of a LEM is 1
    swept = jax.vmap(total)(jnp.array([0.5, other]))
    assert_close(swept, [total(0.5), total(other)])


@pytest.mark.parametrize(
    ("gate", "options", "message"),
    [
        (
            lambda zx, zh, state: zx[0],
            {},
            r"gate: expected .*Hidden.*got \(3, 6",
        ),
        (lambda zx, zh, state: Hidden(zx[0][:2]), {}, r"gate: .*Hidden.*\(3, 6\).*\(2, 6\)"),
        (lambda zx, zh, state: state, {"gates": 0}, r"gates: expected at least 1, got 0"),
        (lambda zx, zh, state: state, {"recurrent_gates": 3}, r"recurrent_gates: expected 1 to 1"),
    ],
)
@pytest.mark.parametrize("method", ["auto", "scan"])
def test_an_invalid_gate_function_is_an_error(
    gate: Any, options: dict[str, Any], message: str, method: Any
) -> None:
    def run() -> Any:
        given: dict[str, Any] = {"gates": 1} | options
        cell = gated(gate, D, H, **given)
        return unroll(cell, cell.init(jax.random.key(0)), jnp.zeros((T, B, D)), method=method)

    with pytest.raises(ValueError, match=message):
        run()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("factory", [elman, lstm])
@pytest.mark.parametrize("reverse", [False, True])
def test_one_product_of_inputs_and_state_equals_two(factory: Any, reverse: bool) -> None:
    """A long sequence of few rows takes one, and a plain scan takes two."""
    cell, rng = factory(4, 5), np.random.default_rng(0)
    params = cell.init(jax.random.key(0))
    xs = jnp.asarray(rng.normal(size=(40, 3, 4)))
    options = {"mask": jnp.asarray(rng.random((40, 3)) < 0.8), "reverse": reverse}
    options["reset"] = jnp.asarray(rng.random((40, 3)) < 0.1)

    def found(method: str) -> Any:
        run = partial(unroll, cell, method=method, **options)
        weights = jnp.cos(jnp.arange(5.0))
        return run(params, xs)[1], jax.grad(lambda *a: (run(*a)[1] * weights).sum(), (0, 1))(
            params, xs
        )

    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-12), found("auto"), found("scan"))
    traced = str(jax.make_jaxpr(lambda *args: unroll(cell, *args)[1])(params, xs))
    assert f"f64[{4 + 5},{params['input']['kernel'].shape[1]}]" in traced
