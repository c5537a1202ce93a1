"""The last output of each sequence is that at its own end, whatever stands after it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import last_output, lstm, unroll

TIME, BATCH, SIZE = 6, 5, 3
LENGTHS = [6, 1, 0, 4, 6]


def by_loop(ys: np.ndarray, lengths: Any) -> np.ndarray:
    rows = [ys[n - 1, b] if n else np.zeros_like(ys[0, b]) for b, n in enumerate(lengths)]
    return np.stack(rows)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((), np.int32), ((SIZE,), np.uint8), ((2, SIZE), np.int64)]
)
def test_it_is_that_of_a_loop(shape: tuple[int, ...], dtype: Any) -> None:
    ys = np.random.default_rng(0).normal(size=(TIME, BATCH, *shape)).astype(np.float32)
    lengths = np.array(LENGTHS, dtype)
    np.testing.assert_array_equal(last_output(ys, lengths), by_loop(ys, lengths))
    np.testing.assert_array_equal(jax.jit(last_output)(ys, lengths), by_loop(ys, lengths))


@pytest.mark.long
def test_a_sequence_among_longer_ones_ends_as_it_does_alone() -> None:
    cell = lstm(SIZE, 4)
    params, xs = cell.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (TIME, 2, SIZE))
    together = last_output(unroll(cell, params, xs, lengths=[TIME, 3])[1], [TIME, 3])
    alone = unroll(cell, params, xs[:3, 1])[1][-1]
    np.testing.assert_allclose(together[1], alone, rtol=1e-6)


def test_batches_may_have_several_axes_or_none() -> None:
    ys = jnp.arange(24.0).reshape(4, 2, 3)
    lengths = np.array([[1, 2, 3], [4, 0, 1]])
    assert last_output(ys, lengths).tolist() == [[0, 7, 14], [21, 0, 5]]
    assert last_output(jnp.array([1.0, 2.0, 3.0]), 2).item() == 2
    assert last_output(jnp.ones((0, 2, 3)), [0, 0]).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_what_stands_after_the_end_reaches_no_gradient() -> None:
    ys = jnp.full((3, 2), jnp.nan).at[0, 0].set(5.0)
    value, slope = jax.value_and_grad(lambda ys: last_output(ys, jnp.array([1, 0])).sum())(ys)
    assert value == 5
    assert slope.tolist() == [[1, 0], [0, 0], [0, 0]]


def test_a_traced_length_beyond_the_end_is_the_end_as_in_unroll() -> None:
    assert jax.jit(last_output)(jnp.array([[1.0], [2.0]]), jnp.array([9])).tolist() == [2]


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([1, 2, 7, 1, 1], "lengths: expected values from 0 to T=6, got 7"),
        ([1, 2, -1, 1, 1], "got -1"),
        ([1.0] * BATCH, "lengths: expected integers, got float64"),
        ([1, 2], r"first axes of ys after time, \[5, 3\], got \[2\]"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        last_output(jnp.ones((TIME, BATCH, SIZE)), lengths)
