"""Check masks, lengths, resets and directions of `unroll` on numbers computed by hand."""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import Cell, Hidden, elman, length_mask, lstm, output_shape, unroll

TIME, BATCH, INPUT = 5, 2, 3


class Sum(NamedTuple):
    total: Any
    steps: Any


def adder(start: float = 100.0) -> Cell:
    """Return a cell that sums its inputs; its initial state is a parameter."""

    def init(key):
        return {"start": jnp.asarray(start)}

    def initial_state(params, batch_shape):
        return Sum(jnp.full(batch_shape, params["start"]), jnp.zeros(batch_shape, jnp.int32))

    def step(params, state, x):
        state = Sum(state.total + x, state.steps + 1)
        return state, 10 * state.total

    return Cell(init, initial_state, step, ())


XS = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0])
PARAMS = {"start": jnp.asarray(100.0)}


def run(**options: Any) -> tuple[Any, list[float]]:
    state, ys = unroll(adder(), PARAMS, XS, **options)
    return (float(state.total), int(state.steps)), ys.tolist()


def flags(*steps: int) -> np.ndarray:
    return np.isin(np.arange(TIME), steps)


def test_unroll_without_options_steps_from_the_initial_state() -> None:
    assert run() == ((131, 5), [1010, 1030, 1070, 1150, 1310])


def test_a_given_state_replaces_the_initial_state() -> None:
    state = Sum(jnp.asarray(0.0), jnp.asarray(7))
    assert run(state=state) == ((31, 12), [10, 30, 70, 150, 310])


def test_a_mask_holds_the_state_and_zeroes_the_output() -> None:
    assert run(mask=flags(1, 2, 4)) == ((122, 3), [0, 1020, 1060, 0, 1220])


@pytest.mark.fault("N5")
def test_lengths_end_the_sequence() -> None:
    assert run(lengths=3) == ((107, 3), [1010, 1030, 1070, 0, 0])
    assert run(lengths=0) == ((100, 0), [0, 0, 0, 0, 0])
    assert run(lengths=TIME) == run()


def test_lengths_and_mask_combine() -> None:
    assert run(lengths=3, mask=flags(1, 2, 4)) == ((106, 2), [0, 1020, 1060, 0, 0])


def test_a_reset_applies_before_the_step() -> None:
    assert run(reset=flags(0, 3)) == ((124, 2), [1010, 1030, 1070, 1080, 1240])


def test_a_reset_restores_the_initial_state_and_not_the_given_state() -> None:
    state = Sum(jnp.asarray(0.0), jnp.asarray(0))
    assert run(state=state, reset=flags(2)) == ((128, 3), [10, 30, 1040, 1120, 1280])


def test_reverse_reads_from_the_end() -> None:
    assert run(reverse=True) == ((131, 5), [1310, 1300, 1280, 1240, 1160])


def test_reverse_with_lengths_starts_at_the_last_real_step() -> None:
    assert run(reverse=True, lengths=3) == ((107, 3), [1070, 1060, 1040, 0, 0])


def test_reverse_resets_before_the_step_in_reading_order() -> None:
    assert run(reverse=True, reset=flags(1)) == ((103, 2), [1030, 1020, 1280, 1240, 1160])


def test_a_reset_at_a_padded_step_is_ignored() -> None:
    assert run(mask=flags(0, 1), reset=flags(3)) == ((103, 2), [1010, 1030, 0, 0, 0])


def test_the_initial_state_gets_gradients_through_every_reset() -> None:
    def total(params):
        return unroll(adder(), params, XS, reset=flags(3))[1].sum()

    assert jax.grad(total)(PARAMS)["start"] == 10 * TIME


def test_each_batch_element_has_separate_lengths_and_resets() -> None:
    xs = jnp.stack([XS, 10 * XS], axis=1)
    _, ys = unroll(
        adder(),
        PARAMS,
        xs,
        lengths=jnp.array([5, 2]),
        reset=np.stack([flags(3), flags(1)], axis=1),
    )
    assert ys[:, 0].tolist() == [1010, 1030, 1070, 1080, 1240]
    assert ys[:, 1].tolist() == [1100, 1200, 0, 0, 0]


def test_masks_may_be_lists() -> None:
    assert run(mask=[False, True, True, False, True]) == run(mask=flags(1, 2, 4))


@pytest.mark.fault("N7")
def test_unroll_with_traced_lengths_compiles_once() -> None:
    traces = []

    @jax.jit
    def total(lengths):
        traces.append(lengths)
        return unroll(adder(), PARAMS, XS, lengths=lengths)[0].total

    assert [float(total(jnp.asarray(n))) for n in (0, 2, 5)] == [100, 103, 131]
    assert len(traces) == 1


def test_length_mask_is_true_before_each_length() -> None:
    expected = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]], bool)
    np.testing.assert_array_equal(length_mask(np.array([0, 1, 3, 3]), 3), expected)
    square = length_mask(np.array([[0, 1], [3, 3]]), 3)
    np.testing.assert_array_equal(square, expected.reshape(3, 2, 2))


