"""Compare `linear_scan` and `gated_delta_scan` with NumPy loops, closed forms and autodiff."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from recurrent.cells.deltanet import gated_delta_scan
from recurrent.linear_scans import linear_scan

METHODS: list[Any] = ["serial", "chunked", "associative"]
RNG = np.random.default_rng


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def numpy_loop(a: Any, b: Any, h0: Any, resets: Any = None, fresh: Any = 0.0) -> np.ndarray:
    """Compute the definition step by step; all arguments have the same rank."""
    a, b = np.broadcast_arrays(a, b)
    hs, h = [], np.broadcast_to(h0, b.shape[1:])
    for t in range(len(b)):
        if resets is not None:
            flags = resets[t].reshape(resets[t].shape + (1,) * (h.ndim - resets[t].ndim))
            h = np.where(flags, fresh, h)
        h = a[t] * h + b[t]
        hs.append(h)
    return np.array(hs).reshape(b.shape)


def lax_loop(a: Any, b: Any, h0: Any) -> Any:
    """Compute the definition by a serial scan, for gradients by autodiff."""

    def body(h, inputs):
        h = inputs[0] * h + inputs[1]
        return h, h

    a, b = jnp.broadcast_arrays(a, b)
    return lax.scan(body, h0, (a, b))[1]


def problem(time: int, *shape: int, dtype: Any = float, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = RNG(seed)
    modulus = rng.uniform(-1.1, 1.1, (time, *shape))
    b, h0 = rng.normal(size=(time, *shape)), rng.normal(size=shape)
    if dtype is float:
        return modulus, b, h0
    turn = np.exp(1j * rng.uniform(0, 6, (time, *shape)))
    return modulus * turn, b + 1j * rng.normal(size=b.shape), h0 - 2j * h0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("time", "dtype"), [(1, float), (16, float), (21, float), (21, complex)])
def test_linear_scan_states_equal_a_numpy_loop(method: Any, dtype: Any, time: int) -> None:
    @jax.jit
    def run(a, b, h0):
        both = partial(linear_scan, a, b, h0, method=method, chunk_size=8)
        return both(), both(reverse=True)

    a, b, h0 = problem(time, 3, 2, dtype=dtype)
    forwards, backwards = run(a, b, h0)
    np.testing.assert_allclose(forwards, numpy_loop(a, b, h0), rtol=1e-12, atol=1e-12)
    expected = numpy_loop(a[::-1], b[::-1], h0)[::-1]
    np.testing.assert_allclose(backwards, expected, rtol=1e-12, atol=1e-12)
    assert forwards.dtype == dtype


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reverse", [False, True])
def test_linear_scan_of_no_steps_gives_no_states_and_a_zero_gradient(
    method: Any, reverse: bool
) -> None:
    a, b, h0 = problem(0, 3)
    run = partial(linear_scan, method=method, reverse=reverse)
    hs, pull_back = jax.vjp(run, a, b, h0)
    assert hs.shape == (0, 3)
    np.testing.assert_array_equal(pull_back(hs)[2], np.zeros(3))


def test_linear_scan_of_a_constant_input_gives_a_geometric_series() -> None:
    a, time = 0.75, 30
    hs = linear_scan(a, np.full((time, 2), [1.0, -3.0]), np.array([0.0, 5.0]))
    t = np.arange(1, time + 1)
    series = (1 - a**t) / (1 - a)
    expected = np.stack([series, -3 * series + 5 * a**t], axis=1)
    np.testing.assert_allclose(hs, expected, rtol=1e-13)


def test_linear_scan_by_an_eighth_of_a_turn_returns_after_eight_steps() -> None:
    hs = linear_scan(np.exp(2j * np.pi / 8), np.zeros((17, 1), complex), np.array([1j]))
    np.testing.assert_allclose(hs[7], [1j], atol=1e-14)
    np.testing.assert_allclose(hs[9], hs[1], atol=1e-14)
    np.testing.assert_allclose(hs[1], [-1], atol=1e-14)


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "shape"),
    [
        ("serial", ()),
        ("serial", (9,)),
        ("serial", (9, 3, 2)),
        ("chunked", (1, 3, 2)),
        ("chunked", (9, 3, 2)),
        ("associative", (9, 1, 2)),
        ("associative", (1, 3, 1)),
        ("associative", (9, 3, 2)),
    ],
)
def test_linear_scan_coefficients_broadcast_in_values_and_gradients(
    method: Any, shape: tuple[int, ...]
) -> None:
    _, b, h0 = problem(9, 3, 2)
    a = RNG(1).uniform(0.5, 1, shape)

    def fast(a, b, h0):
        both = partial(linear_scan, a, b, h0, method=method, chunk_size=4)
        return jnp.stack([both(), both(reverse=True)])

    def plain(a, b, h0):
        a = a.reshape(a.shape + (1,) * (3 - a.ndim))
        a = jnp.broadcast_to(a, b.shape)
        return jnp.stack([lax_loop(a, b, h0), lax_loop(a[::-1], b[::-1], h0)[::-1]])

    assert_same_with_gradients(fast, plain, (a, b, h0))


def assert_same_with_gradients(fast: Any, plain: Any, args: Any) -> None:
    """Compare values, and the gradients of a random weighted sum of them."""

    @jax.jit
    def both(*args):
        expected, plain_pull_back = jax.vjp(plain, *args)
        actual, pull_back = jax.vjp(fast, *args)
        g = RNG(5).normal(size=expected.shape).astype(expected.dtype)
        if np.iscomplexobj(g):
            g = g + 1j * RNG(6).normal(size=g.shape)
        return (actual, pull_back(g)), (expected, plain_pull_back(g))

    chex.assert_trees_all_close(*both(*args), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_complex_linear_scan_gradients_equal_autodiff_of_a_serial_scan(method: Any) -> None:
    args = problem(11, 4, dtype=complex)
    fast = partial(linear_scan, method=method, chunk_size=4)
    assert_same_with_gradients(fast, lax_loop, args)


@pytest.mark.parametrize("method", METHODS)
def test_a_real_coefficient_of_complex_states_has_a_real_gradient(method: Any) -> None:
    _, b, h0 = problem(11, 4, dtype=complex)
    a = RNG(3).uniform(0.5, 1, (11, 4))
    fast = partial(linear_scan, method=method, chunk_size=4)
    assert_same_with_gradients(fast, lax_loop, (a, b, h0))


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_linear_scan_derivatives_equal_finite_differences(method: Any) -> None:
    a, b, h0 = problem(6, 2)
    a[0, 0] = a[3, 1] = 0
    run = jax.jit(partial(linear_scan, method=method, chunk_size=4))
    check_grads(run, (a, b, h0), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


def test_the_gradient_of_linear_scan_stores_only_coefficients_and_states() -> None:
    a, b, h0 = problem(50, 8)
    for method in METHODS:
        run = partial(linear_scan, method=method)
        _, pull_back = jax.eval_shape(partial(jax.vjp, run), a, b, h0)
        kept = sum(leaf.size for leaf in jax.tree.leaves(pull_back))
        assert kept <= a.size + b.size + 2 * h0.size


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_reset_of_linear_scan_replaces_the_state_before_the_step(
    method: Any, reverse: bool
) -> None:
    a, b, h0 = problem(13, 3, 2)
    resets = RNG(2).random((13, 3)) < 0.3
    fresh = RNG(3).normal(size=2)
    options = {"reverse": reverse, "method": method, "chunk_size": 4}
    run = jax.jit(partial(linear_scan, **options))
    actual = run(a, b, h0, reset=resets, reset_state=fresh)
    order = slice(None, None, -1 if reverse else 1)
    expected = numpy_loop(a[order], b[order], h0, resets[order], fresh)[order]
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_linear_scan_gradients_with_resets_equal_autodiff_of_a_serial_scan(method: Any) -> None:
    a, b, h0 = problem(13, 3)
    resets = RNG(2).random((13, 3)) < 0.3
    fresh = RNG(3).normal(size=3)

    def fast(a, b, h0, fresh):
        options = {"method": method, "chunk_size": 4}
        return linear_scan(a, b, h0, reset=resets, reset_state=fresh, **options)

    def plain(a, b, h0, fresh):
        def body(h, inputs):
            a_t, b_t, reset = inputs
            h = a_t * jnp.where(reset, fresh, h) + b_t
            return h, h

        return lax.scan(body, h0, (a, b, resets))[1]

    assert_same_with_gradients(fast, plain, (a, b, h0, fresh))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reverse", [False, True])
def test_no_values_or_gradients_cross_a_reset_of_linear_scan_even_if_nan(
    method: Any, reverse: bool
) -> None:
    a, b, h0 = problem(9, 2)
    before = slice(5, None) if reverse else slice(0, 4)
    after = slice(0, 5) if reverse else slice(4, None)
    b[before] = np.nan
    reset = np.zeros(9, bool)
    reset[4] = True

    def run(a, b, h0):
        options = {"method": method, "chunk_size": 3, "reverse": reverse}
        return linear_scan(a, b, h0, reset=reset, **options)[after]

    hs, pull_back = jax.vjp(jax.jit(run), a, b, h0)
    alone = linear_scan(a[after], b[after], reverse=reverse)
    np.testing.assert_allclose(hs, alone, rtol=1e-12)
    of_a, of_b, of_h0 = pull_back(RNG(0).normal(size=hs.shape))
    np.testing.assert_array_equal(of_b[before], 0)
    np.testing.assert_array_equal(of_h0, 0)
    assert np.isfinite(of_a[after]).all()


@pytest.mark.parametrize("method", METHODS)
def test_growing_and_zero_coefficients_stay_accurate_in_float32(method: Any) -> None:
    rng = RNG(4)
    a = rng.uniform(1.0, 1.5, (100, 5))
    a[rng.random(a.shape) < 0.05] = 0
    b = rng.normal(size=a.shape)
    run = jax.jit(partial(linear_scan, method=method, chunk_size=16))
    hs = run(np.float32(a), np.float32(b))
    # Errors are relative to the sum of absolute terms, since terms of opposite sign cancel.
    scale = numpy_loop(a, np.abs(b), np.zeros(5))
    assert hs.dtype == jnp.float32
    assert np.max(np.abs(hs - numpy_loop(a, b, np.zeros(5))) / scale) < 1e-5
    assert np.max(scale) > 1e6


# Measured at T = 10, 1,000 and 10,000: the table in the docstring of `linear_scan`.
FLOAT32_ERRORS = {
    ("serial", float): (0.7e-7, 1.4e-7, 1.5e-7),
    ("chunked", float): (0.6e-7, 1.6e-7, 1.6e-7),
    ("associative", float): (0.6e-7, 1.3e-7, 1.8e-7),
    ("serial", complex): (1.0e-7, 0.9e-6, 0.9e-6),
    ("chunked", complex): (1.9e-7, 0.7e-6, 1.0e-6),
    ("associative", complex): (1.9e-7, 0.7e-6, 0.9e-6),
}


@pytest.mark.long
@pytest.mark.optimized
@pytest.mark.parametrize(("method", "dtype"), FLOAT32_ERRORS)
def test_float32_errors_stay_below_twice_the_stated_errors(method: Any, dtype: Any) -> None:
    rng = RNG(1)
    a, b = rng.uniform(0.9, 1, (10_000, 64)), np.float32(rng.normal(size=(10_000, 64)))
    if dtype is complex:
        a = 0.999 * np.exp(2j * np.pi * a)
    a = a.astype(np.complex64 if dtype is complex else np.float32)
    exact = numpy_loop(a.astype(dtype), b.astype(float), np.zeros(64))
    wrong = np.abs(jax.jit(partial(linear_scan, method=method))(a, b) - exact)
    for time, stated in zip((10, 1_000, 10_000), FLOAT32_ERRORS[method, dtype], strict=True):
        error = np.max(wrong[:time]) / np.max(np.abs(exact[:time]))
        print(f"{method:12} {dtype.__name__:8} T={time:6}: {error:.1e} (stated {stated:.1e})")
        assert error < 2 * stated


@pytest.mark.long
def test_vmap_and_jit_do_not_change_linear_scan() -> None:
    a, b, h0 = problem(10, 4, 3)
    for method in METHODS:
        run = partial(linear_scan, method=method, chunk_size=4)
        mapped = jax.jit(jax.vmap(run, in_axes=(1, 1, 0), out_axes=1))(a, b, h0)
        np.testing.assert_allclose(mapped, run(a, b, h0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(mapped, numpy_loop(a, b, h0), rtol=1e-12, atol=1e-12)


def test_linear_scan_promotes_types() -> None:
    ones = np.ones((4, 2))
    assert linear_scan(0.5, jnp.ones((4, 2), jnp.float32)).dtype == jnp.float32
    assert linear_scan(jnp.ones((), jnp.bfloat16), jnp.ones((4, 2), jnp.bfloat16)).dtype == (
        jnp.bfloat16
    )
    assert linear_scan(ones * 1j, ones).dtype == jnp.complex128


GOOD = np.ones((4, 3))


@pytest.mark.parametrize(
    ("args", "options", "complaint"),
    [
        ((GOOD, np.ones((5, 3))), {}, r"a, b: expected shapes .* got \[4, 3\] and \[5, 3\]"),
        ((np.ones((4, 2)), GOOD), {}, "a, b: expected shapes"),
        ((GOOD, GOOD, np.ones(2)), {}, r"h0: expected .*\[3\].* got \[2\]"),
        ((1, np.ones((4, 3), int)), {}, "a, b: expected floating-point .* got int"),
        ((GOOD, GOOD), {"method": "fast"}, "method: expected one of .*'associative'.*'fast'"),
        ((GOOD, GOOD), {"chunk_size": 0}, "chunk_size: expected at least 1, got 0"),
        ((GOOD, GOOD), {"reset": np.ones(4)}, "reset: expected booleans .* got float64"),
        ((GOOD, GOOD), {"reset": np.ones(3, bool)}, r"reset: expected .* got bool \[3\]"),
        (
            (GOOD, GOOD),
            {"reset": np.ones(4, bool), "reset_state": np.ones(2)},
            r"reset_state: expected .*\[3\].* got \[2\]",
        ),
    ],
)
def test_invalid_linear_scan_arguments_are_an_error(
    args: Any, options: Any, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        linear_scan(*args, **options)


def delta_problem(time: int, *batch: int, keys: int = 3, values: int = 2) -> dict[str, Any]:
    rng = RNG(7)
    k = rng.normal(size=(time, *batch, keys))
    return {
        "queries": rng.normal(size=(time, *batch, keys)),
        "keys": k / np.linalg.norm(k, axis=-1, keepdims=True),
        "values": rng.normal(size=(time, *batch, values)),
        "log_decay": -rng.uniform(0, 1, (time, *batch)),
        "rate": rng.uniform(0, 1, (time, *batch)),
        "state": rng.normal(size=(*batch, keys, values)),
    }


def delta_loop(problem: dict[str, Any], reset: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Compute the paper's equation for one batch element and one step at a time."""
    batch = problem["state"].shape[:-2]
    states, outputs = np.array(problem["state"]), np.zeros_like(problem["values"])
    for index in np.ndindex(*batch):
        s = problem["state"][index]
        for t in range(len(outputs)):
            q, k, v = (problem[name][t][index] for name in ("queries", "keys", "values"))
            alpha, beta = np.exp(problem["log_decay"][t][index]), problem["rate"][t][index]
            if reset is not None and reset[t][index]:
                s = np.zeros_like(s)
            s = alpha * (np.eye(len(k)) - beta * np.outer(k, k)) @ s + beta * np.outer(k, v)
            outputs[t][index] = s.T @ q
        states[index] = s
    return states, outputs


