"""Compare encoder-decoder networks with NumPy equations, and whole sequences with single steps."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import gru, lstm, unroll
from recurrent.attention import additive_attention, last_context, multiplicative_attention
from recurrent.decoding import beam_search, greedy
from recurrent.losses import cross_entropy
from recurrent.seq2seq import Decoder, decoder, encoder_decoder, shift_right
from tests.recurrent.cases import disturbed, values_and_gradients

SOURCE, TIME, BATCH = 6, 5, 3
INPUT, HIDDEN, MEMORY, EMBEDDING, VOCABULARY = 3, 4, 5, 2, 7
MASK = np.array([[1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 1, 0], [1] * 6], bool).T

DECODERS: dict[str, Decoder] = {
    "additive": decoder(
        gru(EMBEDDING + MEMORY, HIDDEN), additive_attention(HIDDEN, MEMORY, 6), VOCABULARY
    ),
    "input feeding": decoder(
        lstm(EMBEDDING + HIDDEN, HIDDEN),
        multiplicative_attention(HIDDEN, MEMORY),
        VOCABULARY,
        input_feeding=True,
    ),
    "no attention": decoder(
        gru(EMBEDDING + MEMORY, HIDDEN), last_context(HIDDEN, MEMORY), VOCABULARY
    ),
    "query cell": decoder(
        gru(HIDDEN + MEMORY, INPUT),
        multiplicative_attention(HIDDEN, MEMORY),
        VOCABULARY,
        query=lstm(EMBEDDING, HIDDEN),
    ),
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=DECODERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def init(model: Any, seed: int = 0) -> Any:
    return disturbed(np.random.default_rng(seed), model.init(jax.random.key(seed)))


def tokens_like(time: int) -> np.ndarray:
    return np.random.default_rng(4).integers(VOCABULARY, size=(time, BATCH))


# The equations in NumPy, one batch element at a time.


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def gru_step(params: Any, h: np.ndarray, x: np.ndarray) -> np.ndarray:
    zx = x @ params["input"]["kernel"] + params["input"]["bias"]
    zh = h @ params["recurrent"]["kernel"] + params["recurrent"]["bias"]
    (rx, ux, nx), (rh, uh, nh) = np.split(zx, 3), np.split(zh, 3)
    u = sigmoid(ux + uh)
    return (1 - u) * np.tanh(nx + sigmoid(rx + rh) * nh) + u * h


def lstm_step(params: Any, h: np.ndarray, c: np.ndarray, x: np.ndarray) -> Any:
    z = x @ params["input"]["kernel"] + params["input"]["bias"] + h @ params["recurrent"]["kernel"]
    i, f, g, o = np.split(z, 4)
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def context_of(name: str, params: Any, query: np.ndarray, values: np.ndarray) -> np.ndarray:
    if name == "no attention":
        return values[-1]
    if name == "additive":
        keys = values @ params["key"]["kernel"] + params["key"]["bias"]
        scores = np.tanh(query @ params["query"]["kernel"] + keys) @ params["score"]["kernel"][:, 0]
    else:
        scores = np.array([query @ params["key"]["kernel"].T @ value for value in values])
    weights = np.exp(scores) / np.exp(scores).sum()
    return weights @ values


def reference_logits(name: str, params: Any, tokens: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Compute logits step by step; ``values`` are the unmasked steps of the memory, ``[S, E]``."""
    h = c = fed = np.zeros(HIDDEN)
    top = np.zeros(INPUT)
    logits = []
    for token in tokens:
        w = params["embedding"]["kernel"][token]
        if name == "input feeding":
            h, c = lstm_step(params["cell"], h, c, np.concatenate([w, fed]))
            context = context_of(name, params["attention"], h, values)
            read = fed = np.tanh(np.concatenate([h, context]) @ params["attentional"]["kernel"])
        elif name == "query cell":
            h, c = lstm_step(params["query"], h, c, w)
            context = context_of(name, params["attention"], h, values)
            top = gru_step(params["cell"], top, np.concatenate([h, context]))
            read = np.concatenate([top, context])
        else:
            context = context_of(name, params["attention"], h, values)
            h = gru_step(params["cell"], h, np.concatenate([w, context]))
            read = np.concatenate([h, context])
        logits.append(read @ params["readout"]["kernel"] + params["readout"]["bias"])
    return np.stack(logits)


@pytest.mark.long
def test_vectors_of_tokens_are_drawn_as_asked() -> None:
    cell, attend = gru(INPUT + MEMORY, HIDDEN), last_context(HIDDEN, MEMORY)
    model = decoder(cell, attend, 4, embedding_init=jax.nn.initializers.constant(2.0))
    drawn = model.init(jax.random.key(0))["embedding"]["kernel"]
    np.testing.assert_array_equal(drawn, np.full((4, INPUT), 2.0))


