"""Compare sampling, greedy and beam search with enumeration, plain Python and statistics."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import Array

from recurrent import layers, unroll
from recurrent.cells import classic
from recurrent.decoding import Beams, Decoded, Step, beam_search, filter_logits, greedy, sample
from tests.recurrent import reference_decoding as reference

BATCH, VOCABULARY, LENGTH = 3, 4, 4
FIRST = np.array([2, 0, 1], np.int32)


jitted_sample = jax.jit(sample, static_argnames=("step", "length", "stop_token"))
jitted_greedy = jax.jit(greedy, static_argnames=("step", "length", "stop_token"))
jitted_beam_search = jax.jit(
    beam_search, static_argnames=("step", "beam_size", "max_length", "stop_token")
)
jitted_filter = jax.jit(filter_logits)


class History(NamedTuple):
    """Hold all tokens read so far as one number ``[B]``, and the table row to read ``[B]``."""

    code: Array
    row: Array


def tree_logits(seed: int, batch: int, vocabulary: int, length: int, scale: float = 2.0) -> Any:
    """Draw logits ``[batch, prefixes, V]`` that differ after each prefix of tokens."""
    prefixes = sum((vocabulary + 1) ** size for size in range(length + 1))
    return scale * np.random.default_rng(seed).normal(size=(batch, prefixes, vocabulary))


def tree_step(table: Any) -> Step:
    """Return a model that remembers every token, so one wrong state changes all later logits."""
    table = jnp.asarray(table)

    def step(state: History, tokens: Array) -> tuple[History, Array]:
        code = state.code * table.shape[2] + tokens + 1
        return History(code, state.row), table[state.row, code % table.shape[1]]

    return step


def tree_start(batch: int) -> History:
    return History(jnp.zeros(batch, jnp.int32), jnp.arange(batch, dtype=jnp.int32))


def tree_log_probs(table: np.ndarray, row: int, first: int) -> reference.NextLogProbs:
    vocabulary = table.shape[2]

    def log_probs(tokens: reference.Tokens) -> np.ndarray:
        code = 0
        for token in (first, *tokens):
            code = code * vocabulary + token + 1
        return reference.log_softmax(table[row, code % table.shape[1]])

    return log_probs


def lstm_language_model(seed: int = 0, vocabulary: int = 6, hidden: int = 5) -> Any:
    """Return params, a start state, a step and a scorer of an LSTM with sharp distributions."""
    cell, readout = classic.lstm(4, hidden), layers.dense(hidden, vocabulary)
    rng = np.random.default_rng(seed)
    shapes = {
        "cell": jax.eval_shape(cell.init, jax.random.key(0)),
        "embedding": jax.ShapeDtypeStruct((vocabulary, 4), jnp.float32),
        "readout": jax.eval_shape(readout.init, jax.random.key(0)),
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)

    def step(params: Any, state: Any, tokens: Array) -> tuple[Any, Array]:
        state, hidden = cell.step(params["cell"], state, params["embedding"][tokens])
        return state, readout.apply(params["readout"], hidden)

    def teacher_forced(params: Any, tokens: Array) -> Array:
        """Return the log-probabilities ``[T - 1, B]`` of tokens ``[T, B]`` after the first."""
        _, hidden = unroll(cell, params["cell"], params["embedding"][tokens[:-1]])
        log_probs = jax.nn.log_softmax(readout.apply(params["readout"], hidden))
        return jnp.take_along_axis(log_probs, tokens[1:, :, None], axis=-1)[..., 0]

    start = cell.initial_state(params["cell"], (BATCH,))
    return params, start, step, teacher_forced


# Filters


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 3, 7, 50])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 0.95, 1.0])
def test_filtered_logits_give_the_distribution_of_plain_python(
    temperature: float, top_k: Any, top_p: Any
) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 7)) * 2
    logits[0, [1, 4, 5]] = logits[0].max() + 1
    logits[1, 3] = -np.inf
    with jax.enable_x64(True):
        probs = np.exp(jitted_filter(logits, temperature, top_k, top_p))
    probs = probs / probs.sum(axis=-1, keepdims=True)
    expected = [reference.filtered_probs(row, temperature, top_k, top_p) for row in logits]
    np.testing.assert_allclose(probs, expected, atol=1e-14)


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, 1), (0.49, 1), (0.79, 2), (0.81, 3), (0.96, 4)])
def test_the_nucleus_is_the_smallest_set_that_reaches_p(top_p: float, kept: int) -> None:
    logits = jnp.log(jnp.array([0.05, 0.3, 0.5, 0.15]))
    filtered = jitted_filter(logits, top_p=top_p)
    assert set(np.flatnonzero(np.isfinite(filtered))) == set([2, 1, 3, 0][:kept])


def test_the_nucleus_is_taken_from_the_top_k_tokens() -> None:
    logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    # Among the two largest, the first has 0.4 / 0.7 = 0.57 and reaches 0.5 alone; among all four
    # it has only 0.4.
    assert np.isfinite(jitted_filter(logits, top_p=0.5)).sum() == 2
    assert np.isfinite(jitted_filter(logits, top_k=2, top_p=0.5)).sum() == 1


def test_top_p_of_one_keeps_a_large_vocabulary_whole() -> None:
    logits = jax.random.normal(jax.random.key(0), (50_000,)) * 10
    assert np.isfinite(jitted_filter(logits, top_p=1.0)).all()


def test_filtering_without_options_only_shifts_the_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    np.testing.assert_allclose(filter_logits(logits), shifted, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_filtered_logits_stay_finite_at_low_temperature_and_precision(dtype: Any) -> None:
    logits = jnp.array([3.0, 200.0, -100.0, 199.0], dtype)
    filtered = jitted_filter(logits, 1e-30, top_p=0.9)
    assert filtered.dtype == jnp.float32
    np.testing.assert_array_equal(jax.nn.softmax(filtered), [0, 1, 0, 0])


def test_filter_options_may_be_traced_and_differ_per_row() -> None:
    logits = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    options = (np.array([0.0, 0.5, 2.0]), np.array([6, 3, 2]), np.array([0.5, 0.8, 1.0]))
    traces = []

    @jax.jit
    def filtered(*options: Any) -> Array:
        traces.append(options)
        return filter_logits(logits, *options)

    expected = [
        reference.filtered_probs(row.astype(np.float64), float(t), int(k), float(p))
        for row, t, k, p in zip(logits, *options, strict=True)
    ]
    together = np.asarray(filtered(*options))
    probs = np.exp(together) / np.exp(together).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(probs, expected, atol=1e-6)
    filtered(*[np.roll(option, 1) for option in options])
    assert len(traces) == 1
    by_row = jax.jit(jax.vmap(filter_logits))(logits, *options)
    np.testing.assert_allclose(by_row, together, rtol=1e-6)


# Sampling


def chi_squared(counts: np.ndarray, probs: np.ndarray) -> tuple[float, float]:
    """Return the chi-squared statistic, and the value that chance exceeds once in 1000 runs."""
    likely = probs > 0
    assert counts[~likely].sum() == 0
    expected = probs[likely] * counts.sum()
    statistic = float(((counts[likely] - expected) ** 2 / expected).sum())
    return statistic, float(scipy.stats.chi2.ppf(0.999, max(likely.sum() - 1, 1)))


def markov_step(logits: Any) -> Step:
    """Return a model whose next token depends only on the last one; logits ``[V, V]``."""
    table = jnp.asarray(logits, jnp.float32)
    return lambda state, tokens: (state, table[tokens])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 3},
        {"top_p": 0.7},
        {"temperature": 1.5, "top_k": 4, "top_p": 0.8},
    ],
)
def test_sampled_pairs_of_tokens_are_as_frequent_as_probable(options: Any) -> None:
    draws, vocabulary = 20_000, 5
    logits = np.random.default_rng(3).normal(size=(vocabulary, vocabulary))
    first = jnp.full(draws, 2)
    tokens = np.asarray(
        jitted_sample(markov_step(logits), (), first, jax.random.key(0), 2, **options).tokens
    )
    counts = np.zeros((vocabulary, vocabulary))
    np.add.at(counts, (tokens[0], tokens[1]), 1)

    def pair_probs(temperature: float = 1.0, top_k: Any = None, top_p: Any = None) -> np.ndarray:
        rows = [reference.filtered_probs(row, temperature, top_k, top_p) for row in logits]
        return rows[2][:, None] * np.array(rows)

    statistic, bound = chi_squared(counts, pair_probs(**options))
    assert statistic < bound
    # The bound is tight enough to detect a slightly wrong temperature.
    other = options | {"temperature": 1.1 * options.get("temperature", 1.0)}
    if np.array_equal(pair_probs(**other) > 0, pair_probs(**options) > 0):
        statistic, bound = chi_squared(counts, pair_probs(**other))
        assert statistic > bound


def test_filters_exclude_the_same_tokens_for_every_key() -> None:
    logits = np.random.default_rng(0).normal(size=(8, 8)) * 0.1
    first = jnp.arange(800) % 8
    step = markov_step(logits)
    for seed, (top_k, top_p) in enumerate([(2, 1.0), (8, 0.4), (5, 0.3)]):
        run = jitted_sample(step, (), first, jax.random.key(seed), 6, top_k=top_k, top_p=top_p)
        tokens = np.asarray(run.tokens)
        rows = [reference.filtered_probs(row, 1, top_k, top_p) for row in logits]
        allowed = np.array(rows) > 0
        before = np.concatenate([first[None], tokens[:-1]])
        assert allowed[before, tokens].all()
        assert {*zip(before.flat, tokens.flat, strict=True)} == {
            *zip(*np.nonzero(allowed), strict=True)
        }


def test_batch_elements_and_steps_draw_tokens_independently() -> None:
    tokens = jitted_sample(
        markov_step(np.zeros((2, 2))), (), jnp.zeros(64, int), jax.random.key(0), 64
    )
    rows, columns = np.unique(tokens.tokens, axis=0), np.unique(tokens.tokens, axis=1)
    assert rows.shape == columns.shape == (64, 64)


def test_a_longer_sample_starts_with_the_shorter_sample() -> None:
    run = partial(jitted_sample, markov_step(np.eye(4)), (), jnp.arange(4), jax.random.key(5))
    np.testing.assert_array_equal(run(9).tokens[:5], run(5).tokens)


@pytest.mark.long
def test_sampled_log_probs_and_gradients_equal_teacher_forcing() -> None:
    with jax.enable_x64(True):
        params, start, step, teacher_forced = lstm_language_model()

        def sampled(params: Any) -> tuple[Array, Decoded]:
            run = sample(
                partial(step, params), start, FIRST, jax.random.key(1), 8, temperature=0.7, top_k=4
            )
            return (run.log_probs * weights).sum(), run

        weights = np.random.default_rng(0).normal(size=(8, BATCH))

        def taught(params: Any) -> tuple[Array, Array]:
            log_probs = teacher_forced(params, tokens)
            return (log_probs * weights).sum(), log_probs

        gradient, run = jax.jit(jax.grad(sampled, has_aux=True))(params)
        tokens = np.concatenate([FIRST[None], run.tokens])
        expected, log_probs = jax.jit(jax.grad(taught, has_aux=True))(params)
        np.testing.assert_allclose(run.log_probs, log_probs, atol=1e-13)
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-12), gradient, expected)
        assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(gradient))


@pytest.mark.long
def test_sampling_with_all_options_traced_compiles_once() -> None:
    params, start, step, _ = lstm_language_model()
    model = partial(step, params)
    traces = []

    @jax.jit
    def run(params: Any, key: Any, temperature: Any, top_k: Any, top_p: Any) -> Decoded:
        traces.append(key)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return sample(partial(step, params), start, FIRST, key, 7, stop_token=4, **options)

    hot, key = run(params, jax.random.key(4), 3.0, 5, 0.99), jax.random.key(5)
    best = jitted_greedy(model, start, FIRST, 7, stop_token=4)
    for options in [(0.0, 6, 1.0), (1.0, 1, 1.0), (1.0, 6, 1e-6)]:
        cold = run(params, key, *options)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), cold, best)
        assert (cold.tokens != hot.tokens).any()
    assert len(traces) == 1


# Greedy


def greedy_by_hand(table: np.ndarray, length: int, stop: int | None) -> list[list[int]]:
    rows = []
    for row, first in enumerate(FIRST):
        tokens: list[int] = []
        while len(tokens) < length and stop not in tokens:
            log_probs = tree_log_probs(table, row, first)(tuple(tokens))
            tokens.append(int(log_probs.argmax()))
        rows.append(tokens)
    return rows


@pytest.mark.parametrize("stop", [None, 0, 3])
def test_greedy_takes_the_most_probable_token_at_each_step(stop: int | None) -> None:
    table = tree_logits(7, BATCH, VOCABULARY, 6)
    expected = greedy_by_hand(table, 6, stop)
    if stop is not None:
        assert {len(tokens) for tokens in expected} != {6}
    step, start, key = tree_step(table), tree_start(BATCH), jax.random.key(0)
    run = jitted_greedy(step, start, FIRST, 6, stop_token=stop)
    cold = jitted_sample(step, start, FIRST, key, 6, temperature=0.0, stop_token=stop)
    jax.tree.map(np.testing.assert_array_equal, cold, run)
    run = jax.tree.map(np.asarray, run)
    for row, tokens in enumerate(expected):
        n = len(tokens)
        assert run.lengths[row] == n
        assert run.tokens[:n, row].tolist() == tokens
        assert (run.tokens[n:, row] == stop).all()
        log_probs = tree_log_probs(table, row, int(FIRST[row]))
        each = [log_probs(tuple(tokens[:t]))[tokens[t]] for t in range(n)]
        np.testing.assert_allclose(run.log_probs[:n, row], each, atol=1e-5)
        assert (run.log_probs[n:, row] == 0).all()


def test_a_first_token_equal_to_the_stop_token_does_not_end_the_sequence() -> None:
    run = jitted_greedy(markov_step(-np.eye(3)), (), jnp.zeros(1, int), 4, stop_token=0)
    np.testing.assert_array_equal(run.tokens[:, 0], [1, 0, 0, 0])
    assert run.lengths[0] == 2


def test_greedy_breaks_ties_by_the_lowest_token() -> None:
    run = jitted_greedy(markov_step(np.zeros((4, 4))), (), jnp.array([3]), 3)
    np.testing.assert_array_equal(run.tokens[:, 0], [0, 0, 0])


class Cache(NamedTuple):
    """Hold the embeddings read so far ``[B, T, D]`` and their number, shared by the batch."""

    seen: Array
    position: Array


def attention_step(embedding: Array, kernel: Array) -> Step:
    """Return a model with one attention layer over a cache of the tokens read."""

    def step(state: Cache, tokens: Array) -> tuple[Cache, Array]:
        query = embedding[tokens]
        seen = state.seen.at[:, state.position].set(query)
        scores = jnp.einsum("btd,bd->bt", seen, query)
        scores = jnp.where(jnp.arange(seen.shape[1]) <= state.position, scores, -jnp.inf)
        context = jnp.einsum("bt,btd->bd", jax.nn.softmax(scores), seen)
        return Cache(seen, state.position + 1), context @ kernel

    return step


def attention_log_probs(embedding: Any, kernel: Any, first: int) -> reference.NextLogProbs:
    def log_probs(tokens: reference.Tokens) -> np.ndarray:
        seen = embedding[[first, *tokens]]
        weights = np.exp(reference.log_softmax(seen @ seen[-1]))
        return reference.log_softmax(weights @ seen @ kernel)

    return log_probs


@pytest.mark.long
def test_greedy_sampling_and_beam_search_take_a_cache_with_a_shared_position() -> None:
    rng = np.random.default_rng(2)
    embedding, kernel = rng.normal(size=(VOCABULARY, 5)), 3 * rng.normal(size=(5, VOCABULARY))
    with jax.enable_x64(True):
        step = attention_step(jnp.asarray(embedding), jnp.asarray(kernel))
        start = Cache(jnp.zeros((BATCH, 6, 5)), jnp.asarray(0))
        best, drawn, beams = jax.tree.map(
            np.asarray,
            (
                jitted_greedy(step, start, FIRST, 6),
                jitted_sample(step, start, FIRST, jax.random.key(0), 6),
                jitted_beam_search(step, start, FIRST, beam_size=3, max_length=6, stop_token=0),
            ),
        )
    for row, first in enumerate(FIRST):
        log_probs = attention_log_probs(embedding, kernel, first)
        for t in range(6):
            largest = log_probs(tuple(best.tokens[:t, row].tolist())).argmax()
            assert best.tokens[t, row] == largest
            now = log_probs(tuple(drawn.tokens[:t, row].tolist()))[drawn.tokens[t, row]]
            np.testing.assert_allclose(drawn.log_probs[t, row], now, atol=1e-12)
        expected = reference.beam_search(log_probs, VOCABULARY, 6, 0, 0.0, 3)
        assert_same_beams(beams, row, expected)


# Beam search


def assert_same_beams(
    beams: Beams, row: int, expected: list[tuple[float, reference.Tokens]], atol: float = 1e-12
) -> None:
    found = beams.scores[row]
    np.testing.assert_allclose(found[: len(expected)], [s for s, _ in expected], atol=atol)
    assert (found[len(expected) :] == -jnp.inf).all()
    for place, (_, tokens) in enumerate(expected):
        n = int(beams.lengths[row, place])
        assert tuple(beams.sequences[row, place, :n].tolist()) == tokens


@partial(jax.jit, static_argnames=("beam_size", "max_length", "stop_token"))
def jitted_search(table: Any, length_penalty: Any, **options: Any) -> Beams:
    step, start = tree_step(table), tree_start(len(table))
    return beam_search(step, start, FIRST, length_penalty=length_penalty, **options)


def search(table: np.ndarray, length_penalty: float = 0.0, **options: Any) -> Beams:
    """Run beam search in float64."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jitted_search(table, length_penalty, **options))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("stop", [None, 0, 2])
