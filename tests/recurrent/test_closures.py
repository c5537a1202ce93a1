"""Test gradients with respect to the numbers that a cell closes over."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import (
    Cell,
    Hidden,
    antisymmetric_rnn,
    convolutional_lstm,
    deer,
    dense_maps,
    derived_map,
    elman,
    gated,
    gated_cell,
    layer_norm_lstm,
    lstm,
    lstmp,
    min_lstm,
    parallel,
    slstm,
    stack,
    ugrnn,
    unroll,
)
from recurrent.cells.classic import lstm_vjp
from recurrent.linear_map import affine
from tests.recurrent.cases import CELLS, HIDDEN, INPUT, case_of

TIME, BATCH, SIZE = 5, 2, 3


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def leaky(rate: Any) -> Cell:
    """Build a cell of `gated` whose gate closes over a number."""

    def gate(zx, zh, state):
        return Hidden(rate * state.hidden + jnp.tanh(zx[0] + zh[0]))

    return gated(gate, SIZE, SIZE, gates=1)


def scaled_maps(scale: Any) -> Cell:
    """Build a cell whose maps close over a number."""

    def gate(_, zx, zh, state):
        return Hidden(jnp.tanh(zx[0] + zh[0]))

    def apply(params, x):
        return scale * affine(params, x)

    maps = dense_maps()._replace(input=derived_map(apply), recurrent=derived_map(apply))
    init = elman(SIZE, SIZE).init
    return gated_cell(init, gate, (SIZE,), Hidden, [(SIZE,)], maps)


CLOSED_OVER: dict[str, Callable[[Any], Cell]] = {
    "elman": lambda a: elman(SIZE, SIZE, activation=lambda z: jnp.tanh(a * z)),
    "lstm": lambda a: lstm(SIZE, SIZE, forget_bias=a),
    "lstm_peepholes": lambda a: lstm(SIZE, SIZE, forget_bias=a, peepholes=True),
    "lstm_coupled": lambda a: lstm(SIZE, SIZE, forget_bias=a, coupled=True),
    "lstmp": lambda a: lstmp(SIZE, SIZE, forget_bias=a),
    "ugrnn": lambda a: ugrnn(SIZE, SIZE, forget_bias=a),
    "antisymmetric_rnn": lambda a: antisymmetric_rnn(SIZE, SIZE, step_size=a, diffusion=a),
    "layer_norm_lstm": lambda a: layer_norm_lstm(SIZE, SIZE, forget_bias=a, epsilon=a),
    "slstm": lambda a: slstm(SIZE, SIZE, forget_bias=a),
    "min_lstm": lambda a: min_lstm(SIZE, SIZE, forget_bias=a),
    "convolutional_lstm": lambda a: convolutional_lstm((SIZE, 1), 2, forget_bias=a),
    "own_gate": leaky,
    "own_maps": scaled_maps,
    "stack": lambda a: stack(lstm(SIZE, 2, forget_bias=a), ugrnn(2, SIZE, forget_bias=a)),
    "parallel": lambda a: parallel(lstm(SIZE, SIZE, forget_bias=a)),
    "parallel_diagonal": lambda a: parallel(leaky(a), jacobian="diagonal"),
}
NUMBER = 0.7


def loss_of(make: Callable[[Any], Cell], **options: Any) -> Callable[[Any], Any]:
    """Return the function from the number to a weighted sum of the outputs and the last state."""
    cell = make(NUMBER)
    params = cell.init(jax.random.key(0))
    xs = np.random.default_rng(0).normal(size=(TIME, BATCH, *cell.input_shape))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)

    def loss(number: Any) -> Any:
        state, ys = unroll(make(number), params, xs, **options)
        weights = jnp.cos(jnp.arange(ys.size)).reshape(ys.shape)
        return (weights * ys).sum() + sum(leaf.sum() for leaf in jax.tree.leaves(state))

    return loss


def finite_difference(function: Callable[[Any], Any], step: float = 1e-5) -> float:
    return float(function(NUMBER + step) - function(NUMBER - step)) / (2 * step)


@pytest.mark.long
@pytest.mark.parametrize("name", CLOSED_OVER)
def test_gradients_reach_a_number_that_a_cell_closes_over(name: str) -> None:
    loss = jax.jit(loss_of(CLOSED_OVER[name]))
    gradient = jax.grad(loss)(NUMBER)
    scan = jax.grad(jax.jit(loss_of(CLOSED_OVER[name], method="scan")))(NUMBER)
    np.testing.assert_allclose(gradient, scan, rtol=1e-9)
    np.testing.assert_allclose(gradient, finite_difference(loss), rtol=1e-6)
    assert abs(gradient) > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("name", ["lstm", "own_maps"])
@pytest.mark.parametrize("options", ["mask, reset, reverse", "remat", "truncate"])
def test_they_do_so_with_options(name: str, options: str) -> None:
    flags = np.random.default_rng(1).random((2, TIME, BATCH)) < 0.6
    given: Any = {
        "mask, reset, reverse": {"mask": flags[0], "reset": flags[1], "reverse": True},
        "remat": {"remat": 2},
        "truncate": {"truncate": 2},
    }[options]
    fast, scan = (
        jax.jit(jax.grad(loss_of(CLOSED_OVER[name], **given, method=method)))(NUMBER)
        for method in ("auto", "scan")
    )
    np.testing.assert_allclose(fast, scan, rtol=1e-9)


@pytest.mark.long
def test_the_number_may_be_swept_and_differentiated_twice() -> None:
    loss, scan = (loss_of(CLOSED_OVER["lstm"], method=method) for method in ("auto", "scan"))
    numbers = np.array([0.0, 0.7, 2.0])
    second = jax.jit(jax.vmap(jax.grad(jax.grad(loss))))(numbers)
    expected = jax.jit(jax.vmap(jax.grad(jax.grad(scan))))(numbers)
    np.testing.assert_allclose(second, expected, rtol=1e-8)


@pytest.mark.long
def test_the_params_keep_their_gradients_beside_those_of_the_number() -> None:
    xs = np.random.default_rng(0).normal(size=(TIME, BATCH, SIZE))
    params = lstm(SIZE, SIZE).init(jax.random.key(0))

    def loss(method, params, number, xs):
        ys = unroll(lstm(SIZE, SIZE, forget_bias=number), params, xs, method=method)[1]
        return (ys**2).sum()

    fast, scan = (
        jax.grad(jax.jit(partial(loss, method)), argnums=(0, 1, 2))(params, NUMBER, xs)
        for method in ("auto", "scan")
    )
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(scan), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.long
def test_forward_mode_by_the_number_says_which_method_supports_it() -> None:
    with pytest.raises(TypeError, match='take method="scan"'):
        jax.jvp(loss_of(CLOSED_OVER["lstm"]), (NUMBER,), (1.0,))
    scan = loss_of(CLOSED_OVER["lstm"], method="scan")
    slope = jax.jvp(scan, (NUMBER,), (1.0,))[1]
    np.testing.assert_allclose(slope, finite_difference(scan), rtol=1e-6)


@pytest.mark.long
def test_deer_differentiates_by_a_number_where_it_falls_back_to_the_loop() -> None:
    params = leaky(NUMBER).init(jax.random.key(0))
    xs = np.random.default_rng(0).normal(size=(TIME, BATCH, SIZE))

    def loss(number):
        _, ys, info = deer(leaky(number), params, xs, max_iterations=1)
        return (ys**2).sum(), info.fell_back

    gradient, fell_back = jax.jit(jax.grad(loss, has_aux=True))(NUMBER)
    assert fell_back
    np.testing.assert_allclose(gradient, finite_difference(lambda n: loss(n)[0]), rtol=1e-6)


@pytest.mark.parametrize("name", CELLS)
def test_cells_of_the_library_close_over_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would lose the backward passes that are written by hand."""
    found: list[int] = []
    convert = jax.closure_convert

    def spy(*args: Any) -> Any:
        converted, values = convert(*args)
        found.append(len(values))
        return converted, values

    monkeypatch.setattr(jax, "closure_convert", spy)
    case = case_of(name)

    def loss(xs: Any) -> Any:
        cell = CELLS[name](INPUT, HIDDEN)  # all arrays that building the cell makes are traced
        return unroll(cell, case.params, xs, case.state)[1].sum()

    jax.eval_shape(jax.grad(loss), case.xs)
    assert not any(found)


def test_a_gate_with_a_backward_pass_of_its_own_keeps_it_beside_constants() -> None:
    """A bias that is an array, and not traced, is a constant."""
    vjp = lstm_vjp(np.float64(1.0))
    calls: list[str] = []

    def backward(*args: Any) -> Any:
        calls.append("backward")
        return vjp.backward(*args)

    bias: Any = jnp.ones(())
    cell = lstm(SIZE, SIZE, forget_bias=bias)
    run: Any = cell.sequence
    cell = cell._replace(sequence=run._replace(vjp=vjp._replace(backward=backward)))
    params = cell.init(jax.random.key(0))
    jax.jit(jax.grad(lambda xs: unroll(cell, params, xs)[1].sum())).lower(jnp.ones((2, SIZE)))
    assert calls
