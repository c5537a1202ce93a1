"""Compare initial weights with their distributions, and chrono biases with their time scales."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from recurrent import initializers, unroll
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
from recurrent.cells.layer_norm import layer_norm_gru, layer_norm_lstm
from recurrent.cells.linear import min_gru, min_lstm
from recurrent.cells.xlstm import mlstm, slstm
from recurrent.initializers import chrono, identity, torch_uniform

KEY = jax.random.key(0)
D, H = 6, 40


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def block(array: Any, index: int, size: int = H) -> np.ndarray:
    return np.asarray(array)[..., index * size : (index + 1) * size]


# The distributions.


UNIFORM = {
    "glorot_uniform": (initializers.glorot_uniform, (60, 90), np.sqrt(6 / 150)),
    "torch_uniform, kernel": (torch_uniform, (60, 90), 1 / np.sqrt(90)),
    "torch_uniform, bias": (torch_uniform, (4000,), 1 / np.sqrt(4000)),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_initializers_are_uniform_within_their_limits(name: str) -> None:
    draw, shape, limit = UNIFORM[name]
    weights = np.asarray(draw(KEY, shape))
    assert weights.shape == shape
    assert np.abs(weights).max() <= limit
    uniform = stats.uniform(-limit, 2 * limit)
    assert stats.kstest(weights.ravel(), uniform.cdf).pvalue > 1e-3


def test_glorot_normal_has_the_documented_variance() -> None:
    weights = np.asarray(initializers.glorot_normal(KEY, (300, 500)))
    assert abs(weights.mean()) < 5 * np.sqrt(2 / 800 / weights.size)
    np.testing.assert_allclose(weights.var(), 2 / 800, rtol=0.02)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape: tuple[int, int]) -> None:
    q = np.asarray(initializers.orthogonal(KEY, shape))
    gram = q.T @ q if shape[0] >= shape[1] else q @ q.T
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-12)


def test_identity_and_zeros_give_an_identity_matrix_and_zeros() -> None:
    np.testing.assert_array_equal(identity(0.5)(KEY, (3, 4)), 0.5 * np.eye(3, 4))
    np.testing.assert_array_equal(initializers.zeros(KEY, (3,)), np.zeros(3))
    with pytest.raises(ValueError, match=r"identity: expected the shape of a matrix, got \[3\]"):
        identity()(KEY, (3,))


# Initializers given to cells by name or as functions.

FACTORIES = {
    "elman": elman,
    "lstm": lstm,
    "lstmp": lstmp,
    "gru": gru,
    "gru, reset before": partial(gru, reset="before"),
    "minimal_gated_unit": minimal_gated_unit,
    "ugrnn": ugrnn,
    "antisymmetric_rnn": antisymmetric_rnn,
    "layer_norm_lstm": layer_norm_lstm,
    "layer_norm_gru": layer_norm_gru,
    "slstm": slstm,
    "slstm, heads": partial(slstm, heads=2),
    "convolutional_lstm": lambda d, h, **options: convolutional_lstm((5, d), h, **options),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_the_block_of_each_gate_is_drawn_separately_by_the_given_initializer(name: str) -> None:
    shapes: dict[str, list[tuple[int, ...]]] = {"input": [], "recurrent": []}

    def spy(kind: str, value: float) -> Callable[..., Any]:
        def draw(key: Any, shape: tuple[int, ...]) -> Any:
            shapes[kind].append(shape)
            return jnp.full(shape, value + len(shapes[kind]))

        return draw

    options = {"input_init": spy("input", 100), "recurrent_init": spy("recurrent", 200)}
    params = FACTORIES[name](D, H, **options).init(KEY)
    cells = 2 * H if name == "lstmp" else H
    window = (3,) if name == "convolutional_lstm" else ()
    side = H // 2 if name == "slstm, heads" else H
    assert set(shapes["input"]) == {(*window, D, cells)}
    assert set(shapes["recurrent"]) == {(*window, side, side if "heads" in name else cells)}
    for kind, value in {"input": 100, "recurrent": 200}.items():
        drawn = set(range(value + 1, value + 1 + len(shapes[kind])))
        kernels = np.unique(params[kind]["kernel"]).tolist()
        if "before" in name or name == "minimal_gated_unit":
            kernels += np.unique(params["gate"]["kernel"]).tolist() if kind == "recurrent" else []
        assert set(kernels) == drawn


def test_an_initializer_given_by_name_equals_the_function() -> None:
    names: dict[str, Any] = {
        "input_init": "torch_uniform",
        "recurrent_init": "identity",
        "bias_init": "zeros",
    }
    functions: dict[str, Any] = {
        "input_init": torch_uniform,
        "recurrent_init": identity(),
        "bias_init": initializers.zeros,
    }
    named, given = (lstm(D, H, **kinds).init(KEY) for kinds in (names, functions))
    jax.tree.map(np.testing.assert_array_equal, named, given)
    np.testing.assert_array_equal(block(named["recurrent"]["kernel"], 3), np.eye(H))
    assert np.abs(named["input"]["kernel"]).max() <= 1 / np.sqrt(H)
    assert not np.any(named["input"]["bias"])


@pytest.mark.parametrize("argument", ["input_init", "recurrent_init", "bias_init"])
@pytest.mark.parametrize("name", FACTORIES)
def test_an_unknown_initializer_name_is_an_error_that_suggests_the_nearest_name(
    name: str, argument: str
) -> None:
    message = rf'{argument}: expected one of .*, got .ortogonal.\. Did you mean "orthogonal"\?'
    with pytest.raises(ValueError, match=message):
        FACTORIES[name](D, H, **{argument: "ortogonal"})
    with pytest.raises(ValueError, match=rf"{argument}: expected one of .*, got 3\.0"):
        FACTORIES[name](D, H, **{argument: 3.0})


def test_mlstm_and_indrnn_take_initializers_by_name() -> None:
    kernel = mlstm(D, H, kernel_init="zeros").init(KEY)["gates"]["kernel"]
    np.testing.assert_array_equal(kernel, np.zeros((D, 2)))
    assert indrnn(D, H, recurrent_init="zeros").init(KEY)["recurrent"]["kernel"].max() == 0
    with pytest.raises(ValueError, match=r"kernel_init: .*Did you mean \"zeros\""):
        mlstm(D, H, kernel_init="zeroes")


def test_torch_uniform_draws_weights_and_biases_like_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: it is in the bench extra")
    module = torch.nn.GRU(D, H)
    kinds = ["input_init", "recurrent_init", "bias_init"]
    all_three: dict[str, Any] = dict.fromkeys(kinds, torch_uniform)
    params = gru(D, H, **all_three).init(KEY)
    weights = [np.ravel(leaf) for leaf in jax.tree.leaves(params)]
    theirs = [parameter.detach().numpy().ravel() for parameter in module.parameters()]
    assert len(weights) == len(theirs) == 4
    for mine, yours in zip(sorted(weights, key=len), sorted(theirs, key=len), strict=True):
        result: Any = stats.ks_2samp(mine, yours)
        assert result.pvalue > 1e-3


def test_irnn_starts_with_an_identity_kernel_and_small_input_weights() -> None:
    params = irnn(D, H).init(KEY)
    np.testing.assert_array_equal(params["recurrent"]["kernel"], np.eye(H))
    np.testing.assert_array_equal(params["input"]["bias"], 0)
    np.testing.assert_allclose(params["input"]["kernel"].std(), 0.001, rtol=0.2)
    small = irnn(D, H, scale=0.01, input_init="zeros").init(KEY)
    np.testing.assert_array_equal(small["recurrent"]["kernel"], 0.01 * np.eye(H))
    np.testing.assert_array_equal(small["input"]["kernel"], 0)


def test_indrnn_recurrent_weights_start_below_the_bound_of_the_longest_sequence() -> None:
    for longest, highest in [(None, 1.0), (1, 2.0), (10, 2**0.1)]:
        weights = indrnn(D, 2000, longest=longest).init(KEY)["recurrent"]["kernel"]
        assert stats.kstest(np.asarray(weights), stats.uniform(0, highest).cdf).pvalue > 1e-3
    with pytest.raises(ValueError, match="longest: expected above 0 steps, got 0"):
        indrnn(D, H, longest=0)


def test_mlstm_forget_biases_start_at_the_documented_values() -> None:
    def assert_biases(expected: list[float], **options: Any) -> None:
        biases = mlstm(D, 8, heads=4, **options).init(KEY)["gates"]["bias"]
        np.testing.assert_allclose(biases, [0, 0, 0, 0, *expected], atol=1e-12)

    assert_biases([3, 4, 5, 6])
    assert_biases([0, 0, 0, 0], forget="exponential")
    assert_biases([1, 0.5, 0, -0.5], forget_bias=(1.0, -0.5))


# Chrono.

T_MAX = 1000.0
CHRONO: dict[str, tuple[Callable[..., Any], dict[int, int], int]] = {
    "lstm": (partial(lstm, forget_bias=0), {0: -1, 1: 1}, 4),
    "coupled lstm": (partial(lstm, forget_bias=0, coupled=True), {0: -1}, 3),
    "layer_norm_lstm": (partial(layer_norm_lstm, forget_bias=0), {0: -1, 1: 1}, 4),
    "gru": (gru, {1: 1}, 3),
    "layer_norm_gru": (layer_norm_gru, {1: 1}, 3),
    "minimal_gated_unit": (minimal_gated_unit, {0: -1}, 2),
    "ugrnn": (partial(ugrnn, forget_bias=0), {0: 1}, 2),
    "min_gru": (min_gru, {0: -1}, 2),
    "min_lstm": (partial(min_lstm, forget_bias=0), {0: 1, 1: -1}, 3),
}


@pytest.mark.parametrize("name", CHRONO)
def test_chrono_draws_uniform_time_scales(name: str) -> None:
    factory, signs, gates = CHRONO[name]
    params = factory(D, 500, bias_init=chrono(T_MAX)).init(KEY)
    if name.startswith("layer_norm"):
        norms = params["gate"]
        candidate = norms["input_candidate_norm"]["bias"] if name == "layer_norm_gru" else []
        bias = np.concatenate([norms["input_norm"]["bias"], candidate])
    else:
        bias = params["input"]["bias"]
    assert bias.shape == (gates * 500,)
    for gate in range(gates):
        values = block(bias, gate, 500)
        if gate not in signs:
            np.testing.assert_array_equal(values, 0)
            continue
        scales = np.exp(signs[gate] * values)
        assert 1 <= scales.min() < scales.max() <= T_MAX - 1
        assert stats.kstest(scales, stats.uniform(1, T_MAX - 2).cdf).pvalue > 1e-3
        np.testing.assert_array_equal(
            signs[gate] * values, block(bias, min(signs), 500) * signs[min(signs)]
        )
    np.testing.assert_array_equal(params.get("recurrent", {}).get("bias", 0), 0)


def test_a_cell_state_with_chrono_biases_decays_at_the_drawn_time_scale() -> None:
    cell = lstm(
        D, H, forget_bias=0, bias_init=chrono(50), input_init="zeros", recurrent_init="zeros"
    )
    params = cell.init(KEY)
    scales = np.exp(block(params["input"]["bias"], 1))
    first = LSTMState(jnp.zeros(H), jnp.arange(1.0, H + 1))
    state, _ = unroll(cell, params, np.random.default_rng(0).normal(size=(30, D)), first)
    np.testing.assert_allclose(state.cell, first.cell * (scales / (1 + scales)) ** 30, rtol=1e-12)


def test_chrono_by_name_is_an_error_that_asks_for_the_longest_dependency() -> None:
    with pytest.raises(ValueError, match=r"bias_init: chrono needs the longest .*chrono\(784\)"):
        lstm(D, H, bias_init="chrono")


def test_chrono_with_a_constant_forget_bias_is_an_error() -> None:
    for factory in (lstm, lstmp, layer_norm_lstm, ugrnn, min_lstm):
        with pytest.raises(ValueError, match=r"forget_bias: expected 0 beside chrono.*got 1\.0"):
            factory(D, H, bias_init=chrono(9))


def test_chrono_without_a_forget_gate_or_a_valid_length_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"chrono needs a cell with a gate called 'forget'"):
        elman(D, H, bias_init=chrono(9)).init(KEY)
    with pytest.raises(ValueError, match=r"longest: expected above 2 steps, got 2"):
        chrono(2)
    with pytest.raises(ValueError, match="recurrent_init: expected one of"):
        lstm(D, H, recurrent_init=chrono(9))
