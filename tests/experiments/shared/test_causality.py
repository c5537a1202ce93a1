"""Whether a cell looks ahead is found by trying it, for cells of which it is known beforehand."""

import doctest
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared import causality, cell_flag, summary
from experiments.shared.causality import looks_ahead
from recurrent import (
    Cell,
    bidirectional,
    dense,
    dense_connection,
    elman,
    embedding,
    gru,
    parallel,
    residual,
    skip_stack,
    stack,
    step_dropout,
)

D = 3
KEY = jax.random.key(0)


def whole(function: Any, init: Any = lambda key: {}) -> Cell:
    """A cell without a step whose outputs are ``function(params, xs)``, ``[T, B, D]``."""

    def step(params: Any, state: Any, x: Any) -> Any:
        raise ValueError("there is no step")

    def run(params: Any, state: Any, xs: Any, **options: Any) -> Any:
        return state, function(params, xs)

    return Cell(init, lambda params, batch_shape: (), step, (D,), run)


def shifted(xs: Any, ahead: int) -> Any:
    """Return x_{t + ahead} at t, and zero past the ends."""
    steps = np.arange(len(xs)) + ahead
    inside = (steps >= 0) & (steps < len(xs))
    return jnp.where(inside[:, None, None], xs[np.clip(steps, 0, len(xs) - 1)], 0)


def chunk_means(xs: Any, size: int) -> Any:
    """Return at every step the mean over its chunk of so many steps, the future in it included."""
    first = np.arange(len(xs)) // size * size
    return jnp.stack([xs[k : k + size].mean(axis=0) for k in first])


def convolved(xs: Any, padded: bool) -> Any:
    """Convolve with a kernel as long as the sequence by a Fourier transform over time.

    Without padding the end wraps around to the beginning.
    """
    kernel = jnp.asarray(0.7 ** np.arange(len(xs)), xs.dtype)[:, None, None]
    length = 2 * len(xs) if padded else len(xs)
    product = jnp.fft.rfft(xs, length, axis=0) * jnp.fft.rfft(kernel, length, axis=0)
    return jnp.fft.irfft(product, length, axis=0)[: len(xs)]


def attended(xs: Any, causal: bool) -> Any:
    """Attend from every step to all steps, or to those up to it."""
    scores = jnp.einsum("tbd,sbd->bts", xs, xs)
    allowed = np.tril(np.ones((len(xs), len(xs)), bool)) if causal else True
    weights = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf))
    return jnp.einsum("bts,sbd->tbd", weights, xs)


@pytest.mark.parametrize("ahead", range(-2, causality.LEAST))
def test_a_cell_that_reads_an_input_of_another_step(ahead: int) -> None:
    assert looks_ahead(whole(lambda params, xs: shifted(xs, ahead))) == (ahead > 0)