def test_beam_search_over_all_prefixes_is_exhaustive(stop: int | None, alpha: float) -> None:
    vocabulary, length = 3, 3
    table = tree_logits(0, BATCH, vocabulary, length + 1)
    beams = search(
        table,
        beam_size=vocabulary**length,
        max_length=length,
        stop_token=stop,
        length_penalty=alpha,
    )
    for row, first in enumerate(FIRST):
        log_probs = tree_log_probs(table, row, first)
        expected = reference.all_sequences(log_probs, vocabulary, length, stop, alpha)
        assert len(expected) == (27 if stop is None else 1 + 2 + 4 * 3)
        assert_same_beams(beams, row, expected)
        if alpha == 0:
            np.testing.assert_allclose(np.exp(beams.scores[row]).sum(), 1, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("stop", [None, 1])
@pytest.mark.parametrize("beam_size", [1, 3, 11])
@pytest.mark.parametrize("seed", range(4))
def test_beam_search_equals_plain_python(
    seed: int, beam_size: int, stop: int | None, alpha: float
) -> None:
    table = tree_logits(seed, BATCH, VOCABULARY, 6)
    beams = search(table, beam_size=beam_size, max_length=6, stop_token=stop, length_penalty=alpha)
    for row, first in enumerate(FIRST):
        log_probs = tree_log_probs(table, row, first)
        expected = reference.beam_search(log_probs, VOCABULARY, 6, stop, alpha, beam_size)
        assert_same_beams(beams, row, expected)


def test_a_wide_beam_finds_a_more_probable_sequence_than_greedy() -> None:
    # Token 1 is the most probable first token, but only token 2 has a nearly certain successor.
    probs = np.array([[0.25, 0.4, 0.35], [0.4, 0.3, 0.3], [0.02, 0.96, 0.02]])
    step, first = markov_step(np.log(probs)), np.array([0])
    assert jitted_greedy(step, (), first, 2).tokens[:, 0].tolist() == [1, 0]
    for beam_size, best, prob in [(1, [1, 0], 0.4 * 0.4), (2, [2, 1], 0.35 * 0.96)]:
        found = jitted_beam_search(
            step, (), first, beam_size=beam_size, max_length=2, stop_token=None
        )
        assert found.sequences[0, 0].tolist() == best
        np.testing.assert_allclose(np.exp(found.scores[0, 0]), prob, rtol=1e-6)


def test_a_length_penalty_favors_longer_sequences() -> None:
    probs = np.array([[0.3, 0.4, 0.3], [0.4, 0.3, 0.3], [0.02, 0.96, 0.02]])
    step = markov_step(np.log(probs))
    for alpha, best, score in [
        (0.0, [0, 0], np.log(0.3)),
        (3.0, [2, 1], np.log(0.3 * 0.96) / (7 / 6) ** 3),
    ]:
        found = jitted_beam_search(
            step,
            (),
            np.array([0]),
            beam_size=2,
            max_length=2,
            stop_token=0,
            length_penalty=alpha,
        )
        assert found.sequences[0, 0].tolist() == best
        np.testing.assert_allclose(found.scores[0, 0], score, rtol=1e-6)


def test_beam_search_breaks_ties_by_beam_then_token() -> None:
    found = jitted_beam_search(
        markov_step(np.zeros((3, 3))), (), np.array([1]), beam_size=4, max_length=2, stop_token=None
    )
    assert found.sequences[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0]]


