"""Compare cells of linear recurrences with NumPy loops written from the papers' equations."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from recurrent.cell import Cell, unroll
from recurrent.cells.deltanet import gated_deltanet
from recurrent.cells.linear import min_gru, min_lstm, rg_lru
from recurrent.cells.state_space import diagonal_s5, lru, selective_ssm
from tests.recurrent.cases import disturbed, values_and_gradients

TIME, INPUT, HIDDEN = 11, 4, 6


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def softplus(z: Any) -> Any:
    return np.log(1 + np.exp(z))


def affine(params: Any, x: Any) -> Any:
    return x @ params["kernel"] + params.get("bias", 0)


# The equations in NumPy for one example and one step: (params, h, x) -> (h, y).


def min_gru_step(p: Any, h: Any, x: Any, positive: bool = False) -> Any:
    update, candidate = np.split(affine(p["input"], x), 2)
    if positive:
        candidate = [u + 0.5 if u >= 0 else sigmoid(u) for u in candidate]
    z = sigmoid(update)
    h = (1 - z) * h + z * np.array(candidate)
    return h, h


def min_lstm_step(p: Any, h: Any, x: Any, forget_bias: float = 1.0) -> Any:
    forget, write, candidate = np.split(affine(p["input"], x), 3)
    f, i = sigmoid(forget + forget_bias), sigmoid(write)
    h = f / (f + i) * h + i / (f + i) * candidate
    return h, h


def complex_kernels(p: Any) -> tuple[Any, Any]:
    """Return B ``[N, D]`` and C ``[H, N]``."""
    real, imag = np.split(p["input"]["kernel"], 2, axis=1)
    out_real, out_imag = np.split(p["output"]["kernel"], 2, axis=0)
    return (real + 1j * imag).T, (out_real - 1j * out_imag).T


def lru_step(p: Any, h: Any, x: Any) -> Any:
    b, c = complex_kernels(p)
    nu, theta = p["eigenvalues"]["log_decay"], p["eigenvalues"]["log_phase"]
    radius, phase = np.exp(-np.exp(nu)), np.exp(theta)
    eigenvalue = radius * (np.cos(phase) + 1j * np.sin(phase))
    h = eigenvalue * h + np.exp(p["input"]["log_gain"]) * (b @ x)
    return h, (c @ h).real + x @ p["skip"]["kernel"]


def s5_step(p: Any, h: Any, x: Any) -> Any:
    b, c = complex_kernels(p)
    eigenvalue = -np.exp(p["eigenvalues"]["log_decay"]) + 1j * p["eigenvalues"]["frequency"]
    a = np.exp(eigenvalue * np.exp(p["step"]["log_step"]))
    h = a * h + (a - 1) / eigenvalue * (b @ x)
    return h, 2 * (c @ h).real + x @ p["skip"]["kernel"]


def rg_lru_step(p: Any, h: Any, x: Any) -> Any:
    u = affine(p["input"], x) if "input" in p else x
    r, i = np.split(sigmoid(affine(p["gates"], u)), 2)
    a = sigmoid(p["decay"]["logit"]) ** (8 * r)
    h = a * h + np.sqrt(1 - a**2) * (i * u)
    return h, h


def selective_step(p: Any, s: Any, x: Any) -> Any:
    u = x @ p["input"]["kernel"] if "input" in p else x
    rank, states = len(p["step"]["kernel"]), s.shape[-1]
    low, b, c = np.split(u @ p["select"]["kernel"], [rank, rank + states])
    delta = softplus(affine(p["step"], low))
    new, y = np.zeros_like(s), np.zeros_like(u)
    for channel in range(len(u)):
        for n in range(states):
            decay = np.exp(-delta[channel] * np.exp(p["decay"]["log_rate"][channel, n]))
            new[channel, n] = decay * s[channel, n] + delta[channel] * b[n] * u[channel]
            y[channel] += c[n] * new[channel, n]
    return new, y + p["skip"]["gain"] * u


def deltanet_step(p: Any, memory: Any, x: Any) -> Any:
    heads, keys, values = memory.shape
    mixed = x @ p["input"]["kernel"]
    mixed = mixed * sigmoid(mixed)
    q, k, v = np.split(mixed, [heads * keys, 2 * heads * keys])
    forget, write = np.split(affine(p["gates"], x), 2)
    new, y = np.zeros_like(memory), []
    for n in range(heads):
        q_n, k_n = (u[n * keys : (n + 1) * keys] for u in (q, k))
        q_n, k_n = (u / np.sqrt(u @ u + 1e-6) for u in (q_n, k_n))
        v_n = v[n * values : (n + 1) * values]
        alpha = np.exp(-np.exp(p["decay"]["log_rate"][n]) * softplus(forget[n]))
        beta = sigmoid(write[n])
        transition = alpha * (np.eye(keys) - beta * np.outer(k_n, k_n))
        new[n] = transition @ memory[n] + beta * np.outer(k_n, v_n)
        y.append(new[n].T @ q_n)
    return new, np.concatenate(y)


class Reference(NamedTuple):
    """Hold the function that makes a cell, and the cell's step in NumPy."""

    make: Callable[[int, int], Cell]
    step: Callable[..., Any]


