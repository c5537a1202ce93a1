"""Gradients through time against loops, closed forms and systems whose exponents are known."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import recurrent
from recurrent import Cell
from recurrent.gradients import (
    gradient_by_lag,
    jacobian_products,
    log_gradient_by_lag,
    lyapunov_exponents,
    singular_values,
    spectral_radius,
    state_gradients,
    step_jacobians,
)

TIME, BATCH, INPUT, HIDDEN = 6, 3, 4, 5


def inputs(steps: int = TIME) -> Any:
    return jax.random.normal(jax.random.key(1), (steps, BATCH, INPUT))


def linear(kernel: Any) -> tuple[Cell, Any]:
    """Return the cell ``h' = h kernel + x W``, and its params."""
    kernel = jnp.asarray(kernel)
    cell = recurrent.elman(2, len(kernel), activation=lambda z: z)
    params = cell.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.astype(kernel.dtype), params)
    return cell, params | {"recurrent": params["recurrent"] | {"kernel": kernel}}


@pytest.mark.long
@pytest.mark.parametrize("make", [recurrent.lstm, recurrent.gru, recurrent.lru, recurrent.slstm])
def test_state_gradients_are_those_of_the_steps_that_are_left(make: Callable[..., Cell]) -> None:
    cell = make(INPUT, HIDDEN)
    params, xs = cell.init(jax.random.key(0)), inputs()
    weights = jax.random.normal(jax.random.key(2), (TIME, BATCH, HIDDEN))
    found = state_gradients(cell, params, xs, lambda ys: (weights * ys**2).sum())
    state = cell.initial_state(params, (BATCH,))
    for t in range(TIME):

        def rest(state: Any, t: int = t) -> Any:
            total = 0.0
            for k in range(t, TIME):
                state, y = cell.step(params, state, xs[k])
                total += (weights[k] * y**2).sum()
            return total

        expected = jax.grad(rest)(state)
        jax.tree.map(
            lambda a, b, t=t: np.testing.assert_allclose(a[t], b, rtol=1e-4, atol=1e-6),
            *(found, expected),
        )
        state, _ = cell.step(params, state, xs[t])


def test_step_jacobians_of_an_elman_network_have_the_closed_form() -> None:
    cell = recurrent.elman(INPUT, HIDDEN)
    params, xs = cell.init(jax.random.key(0)), inputs()
    _, hs = recurrent.unroll(cell, params, xs)
    kernel = np.asarray(params["recurrent"]["kernel"])
    expected = (1 - np.asarray(hs)[..., None] ** 2) * kernel.T
    np.testing.assert_allclose(step_jacobians(cell, params, xs), expected, atol=1e-6)


def test_jacobians_carry_a_gradient_back_as_backpropagation_does() -> None:
    cell = recurrent.lstm(INPUT, HIDDEN)
    params, xs = cell.init(jax.random.key(0)), inputs()
    gradients = state_gradients(cell, params, xs, lambda ys: ys[-1].sum())
    flat = jax.vmap(jax.vmap(lambda leaf: ravel_pytree(leaf)[0]))(gradients)
    jacobians = step_jacobians(cell, params, xs)
    expected = jnp.einsum("tbij,tbi->tbj", jacobians[:-1], flat[1:])
    np.testing.assert_allclose(flat[:-1], expected, rtol=1e-4, atol=1e-6)


def test_products_are_those_of_numpy_and_do_not_overflow() -> None:
    jacobians = np.random.default_rng(0).normal(size=(TIME, BATCH, HIDDEN, HIDDEN))
    found = jacobian_products(jnp.asarray(jacobians, jnp.float32))
    product = np.eye(HIDDEN)
    for t in range(TIME):
        product = jacobians[t] @ product
        scale = np.exp(np.asarray(found.log_norm[t]))[:, None, None]
        np.testing.assert_allclose(found.matrix[t] * scale, product, rtol=1e-3, atol=1e-3)
    huge = jacobian_products(jnp.full((300, 1, 1), 1e5))
    np.testing.assert_allclose(huge.log_norm[-1], 300 * math.log(1e5), rtol=1e-5)
    gone = jacobian_products(jnp.zeros((3, 2, 2)))
    assert np.isneginf(np.asarray(gone.log_norm)).all()
    assert np.isfinite(np.asarray(gone.matrix)).all()


