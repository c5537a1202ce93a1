"""Compare parallel evaluation of nonlinear cells (DEER) with the serial loop."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import Cell, Hidden, elman, gru, lstm, unroll
from recurrent.combinators import bidirectional, stack
from recurrent.newton import DeerInfo, deer, matrix_scan, parallel
from tests.recurrent.cases import disturbed, random_like, to_dtype, values_and_gradients

INPUT, HIDDEN = 3, 4
CELLS: dict[str, Callable[[int, int], Cell]] = {"elman": elman, "gru": gru, "lstm": lstm}
LENGTHS = np.array([10, 1_000, 10_000])


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def params_of(cell: Cell, amount: float = 0.1) -> Any:
    return disturbed(np.random.default_rng(0), cell.init(jax.random.key(0)), amount)


def serial(cell: Cell, params: Any, xs: Any, state: Any = None, **flags: Any) -> Any:
    return unroll(cell, params, xs, state, method="scan", **flags)


def run_deer(cell: Cell, *args: Any, **options: Any) -> tuple[Any, Any, DeerInfo]:
    return jax.device_get(jax.jit(partial(deer, cell, **options))(*args))


def run_serial(cell: Cell, *args: Any, **flags: Any) -> tuple[Any, Any]:
    return jax.device_get(jax.jit(partial(serial, cell, **flags))(*args))


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


# Newton's method converges quadratically; the diagonal form linearly, and slowest for Elman.
SWEEPS = {"full": 12, "diagonal": 250}
LONG = [(name, jacobian, "float64") for name in CELLS for jacobian in SWEEPS]
LONG += [("lstm", "full", "float32")]


@lru_cache
def long_run(name: str, dtype: str) -> tuple[Cell, Any, Any, Any]:
    """Return a cell, params, inputs, and the result of the serial loop."""
    cell = CELLS[name](INPUT, HIDDEN)
    xs = noise(LENGTHS.max(), len(LENGTHS), INPUT)
    params, xs = to_dtype((params_of(cell), xs), dtype)
    return cell, params, xs, run_serial(cell, params, xs, lengths=LENGTHS)


@pytest.mark.long
@pytest.mark.optimized
@pytest.mark.parametrize(("name", "jacobian", "dtype"), LONG)
def test_deer_equals_the_serial_loop_at_10_to_10_000_steps(
    name: str, jacobian: Any, dtype: str
) -> None:
    cell, params, xs, expected = long_run(name, dtype)
    options: dict[str, Any] = {"jacobian": jacobian, "max_iterations": SWEEPS[jacobian]}
    state, ys, info = run_deer(cell, params, xs, lengths=LENGTHS, **options)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert_close((state, ys), expected, tolerance)
    assert ys.dtype == dtype
    assert info.converged
    assert not info.fell_back
    assert 1 < info.iterations <= SWEEPS[jacobian]
    assert info.residual <= 16 * np.finfo(dtype).eps
    for index, time in enumerate(LENGTHS):
        difference = np.abs(ys[:, index] - expected[1][:, index]).max()
        print(f"{name}, {jacobian}, {dtype}, T={time}: {difference:.1e}, {info.iterations} sweeps")


MASK, RESET = noise(12, 2, seed=1) < 0.6, noise(12, 2, seed=2) < -0.6


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "reverse", "options"),
    [
        ("elman", False, {"method": "associative"}),
        ("elman", True, {"max_iterations": 1}),
        ("gru", True, {"jacobian": "diagonal", "damping": 0.3}),
        ("lstm", True, {}),
    ],
)
def test_deer_with_masks_and_resets_equals_the_serial_loop_in_values_and_gradients(
    name: str, reverse: bool, options: dict[str, Any]
) -> None:
    cell = CELLS[name](INPUT, HIDDEN)
    params = params_of(cell)
    state = random_like(cell.initial_state(params, (2,)))
    xs = np.where(MASK[..., None], noise(12, 2, INPUT), np.nan)
    flags = {"mask": MASK, "reset": RESET, "reverse": reverse}

    @jax.jit
    def run_in_parallel(params, state, xs):
        def run(params, state, xs):
            last, ys, info = deer(cell, params, xs, state, **flags, **options)
            return (last, ys), info

        outputs, pull_back, info = jax.vjp(run, params, state, xs, has_aux=True)
        return (outputs, pull_back(random_like(outputs))), info

    def run_serially(params, state, xs):
        return serial(cell, params, xs, state, **flags)

    actual, info = run_in_parallel(params, state, xs)
    expected = jax.jit(partial(values_and_gradients, run_serially))(params, state, xs)
    assert_close(actual, expected)
    chex.assert_tree_all_finite(actual)
    assert info.fell_back == ("max_iterations" in options)


@pytest.mark.slow
def test_second_derivatives_of_deer_equal_the_serial_loop() -> None:
    cell = elman(2, 2)
    xs = noise(5, 2)

    def slopes(run: Callable[..., Any], params: Any) -> Any:
        return jax.grad(lambda params: (run(cell, params, xs)[1] ** 2).sum())(params)

    hessians = [
        jax.jit(jax.jacrev(partial(slopes, run)))(params_of(cell)) for run in (deer, serial)
    ]
    assert_close(*hessians)


def plain_cell(step: Callable[[Any, Any, Any], Any], size: int) -> Cell:
    """Return a cell without a sequence function, whose output is its state."""

    def initial_state(params: Any, batch_shape: tuple[int, ...]) -> Hidden:
        return Hidden(jnp.zeros((*batch_shape, size)))

    def whole_step(params: Any, state: Hidden, x: Any) -> tuple[Hidden, Any]:
        h = step(params, state.hidden, x)
        return Hidden(h), h

    return Cell(
        lambda key: jax.random.normal(key, (size, size)), initial_state, whole_step, (size,)
    )


@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_a_linear_cell_with_padding_and_resets_needs_one_sweep(damping: float) -> None:
    """Check that damping skips padding: if every unmasked step is reset, one sweep is enough."""
    cell = plain_cell(lambda a, h, x: h @ a + x, 3)
    a = 0.9 * np.linalg.qr(noise(3, 3))[0]
    xs, mask, reset = noise(500, 2, 3, seed=1), noise(500, 2, seed=2) < 0, noise(500, 2) < -2
    reset |= damping * mask > 0
    h, expected = np.zeros((2, 3)), np.zeros_like(xs)
    for t, x in enumerate(xs):
        h = np.where((reset & mask)[t, :, None], 0, h)
        h = np.where(mask[t, :, None], h @ a + x, h)
        expected[t] = np.where(mask[t, :, None], h, 0)
    state, ys, info = run_deer(cell, a, xs, mask=mask, reset=reset, damping=damping)
    assert_close(state.hidden, h)
    assert_close(ys, expected)
    assert info.iterations == 1
    assert info.converged


def test_a_diagonal_linear_cell_needs_one_sweep_of_the_diagonal_form() -> None:
    cell = plain_cell(lambda a, h, x: h * a + x, 3)._replace(init=lambda key: jnp.ones(3))
    xs = noise(500, 2, 3)
    a = np.array([0.9, -0.5, 0.99])
    _, ys, info = run_deer(cell, a, xs, jacobian="diagonal")
    assert_close(ys, run_serial(cell, a, xs)[1])
    assert info.iterations == 1


@pytest.mark.long
def test_the_fast_jacobian_diagonal_of_a_gated_cell_equals_the_generic_diagonal() -> None:
    cell = lstm(INPUT, HIDDEN)
    params, xs = params_of(cell), noise(50, 2, INPUT)
    options: dict[str, Any] = {"jacobian": "diagonal", "max_iterations": 5, "fallback": False}
    short, long = (
        run_deer(c, params, xs, **options)[2] for c in (cell, cell._replace(sequence=None))
    )
    # A different diagonal would leave a different residual after five sweeps.
    assert short.residual > 1e-9
    np.testing.assert_allclose(short.residual, long.residual, rtol=1e-6)


def chaotic() -> tuple[Cell, Any, np.ndarray]:
    """Return an Elman network in which nearby states move apart by a fifth or more each step."""
    cell = elman(16, 16)
    params = params_of(cell)
    params["recurrent"]["kernel"] = noise(16, 16)
    return cell, params, 0.1 * noise(80, 16, seed=1)


def test_nearby_states_of_the_chaotic_cell_move_apart() -> None:
    """Check by finite differences that the cell of `chaotic`, used by other tests, is chaotic."""
    cell, params, xs = chaotic()
    ends = [run_serial(cell, params, xs, Hidden(jnp.full(16, start)))[1] for start in (0.0, 1e-9)]
    assert np.abs(ends[0] - ends[1]).max() > 1.2 ** len(xs) * 1e-9


@pytest.mark.parametrize("jacobian", ["full", "diagonal"])
def test_an_expanding_cell_falls_back_to_the_serial_loop_and_reports_the_fallback(
    jacobian: Any,
) -> None:
    cell, params, xs = chaotic()
    state, ys, info = run_deer(cell, params, xs, jacobian=jacobian, max_iterations=20)
    assert_close((state, ys), run_serial(cell, params, xs), 1e-6)
    assert info.fell_back
    assert not info.converged
    assert not info.residual < 1e-6
    assert info.iterations <= 20


@pytest.mark.long
def test_gradients_after_a_fallback_equal_the_serial_loop() -> None:
    """Let products of Jacobians overflow at later steps, which do not enter the gradient."""
    cell = plain_cell(lambda a, h, x: jnp.sin(h @ a + x), 3)
    a, xs = 100 * noise(3, 3), noise(1_200, 3, seed=1)

    def gradients(run: Callable[..., Any]) -> Any:
        def loss(a, xs):
            return (run(cell, a, xs)[1][:3] ** 2).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(a, xs)

    actual = gradients(partial(deer, max_iterations=2, method="associative"))
    assert_close(actual, gradients(serial), 1e-9)
    assert np.all(actual[1][:3] != 0)
    np.testing.assert_array_equal(actual[1][3:], 0)


def test_results_that_do_not_converge_are_nan_without_a_fallback() -> None:
    cell, params, xs = chaotic()

    @jax.jit
    def run_and_differentiate(params):
        def run(params):
            state, ys, info = deer(cell, params, xs, max_iterations=3, fallback=False)
            return (state, ys), info

        outputs, pull_back, info = jax.vjp(run, params, has_aux=True)
        return outputs, pull_back(random_like(outputs)), info

    outputs, gradients, info = run_and_differentiate(params)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(outputs))
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not info.converged
    assert not info.fell_back


def test_each_sweep_makes_one_more_state_exact_for_any_jacobians() -> None:
    cell, params, xs = chaotic()
    xs = xs[:15]
    _, ys, info = run_deer(cell, params, xs, damping=1, max_iterations=15)
    assert info.converged
    assert info.iterations == 15
    assert_close(ys, run_serial(cell, params, xs)[1], 1e-9)


@pytest.mark.long
def test_damping_takes_more_sweeps_to_the_same_result() -> None:
    cell = elman(INPUT, HIDDEN)
    params, xs = params_of(cell), noise(60, INPUT)
    expected = run_serial(cell, params, xs)[1]
    runs = [run_deer(cell, params, xs, damping=k) for k in (0.0, 0.5)]
    assert runs[0][2].iterations < runs[1][2].iterations
    for _, ys, info in runs:
        assert info.converged
        assert_close(ys, expected)


def test_each_member_of_a_vmapped_population_falls_back_alone() -> None:
    cell, params, xs = chaotic()
    calm = jax.tree.map(lambda leaf: leaf / 16, params)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), calm, params)
    run = jax.jit(jax.vmap(partial(deer, cell, max_iterations=20), in_axes=(0, None)))
    _, ys, info = run(both, xs)
    np.testing.assert_array_equal(info.fell_back, [False, True])
    loop = jax.jit(partial(serial, cell))
    for member, member_ys in zip((calm, params), ys, strict=True):
        assert_close(member_ys, loop(member, xs)[1], 1e-6)


class Uneven(NamedTuple):
    large: Any
    small: Any


def test_deer_converges_for_a_state_field_far_smaller_than_another() -> None:
    def step(params, state, x):
        large = 0.9 * state.large + 1e8 * jnp.tanh(x + state.small * 1e8)
        small = 1e-8 * jnp.tanh(x - 0.5e8 * state.small + 1e-8 * state.large)
        return Uneven(large, small), small

    def initial_state(params, batch_shape):
        return Uneven(*[jnp.zeros((*batch_shape, 2)) for _ in range(2)])

    cell = Cell(lambda key: (), initial_state, step, (2,))
    xs = noise(200, 3, 2)
    state, ys, info = run_deer(cell, (), xs)
    expected_state, expected = run_serial(cell, (), xs)
    assert info.converged
    np.testing.assert_allclose(ys / 1e-8, expected / 1e-8, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(state.large, expected_state.large, rtol=1e-10)


def test_deer_converges_for_an_example_far_smaller_than_another() -> None:
    """Give the states the scale x_0, and make the small example the one that needs many sweeps."""

    def step(a, h, x):
        return x[..., :1] * jnp.tanh((h / x[..., :1]) @ a + x[..., 1:])

    cell = plain_cell(step, 2)
    scales = np.array([1e-20, 1.0])
    xs = np.stack([np.broadcast_to(scales, (40, 2)), noise(40, 2) + np.array([0, 30])], axis=-1)
    _, ys, info = run_deer(cell, 3 * noise(2, 2), xs)
    expected = run_serial(cell, 3 * noise(2, 2), xs)[1]
    assert info.converged
    assert info.iterations > 2
    assert_close(ys / scales[:, None], expected / scales[:, None])


def test_deer_recovers_from_a_correction_that_overflows() -> None:
    """Make the slope 50 at the initial guess, a state of zero, and nearly zero at the solution."""
    cell = plain_cell(lambda a, h, x: jnp.tanh(50 * h) + x, 2)
    xs = 3 + 0.1 * noise(400, 2)
    _, ys, info = run_deer(cell, np.eye(2), xs)
    assert info.converged
    assert info.iterations < 5
    assert_close(ys, run_serial(cell, np.eye(2), xs)[1])


def test_deer_converges_for_a_non_normal_slowly_forgetting_cell() -> None:
    """Use Jacobians whose product grows beyond 5,000 before it decays."""
    cell = plain_cell(lambda a, h, x: h @ a + 0.001 * jnp.sin(h) + x, 2)
    a = np.array([[0.99, 50.0], [0.0, 0.98]])
    xs = noise(2_000, 2)
    _, ys, info = run_deer(cell, a, xs)
    expected = run_serial(cell, a, xs)[1]
    assert np.abs(expected).max() > 1e4
    assert_close(ys / np.abs(expected).max(), expected / np.abs(expected).max(), 1e-11)
    assert info.converged


def test_an_overflowing_cell_falls_back_to_the_serial_loop() -> None:
    cell = plain_cell(lambda a, h, x: h @ a + h**3 + x, 2)
    xs = noise(30, 2)
    state, ys, info = run_deer(cell, np.eye(2), xs)
    expected = run_serial(cell, np.eye(2), xs)
    assert not np.isfinite(expected[1]).all()
    assert info.fell_back
    chex.assert_trees_all_close((state, ys), expected, rtol=1e-9)


@pytest.mark.long
def test_parallel_cells_compose_with_stack_and_bidirectional() -> None:
    def pair(wrap: Callable[[Cell], Cell]) -> Cell:
        layer = bidirectional(wrap(gru(INPUT, 2)), wrap(elman(INPUT, 2)))
        return stack(layer, elman(4, 3))

    plain, quick = pair(lambda cell: cell), pair(parallel)
    params, xs = params_of(plain), noise(9, 2, INPUT)
    state = random_like(plain.initial_state(params, (2,)))

    actual, expected = (
        jax.jit(partial(unroll, cell, mask=MASK[:9], reset=RESET[:9]))(params, xs, state)
        for cell in (quick, plain)
    )
    assert_close(actual, expected)


def test_parallel_keeps_the_step_and_init_of_a_cell() -> None:
    cell = gru(INPUT, HIDDEN)
    wrapped = parallel(cell, jacobian="diagonal")
    assert wrapped.step is cell.step
    assert wrapped.init is cell.init


@pytest.mark.parametrize("time", [0, 1])
def test_deer_runs_sequences_of_zero_and_one_step(time: int) -> None:
    cell = lstm(INPUT, HIDDEN)
    params, xs = params_of(cell), noise(time, 2, INPUT)
    state = random_like(cell.initial_state(params, (2,)))
    last, ys, info = run_deer(cell, params, xs, state)
    assert_close((last, ys), run_serial(cell, params, xs, state))
    assert ys.shape == (time, 2, HIDDEN)
    assert info.iterations == time
    assert info.converged
    assert not info.fell_back


def test_deer_converges_on_an_empty_batch() -> None:
    _, ys, info = run_deer(gru(INPUT, HIDDEN), params_of(gru(INPUT, HIDDEN)), noise(5, 0, INPUT))
    assert ys.shape == (5, 0, HIDDEN)
    assert info.converged


@pytest.mark.long
def test_deer_keeps_the_types_of_a_bfloat16_cell() -> None:
    cell = gru(INPUT, HIDDEN)
    params, xs = to_dtype((params_of(cell), noise(50, 2, INPUT)), jnp.bfloat16)
    state, ys, info = run_deer(cell, params, xs)
    assert info.fell_back or info.residual <= 0.01
    exact = run_serial(cell, *to_dtype((params, xs), jnp.float64))[1]
    assert {leaf.dtype for leaf in jax.tree.leaves((state, ys))} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(ys.astype(float), exact, atol=0.05)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", ["serial", "associative"])
def test_matrix_scan_equals_a_loop(method: Any, reverse: bool) -> None:
    a, b = noise(9, 2, 3, 3), noise(9, 2, 3, seed=1)
    h, expected = np.zeros((2, 3)), np.zeros((9, 2, 3))
    for t in range(9)[:: -1 if reverse else 1]:
        for i in range(2):
            h[i] = a[t, i] @ h[i] + b[t, i]
        expected[t] = h
    scan = jax.jit(partial(matrix_scan, reverse=reverse, method=method))
    assert_close(scan(a, b), expected)


@pytest.mark.parametrize("shapes", [((5, 3), (5, 3)), ((5, 2, 3), (5, 3)), ((4, 3, 3), (5, 3))])
def test_matrix_scan_of_mismatched_shapes_is_an_error(shapes: Any) -> None:
    a, b = map(jnp.zeros, shapes)
    with pytest.raises(ValueError, match=r"a, b: expected the shapes \[T, \.\.\., N, N\]"):
        matrix_scan(a, b)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("jacobian", "half", r"jacobian: expected one of \['full', 'diagonal'\], got 'half'"),
        ("method", "fast", r"method: expected one of .*'associative'\], got 'fast'"),
        ("max_iterations", 0, "max_iterations: expected at least 1, got 0"),
        ("tolerance", 0.0, r"tolerance: expected a number above 0, got 0\.0"),
        ("damping", 1.5, r"damping: expected a number from 0 to 1, got 1\.5"),
    ],
)
def test_invalid_deer_options_are_an_error(option: str, value: Any, message: str) -> None:
    cell = gru(INPUT, HIDDEN)
    with pytest.raises(ValueError, match=message):
        deer(cell, params_of(cell), noise(5, INPUT), **{option: value})
    with pytest.raises(ValueError, match=message):
        parallel(cell, **{option: value})


def test_deer_with_an_integer_state_is_an_error() -> None:
    cell = plain_cell(lambda params, h, x: h, 2)

    def counting(params, batch_shape):
        return Hidden(jnp.zeros((*batch_shape, 2), int))

    with pytest.raises(ValueError, match=r"real floating-point arrays.*got one of int64"):
        deer(cell._replace(initial_state=counting), np.eye(2), noise(5, 2))


def test_deer_checks_inputs_and_masks_like_unroll() -> None:
    cell = gru(INPUT, HIDDEN)
    with pytest.raises(ValueError, match=r"xs: expected the shape"):
        deer(cell, params_of(cell), noise(5, INPUT + 1))
    with pytest.raises(ValueError, match=r"mask: expected"):
        deer(cell, params_of(cell), noise(5, INPUT), mask=np.ones(4, bool))