@pytest.mark.long
def test_teacher_forcing_a_decoder_equals_the_numpy_equations(name: str) -> None:
    model = DECODERS[name]
    params, tokens, values = init(model), tokens_like(TIME), normal(SOURCE, BATCH, MEMORY)
    state = model.initial_state(params, (BATCH,))
    _, logits = model.sequence(params, model.precompute(params, values, MASK), state, tokens)
    for b in range(BATCH):
        expected = reference_logits(name, params, tokens[:, b], values[MASK[:, b], b])
        assert_close(logits[:, b], expected)


def test_decoder_steps_equal_the_whole_sequence(name: str) -> None:
    model = DECODERS[name]
    params, tokens = init(model), tokens_like(TIME)
    memory = model.precompute(params, normal(SOURCE, BATCH, MEMORY), MASK)
    start = state = model.initial_state(params, (BATCH,))
    logits = []
    for token in tokens:
        state, step_logits = model.step(params, memory, state, token)
        logits.append(step_logits)
    assert_close(model.sequence(params, memory, start, tokens), (state, jnp.stack(logits)))


@pytest.mark.long
def test_gradients_of_decoder_steps_equal_those_of_the_whole_sequence(name: str) -> None:
    model = DECODERS[name]
    params, values, tokens = init(model), normal(SOURCE, BATCH, MEMORY), tokens_like(TIME)

    def by_steps(params, values):
        memory, logits = model.precompute(params, values, MASK), []
        state = model.initial_state(params, (BATCH,))
        for token in tokens:
            state, step_logits = model.step(params, memory, state, token)
            logits.append(step_logits)
        return jnp.square(jnp.stack(logits)).sum()

    def at_once(params, values):
        state = model.initial_state(params, (BATCH,))
        memory = model.precompute(params, values, MASK)
        return jnp.square(model.sequence(params, memory, state, tokens)[1]).sum()

    found, expected = (jax.jit(jax.grad(f, (0, 1)))(params, values) for f in (at_once, by_steps))
    assert_close(found, expected, 1e-10)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found))


def test_a_target_mask_holds_the_decoder_state(name: str) -> None:
    model = DECODERS[name]
    params, tokens = init(model), tokens_like(TIME)
    memory = model.precompute(params, normal(SOURCE, BATCH, MEMORY), MASK)
    start = model.initial_state(params, (BATCH,))
    mask = np.arange(TIME)[:, None] < np.array([2, 5, 0])
    held, _ = model.sequence(params, memory, start, tokens, mask=mask)
    short, _ = model.sequence(params, memory, start, tokens[:2])
    for actual, first, after_two in zip(*map(jax.tree.leaves, (held, start, short)), strict=True):
        np.testing.assert_array_equal(actual[2], first[2])
        assert_close(actual[0], after_two[0])


def test_greedy_decoding_equals_feeding_back_the_most_probable_token(name: str) -> None:
    model = DECODERS[name]
    params, values = init(model), normal(SOURCE, BATCH, MEMORY)
    memory = model.precompute(params, values, MASK)
    state, start = model.initial_state(params, (BATCH,)), jnp.zeros(BATCH, int)
    found = greedy(partial(model.step, params, memory), state, start, TIME)
    for b in range(BATCH):
        fed = [0]
        for _ in range(TIME):
            logits = reference_logits(name, params, np.array(fed), values[MASK[:, b], b])
            fed.append(int(logits[-1].argmax()))
        np.testing.assert_array_equal(found.tokens[:, b], fed[1:])


@pytest.mark.long
def test_one_beam_equals_greedy_and_beam_scores_equal_sequence_log_probs() -> None:
    model = DECODERS["input feeding"]
    params = init(model)
    memory = model.precompute(params, normal(SOURCE, BATCH, MEMORY), MASK)
    state, start = model.initial_state(params, (BATCH,)), jnp.zeros(BATCH, int)
    step = partial(model.step, params, memory)
    options = {"max_length": TIME, "stop_token": None}
    best = greedy(step, state, start, TIME)
    one = beam_search(step, state, start, beam_size=1, **options)
    four = beam_search(step, state, start, beam_size=4, **options)
    np.testing.assert_array_equal(one.sequences[:, 0].T, best.tokens)
    _, logits = model.sequence(params, memory, state, shift_right(four.sequences[:, 0].T, 0))
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), four.sequences[:, 0].T[..., None], -1)
    assert_close(four.scores[:, 0], chosen.sum(axis=(0, 2)), 1e-9)


# With an encoder.