def test_the_stop_token_fills_the_rest_of_a_finished_sequence() -> None:
    table = tree_logits(3, BATCH, VOCABULARY, 6)
    beams = search(table, beam_size=9, max_length=6, stop_token=2)
    steps = np.arange(6)
    ended = steps >= np.asarray(beams.lengths)[..., None] - 1
    is_stop = np.asarray(beams.sequences) == 2
    assert len(np.unique(beams.lengths)) > 3
    truncated = ~is_stop.any(axis=-1)
    assert (np.asarray(beams.lengths)[truncated] == 6).all()
    np.testing.assert_array_equal(is_stop[~truncated], ended[~truncated])
    assert (np.diff(beams.scores, axis=1) <= 0).all()


def test_impossible_sequences_fill_unused_beams() -> None:
    logits = np.full((3, 3), -np.inf)
    logits[0, [1, 2]] = np.log([0.25, 0.75])
    logits[[1, 2], 0] = 0.0
    step = markov_step(logits)
    found = jitted_beam_search(step, (), np.array([0]), beam_size=5, max_length=4, stop_token=0)
    assert found.sequences[0].tolist() == [[2, 0, 0, 0], [1, 0, 0, 0]] + 3 * [[0, 0, 0, 0]]
    assert found.lengths[0].tolist() == [2, 2, 0, 0, 0]
    np.testing.assert_allclose(np.exp(found.scores[0]), [0.75, 0.25, 0, 0, 0], rtol=1e-6)