def test_singular_values_and_radius_are_those_of_numpy() -> None:
    jacobians = np.random.default_rng(0).normal(size=(TIME, HIDDEN, HIDDEN)).astype(np.float32)
    expected = np.linalg.svd(jacobians, compute_uv=False)
    np.testing.assert_allclose(singular_values(jacobians), expected, rtol=1e-4, atol=1e-5)
    radii = abs(np.linalg.eigvals(jacobians)).max(-1)
    np.testing.assert_allclose(spectral_radius(jacobians), radii, rtol=1e-4)


@pytest.mark.long
def test_an_orthogonal_matrix_lets_gradients_through_at_any_lag() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    cell, params = linear(turn.astype(np.float32))
    xs = jnp.ones((200, 2, 2))
    sizes = gradient_by_lag(cell, params, xs, jax.random.key(1))
    np.testing.assert_allclose(sizes, 1, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("activation", ["tanh", "linear"])
def test_gradients_fall_by_lag_at_the_rate_of_the_largest_exponent(activation: str) -> None:
    """Both measure the same rate, one backwards from the last output, one forwards."""
    cell = recurrent.elman(
        4, 32, activation=jnp.tanh if activation == "tanh" else lambda z: z
    )  # the initial kernel is orthogonal, so it is scaled
    params = cell.init(jax.random.key(0))
    kernel = np.random.default_rng(0).normal(size=(32, 32)) * 0.9 / np.sqrt(32)
    params["recurrent"]["kernel"] = jnp.asarray(kernel, jnp.float32)
    xs = 0.3 * jax.random.normal(jax.random.key(1), (400, 1, 4))
    sizes = np.log(np.asarray(gradient_by_lag(cell, params, xs, jax.random.key(2)))[:, 0])
    lags = np.arange(50, 150)
    slope = np.polyfit(lags, sizes[lags], 1)[0]
    exponent = float(
        lyapunov_exponents(cell, params, xs, jax.random.key(3), count=1, warmup=100)[0, 0]
    )
    assert slope < 0
    assert slope == pytest.approx(exponent, rel=0.1)


@pytest.mark.long
def test_the_exponent_of_a_linear_cell_is_the_log_of_its_spectral_radius() -> None:
    with jax.enable_x64(True):
        kernel = np.array([[0.9, 5.0, -1.0], [0.0, 0.5, 2.0], [0.0, 0.0, -0.2]])
        cell, params = linear(kernel)
        xs = jnp.ones((400, 2))
        found = lyapunov_exponents(cell, params, xs, jax.random.key(0), warmup=300)
        np.testing.assert_allclose(found, np.log([0.9, 0.5, 0.2]), rtol=0, atol=1e-10)


@pytest.mark.long
def test_one_exponent_by_products_with_vectors_is_that_of_all_by_jacobians() -> None:
    with jax.enable_x64(True):
        cell = recurrent.gru(INPUT, HIDDEN)
        params = jax.tree.map(lambda leaf: leaf.astype(float), cell.init(jax.random.key(0)))
        xs = jax.random.normal(jax.random.key(1), (300, INPUT), float)
        one = lyapunov_exponents(cell, params, xs, jax.random.key(2), count=1, warmup=100)
        q = np.linalg.qr(jax.random.normal(jax.random.key(2), (HIDDEN, HIDDEN), float))[0]
        logs = []
        for jacobian in np.asarray(step_jacobians(cell, params, xs)):
            q, r = np.linalg.qr(jacobian @ q)
            logs.append(np.log(abs(np.diagonal(r))))
        np.testing.assert_allclose(one[0], np.mean(logs[100:], 0)[0], atol=1e-6)
        every = lyapunov_exponents(cell, params, xs, jax.random.key(2), warmup=100)
        np.testing.assert_allclose(every, np.mean(logs[100:], 0), atol=1e-6)


def map_as_cell(step: Callable[[Any], Any], start: Any) -> Cell:
    """Return a cell that repeats a map and reads nothing of its inputs."""
    first = jnp.asarray(start, jnp.float32)
    return Cell(
        init=lambda key: {},
        initial_state=lambda params, batch: jnp.broadcast_to(first, (*batch, *first.shape)),
        step=lambda params, state, x: (step(state), state),
        input_shape=(1,),
    )


def test_the_logistic_map_has_the_exponent_log_two() -> None:
    """Of ``4 x (1 - x)``, exactly; see Strogatz, Nonlinear dynamics and chaos, section 10.5."""
    cell = map_as_cell(lambda x: 3.99999 * x * (1 - x), [0.3])
    found = lyapunov_exponents(cell, {}, jnp.zeros((20_000, 1)), jax.random.key(0))
    assert float(found[0]) == pytest.approx(math.log(2), abs=0.02)


def test_the_henon_map_has_its_published_exponents() -> None:
    """Of a = 1.4, b = .3: .4192 and -1.6232 (Sprott 2003, Chaos and time-series analysis)."""
    cell = map_as_cell(
        lambda s: jnp.stack([1 - 1.4 * s[..., 0] ** 2 + s[..., 1], 0.3 * s[..., 0]], -1),
        [0.1, 0.1],
    )
    found = lyapunov_exponents(cell, {}, jnp.zeros((20_000, 1)), jax.random.key(0), warmup=100)
    np.testing.assert_allclose(found, [0.4192, -1.6232], atol=0.01)
    assert float(found.sum()) == pytest.approx(math.log(0.3), abs=1e-4)  # the area shrinks so


@pytest.mark.long
def test_a_batch_gives_what_its_sequences_give_alone() -> None:
    cell = recurrent.lstm(INPUT, HIDDEN)
    params, xs = cell.init(jax.random.key(0)), inputs()
    key = jax.random.key(3)
    both = lyapunov_exponents(cell, params, xs, key, count=2)
    assert both.shape == (BATCH, 2)
    jacobians = step_jacobians(cell, params, xs.reshape(TIME, 1, BATCH, INPUT))
    for b in range(BATCH):
        alone = lyapunov_exponents(cell, params, xs[:, b], key, count=2)
        np.testing.assert_allclose(both[b], alone, rtol=1e-4, atol=1e-5)
        one = step_jacobians(cell, params, xs[:, b])
        np.testing.assert_allclose(jacobians[:, 0, b], one, rtol=1e-5, atol=1e-6)


def test_what_has_no_jacobian_is_refused() -> None:
    counter = Cell(
        init=lambda key: {},
        initial_state=lambda params, batch: (jnp.zeros(batch), jnp.zeros(batch, jnp.int32)),
        step=lambda params, state, x: ((state[0], state[1] + 1), state[0]),
        input_shape=(INPUT,),
    )
    with pytest.raises(ValueError, match=r"floating-point numbers alone, got float32, int32; .*"):
        step_jacobians(counter, {}, inputs())
    gru = recurrent.gru(INPUT, HIDDEN)
    params = gru.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"xs: expected the shape \[T, ..., 4\]"):
        state_gradients(gru, params, jnp.ones((5, 3)), jnp.sum)
    with pytest.raises(ValueError, match="count: expected at most N = 5"):
        lyapunov_exponents(gru, params, inputs(), jax.random.key(0), count=6)
    with pytest.raises(ValueError, match="warmup: expected 0 to 5 of 6 steps"):
        lyapunov_exponents(gru, params, inputs(), jax.random.key(0), warmup=6)
    with pytest.raises(ValueError, match=r"jacobians: expected the shape \[T, ..., N, N\]"):
        spectral_radius(jnp.ones((3, 2)))


