"""The table of cells x properties: what every cell owes, however fast it is computed."""

from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from recurrent import output_shape, unroll
from tests.cases import (
    BATCH,
    CELLS,
    HIDDEN,
    INPUT,
    TIME,
    Case,
    case_of,
    disturbed,
    random_like,
    to_dtype,
    values_and_gradients,
)

# Columns are batch elements: two with padding inside and at an end, one without.
MASK = np.array(
    [[1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1], [1, 0, 1]], bool
)
RESET_STEPS = ([3], [0, 4], [1, 2, 6])
RESET = np.stack([np.isin(np.arange(TIME), steps) for steps in RESET_STEPS], axis=1)
LENGTHS = np.array([0, 3, TIME])

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reverse": {"reverse": True},
    "mask": {"mask": MASK},
    "reset": {"reset": RESET},
    "lengths, mask, reset, reverse": {
        "lengths": LENGTHS,
        "mask": MASK,
        "reset": RESET,
        "reverse": True,
    },
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=CELLS)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


@pytest.fixture(params=OPTIONS)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return OPTIONS[request.param]


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def loop(case: Case, state: Any, xs: Any) -> tuple[Any, Any]:
    ys = []
    for x in xs:
        state, y = case.cell.step(case.params, state, x)
        ys.append(y)
    return state, jnp.stack(ys)


def element(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def stack(trees: list[Any], axis: int = 0) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *trees)


def flip(array: Any) -> Any:
    return array[::-1]


def test_scan_equals_a_python_loop(case: Case) -> None:
    actual = unroll(case.cell, case.params, case.xs, case.state, method="scan")
    assert_close(actual, loop(case, case.state, case.xs))


def test_auto_equals_scan_in_values_and_gradients(case: Case, options: dict[str, Any]) -> None:
    def run(method: Any) -> Any:
        def function(params, state, xs):
            return unroll(case.cell, params, xs, state, method=method, **options)

        differentiate = jax.jit(lambda *args: values_and_gradients(function, *args))
        return differentiate(case.params, case.state, case.xs)

    assert_close(run("auto"), run("scan"))


def test_auto_equals_scan_from_the_initial_state(case: Case) -> None:
    def run(method: Any) -> Any:
        def function(params, xs):
            return unroll(case.cell, params, xs, reset=RESET, method=method)

        return jax.jit(lambda *args: values_and_gradients(function, *args))(case.params, case.xs)

    assert_close(run("auto"), run("scan"))


def test_a_batch_equals_its_single_examples(case: Case) -> None:
    @jax.jit
    def run(state, xs):
        return unroll(case.cell, case.params, xs, state)

    singles = [run(element(case.state, b), case.xs[:, b]) for b in range(BATCH)]
    state = stack([state for state, _ in singles])
    ys = stack([ys for _, ys in singles], axis=1)
    assert_close(run(case.state, case.xs), (state, ys))


def test_two_batch_axes_equal_a_batch_of_batches(case: Case) -> None:
    @jax.jit
    def run(xs, mask, reset):
        return unroll(case.cell, case.params, xs, mask=mask, reset=reset)

    xs = jnp.stack([case.xs, random_like(case.xs)], axis=1)
    mask, reset = np.stack([MASK, ~MASK], axis=1), np.stack([RESET, RESET[::-1]], axis=1)
    rows = [run(xs[:, i], mask[:, i], reset[:, i]) for i in range(2)]
    state = stack([state for state, _ in rows])
    assert_close(run(xs, mask, reset), (state, stack([ys for _, ys in rows], axis=1)))


def test_jit_equals_no_jit(case: Case) -> None:
    def run(params, state, xs):
        return unroll(case.cell, params, xs, state, mask=MASK, reset=RESET)

    args = case.params, case.state, case.xs
    assert_close(jax.jit(run)(*args), run(*args))


def test_calls_that_carry_the_state_on_trace_once(case: Case) -> None:
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
    @jax.jit
    def run(xs):
        return unroll(case.cell, case.params, xs, case.state)[1]

    ys = run(case.xs)
    for t in (0, 3, TIME - 1):
        changed = run(case.xs.at[t].add(random_like(case.xs[t])))
        np.testing.assert_array_equal(changed[:t], ys[:t])
        assert (changed[t] != ys[t]).any(axis=-1).all()


def test_a_reset_starts_a_separate_sequence(case: Case) -> None:
    actual_state, actual_ys = unroll(case.cell, case.params, case.xs, case.state, reset=RESET)
    initial = case.cell.initial_state(case.params, ())
    for b, steps in enumerate(RESET_STEPS):
        first, *later = np.split(case.xs[:, b], steps)
        runs = [loop(case, element(case.state, b), first)] if len(first) else []
        runs += [loop(case, initial, piece) for piece in later]
        assert_close(element(actual_state, b), runs[-1][0])
        assert_close(actual_ys[:, b], jnp.concatenate([ys for _, ys in runs]))


def test_masked_steps_equal_dropped_steps(case: Case) -> None:
    actual_state, actual_ys = unroll(case.cell, case.params, case.xs, case.state, mask=MASK)
    for b in range(BATCH):
        real = MASK[:, b]
        state, ys = loop(case, element(case.state, b), case.xs[real, b])
        assert_close(element(actual_state, b), state)
        assert_close(actual_ys[real, b], ys)
        np.testing.assert_array_equal(actual_ys[~real, b], 0)