def test_beam_search_ends_as_soon_as_no_live_beam_can_win() -> None:
    # Two sequences finish within two steps, with scores -0.3 and -1.3, when all live beams are at
    # -5 or less. A strong length penalty raises the score that a live beam can still reach.
    logits = np.array([[-np.inf, 0.0, -1.0], [0.0, -8.0, -8.0], [0.0, -5.0, -5.0]])
    table = jnp.asarray(logits, jnp.float32)

    def step(state: Any, tokens: Array) -> tuple[Any, Array]:
        position, last = state
        return (position + 1, last), jnp.where(position < last, table[tokens], jnp.nan)

    def scores(steps_that_work: int, alpha: float) -> Array:
        return jitted_beam_search(
            step,
            (0, steps_that_work),
            np.array([0]),
            beam_size=2,
            max_length=30,
            stop_token=0,
            length_penalty=alpha,
        ).scores

    assert np.isnan(scores(1, 0.0)).any()
    np.testing.assert_array_equal(scores(2, 0.0), scores(30, 0.0))
    assert np.isfinite(scores(2, 0.0)).all()
    assert np.isnan(scores(2, 4.0)).any()
    assert np.isfinite(scores(30, 4.0)).all()


def test_a_finished_batch_element_does_not_change_while_others_search() -> None:
    table = tree_logits(11, BATCH, VOCABULARY, 6)
    table[1, :, 0] += 8.0
    together = search(table, beam_size=3, max_length=6, stop_token=0)
    assert together.lengths[1, 0] == 1
    for row in range(BATCH):
        log_probs = tree_log_probs(table, row, int(FIRST[row]))
        expected = reference.beam_search(log_probs, VOCABULARY, 6, 0, 0.0, 3)
        assert_same_beams(together, row, expected)