@pytest.mark.parametrize(
    ("time", "chunk_size", "batch"),
    [(1, 4, ()), (11, 4, (2, 3)), (12, 4, ()), (11, 1, (2,)), (11, 64, ())],
)
def test_gated_delta_scan_in_chunks_equals_a_numpy_loop(
    time: int, chunk_size: int, batch: Any
) -> None:
    case = delta_problem(time, *batch)
    state, outputs = jax.jit(partial(gated_delta_scan, chunk_size=chunk_size))(**case)
    wanted_state, wanted_outputs = delta_loop(case)
    np.testing.assert_allclose(outputs, wanted_outputs, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state, wanted_state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_resets_clear_the_memory_of_gated_delta_scan(reverse: bool) -> None:
    case = delta_problem(11, 2)
    reset: Any = RNG(3).random((11, 2)) < 0.3
    run = jax.jit(partial(gated_delta_scan, reverse=reverse, chunk_size=4))
    state, outputs = run(**case, reset=reset)
    order = slice(None, None, -1 if reverse else 1)
    ordered = {name: x if name == "state" else x[order] for name, x in case.items()}
    wanted_state, wanted_outputs = delta_loop(ordered, reset[order])
    np.testing.assert_allclose(outputs, wanted_outputs[order], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state, wanted_state, rtol=1e-12, atol=1e-12)


@pytest.mark.long
def test_gated_delta_scan_gradients_equal_finite_differences() -> None:
    case = delta_problem(7, 2)
    reset: Any = np.zeros((7, 2), bool)
    reset[2, 0] = reset[5, 1] = True

    @jax.jit
    def run(case):
        return gated_delta_scan(**case, reset=reset, chunk_size=3)

    check_grads(run, (case,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_strong_decay_over_a_long_chunk_stays_accurate_in_float32() -> None:
    case = delta_problem(128, keys=8, values=8)
    case["log_decay"] = -RNG(1).uniform(0, 30, 128) * (RNG(2).random(128) < 0.5)
    _, wanted = delta_loop(case)
    single = {name: np.float32(x) for name, x in case.items()}
    _, outputs = jax.jit(gated_delta_scan)(**single)
    assert np.max(np.abs(outputs - wanted)) < 1e-5 * np.max(np.abs(wanted))


def test_the_delta_rule_recalls_the_last_value_written_under_a_key() -> None:
    keys = np.eye(4)[[0, 1, 2, 1, 0, 1, 2]]
    values = RNG(0).normal(size=(7, 3))
    rate = np.array([1.0, 1, 1, 1, 0, 0, 0])
    _, outputs = jax.jit(partial(gated_delta_scan, chunk_size=3))(
        keys, keys, values, np.zeros(7), rate, np.zeros((4, 3))
    )
    np.testing.assert_allclose(outputs[4:], values[[0, 3, 2]], rtol=1e-14)


def test_gated_delta_scan_of_no_steps_keeps_the_state_and_checks_the_chunk_size() -> None:
    case = delta_problem(0, 2)
    state, outputs = gated_delta_scan(**case)
    np.testing.assert_array_equal(state, case["state"])
    assert outputs.shape == (0, 2, 2)
    with pytest.raises(ValueError, match="chunk_size: expected at least 1, got 0"):
        gated_delta_scan(**case, chunk_size=0)