REFERENCES = {
    "min_gru": Reference(min_gru, min_gru_step),
    "min_gru positive": Reference(
        partial(min_gru, candidate="positive"), partial(min_gru_step, positive=True)
    ),
    "min_lstm": Reference(min_lstm, min_lstm_step),
    "min_lstm without forget bias": Reference(
        partial(min_lstm, forget_bias=0.0), partial(min_lstm_step, forget_bias=0.0)
    ),
    "lru": Reference(lru, lru_step),
    "lru of 3 states": Reference(partial(lru, state_size=3), lru_step),
    "diagonal_s5": Reference(diagonal_s5, s5_step),
    "diagonal_s5 of 2 blocks": Reference(
        partial(diagonal_s5, state_size=8, blocks=2, max_step=1.0), s5_step
    ),
    "rg_lru": Reference(rg_lru, rg_lru_step),
    "rg_lru alone": Reference(
        lambda _, hidden: rg_lru(hidden, hidden, projection=False), rg_lru_step
    ),
    "selective_ssm": Reference(partial(selective_ssm, state_size=3, step_rank=2), selective_step),
    "selective_ssm alone": Reference(
        lambda _, hidden: selective_ssm(hidden, hidden, projection=False), selective_step
    ),
    "gated_deltanet": Reference(partial(gated_deltanet, chunk_size=4), deltanet_step),
    "gated_deltanet of 3 heads": Reference(
        partial(gated_deltanet, heads=3, key_size=5, chunk_size=64), deltanet_step
    ),
}


CELLS = [name for name in REFERENCES if " " not in name]


def example(name: str, batch: tuple[int, ...]) -> tuple[Cell, Any, Any, Any, Any, Any]:
    """Return a cell, and random params, state, inputs, mask and resets."""
    rng = np.random.default_rng(len(name))
    cell = REFERENCES[name].make(INPUT, HIDDEN)
    params = disturbed(rng, drawn(name))
    state = disturbed(rng, cell.initial_state(params, batch), amount=1.0)
    xs = rng.normal(size=(TIME, *batch, *cell.input_shape))
    mask, reset = (rng.random((TIME, *batch)) < share for share in (0.8, 0.2))
    return cell, params, state, xs, mask, reset


@lru_cache
def drawn(name: str) -> Any:
    return jax.device_get(REFERENCES[name].make(INPUT, HIDDEN).init(jax.random.key(3)))


def as_number(state: Any) -> Any:
    return state[0] + 1j * state[1] if len(state) == 2 else state[0]


def numpy_loop(
    step: Any, params: Any, state: Any, xs: Any, mask: Any, reset: Any, reverse: bool
) -> tuple[Any, Any]:
    h, ys = state, np.zeros((len(xs), HIDDEN))
    for t in range(len(xs))[:: -1 if reverse else 1]:
        if mask[t]:
            h = np.zeros_like(h) if reset[t] else h
            h, ys[t] = step(params, h, xs[t])
    return h, ys


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "reverse"),
    [*((name, False) for name in REFERENCES), *((name, True) for name in CELLS)],
)
def test_auto_and_scan_equal_a_numpy_loop(name: str, reverse: bool) -> None:
    batch = () if reverse else (2,)
    cell, params, state, xs, mask, reset = example(name, batch)

    @jax.jit
    def run(params, state, xs):
        options = {"mask": mask, "reset": reset, "reverse": reverse}
        return [unroll(cell, params, xs, state, method=m, **options) for m in ("auto", "scan")]

    for last, ys in run(params, state, xs):
        for index in np.ndindex(*batch):
            wanted_last, wanted_ys = numpy_loop(
                REFERENCES[name].step,
                params,
                as_number(state)[index],
                *[array[:, *index] for array in (xs, mask, reset)],
                reverse=reverse,
            )
            np.testing.assert_allclose(ys[:, *index], wanted_ys, rtol=1e-10, atol=1e-11)
            np.testing.assert_allclose(as_number(last)[index], wanted_last, rtol=1e-10, atol=1e-11)