def test_inputs_may_have_several_feature_axes_or_none() -> None:
    def step(params, state, x):
        state = Sum(state.total + x.sum(axis=(-2, -1)), state.steps)
        return state, x[..., 0]

    cell = adder()._replace(step=step, input_shape=(2, 3))
    assert output_shape(cell) == (2,)
    assert output_shape(adder()) == ()
    xs = np.arange(TIME * BATCH * 6.0).reshape(TIME, BATCH, 2, 3)
    state, ys = unroll(cell, PARAMS, jnp.asarray(xs), lengths=jnp.array([5, 3]))
    expected = [100 + xs[:, 0].sum(), 100 + xs[:3, 1].sum()]
    np.testing.assert_allclose(state.total, expected, rtol=1e-6)
    assert ys.shape == (TIME, BATCH, 2)
    np.testing.assert_array_equal(ys[3:, 1], 0)


def test_auto_calls_the_sequence_function_and_scan_does_not() -> None:
    calls = []

    def sequence(params, state, xs, *, mask, reset, reverse):
        calls.append((mask, reset, reverse))
        return state, xs

    cell = adder()._replace(sequence=sequence)
    _, ys = unroll(cell, PARAMS, XS, lengths=2, reverse=True)
    (call,) = calls
    np.testing.assert_array_equal(call[0], flags(0, 1))
    assert call[1:] == (None, True)
    np.testing.assert_array_equal(ys, XS)
    scanned, expected = unroll(cell, PARAMS, XS, method="scan"), unroll(adder(), PARAMS, XS)
    np.testing.assert_array_equal(scanned[1], expected[1])
    assert len(calls) == 1


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("float64")
def test_lengths_may_be_integers_of_any_width() -> None:
    for dtype in (np.int8, np.uint8, np.int64):
        np.testing.assert_array_equal(length_mask(np.array(3, dtype), TIME), flags(0, 1, 2))


def wrong(**arguments: Any) -> None:
    cell = elman(INPUT, 4)
    xs = arguments.pop("xs", jnp.ones((TIME, BATCH, INPUT)))
    unroll(cell, cell.init(jax.random.key(0)), xs, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"xs": jnp.ones(INPUT)},
            r"xs: expected the shape \[T, ..., 3\] \(time first\), got \[3\]",
        ),
        ({"xs": jnp.ones(())}, r"xs: expected .* got \[\]"),
        ({"xs": np.ones((TIME, BATCH, INPUT))}, r"xs: expected float32 .*got float64.*cast it"),
        ({"xs": np.ones((TIME, BATCH, INPUT), int)}, r"xs: expected floating-point .*got int32"),
        ({"xs": jnp.ones((TIME, BATCH, 7))}, r"xs: expected .*3\].* got \[5, 2, 7\]"),
        (
            {"mask": np.ones((BATCH, TIME), bool)},
            r"mask: expected the shape \[5, 2\].*got \[2, 5\]",
        ),
        ({"mask": np.ones(TIME, bool)}, r"mask: expected the shape \[5, 2\].*got \[5\]"),
        ({"mask": np.ones((TIME, BATCH))}, r"mask: expected booleans, got float32; compare"),
        ({"reset": np.ones(BATCH, bool)}, r"reset: expected the shape \[5, 2\].*got \[2\]"),
        ({"reset": np.ones((TIME, BATCH), int)}, r"reset: expected booleans, got int"),
        ({"lengths": np.array([1.0, 2.0])}, r"lengths: expected integers, got float"),
        ({"lengths": np.array([2, TIME + 1])}, r"lengths: expected values from 0 to T=5, got 6"),
        ({"lengths": np.array([-1, 2])}, r"lengths: expected values from 0 to T=5, got -1"),
        ({"lengths": np.array([1, 2, 3])}, r"lengths: expected the shape \[2\], one.*got \[3\]"),
        ({"remat": 0}, r"remat: expected at least 1, got 0"),
        ({"truncate": -2}, r"truncate: expected at least 1, got -2"),
        ({"remat": 1.5}, r"remat: expected a whole number, got 1.5"),
        ({"state": np.zeros((BATCH, 4), np.float32)}, r"state: expected one like the cell's"),
        (
            {"state": Hidden(jnp.zeros((1, 4)))},
            r"state\.hidden: expected float32\[2, 4\], .*\[1, 4\]",
        ),
        ({"state": Hidden(jnp.zeros((BATCH, 4), int))}, r"state\.hidden: .*got int32\[2, 4\]"),
        (
            {"state": Hidden(cast(Any, np.zeros((BATCH, 4))))},
            r"state\.hidden: .*got float64\[2, 4\]",
        ),
        ({"method": "fast"}, r"""method: expected "auto" or "scan", got 'fast'"""),
    ],
    ids=str,
)
@pytest.mark.fault("N5", "N8")
def test_invalid_unroll_arguments_are_an_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong(**arguments)
    with pytest.raises(ValueError, match="expected"):
        jax.eval_shape(lambda: wrong(**arguments))