@pytest.mark.parametrize("steps", [9, 64, 100])
@pytest.mark.parametrize("late", [0, 40])
def test_a_cell_that_looks_far_ahead(steps: int, late: int) -> None:
    """By any number of steps within a sequence, also where it does so late in it alone."""

    def read(ahead: int, params: Any, xs: Any) -> Any:
        return jnp.where(jnp.arange(len(xs))[:, None, None] < late, 0, shifted(xs, ahead))

    for ahead in {1, 8, steps // 2, steps - 1}:
        cell = whole(functools.partial(read, ahead))
        assert looks_ahead(cell, steps) == (late + ahead < steps)


@pytest.mark.parametrize("size", range(1, causality.LEAST + 1))
def test_a_cell_that_looks_ahead_within_chunks_only(size: int) -> None:
    """Between two chunks nothing leaks: a cut that falls there alone would show nothing."""
    assert looks_ahead(whole(lambda params, xs: chunk_means(xs, size))) == (size > 1)


@pytest.mark.parametrize("leaks", [False, True])
def test_sums_in_another_order_are_no_look_ahead(leaks: bool) -> None:
    """A Fourier transform changes the last bits of earlier outputs with later inputs."""
    assert looks_ahead(whole(lambda params, xs: convolved(xs, padded=not leaks))) == leaks
    assert looks_ahead(whole(lambda params, xs: attended(xs, causal=not leaks))) == leaks


@pytest.mark.long
def test_an_iteration_until_the_whole_sequence_converges_is_no_look_ahead() -> None:
    assert not looks_ahead(parallel(elman(D, 4)))
    assert looks_ahead(bidirectional(parallel(elman(D, 4)), elman(D, 4)))


def bidirectional_elman() -> Cell:
    return bidirectional(elman(D, 4), elman(D, 4))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_outputs_in_a_narrow_type(dtype: Any) -> None:
    def rounded(params: Any, xs: Any) -> Any:
        return convolved(xs, padded=True).astype(dtype)

    assert not looks_ahead(whole(rounded))
    assert looks_ahead(whole(lambda params, xs: shifted(xs, 1).astype(dtype)))


def test_a_look_ahead_through_a_weight_that_starts_at_zero_is_found() -> None:
    def gated(params: Any, xs: Any) -> Any:
        return xs + params["gate"] * shifted(xs, 1)

    assert looks_ahead(whole(gated, lambda key: {"gate": jnp.zeros(())}))


@pytest.mark.parametrize("ahead", [0, 1])
def test_params_of_init_are_taken_where_random_ones_give_nan(ahead: int) -> None:
    def root(params: Any, xs: Any) -> Any:
        return jnp.sqrt(params["size"] - 100) * shifted(xs, ahead)

    cell = whole(root, lambda key: {"size": jnp.float32(104)})
    assert looks_ahead(cell) == (ahead > 0)


@pytest.mark.parametrize("leaks", [False, True])
def test_params_that_are_no_floats_are_those_of_init(leaks: bool) -> None:
    """An order of features, a count of steps and a random key: other ones would be no params."""

    def init(key: Any) -> Any:
        return {"order": jnp.array([2, 0, 1]), "ahead": jnp.int32(leaks), "key": key}

    def run(params: Any, xs: Any) -> Any:
        noise = jax.random.normal(params["key"], xs.shape)
        return jnp.roll(xs, -params["ahead"], axis=0)[..., params["order"]] + noise

    assert looks_ahead(whole(run, init)) == leaks


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ([1.0, 200.0], [1.0, 200.0], False),
        ([1.0, 200.0], [1.01, 200.0], False),  # 5e-5 of the largest
        ([1.0, 200.0], [1.1, 200.0], True),
        ([0.0, 0.0], [0.0, 1e-30], True),
        ([1.0, np.nan], [1.0, np.nan], False),
        ([1.0, np.nan], [1.1, np.nan], True),
        ([1.0, 2.0], [1.0, np.nan], True),
        ([1.0, np.inf], [1.0, np.inf], False),
        ([1.0, np.inf], [1.0, 2.0], True),
        ([1, 2], [1, 3], True),
        ([1 + 1j, 2j], [1 + 1j, 2j], False),
        ([1 + 1j, 2j], [1 - 1j, 2j], True),
    ],
)
def test_numbers_move_by_more_than_rounding(before: Any, after: Any, moved: bool) -> None:
    before, after = jnp.asarray(before), jnp.asarray(after)
    assert causality.has_moved(before, after, before) == moved


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_cell_that_is_undefined_at_some_inputs_is_judged_by_the_others(ahead: int) -> None:
    def root(params: Any, xs: Any) -> Any:
        return jnp.sqrt(xs) + shifted(xs, ahead)

    assert looks_ahead(whole(root)) == (ahead > 0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda cell: stack(cell, dense(8, 2)),
        lambda cell: stack(embedding(5, D), cell, dense(8, 5), input_shape=()),
        *[
            pytest.param(wrap, marks=pytest.mark.long)
            for wrap in (
                lambda cell: stack(cell, gru(8, 2)),
                lambda cell: stack(gru(D, D), stack(cell, step_dropout(8, 0.5, KEY))),
                lambda cell: residual(stack(cell, dense(8, D))),
                lambda cell: dense_connection(cell),
                lambda cell: skip_stack(cell, gru(D + 8, 4)),
            )
        ],
    ],
)
def test_a_bidirectional_part_is_found_in_whatever_stands_around_it(wrap: Any) -> None:
    assert looks_ahead(wrap(bidirectional(elman(D, 4), elman(D, 4))))
    assert not looks_ahead(wrap(stack(elman(D, 4), elman(4, 8))))


def test_a_sequence_function_is_tried_though_the_cell_steps_forwards() -> None:
    cell = elman(D, 4)
    assert looks_ahead(cell._replace(sequence=turned(cell).sequence))


def turned(cell: Cell) -> Cell:
    """Return the cell with a sequence function that reads from the last step to the first."""
    inner: Any = cell.sequence

    def run(*arguments: Any, reverse: bool, **options: Any) -> Any:
        return inner(*arguments, reverse=not reverse, **options)

    return cell._replace(sequence=run)


def test_a_cell_without_a_sequence_function_is_not_even_run() -> None:
    assert not looks_ahead(whole(shifted)._replace(sequence=None))


def test_it_is_tried_while_an_outer_function_is_traced() -> None:
    found = []

    @jax.jit
    def traced(x: Any) -> Any:
        found.extend([looks_ahead(bidirectional_elman()), looks_ahead(elman(D, 4))])
        return x

    traced(1.0)
    assert found == [True, False]


LIBRARY = [
    name if name in ("gru", "lru", "min_gru") else pytest.param(name, marks=pytest.mark.long)
    for name in cell_flag.library_cells()
]


@pytest.mark.parametrize("name", LIBRARY)
def test_no_cell_of_the_library_looks_ahead(name: str) -> None:
    """So that the flag need not try them at every start."""
    assert not looks_ahead(cell_flag.library_cells()[name](4, 8))


@pytest.mark.long
@pytest.mark.parametrize("module", [causality, summary])
def test_the_examples_print_what_they_say(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