@pytest.mark.long
@pytest.mark.parametrize("name", CELLS)
def test_auto_equals_scan_in_values_and_all_gradients(name: str) -> None:
    cell, params, state, xs, mask, reset = example(name, (2, 3))
    with_nan = np.where(mask[..., None], xs, np.nan)

    def of(method: Any, reverse: bool) -> Any:
        def run(params, state, xs):
            options = {"mask": mask, "reset": reset, "reverse": reverse}
            return unroll(cell, params, xs, state, method=method, **options)

        return values_and_gradients(run, params, state, with_nan)

    fast, plain = jax.jit(lambda: [of(method, True) for method in ("auto", "scan")])()
    chex.assert_trees_all_close(fast, plain, rtol=1e-10, atol=1e-11)
    chex.assert_tree_all_finite(fast)
    np.testing.assert_array_equal(fast[1][2][~mask], 0)


@pytest.mark.long
@pytest.mark.parametrize("name", CELLS)
def test_linear_cells_in_bfloat16_are_close_to_float32(name: str) -> None:
    _, params, _, xs, mask, _ = example(name, (2,))
    plain, narrow = make(name), make(name, compute_dtype=jnp.bfloat16)

    @jax.jit
    def run(params, xs):
        single = jax.tree.map(jnp.float32, (params, xs))
        rounded = jax.tree.map(jnp.bfloat16, (params, xs))
        exact = unroll(plain, *single, mask=mask)
        of_rounded = unroll(plain, *jax.tree.map(jnp.float32, rounded), mask=mask)
        all_narrow, products = (
            unroll(plain, *rounded, mask=mask),
            unroll(narrow, *single, mask=mask),
        )
        return [(all_narrow, of_rounded), (products, exact)]

    dtypes = jnp.bfloat16, jnp.float32
    for ((state, ys), (_, exact)), dtype in zip(run(params, xs), dtypes, strict=True):
        assert {leaf.dtype for leaf in (*state, ys)} == {jnp.dtype(dtype)}
        error = np.max(np.abs(ys.astype(float) - exact))
        assert 0 < error < 0.03 * np.max(np.abs(exact))


def make(name: str, **options: Any) -> Cell:
    factory: Any = REFERENCES[name].make
    return factory(INPUT, HIDDEN, **options)


# Initial values and extreme cases.


@pytest.mark.long
def test_lru_eigenvalues_fill_a_ring_evenly() -> None:
    params = lru(3, 4, state_size=4000, min_radius=0.4, max_radius=0.9, max_phase=1.5).init(
        jax.random.key(0)
    )
    radius = np.exp(-np.exp(params["eigenvalues"]["log_decay"]))
    phase = np.exp(params["eigenvalues"]["log_phase"])
    assert radius.min() >= 0.4
    assert radius.max() <= 0.9
    # Uniform by area: half of the eigenvalues lie inside the radius that halves the ring.
    assert np.mean(radius**2 < (0.4**2 + 0.9**2) / 2) == pytest.approx(0.5, abs=0.03)
    assert phase.max() <= 1.5
    assert np.mean(phase) == pytest.approx(0.75, abs=0.03)
    gain = np.exp(params["input"]["log_gain"])
    np.testing.assert_allclose(gain**2 + radius**2, 1, rtol=1e-10)


@pytest.mark.long
def test_lru_states_under_white_noise_have_unit_variance() -> None:
    cell = lru(16, 2, state_size=200, min_radius=0.5, max_radius=0.95)
    params = cell.init(jax.random.key(1))
    xs = np.random.default_rng(0).normal(size=(100, 40, 16))
    state, _ = jax.jit(partial(unroll, cell))(params, xs)
    assert np.mean(np.abs(as_number(state)) ** 2) == pytest.approx(1, rel=0.1)