@pytest.mark.long
def test_beam_scores_of_a_recurrent_network_equal_teacher_forcing() -> None:
    with jax.enable_x64(True):
        params, start, step, teacher_forced = lstm_language_model()
        model = partial(step, params)

        @jax.jit
        def run() -> Any:
            wide, narrow = [
                beam_search(model, start, FIRST, beam_size=k, max_length=9, stop_token=None)
                for k in (4, 1)
            ]
            tokens = jnp.moveaxis(wide.sequences, -1, 0).reshape(9, -1)
            first = jnp.repeat(FIRST, 4)[None]
            taught = teacher_forced(params, jnp.concatenate([first, tokens]))
            return wide, narrow, greedy(model, start, FIRST, 9), taught.sum(axis=0)

        wide, narrow, best, taught = jax.tree.map(np.asarray, run())
    np.testing.assert_allclose(wide.scores.ravel(), taught, atol=1e-12)
    np.testing.assert_array_equal(narrow.sequences[:, 0].T, best.tokens)
    gain = wide.scores[:, 0] - best.log_probs.sum(axis=0)
    assert (gain > -1e-12).all()
    assert (gain > 1e-3).any()


def test_the_step_of_beam_search_may_close_over_batched_arrays() -> None:
    rng = np.random.default_rng(0)
    memory, table = rng.normal(size=(BATCH, VOCABULARY)), rng.normal(size=(VOCABULARY,) * 2)

    def step(state: Any, tokens: Array) -> tuple[Any, Array]:
        return state, jnp.asarray(table)[tokens] + memory

    beams = jitted_beam_search(step, (), FIRST, beam_size=3, max_length=4, stop_token=1)
    for row, first in enumerate(FIRST):

        def log_probs(tokens: reference.Tokens, row: int = row, first: int = first) -> np.ndarray:
            return reference.log_softmax(table[(first, *tokens)[-1]] + memory[row])

        expected = reference.beam_search(log_probs, VOCABULARY, 4, 1, 0.0, 3)
        assert_same_beams(jax.tree.map(np.asarray, beams), row, expected, atol=1e-5)