@pytest.mark.long
@pytest.mark.parametrize("hand_over", [False, True])
def test_encoder_decoder_equals_an_encoder_followed_by_a_decoder(hand_over: bool) -> None:
    encoder, model = lstm(INPUT, HIDDEN), input_feeding_decoder()
    network = encoder_decoder(encoder, model, init_from_encoder=hand_over)
    params, inputs, tokens = init(network), normal(SOURCE, BATCH, INPUT), tokens_like(TIME)
    memory, state = jax.jit(network.encode)(params, inputs, MASK)
    _, logits = jax.jit(network.sequence)(params, memory, state, tokens)
    _, first = jax.jit(network.step)(params, memory, state, tokens[0])
    assert_close(first, logits[0])

    last, values = jax.jit(partial(unroll, encoder, mask=MASK))(params["encoder"], inputs)
    expected_state = model.initial_state(params["decoder"], (BATCH,))
    if hand_over:
        expected_state = expected_state._replace(cell=last)
        assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(last))
    memory = model.precompute(params["decoder"], values, MASK)
    expected = jax.jit(model.sequence)(params["decoder"], memory, expected_state, tokens)[1]
    assert_close(logits, expected)


def input_feeding_decoder() -> Decoder:
    attention = multiplicative_attention(HIDDEN, HIDDEN, score="dot", scaled=True)
    cell = lstm(EMBEDDING + HIDDEN, HIDDEN)
    return decoder(cell, attention, VOCABULARY, input_feeding=True)


@pytest.mark.long
@pytest.mark.parametrize("attention", [additive_attention(HIDDEN, HIDDEN, 6), last_context(4, 4)])
def test_padding_affects_no_loss_or_gradients_of_an_encoder_decoder(attention: Any) -> None:
    model = decoder(gru(EMBEDDING + HIDDEN, HIDDEN), attention, VOCABULARY)
    network = encoder_decoder(gru(INPUT, HIDDEN), model)
    targets = jnp.asarray(tokens_like(TIME))
    counted = jnp.arange(TIME)[:, None] < jnp.array([2, 5, 3])

    @jax.jit
    def run(params, inputs):
        def loss(params, inputs):
            memory, state = network.encode(params, inputs, MASK)
            tokens = shift_right(targets, 0)
            _, logits = network.sequence(params, memory, state, tokens, mask=counted)
            return cross_entropy(logits, targets, counted).mean

        return values_and_gradients(loss, params, inputs)

    params, inputs = init(network), normal(SOURCE, BATCH, INPUT)
    zeros, other = (run(params, np.where(MASK[..., None], inputs, fill)) for fill in (0, np.nan))
    chex.assert_tree_all_finite(zeros)
    chex.assert_trees_all_equal(other, zeros)
    # Every param and every unmasked input has a gradient.
    (_, (of_params, of_inputs)) = zeros
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(of_params))
    assert (np.abs(np.asarray(of_inputs)[MASK]).max(axis=-1) > 0).all()


def test_params_of_another_decoder_are_refused(name: str) -> None:
    model = DECODERS[name]
    params, values = init(model), normal(SOURCE, BATCH, MEMORY)
    state, memory = model.initial_state(params, (BATCH,)), model.precompute(params, values)
    other = params | {"cell": gru(EMBEDDING + MEMORY, HIDDEN + 1).init(jax.random.key(0))}
    with pytest.raises(ValueError, match=r"params.*: expected"):
        model.sequence(other, memory, state, tokens_like(TIME))


def test_shift_right_puts_the_start_token_first() -> None:
    targets = np.array([[3, 4], [5, 6], [1, 2]])
    np.testing.assert_array_equal(shift_right(targets, 9), [[9, 9], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: decoder(gru(5, 4), last_context(4, 5), 7), "cell: expected inputs of more than 5"),
        (lambda: decoder(gru(9, 3), last_context(4, 5), 7), "cell: expected outputs of the att"),
        (lambda: decoder(gru(9, 4), last_context(4, 5), 0), "vocabulary_size: expected at least"),
        (
            lambda: decoder(gru(9, 4), last_context(4, 5), 7, input_feeding=True, query=gru(2, 4)),
            "query: expected None with input_feeding",
        ),
        (
            lambda: decoder(gru(9, 3), last_context(4, 5), 7, query=gru(2, 3)),
            "query: expected outputs of the attention's query_size=4, got the shape \\[3\\]",
        ),
        (
            lambda: decoder(gru(8, 3), last_context(4, 5), 7, query=gru(2, 4)),
            "cell: expected inputs of 9 features",
        ),
        (lambda: last_context(0, 5), "query_size: expected at least 1"),
    ],
)
def test_invalid_decoder_arguments_are_an_error(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_a_start_token_may_lie_beyond_the_type_of_the_targets(dtype: Any) -> None:
    read = shift_right(np.array([[7], [8]], dtype), np.iinfo(dtype).max + 1)
    assert read[:, 0].tolist() == [np.iinfo(dtype).max + 1, 7]