@pytest.mark.parametrize("method", ["auto", "scan"])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_reaches_neither_values_nor_gradients(
    case: Case, method: Any, reverse: bool
) -> None:
    real = MASK & (np.arange(TIME)[:, None] < LENGTHS)

    @jax.jit
    def differentiate(xs):
        def function(params, state, xs):
            return unroll(
                case.cell,
                params,
                xs,
                state,
                mask=MASK,
                lengths=LENGTHS,
                reset=RESET,
                reverse=reverse,
                method=method,
            )

        return values_and_gradients(function, case.params, case.state, xs)

    zeros, *filled = (
        differentiate(jnp.where(real[..., None], case.xs, fill)) for fill in (0, np.nan, 1e30)
    )
    chex.assert_tree_all_finite(zeros)
    np.testing.assert_array_equal(zeros[1][2][~real], 0)
    for other in filled:
        chex.assert_trees_all_equal(other, zeros)


@pytest.mark.parametrize("method", ["auto", "scan"])
def test_a_length_of_zero_is_no_step_at_all(case: Case, method: Any) -> None:
    def run(params, state, xs):
        lengths = jnp.zeros(BATCH, int)
        return unroll(case.cell, params, xs, state, lengths=lengths, method=method)

    args = case.params, case.state, case.xs
    (state, ys), gradients = values_and_gradients(run, *args)
    of_params, of_state, of_xs = gradients
    chex.assert_trees_all_equal(state, case.state)
    np.testing.assert_array_equal(ys, 0)
    chex.assert_trees_all_equal((of_params, of_xs), jax.tree.map(jnp.zeros_like, (args[0], of_xs)))
    chex.assert_trees_all_equal(of_state, random_like((state, ys))[0])
    from_nothing, _ = run(case.params, None, case.xs)
    chex.assert_trees_all_equal(from_nothing, case.cell.initial_state(case.params, (BATCH,)))


@pytest.mark.parametrize("method", ["auto", "scan"])
def test_a_sequence_without_steps_returns_the_state(case: Case, method: Any) -> None:
    xs = case.xs[:0]
    state, ys = unroll(case.cell, case.params, xs, case.state, method=method)
    chex.assert_trees_all_equal(state, case.state)
    assert ys.shape == (0, BATCH, *output_shape(case.cell))


def test_reverse_equals_flipping_input_and_output(case: Case) -> None:
    for mask, reset in [(None, None), (MASK, RESET)]:
        backwards = unroll(
            case.cell, case.params, case.xs, case.state, mask=mask, reset=reset, reverse=True
        )
        flipped = None if mask is None else flip(mask), None if reset is None else flip(reset)
        state, ys = unroll(
            case.cell, case.params, flip(case.xs), case.state, mask=flipped[0], reset=flipped[1]
        )
        assert_close(backwards, (state, flip(ys)))


def test_streaming_in_pieces_equals_the_whole(case: Case) -> None:
    state, pieces = case.state, []
    for piece in (slice(0, 3), slice(3, 4), slice(4, TIME)):
        state, ys = unroll(
            case.cell, case.params, case.xs[piece], state, mask=MASK[piece], reset=RESET[piece]
        )
        pieces.append(ys)
    whole = unroll(case.cell, case.params, case.xs, case.state, mask=MASK, reset=RESET)
    assert_close((state, jnp.concatenate(pieces)), whole)


@pytest.mark.parametrize(
    ("method", "modes"), [("auto", ["rev"]), ("scan", ["rev", "fwd"])], ids=["auto", "scan"]
)
def test_gradients_equal_finite_differences(case: Case, method: Any, modes: list[str]) -> None:
    for options in ({}, {"mask": MASK, "reset": RESET, "reverse": True}):

        @jax.jit
        def run(params, state, xs, options=options):
            return unroll(case.cell, params, xs, state, method=method, **options)

        args = case.params, case.state, case.xs
        check_grads(run, args, order=1, modes=modes, atol=1e-6, rtol=1e-6)


def test_a_population_equals_its_members(case: Case) -> None:
    @jax.jit
    def run(params):
        return unroll(case.cell, params, case.xs, reset=RESET)

    members = [disturbed(np.random.default_rng(seed), case.params) for seed in range(3)]
    actual = jax.jit(jax.vmap(run))(stack(members))
    assert_close(actual, stack([run(member) for member in members]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_everything_keeps_the_type_of_the_params(case: Case, dtype: Any) -> None:
    params, xs = to_dtype((case.params, case.xs), dtype)
    outputs = unroll(case.cell, params, xs, mask=MASK, reset=RESET)
    chex.assert_tree_all_finite(outputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("batch_shape", [(), (BATCH,), (2, BATCH)])
def test_states_and_outputs_have_the_documented_shapes(
    case: Case, batch_shape: tuple[int, ...]
) -> None:
    state = case.cell.initial_state(case.params, batch_shape)
    assert hasattr(state, "_fields")
    for leaf in jax.tree.leaves(state):
        assert leaf.shape[: len(batch_shape)] == batch_shape
    assert case.cell.input_shape == (INPUT,)
    assert output_shape(case.cell) == (HIDDEN,)
    x = jnp.zeros((*batch_shape, INPUT))
    new_state, y = jax.eval_shape(case.cell.step, case.params, state, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert y.shape == (*batch_shape, HIDDEN)


def test_params_are_nested_dicts_drawn_from_the_key(case: Case) -> None:
    same, again, other = (case.cell.init(jax.random.key(seed)) for seed in (1, 1, 2))
    chex.assert_trees_all_equal(same, again)
    kernels = [
        (a, b)
        for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(other), strict=True)
        if a.ndim >= 2
    ]
    assert kernels
    assert all((a != b).all() for a, b in kernels)
    for path, leaf in jax.tree_util.tree_leaves_with_path(same):
        assert all(isinstance(entry, jax.tree_util.DictKey) for entry in path)
        assert isinstance(leaf, jax.Array)