@pytest.mark.long
def test_every_leaf_of_a_state_tree_follows_the_beam() -> None:
    table = tree_logits(1, BATCH, VOCABULARY, 5)
    plain = tree_step(table)

    def step(state: Any, tokens: Array) -> tuple[Any, Array]:
        history, logits = plain(History(state["code"][0][:, 0, 0], state["row"]), tokens)
        right = state["odd"] == (history.code * 0 + state["code"][0][:, 0, 0] % 2 == 1)
        logits = jnp.where(right[:, None], logits, jnp.nan)
        code = history.code[:, None, None] * jnp.ones((1, 2, 3), jnp.int32)
        tree = {
            "code": [code],
            "row": history.row,
            "odd": history.code % 2 == 1,
            "key": state["key"],
            "nothing": None,
            "steps": state["steps"] + 1,
        }
        return tree, logits

    start = {
        "code": [jnp.zeros((BATCH, 2, 3), jnp.int32)],
        "row": jnp.arange(BATCH, dtype=jnp.int32),
        "odd": jnp.zeros(BATCH, bool),
        "key": jax.random.split(jax.random.key(0), BATCH),
        "nothing": None,
        "steps": 0,
    }
    options: Any = {"beam_size": 3, "max_length": 5, "stop_token": 0}
    jax.tree.map(
        np.testing.assert_array_equal,
        jitted_beam_search(step, start, FIRST, **options),
        jitted_beam_search(plain, tree_start(BATCH), FIRST, **options),
    )