@pytest.mark.long
@pytest.mark.parametrize("factor", [1e-3, 0.5, 2.0, 1e3])
def test_gradients_of_any_size_have_their_logs(factor: float) -> None:
    """In float32, where factor^300 is 0 or infinite from lag 13 or 128 on."""
    cell, params = linear(factor * jnp.eye(3))
    logs = log_gradient_by_lag(cell, params, jnp.ones((300, 2, 2)), jax.random.key(0))
    expected = np.arange(1, 301)[:, None] * math.log(factor)
    np.testing.assert_allclose(logs, np.broadcast_to(expected, (300, 2)), rtol=1e-4)


@pytest.mark.long
def test_sizes_by_lag_are_those_of_backpropagation_down_to_the_smallest_numbers() -> None:
    cell, params = linear(0.5 * jnp.eye(2))
    xs, key = jnp.ones((121, 1, 2)), jax.random.key(0)
    sizes = gradient_by_lag(cell, params, xs, key)
    v = jax.random.normal(key, (1, 2))
    found = state_gradients(cell, params, xs, lambda ys: (ys[-1] * v).sum() / jnp.linalg.norm(v))
    largest = abs(found.hidden).max((1, 2))[::-1]
    expected = largest * jnp.linalg.norm(found.hidden[0, 0] / largest[-1])
    np.testing.assert_allclose(sizes[:, 0], expected, rtol=1e-3)
    assert float(sizes[-1, 0]) < 1e-35