def hippo_normal(size: int) -> np.ndarray:
    """Return the matrix of HiPPO-LegS plus ``p p^T``, entry by entry."""
    matrix = np.zeros((size, size))
    for n in range(size):
        for k in range(size):
            if n > k:
                matrix[n, k] = -np.sqrt((2 * n + 1) * (2 * k + 1))
            if n == k:
                matrix[n, k] = -(n + 1)
            matrix[n, k] += np.sqrt((n + 0.5) * (k + 0.5))
    return matrix


@pytest.mark.long
@pytest.mark.parametrize("blocks", [1, 2])
def test_s5_starts_at_the_eigenvalues_of_hippo(blocks: int) -> None:
    params = diagonal_s5(3, 4, state_size=16, blocks=blocks).init(jax.random.key(0))
    spectrum: Any = np.linalg.eigvals(hippo_normal(16 // blocks))
    frequencies = np.sort(np.tile(spectrum.imag[spectrum.imag > 0], blocks))
    np.testing.assert_allclose(np.sort(params["eigenvalues"]["frequency"]), frequencies, rtol=1e-10)
    np.testing.assert_allclose(-np.exp(params["eigenvalues"]["log_decay"]), spectrum.real[0])
    steps = np.exp(params["step"]["log_step"])
    assert steps.min() >= 0.001
    assert steps.max() <= 0.1


@pytest.mark.long
def test_s5_equals_the_equivalent_dense_real_system() -> None:
    size, step = 6, 0.3
    rng = np.random.default_rng(2)
    dense, b, c = hippo_normal(size), rng.normal(size=(size, INPUT)), rng.normal(size=(2, size))
    eigenvalues: Any
    eigenvalues, basis = np.linalg.eig(dense)
    half = eigenvalues.imag > 0
    b_half, c_half = (np.linalg.inv(basis) @ b)[half], (c @ basis)[:, half]
    cell = diagonal_s5(INPUT, 2, state_size=size)
    params = {
        "eigenvalues": {
            "log_decay": np.log(-eigenvalues.real[half]),
            "frequency": eigenvalues.imag[half],
        },
        "step": {"log_step": np.full(size // 2, np.log(step))},
        "input": {"kernel": np.concatenate([b_half.real, b_half.imag]).T},
        "output": {"kernel": np.concatenate([c_half.real, -c_half.imag], axis=1).T},
        "skip": {"kernel": np.zeros((INPUT, 2))},
    }
    chex.assert_trees_all_equal_shapes(params, cell.init(jax.random.key(0)))
    xs = rng.normal(size=(TIME, INPUT))
    _, ys = jax.jit(partial(unroll, cell))(params, xs)
    # The zero-order hold of [x; u]' = [[A, B], [0, 0]] [x; u] is one matrix exponential.
    joint = np.zeros((size + INPUT, size + INPUT))
    joint[:size] = np.concatenate([dense, b], axis=1)
    held = scipy.linalg.expm(step * joint)[:size]
    state, wanted = np.zeros(size), []
    for x in xs:
        state = held @ np.concatenate([state, x])
        wanted.append(c @ state)
    np.testing.assert_allclose(ys, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.long
def test_s5_matrices_start_lecun_normal_in_an_orthonormal_basis() -> None:
    wide, tall = diagonal_s5(1000, 3, state_size=8), diagonal_s5(3, 1000, state_size=8)
    b, _ = complex_kernels(jax.jit(wide.init)(jax.random.key(0)))
    np.testing.assert_allclose(b @ b.conj().T, np.eye(4), atol=0.15)
    np.testing.assert_allclose(b @ b.T, 0, atol=0.15)
    _, c = complex_kernels(jax.jit(tall.init)(jax.random.key(0)))
    np.testing.assert_allclose(c.conj().T @ c, 1000 / 8 * np.eye(4), atol=25)


@pytest.mark.long
def test_rg_lru_decays_start_between_their_bounds() -> None:
    params = rg_lru(3, 600).init(jax.random.key(0))
    decay = sigmoid(params["decay"]["logit"]) ** 8
    assert decay.min() >= 0.9 - 1e-9
    assert decay.max() <= 0.999 + 1e-9
    assert np.mean(decay) == pytest.approx(0.9495, abs=0.005)


@pytest.mark.parametrize("make", [selective_ssm, gated_deltanet], ids=["ssm", "deltanet"])
def test_step_sizes_start_log_uniform(make: Any) -> None:
    options = {} if make is selective_ssm else {"heads": 600}
    params = make(3, 600, **options).init(jax.random.key(0))
    bias = params["step"]["bias"] if make is selective_ssm else params["gates"]["bias"][:600]
    steps = softplus(np.float64(bias))
    assert steps.min() >= 0.001 - 1e-9
    assert steps.max() <= 0.1 + 1e-9
    assert np.mean(np.log10(steps)) == pytest.approx(-2, abs=0.08)


@pytest.mark.long
def test_selective_ssm_decay_rates_start_at_one_to_the_state_size() -> None:
    params = selective_ssm(3, 5, state_size=4).init(jax.random.key(0))
    rates = np.exp(params["decay"]["log_rate"])
    np.testing.assert_allclose(rates, np.tile([1, 2, 3, 4], (5, 1)))


@pytest.mark.parametrize("name", ["min_gru", "min_lstm", "rg_lru"])
def test_saturated_gates_have_finite_gradients_in_float32(name: str) -> None:
    size = 1e5
    cell, params, _, _, _, _ = example(name, (2,))
    xs = np.random.default_rng(0).choice([-size, size], size=(TIME, 2, INPUT))

    @jax.jit
    def run(params, xs):
        return jax.value_and_grad(lambda p: (unroll(cell, p, xs)[1] / size).sum())(params)

    chex.assert_tree_all_finite(run(*jax.tree.map(np.float32, (params, xs))))


def test_closed_rg_lru_gates_hold_the_state() -> None:
    cell, params, state, xs, _, _ = example("rg_lru", (2,))
    params["gates"]["bias"] = np.full_like(params["gates"]["bias"], -1e4)
    (last, _), of_params = jax.jit(
        lambda p: (unroll(cell, p, xs, state), jax.grad(lambda p: cell_sum(cell, p, xs))(p))
    )(params)
    np.testing.assert_array_equal(last.hidden, state.hidden)
    chex.assert_tree_all_finite(of_params)


def cell_sum(cell: Cell, params: Any, xs: Any) -> Any:
    return unroll(cell, params, xs)[1].sum()


@pytest.mark.parametrize("name", CELLS)
def test_a_linear_cell_size_below_one_is_an_error(name: str) -> None:
    make = REFERENCES[name].make
    with pytest.raises(ValueError, match="input_size: expected at least 1, got 0"):
        make(0, HIDDEN)
    with pytest.raises(ValueError, match="hidden_size: expected at least 1, got 0"):
        make(INPUT, 0)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: make("min_gru", candidate="tanh"), "candidate: expected .* got 'tanh'"),
        (lambda: make("min_lstm", candidate="tanh"), "candidate: expected .* got 'tanh'"),
        (lambda: lru(2, 3, max_radius=1.1), "min_radius, max_radius: expected .* 1.1"),
        (lambda: lru(2, 3, min_radius=0.9, max_radius=0.8), "min_radius.* got 0.9 and 0.8"),
        (lambda: lru(2, 3, state_size=0), "state_size: expected at least 1, got 0"),
        (lambda: diagonal_s5(2, 3, state_size=5), "state_size: expected a multiple of .* 2"),
        (lambda: diagonal_s5(2, 3, state_size=6, blocks=2), "expected a multiple of .* 4, got 6"),
        (lambda: diagonal_s5(2, 3, min_step=0), "min_step, max_step: expected 0 <"),
        (lambda: rg_lru(2, 3, projection=False), "projection: .* got False for 2 and 3"),
        (lambda: rg_lru(2, 3, max_decay=1.0), "min_decay, max_decay: expected .* 1.0"),
        (lambda: selective_ssm(2, 3, projection=False), "projection: .* got False for 2 and 3"),
        (lambda: selective_ssm(2, 3, min_step=1.0), "min_step, max_step: expected"),
        (lambda: selective_ssm(2, 3, state_size=0), "state_size: expected at least 1, got 0"),
        (lambda: rg_lru(2, 3, kernel_init="orthogonl"), 'kernel_init: .* mean "orthogonal"'),
        (lambda: gated_deltanet(2, 3, heads=2), "heads: expected a divisor of 3, got 2"),
        (lambda: gated_deltanet(2, 4, key_size=0), "key_size: expected at least 1, got 0"),
        (lambda: gated_deltanet(2, 4, chunk_size=0), "chunk_size: expected at least 1, got 0"),
        (lambda: gated_deltanet(2, 4, max_step=0.0), "min_step, max_step: expected"),
    ],
)
def test_invalid_linear_cell_options_are_an_error(make: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()