@pytest.mark.long
def test_beam_search_is_traced_once_for_all_penalties_and_weights() -> None:
    params, start, step, _ = lstm_language_model()
    traces = []

    @jax.jit
    def run(params: Any, alpha: Any) -> Beams:
        traces.append(alpha)
        return beam_search(
            partial(step, params),
            start,
            FIRST,
            beam_size=3,
            max_length=6,
            stop_token=5,
            length_penalty=alpha,
        )

    many = jax.vmap(run, in_axes=(None, 0))(params, jnp.array([0.0, 1.0]))
    for place, alpha in enumerate([0.0, 1.0]):
        one = run(jax.tree.map(lambda leaf: 1 * leaf, params), alpha)
        np.testing.assert_array_equal(many.sequences[place], one.sequences)
        np.testing.assert_allclose(many.scores[place], one.scores, rtol=1e-5)
    assert len(traces) == 2  # one under vmap, one without


def test_beam_search_scores_bfloat16_logits_in_float32() -> None:
    table = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5)), jnp.bfloat16)
    wide = np.asarray(table, np.float64)

    def step(state: Any, tokens: Array) -> tuple[Any, Array]:
        return state, table[tokens]

    def log_probs(tokens: reference.Tokens) -> np.ndarray:
        return reference.log_softmax(wide[(1, *tokens)[-1]])

    options: Any = {"beam_size": 4, "max_length": 20, "stop_token": None}
    beams = jitted_beam_search(step, (), np.array([1]), **options)
    assert beams.scores.dtype == jnp.float32
    expected = reference.beam_search(log_probs, 5, 20, None, 0.0, 4)
    np.testing.assert_allclose(beams.scores[0], [score for score, _ in expected], rtol=1e-5)


# Invalid arguments


def run_sample(**options: Any) -> Any:
    arguments: dict[str, Any] = {
        "step": markov_step(np.zeros((3, 3))),
        "state": (),
        "first_token": [0, 1],
        "key": jax.random.key(0),
        "length": 2,
    }
    return sample(**(arguments | options))