def test_a_gradient_that_is_stopped_has_the_log_of_zero() -> None:
    cell, params = linear(jnp.zeros((2, 2)))
    logs = log_gradient_by_lag(cell, params, jnp.ones((4, 2)), jax.random.key(0))
    assert np.isneginf(logs).all()


@pytest.mark.long
def test_a_direction_that_is_lost_costs_its_step_alone() -> None:
    """A dead rectifier within the warm-up leaves nothing of one vector, and of all of a base."""

    def step(h: Any, x: Any) -> Any:
        return jnp.array([0.9, 0.8]) * h * x

    cell = Cell(lambda key: {}, lambda params, shape: jnp.ones((*shape, 2)),
                lambda params, h, x: (step(h, x), h), ())  # fmt: skip
    xs = jnp.ones(400).at[10].set(0.0)
    whole = lyapunov_exponents(cell, {}, xs, jax.random.key(0), warmup=50)
    one = lyapunov_exponents(cell, {}, xs, jax.random.key(0), warmup=50, count=1)
    np.testing.assert_allclose(whole, np.log([0.9, 0.8]), rtol=1e-3)
    np.testing.assert_allclose(one, np.log([0.9]), rtol=0.05)
    lost = lyapunov_exponents(cell, {}, xs, jax.random.key(0), warmup=5, count=1)
    assert np.isneginf(lost).all()


def test_exponents_of_a_short_sequence_are_sorted_too() -> None:
    cell, params = linear(jnp.diag(jnp.array([0.2, 0.5, 0.9])))
    found = lyapunov_exponents(cell, params, jnp.ones((5, 2)), jax.random.key(3))
    assert (np.diff(found) <= 0).all()


@pytest.mark.long
@pytest.mark.parametrize("count", [None, 1, 2])
def test_narrow_states_have_exponents(count: int | None) -> None:
    cell, params = linear(jnp.diag(jnp.array([0.5, 0.25])).astype(jnp.bfloat16))
    xs = jnp.ones((60, 2), jnp.bfloat16)
    found = lyapunov_exponents(cell, params, xs, jax.random.key(0), count=count, warmup=20)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(found), [0.5, 0.25][: len(found)], rtol=0.02)
    jacobians = step_jacobians(cell, params, xs)
    np.testing.assert_allclose(singular_values(jacobians)[0], [0.5, 0.25])
    np.testing.assert_allclose(spectral_radius(jacobians)[0], 0.5)


@pytest.mark.long
def test_tokens_are_read_too() -> None:
    cell = recurrent.stack(recurrent.embedding(5, 3), recurrent.elman(3, 4), input_shape=())
    params = cell.init(jax.random.key(0))
    tokens = jnp.arange(12).reshape(6, 2) % 5
    sizes = gradient_by_lag(cell, params, tokens, jax.random.key(0))
    assert sizes.shape == (6, 2)
    assert np.isfinite(sizes).all()


@pytest.mark.parametrize(
    ("xs", "said"),
    [
        (jnp.ones((0, 2)), "xs: expected one step or more, got none"),
        (jnp.ones(()), r"xs: expected the shape \[T, ..., 2\], got \[\]"),
        (jnp.ones(2), r"xs: expected the shape \[T, ..., 2\], got \[2\]"),
    ],
)
def test_inputs_that_are_no_sequence_are_refused(xs: Any, said: str) -> None:
    cell, params = linear(jnp.eye(2))
    for function in (log_gradient_by_lag, lyapunov_exponents):
        with pytest.raises(ValueError, match=said):
            function(cell, params, xs, jax.random.key(0))


@pytest.mark.long
def test_lists_are_sequences() -> None:
    cell, params = linear(0.5 * jnp.eye(2))
    found = state_gradients(cell, params, [[1.0, 1.0]] * 3, lambda ys: ys[-1].sum())
    np.testing.assert_allclose(found.hidden, np.array([0.125, 0.25, 0.5])[:, None] * np.ones(2))
