"""Test every cell of `tests/recurrent/cases.py` for every property that all cells share.

The tests of one cell share a few compiled functions.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from recurrent import Cell, output_shape, unroll
from tests.recurrent.cases import (
    BATCH,
    HIDDEN,
    INPUT,
    PARAMETERS,
    TIME,
    Case,
    case_of,
    disturbed,
    random_like,
    to_dtype,
    values_and_gradients,
)

# Columns are batch elements: two with padding inside and at an end, one without.
MASK = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1], [1, 0, 1]], bool)
RESET_STEPS = ([3], [0, 4], [1, 2, 6])
RESET = np.stack([np.isin(np.arange(TIME), steps) for steps in RESET_STEPS], axis=1)

OPTIONS: dict[str, tuple[Any, Any, bool]] = {
    "plain": (None, None, False),
    "mask": (MASK, None, False),
    "mask, reset, reverse": (MASK, RESET, True),
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=PARAMETERS, scope="module")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield case_of(request.param)
    jax.clear_caches()  # as in conftest: the programs of one case hold thousands of memory mappings


def runner(cell: Cell, method: Any = "auto", reverse: bool = False) -> Callable[..., Any]:
    """Return a compiled ``(params, state, xs, mask, reset) -> (state, ys)``."""
    # Without a sequence function both methods are the same program: compile it once.
    return compiled_run(cell, method if cell.sequence else "scan", reverse)


def differentiator(cell: Cell, method: Any = "auto", reverse: bool = False) -> Callable[..., Any]:
    """Return a compiled function that adds gradients: ``-> ((state, ys), (params, state, xs))``."""
    return compiled_gradients(cell, method if cell.sequence else "scan", reverse)


@lru_cache
def compiled_run(cell: Cell, method: Any, reverse: bool) -> Callable[..., Any]:
    def run(params, state, xs, mask=None, reset=None):
        return unroll(
            cell, params, xs, state, mask=mask, reset=reset, reverse=reverse, method=method
        )

    return jax.jit(run)


@lru_cache
def compiled_gradients(cell: Cell, method: Any, reverse: bool) -> Callable[..., Any]:
    def differentiate(params, state, xs, mask=None, reset=None):
        def run(*args):
            return compiled_run(cell, method, reverse)(*args, mask, reset)

        return values_and_gradients(run, params, state, xs)

    return jax.jit(differentiate)


@lru_cache
def stepper(cell: Cell) -> Callable[..., Any]:
    return jax.jit(cell.step)


def loop(case: Case, state: Any, xs: np.ndarray) -> tuple[Any, np.ndarray]:
    ys = []
    for x in xs:
        state, y = stepper(case.cell)(case.params, state, x)
        ys.append(y)
    return state, np.stack(ys)


def element(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def stack(trees: list[Any], axis: int = 0) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves, axis), *trees)


def assert_close(actual: Any, expected: Any) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_scan_equals_a_python_loop(case: Case) -> None:
    actual = runner(case.cell, "scan")(case.params, case.state, case.xs)
    assert_close(actual, loop(case, case.state, case.xs))


@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(name, marks=pytest.mark.long) for name in ("plain", "mask")),
        "mask, reset, reverse",
    ],
)
def test_auto_equals_scan_in_values_and_gradients(case: Case, options: str) -> None:
    mask, reset, reverse = OPTIONS[options]
    args = case.params, case.state, case.xs, mask, reset
    auto = differentiator(case.cell, "auto", reverse)(*args)
    assert_close(auto, differentiator(case.cell, "scan", reverse)(*args))


@pytest.mark.parametrize("name", ["lstm", "gru", "own_gate", "convolutional_lstm"])
def test_the_form_for_accelerators_equals_scan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_accelerator(*args: Any, default: Any, **platforms: Any) -> Any:
        return default(*args)

    case = case_of(name)
    args = case.params, case.state, case.xs, MASK, RESET
    expected = differentiator(case.cell, "scan", True)(*args)
    monkeypatch.setattr(jax.lax, "platform_dependent", on_accelerator)

    def run(params: Any, state: Any, xs: Any) -> Any:
        return unroll(case.cell, params, xs, state, mask=MASK, reset=RESET, reverse=True)

    assert_close(jax.jit(partial(values_and_gradients, run))(*args[:3]), expected)


def test_a_batch_equals_its_single_examples(case: Case) -> None:
    run = runner(case.cell)
    runs = [run(case.params, element(case.state, b), case.xs[:, b]) for b in range(BATCH)]
    expected = stack([state for state, _ in runs]), stack([ys for _, ys in runs], axis=1)
    assert_close(run(case.params, case.state, case.xs), expected)


@pytest.mark.long
def test_two_batch_axes_equal_a_batch_of_batches(case: Case) -> None:
    def row(i: int) -> Any:
        return case.params, None, xs[:, i], mask[:, i], reset[:, i]

    xs = np.stack([case.xs, random_like(case.xs)], axis=1)
    mask, reset = np.stack([MASK, ~MASK], axis=1), np.stack([RESET, RESET[::-1]], axis=1)
    run = runner(case.cell)
    runs = [run(*row(i)) for i in range(2)]
    expected = stack([state for state, _ in runs]), stack([ys for _, ys in runs], axis=1)
    assert_close(run(case.params, None, xs, mask, reset), expected)


@pytest.mark.long
def test_jit_equals_no_jit(case: Case) -> None:
    compiled = runner(case.cell)(case.params, case.state, case.xs, MASK, RESET)
    plain = unroll(case.cell, case.params, case.xs, case.state, mask=MASK, reset=RESET)
    assert_close(compiled, plain)


def test_calls_with_a_carried_state_trace_once(case: Case) -> None:
    traces = []

    @jax.jit
    def run(params, state, xs):
        traces.append(xs)
        return unroll(case.cell, params, xs, state)

    state = case.cell.initial_state(case.params, (BATCH,))
    for seed in range(3):
        state, _ = run(case.params, state, random_like(case.xs, seed))
    assert len(traces) == 1


def test_outputs_depend_on_no_later_input(case: Case) -> None:
    run = runner(case.cell)
    _, ys = run(case.params, case.state, case.xs)
    for t in (0, 3, TIME - 1):
        xs = case.xs.copy()
        xs[t] += random_like(xs[t])
        _, changed = run(case.params, case.state, xs)
        np.testing.assert_array_equal(changed[:t], ys[:t])
        assert np.any(changed[t] != ys[t], axis=-1).all()


def test_a_reset_starts_a_separate_sequence(case: Case) -> None:
    actual_state, actual_ys = runner(case.cell)(case.params, case.state, case.xs, None, RESET)
    initial = case.cell.initial_state(case.params, ())
    for b, steps in enumerate(RESET_STEPS):
        first, *later = np.split(case.xs[:, b], steps)
        runs = [loop(case, element(case.state, b), first)] if len(first) else []
        runs += [loop(case, initial, piece) for piece in later]
        assert_close(element(actual_state, b), runs[-1][0])
        assert_close(actual_ys[:, b], np.concatenate([ys for _, ys in runs]))


@pytest.mark.long
def test_masked_steps_equal_dropped_steps(case: Case) -> None:
    actual_state, actual_ys = runner(case.cell)(case.params, case.state, case.xs, MASK)
    for b in range(BATCH):
        real = MASK[:, b]
        state, ys = loop(case, element(case.state, b), case.xs[real, b])
        assert_close(element(actual_state, b), state)
        assert_close(actual_ys[real, b], ys)
        np.testing.assert_array_equal(actual_ys[~real, b], 0)


@pytest.mark.parametrize("method", ["auto", "scan"])
@pytest.mark.parametrize("options", ["mask", "mask, reset, reverse"])
@pytest.mark.fault("N6")
def test_padding_affects_no_values_or_gradients(case: Case, method: str, options: str) -> None:
    mask, reset, reverse = OPTIONS[options]

    def run(fill: float) -> Any:
        xs = np.where(mask[..., None], case.xs, fill)
        return differentiator(case.cell, method, reverse)(case.params, case.state, xs, mask, reset)

    with_zeros = run(0)
    chex.assert_tree_all_finite(with_zeros)
    _, (_, _, of_xs) = with_zeros
    np.testing.assert_array_equal(of_xs[~mask], 0)
    for fill in (np.nan, 1e30):
        chex.assert_trees_all_equal(run(fill), with_zeros)


@pytest.mark.parametrize("method", ["auto", "scan"])
@pytest.mark.fault("N5")
def test_a_fully_masked_sequence_keeps_the_state(case: Case, method: str) -> None:
    args = case.params, case.state, case.xs
    mask = np.zeros_like(MASK)
    (state, ys), (of_params, of_state, of_xs) = differentiator(case.cell, method)(*args, mask)
    chex.assert_trees_all_equal(state, case.state)
    np.testing.assert_array_equal(ys, 0)
    zeros = jax.tree.map(np.zeros_like, (case.params, case.xs))
    chex.assert_trees_all_equal((of_params, of_xs), zeros)
    chex.assert_trees_all_equal(of_state, random_like((state, ys))[0])


@pytest.mark.parametrize("method", ["auto", "scan"])
def test_a_sequence_without_steps_returns_the_state(case: Case, method: str) -> None:
    state, ys = runner(case.cell, method)(case.params, case.state, case.xs[:0])
    chex.assert_trees_all_equal(state, case.state)
    assert ys.shape == (0, BATCH, HIDDEN)


def test_an_empty_batch_gives_empty_outputs(case: Case) -> None:
    outputs = jax.eval_shape(runner(case.cell), case.params, None, case.xs[:, :0])
    assert outputs[1].shape == (TIME, 0, HIDDEN)


@pytest.mark.long
def test_reverse_equals_flipping_input_and_output(case: Case) -> None:
    all_real, no_reset = np.ones_like(MASK), np.zeros_like(RESET)
    for mask, reset in [(MASK, RESET), (all_real, no_reset)]:
        backwards = runner(case.cell, reverse=True)(case.params, case.state, case.xs, mask, reset)
        flipped = [array[::-1] for array in (case.xs, mask, reset)]
        state, ys = runner(case.cell)(case.params, case.state, *flipped)
        assert_close(backwards, (state, ys[::-1]))


@pytest.mark.long
def test_streaming_in_pieces_equals_the_whole(case: Case) -> None:
    whole = runner(case.cell)(case.params, case.state, case.xs, MASK, RESET)
    arrays = case.xs, MASK, RESET
    first, second = [array[:2] for array in arrays], [array[2:] for array in arrays]
    state, before = runner(case.cell)(case.params, case.state, *first)
    state, after = runner(case.cell)(case.params, state, *second)
    assert_close((state, np.concatenate([before, after])), whole)


@pytest.mark.long
def test_remat_equals_plain_in_values_and_gradients(case: Case) -> None:
    def run(params, state, xs):
        options: Any = {"mask": MASK, "reset": RESET, "reverse": True, "remat": 3}
        return unroll(case.cell, params, xs, state, **options)

    args = case.params, case.state, case.xs
    actual = jax.jit(partial(values_and_gradients, run))(*args)
    assert_close(actual, differentiator(case.cell, "auto", True)(*args, MASK, RESET))


@pytest.mark.long
def test_bfloat16_is_close_to_float64(case: Case) -> None:
    """Allow 32 times the rounding error of 2^-9, relative to the largest output."""
    narrow = to_dtype((case.params, case.state, case.xs), jnp.bfloat16)
    _, ys = runner(case.cell)(*narrow)
    _, expected = runner(case.cell)(*to_dtype(narrow, np.float64))
    error = np.abs(np.asarray(ys, np.float64) - expected).max()
    assert 0 < error < 2**-4 * np.abs(expected).max()


@pytest.mark.long
@pytest.mark.parametrize(("method", "mode"), [("auto", "rev"), ("scan", "fwd")])
def test_gradients_equal_finite_differences(case: Case, method: str, mode: str) -> None:
    def run(params, state, xs):
        return runner(case.cell, method)(params, state, xs, None, RESET)

    args = case.params, case.state, case.xs
    check_grads(run, args, order=1, modes=[mode], atol=1e-6, rtol=1e-6, eps=1e-5)


@pytest.mark.long
def test_a_population_equals_its_members(case: Case) -> None:
    run = runner(case.cell)
    members = [disturbed(np.random.default_rng(seed), case.params) for seed in range(3)]
    population = jax.jit(jax.vmap(run, in_axes=(0, None, None)))
    actual = population(stack(members), case.state, case.xs)
    assert_close(actual, stack([run(member, case.state, case.xs) for member in members]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_states_and_outputs_keep_the_type_of_the_params(case: Case, dtype: Any) -> None:
    params, xs = to_dtype((case.params, case.xs), dtype)
    outputs = jax.eval_shape(runner(case.cell), params, None, xs, MASK, RESET)
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("batch_shape", [(), (BATCH,), (2, BATCH)], ids=str)
def test_states_and_outputs_have_the_documented_shapes(
    case: Case, batch_shape: tuple[int, ...]
) -> None:
    state = case.cell.initial_state(case.params, batch_shape)
    assert hasattr(state, "_fields")
    for leaf in jax.tree.leaves(state):
        assert leaf.shape[: len(batch_shape)] == batch_shape
    assert case.cell.input_shape == (INPUT,)
    assert output_shape(case.cell) == (HIDDEN,)
    x = np.zeros((*batch_shape, INPUT))
    new_state, y = jax.eval_shape(case.cell.step, case.params, state, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert y.shape == (*batch_shape, HIDDEN)


@pytest.mark.long
def test_params_are_nested_dicts_drawn_from_the_key(case: Case) -> None:
    same, again, other = (case.cell.init(jax.random.key(seed)) for seed in (1, 1, 2))
    chex.assert_trees_all_equal(same, again)
    pairs = zip(jax.tree.leaves_with_path(same), jax.tree.leaves(other), strict=True)
    kernels = [(a, b) for (path, a), b in pairs if path[-1].key == "kernel"]
    assert kernels
    assert all(np.all(a != b) for a, b in kernels)
    for path, leaf in jax.tree_util.tree_leaves_with_path(same):
        assert all(isinstance(entry, jax.tree_util.DictKey) for entry in path)
        assert isinstance(leaf, jax.Array)