def run_beam(**options: Any) -> Any:
    arguments: dict[str, Any] = {
        "step": markov_step(np.zeros((3, 3))),
        "state": (),
        "first_token": [0, 1],
        "beam_size": 2,
        "max_length": 2,
        "stop_token": 0,
    }
    return beam_search(**(arguments | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, r"temperature: expected finite and 0 or more, got -0.1"),
        ({"temperature": float("nan")}, r"temperature: expected finite and 0 or more"),
        ({"temperature": np.array([1.0, -1.0])}, r"temperature: expected"),
        ({"top_k": 0}, r"top_k: expected at least 1, got 0"),
        ({"top_k": 2.0}, r"top_k: expected an integer, got float32"),
        ({"top_p": 0.0}, r"top_p: expected above 0, up to 1, got 0.0"),
        ({"top_p": 1.01}, r"top_p: expected above 0, up to 1, got 1.01"),
    ],
)
@pytest.mark.parametrize("run", [run_sample, partial(filter_logits, jnp.zeros((2, 3)))])
def test_filter_options_out_of_range_are_an_error(
    run: Callable[..., Any], options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(**options)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (1.0, r"logits: expected the shape \[..., V\]"),
        ([1, 2], r"logits: expected floats, got int"),
    ],
)
def test_filtering_logits_of_a_wrong_shape_or_type_is_an_error(logits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filter_logits(logits)


@pytest.mark.parametrize("run", [run_sample, run_beam])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_token": 1}, r"first_token: expected integers \[B\], got int32 \[\]"),
        ({"first_token": [[1]]}, r"first_token: expected integers \[B\], got int32 \[1, 1\]"),
        ({"first_token": [1.0]}, r"first_token: expected integers \[B\], got float32 \[1\]"),
        ({"stop_token": 3}, r"stop_token: expected a token from 0 to 2, got 3"),
        ({"stop_token": -1}, r"stop_token: expected a token from 0 to 2, got -1"),
        (
            {"step": lambda state, tokens: (state, jnp.zeros(3))},
            r"step: expected logits \[B=2, V\], got \[3\]",
        ),
        (
            {"step": lambda state, tokens: (state, tokens[:, None])},
            r"step: expected logits of a float type, got int32",
        ),
        (
            {"step": lambda state, tokens: (jnp.zeros(2), jnp.zeros((2, 3)))},
            r"step: expected a state like the one that it was given, \(\), got float32 \[2\]",
        ),
        (
            {
                "state": jnp.zeros(2, jnp.bfloat16),
                "step": lambda state, tokens: (jnp.zeros(2), jnp.zeros((2, 3))),
            },
            r"step: expected a state like .* bfloat16 \[2\], got float32 \[2\]",
        ),
    ],
)
def test_an_invalid_step_or_token_is_an_error(
    run: Callable[..., Any], options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(**options)


@pytest.mark.parametrize("length", [0, -2])
def test_decoding_a_length_below_one_is_an_error(length: int) -> None:
    with pytest.raises(ValueError, match=f"length: expected at least 1, got {length}"):
        run_sample(length=length)
    with pytest.raises(ValueError, match=f"max_length: expected at least 1, got {length}"):
        run_beam(max_length=length)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, r"beam_size: expected at least 1, got 0"),
        ({"length_penalty": -0.5}, r"length_penalty: expected 0 or more, got -0.5"),
        (
            {"state": {"h": jnp.zeros((2, 1)), "c": jnp.zeros((1, 2))}},
            r"state\['c'\]: expected a scalar or the shape \[B=2, ...\], got \[1, 2\]",
        ),
    ],
)
def test_invalid_beam_search_options_are_an_error(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_beam(**options)


def test_the_reference_lists_every_complete_sequence_once() -> None:
    sequences = list(reference.complete(3, 3, 0))
    assert len(sequences) == len(set(sequences)) == 15
    assert {len(tokens) for tokens in sequences if 0 not in tokens} == {3}
    assert all(0 not in tokens[:-1] for tokens in sequences)
    assert list(reference.complete(2, 3, None)) == list(itertools.product(range(2), repeat=3))


NANS = [np.array(bits, np.uint32).view(np.float32) for bits in (0x7FC00000, 0xFFC00000)]


@pytest.mark.long
@pytest.mark.parametrize("nan", NANS)
@pytest.mark.parametrize("stop_token", [None, 2])
def test_a_model_that_gives_nan_has_no_score_that_looks_sound(
    nan: Any, stop_token: int | None
) -> None:
    table = np.log(np.full((2, 3, 3), 1 / 3, np.float32))  # [B, read, V]
    table[0, 1] = nan  # in the first example, after token 1

    def step(state: Any, tokens: Any) -> Any:
        return state, jnp.asarray(table)[jnp.arange(2), tokens]

    first = jnp.array([0, 0])
    beams = beam_search(step, (), first, beam_size=3, max_length=3, stop_token=stop_token)
    assert np.isnan(beams.scores[0, 0])
    assert np.isfinite(beams.scores[1, 0])
    nothing = beam_search(step, (), jnp.array([1, 1]), beam_size=2, max_length=2, stop_token=None)
    assert np.isnan(nothing.scores[0]).all()


@pytest.mark.long
def test_a_prefix_that_is_impossible_stays_so_whatever_the_model_gives_for_it() -> None:
    """Only token 1 may follow 0; what the model says after 0 or 2 again is NaN."""
    table = jnp.array([[-jnp.inf, 0.0, -jnp.inf], [0.0, -jnp.inf, -jnp.inf], [jnp.nan] * 3])

    def step(state: Any, tokens: Any) -> Any:
        return state, table[tokens]

    beams = beam_search(step, (), jnp.array([0]), beam_size=3, max_length=3, stop_token=None)
    assert beams.sequences[0, 0].tolist() == [1, 0, 1]
    assert beams.scores[0].tolist() == [0, -np.inf, -np.inf]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.4}])
def test_an_infinite_logit_wins(options: dict[str, Any]) -> None:
    kept = filter_logits(jnp.array([0.0, jnp.inf, 3.0, -jnp.inf]), **options)
    assert jax.nn.softmax(kept).tolist() == [0, 1, 0, 0]


def test_infinite_logits_share_the_probability() -> None:
    kept = filter_logits(jnp.array([jnp.inf, 0.0, jnp.inf]), 2.0)
    assert jax.nn.softmax(kept).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("row", [[-np.inf] * 3, [0.0, np.nan, 1.0], [np.inf, np.nan, 0.0]])
def test_a_row_without_a_distribution_becomes_nan(row: list[float]) -> None:
    assert np.isnan(filter_logits(jnp.array(row))).all()


@pytest.mark.long
def test_a_vocabulary_of_no_token_is_explained() -> None:
    def step(state: Any, tokens: Any) -> Any:
        return state, jnp.zeros((tokens.shape[0], 0))

    with pytest.raises(ValueError, match=r"logits: expected logits of at least one token"):
        filter_logits(jnp.zeros((2, 0)))
    for run in (
        lambda: greedy(step, (), jnp.array([0]), 3),
        lambda: sample(step, (), jnp.array([0]), jax.random.key(0), 3),
        lambda: beam_search(step, (), jnp.array([0]), beam_size=1, max_length=2, stop_token=None),
    ):
        with pytest.raises(ValueError, match=r"step: expected logits of at least one token"):
            run()