def test_valid_unroll_arguments_are_no_error() -> None:
    wrong(mask=np.ones((TIME, BATCH), bool), lengths=[0, TIME], reset=np.ones((TIME, BATCH), bool))


@lru_cache
def gradients(**options: Any) -> tuple[Any, Any]:
    """Return outputs of an Elman cell on a masked batch, and gradients of their weighted sum."""
    cell = elman(INPUT, 4)
    rng = np.random.default_rng(0)
    params = cell.init(jax.random.key(0))
    xs, weights = rng.normal(size=(TIME, BATCH, INPUT)), rng.normal(size=(TIME, BATCH, 4))
    mask, reset = np.stack([~flags(1), flags(0, 1, 2)], 1), np.stack([flags(2), flags(4)], 1)

    @jax.jit
    def run(params, xs):
        state, ys = unroll(cell, params, xs, mask=mask, reset=reset, **options)
        return (ys * weights).sum() + state.hidden.sum(), ys

    return jax.value_and_grad(run, argnums=(0, 1), has_aux=True)(params, xs)


@pytest.mark.long
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("remat", "reverse", "method"),
    [(1, False, "auto"), (2, False, "scan"), (2, True, "auto"), (99, True, "auto")],
)
def test_remat_changes_no_values_or_gradients(remat: int, reverse: bool, method: str) -> None:
    actual = gradients(remat=remat, reverse=reverse, method=method)
    close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    jax.tree.map(close, actual, gradients(reverse=reverse))


@pytest.mark.long
@pytest.mark.parametrize(
    ("reverse", "of_xs"),
    # Each input contributes 10 to every output up to the end of its run of two steps.
    [(False, [20, 10, 20, 10, 10]), (True, [10, 10, 20, 10, 20])],
)
def test_truncation_stops_the_gradient_between_runs_of_steps(
    reverse: bool, of_xs: list[float]
) -> None:
    def total(params, xs, truncate):
        return unroll(adder(), params, xs, truncate=truncate, reverse=reverse)[1].sum()

    differentiate = jax.value_and_grad(total, argnums=(0, 1))
    value, (d_params, d_xs) = differentiate(PARAMS, XS, 2)
    whole, (_, d_whole) = differentiate(PARAMS, XS, TIME + 1)
    assert value == whole
    assert d_params["start"] == 20, "the first run of steps has a gradient for the initial state"
    np.testing.assert_array_equal(d_xs, of_xs)
    np.testing.assert_array_equal(np.sort(d_whole), [10, 20, 30, 40, 50])


def test_return_states_gives_the_state_after_every_step() -> None:
    state, (ys, states) = unroll(adder(), PARAMS, XS, return_states=True)
    assert ys.tolist() == [1010, 1030, 1070, 1150, 1310]
    assert states.total.tolist() == [101, 103, 107, 115, 131]
    assert states.steps.tolist() == [1, 2, 3, 4, 5]
    assert state.total == 131


def test_return_states_gives_the_held_state_after_a_padded_step() -> None:
    _, (ys, states) = unroll(adder(), PARAMS, XS, mask=~flags(1), return_states=True)
    assert ys.tolist() == [1010, 0, 1050, 1130, 1290]
    assert states.total.tolist() == [101, 101, 105, 113, 129]
    assert states.steps.tolist() == [1, 1, 2, 3, 4]


def test_replacing_the_step_of_a_cell_drops_the_sequence_function() -> None:
    cell = lstm(INPUT, 4)
    mute = cell._replace(step=lambda params, state, x: (state, 0 * state.hidden))
    xs = jnp.ones((TIME, BATCH, INPUT))
    np.testing.assert_array_equal(unroll(mute, mute.init(jax.random.key(0)), xs)[1], 0)
    assert cell._replace(init=mute.init).sequence is cell.sequence


@pytest.mark.long
def test_forward_mode_is_an_error_that_suggests_scan() -> None:
    cell = lstm(INPUT, 4)
    params, xs = cell.init(jax.random.key(0)), jnp.ones((TIME, BATCH, INPUT))

    def total(scale: Any, method: Any = "auto") -> Any:
        return unroll(cell, params, scale * xs, method=method)[1].sum()

    with pytest.raises(TypeError, match=r'no forward mode; .*take method="scan"'):
        jax.jvp(total, (1.0,), (1.0,))
    slope = jax.jacfwd(partial(total, method="scan"))(1.0)
    np.testing.assert_allclose(slope, jax.grad(total)(1.0), rtol=1e-5)


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_hessians_by_auto_equal_hessians_by_scan() -> None:
    cell = elman(INPUT, 4)
    params, xs = cell.init(jax.random.key(0)), jnp.ones((TIME, BATCH, INPUT))

    def total(method: Any, scale: Any) -> Any:
        return unroll(cell, params, scale * xs, method=method)[1].sum()

    curves = [jax.hessian(partial(total, method))(0.3) for method in ("auto", "scan")]
    np.testing.assert_allclose(*curves, rtol=1e-12)
