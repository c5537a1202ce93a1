"""Compare attention with NumPy loops written from the equations, complex numbers and torch."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from recurrent import unroll
from recurrent.attention import (
    Attention,
    additive_attention,
    last_context,
    masked_softmax,
    multi_head_attention,
    multiplicative_attention,
    rotary,
)
from recurrent.cells.attention import attention_cell
from tests.recurrent.cases import disturbed, to_dtype, values_and_gradients

SOURCE, TIME, BATCH, QUERY, MEMORY = 6, 11, 3, 4, 5

ATTENTIONS: dict[str, Attention] = {
    "additive": additive_attention(QUERY, MEMORY, 7),
    "general": multiplicative_attention(QUERY, MEMORY),
    "scaled general": multiplicative_attention(QUERY, MEMORY, scaled=True),
    "dot": multiplicative_attention(MEMORY, MEMORY, score="dot"),
    "scaled dot": multiplicative_attention(MEMORY, MEMORY, score="dot", scaled=True),
    "last": last_context(QUERY, MEMORY),
}

COSINE: Any = "cosine"

# One row with padding at the end, one with padding inside and at the start, one all padded.
SOURCE_MASK = np.array([[1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 1], [0] * 6], bool).T


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: it is in the bench extra")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def init(layer: Any, seed: int = 0) -> Any:
    """Return random params in float64, with nonzero biases."""
    return disturbed(np.random.default_rng(seed), layer.init(jax.random.key(seed)))


def softmax(scores: list[float]) -> np.ndarray:
    exponentials = np.exp(np.array(scores) - np.max(scores))
    return exponentials / exponentials.sum()


# Attention of a decoder to the encoder's outputs.


def reference_score(name: str, params: Any, query: np.ndarray, value: np.ndarray) -> float:
    if name == "last":
        return 0.0
    if name == "additive":
        hidden = query @ params["query"]["kernel"] + value @ params["key"]["kernel"]
        return float(np.tanh(hidden + params["key"]["bias"]) @ params["score"]["kernel"][:, 0])
    kernel = params["key"]["kernel"] if "general" in name else np.eye(MEMORY)
    scale = np.sqrt(len(query)) if "scaled" in name else 1.0
    return float(query @ kernel.T @ value / scale)


def reference_attention(
    name: str, params: Any, query: np.ndarray, values: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute contexts and weights for one batch element and one unmasked step at a time."""
    weights = np.zeros(mask.shape)
    for b in range(mask.shape[1]):
        real = np.flatnonzero(mask[:, b])[-1:] if name == "last" else np.flatnonzero(mask[:, b])
        if real.size:
            scores = [reference_score(name, params, query[b], values[s, b]) for s in real]
            weights[real, b] = softmax(scores)
    contexts = sum(weights[s, :, None] * values[s] for s in range(len(values)))
    return np.asarray(contexts), weights


@pytest.mark.long
@pytest.mark.parametrize("mask", [None, SOURCE_MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_equals_a_numpy_loop(name: str, mask: Any) -> None:
    attention = ATTENTIONS[name]
    params = init(attention)
    values, query = normal(SOURCE, BATCH, MEMORY), normal(BATCH, attention.query_size, seed=1)
    context, weights = attention.attend(params, query, attention.precompute(params, values, mask))
    real = np.ones((SOURCE, BATCH), bool) if mask is None else mask
    expected_context, expected_weights = reference_attention(name, params, query, values, real)
    assert_close(context, expected_context)
    if name != "last":
        assert_close(weights, expected_weights)
        np.testing.assert_array_equal(np.asarray(weights)[~real], 0)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_gradients_equal_finite_differences(name: str) -> None:
    attention = ATTENTIONS[name]

    def run(params, query, values):
        memory = attention.precompute(params, values, SOURCE_MASK)
        return attention.attend(params, query, memory)

    values, query = normal(SOURCE, BATCH, MEMORY), normal(BATCH, attention.query_size, seed=1)
    check_grads(run, (init(attention), query, values), order=1, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_padded_memory_affects_no_values_or_gradients(name: str) -> None:
    attention = ATTENTIONS[name]

    @jax.jit
    def run(params, query, values):
        def function(*args):
            memory = attention.precompute(args[0], args[2], SOURCE_MASK)
            return attention.attend(args[0], args[1], memory)

        return values_and_gradients(function, params, query, values)

    query, values = normal(BATCH, attention.query_size, seed=1), normal(SOURCE, BATCH, MEMORY)
    zeros, *others = (
        run(init(attention), query, np.where(SOURCE_MASK[..., None], values, fill))
        for fill in (0, np.nan, np.inf, 1e300)
    )
    chex.assert_tree_all_finite(zeros)
    for other in others:
        chex.assert_trees_all_equal(other, zeros)


@pytest.mark.long
def test_attention_takes_two_batch_axes_or_none() -> None:
    attention = ATTENTIONS["additive"]
    params = init(attention)
    values, query = normal(SOURCE, 2, BATCH, MEMORY), normal(2, BATCH, QUERY, seed=1)
    mask = np.stack([SOURCE_MASK, ~SOURCE_MASK], axis=1)
    actual = attention.attend(params, query, attention.precompute(params, values, mask))
    for i, j in np.ndindex(2, BATCH):
        memory = attention.precompute(params, values[:, i, j], mask[:, i, j])
        context, weights = attention.attend(params, query[i, j], memory)
        assert_close((actual[0][i, j], actual[1][:, i, j]), (context, weights))


def test_masked_softmax_equals_the_softmax_of_the_unmasked_scores() -> None:
    scores = np.array([[1e4, 1e4 + 1, -1e4, np.nan], [0.5, -0.5, np.inf, 2.0], [1.0, 2, 3, 4]])
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]], bool)
    expected = np.zeros(scores.shape)
    for row in range(2):
        expected[row, mask[row]] = softmax(list(scores[row, mask[row]]))
    assert_close(masked_softmax(scores, mask), expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: additive_attention(0, 1, 1), "query_size: expected at least 1"),
        (lambda: multiplicative_attention(2, 3, score="dot"), "query_size: expected memory_size=3"),
        (lambda: multiplicative_attention(2, 3, score=COSINE), 'score: expected "general"'),
        (lambda: multi_head_attention(6, 4), "heads: expected a divisor of the size 6, got 4"),
        (lambda: multi_head_attention(6, 3, key_value_heads=2), "key_value_heads: expected a div"),
        (lambda: multi_head_attention(6, 2, rotary_base=1e4), "head_size: expected an even size"),
        (lambda: multi_head_attention(6, 2, window=0), "window: expected at least 1"),
        (lambda: attention_cell(4, 8, window=1), "window: expected at least 2, got 1"),
        (lambda: attention_cell(0, 8), "input_size: expected at least 1"),
        (lambda: rotary(jnp.zeros((2, 3)), 0), "x: expected an even size"),
        (
            lambda: ATTENTIONS["dot"].precompute({}, jnp.zeros((6, 3, 4))),
            r"values: expected the shape \[time, ..., 5\]",
        ),
        (
            lambda: ATTENTIONS["dot"].precompute({}, jnp.zeros((6, 3, 5)), jnp.ones((3, 6), bool)),
            r"mask: expected booleans \[6, 3\], got bool \[3, 6\]",
        ),
        (
            lambda: ATTENTIONS["dot"].precompute({}, jnp.zeros((6, 3, 5)), jnp.ones((6, 3))),
            r"mask: expected booleans \[6, 3\], got float64",
        ),
    ],
)
def test_invalid_attention_arguments_are_an_error(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


# Rotary positions.


def test_rotary_positions_equal_multiplication_by_complex_numbers() -> None:
    x, positions = normal(TIME, BATCH, 2, 6), np.array([0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 10_000])
    z = x[..., 0::2] + 1j * x[..., 1::2]
    for j in range(3):
        z[..., j] *= np.exp(1j * positions * 10_000.0 ** (-2 * j / 6))[:, None, None]
    actual = rotary(x, positions[:, None])
    assert_close(actual, np.stack([z.real, z.imag], axis=-1).reshape(x.shape), 1e-11)


def test_rotary_scores_depend_only_on_the_distance() -> None:
    query, key = normal(1, 8), normal(1, 8, seed=1)

    def score(i, j):
        return float((rotary(query, i) * rotary(key, j)).sum())

    for i, j, shift in [(0, 0, 5), (3, 7, 100), (9, 2, -2), (1, 40, 1000)]:
        assert score(i, j) == pytest.approx(score(i + shift, j + shift), abs=1e-11)
    assert abs(score(3, 7) - score(7, 3)) > 1e-2


# Multi-head attention.


def turned(x: np.ndarray, position: int, base: float | None) -> np.ndarray:
    if base is None:
        return x
    z = x[0::2] + 1j * x[1::2]
    z = z * np.exp(1j * position * base ** (-np.arange(0, len(x), 2) / len(x)))
    return np.stack([z.real, z.imag], axis=-1).reshape(-1)


def projected(params: Any, name: str, x: np.ndarray, size: int) -> np.ndarray:
    return (x @ params[name]["kernel"] + params[name].get("bias", 0)).reshape(-1, size)


def reference_heads(
    params: Any, query: np.ndarray, attended: list[np.ndarray], size: int, base: float | None
) -> np.ndarray:
    """Compute one output; ``attended`` is in order, and its last step is the query's own."""
    queries = projected(params, "query", query, size)
    keys = [projected(params, "key", x, size) for x in attended]
    values = [projected(params, "value", x, size) for x in attended]
    context = np.zeros(queries.shape)
    for head in range(len(queries) if attended else 0):
        served = head * len(keys[0]) // len(queries)
        turned_query = turned(queries[head], len(attended) - 1, base)
        scores = [turned_query @ turned(k[served], s, base) for s, k in enumerate(keys)]
        weights = softmax([score / np.sqrt(size) for score in scores])
        context[head] = sum(w * v[served] for w, v in zip(weights, values, strict=True))
    return context.reshape(-1) @ params["output"]["kernel"] + params["output"].get("bias", 0)


@pytest.mark.parametrize(
    ("causal", "window"), [(False, None), (True, None), (True, 3), (False, 3), (False, 1)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_self_attention_equals_a_numpy_loop(causal: bool, window: int | None, masked: bool) -> None:
    options = {"key_value_heads": 2, "head_size": 6, "bias": True}
    attention = multi_head_attention(5, 4, causal=causal, window=window, **options)
    params, xs = init(attention), normal(SOURCE, BATCH, 5)
    mask = SOURCE_MASK if masked else np.ones_like(SOURCE_MASK)
    ys = jax.jit(attention.apply)(params, xs, mask=mask if masked else None)
    for t, b in np.ndindex(SOURCE, BATCH):
        near = [
            s
            for s in range(SOURCE)
            if mask[s, b] and (s <= t or not causal) and (window is None or abs(t - s) < window)
        ]
        expected = reference_heads(params, xs[t, b], [xs[s, b] for s in near], 6, None)
        assert_close(ys[t, b], expected * mask[t, b])


@pytest.mark.long
@pytest.mark.parametrize("mask", [None, SOURCE_MASK], ids=["whole", "masked"])
def test_cross_attention_equals_a_numpy_loop(mask: Any) -> None:
    attention = multi_head_attention(6, 3, memory_size=5, bias=True)
    params, xs, memory = init(attention), normal(4, BATCH, 6), normal(SOURCE, BATCH, 5, seed=1)
    ys = attention.apply(params, xs, memory, mask=mask)
    real = np.ones_like(SOURCE_MASK) if mask is None else mask
    for t, b in np.ndindex(4, BATCH):
        assert_close(ys[t, b], reference_heads(params, xs[t, b], [*memory[real[:, b], b]], 2, None))


@pytest.mark.long
def test_causal_self_attention_with_rotary_positions_equals_a_numpy_loop() -> None:
    attention = multi_head_attention(8, 2, causal=True, rotary_base=100.0)
    params, xs = init(attention), normal(TIME, BATCH, 8)
    ys = attention.apply(params, xs)
    for t, b in np.ndindex(TIME, BATCH):
        assert_close(ys[t, b], reference_heads(params, xs[t, b], [*xs[: t + 1, b]], 4, 100.0))


@pytest.mark.long
def test_multi_head_attention_in_float32_is_close_to_float64() -> None:
    attention = multi_head_attention(8, 2, causal=True, window=4, rotary_base=1e4)
    params, xs = init(attention), normal(TIME, BATCH, 8)
    run = jax.jit(partial(values_and_gradients, attention.apply))
    expected, narrow = run(params, xs), to_dtype((params, xs), np.float32)
    actual = run(*narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {np.dtype(np.float32)}
    assert_close(actual, expected, 1e-4)
    assert_close(actual[0], expected[0], 2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masked_steps_affect_no_values_or_gradients_of_multi_head_attention(dtype: Any) -> None:
    itself = multi_head_attention(6, 3, causal=True, bias=True)
    across = multi_head_attention(6, 3, memory_size=6, bias=True)

    @jax.jit
    def run(params, xs, memory):
        def function(params, xs, memory):
            ys = itself.apply(params, memory, mask=SOURCE_MASK)
            return ys, across.apply(params, xs, memory, mask=SOURCE_MASK)

        return values_and_gradients(function, params, xs, memory)

    params, xs, memory = to_dtype(
        (init(itself), normal(4, BATCH, 6), normal(SOURCE, BATCH, 6, seed=1)), dtype
    )
    zeros, other = (
        run(params, xs, np.where(SOURCE_MASK[..., None], memory, dtype(fill)))
        for fill in (0, np.nan)
    )
    chex.assert_tree_all_finite(zeros)
    chex.assert_trees_all_equal(other, zeros)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_query_with_all_memory_masked_gets_the_output_bias(dtype: Any) -> None:
    attention = multi_head_attention(6, 3, memory_size=5, bias=True)
    params, xs, memory = to_dtype(
        (init(attention), normal(4, BATCH, 6), normal(SOURCE, BATCH, 5)), dtype
    )
    ys = attention.apply(params, xs, memory, mask=np.zeros((SOURCE, BATCH), bool))
    bias = np.broadcast_to(params["output"]["bias"], ys.shape)
    np.testing.assert_array_equal(ys, bias)


def test_invalid_inputs_to_multi_head_attention_are_an_error() -> None:
    attention = multi_head_attention(6, 3, memory_size=5, rotary_base=1e4)
    with pytest.raises(ValueError, match="memory: expected None with rotary positions"):
        attention.apply({}, jnp.zeros((4, 3, 6)), jnp.zeros((4, 3, 5)))
    with pytest.raises(ValueError, match=r"xs: expected the shape \[time, ..., 6\]"):
        attention.apply({}, jnp.zeros((4, 3, 5)))


# Torch, with copied weights.


def torch_module(torch: Any, params: Any, heads: int) -> Any:
    """Return `torch.nn.MultiheadAttention` with our weights, transposed for torch."""
    size = params["query"]["kernel"].shape[0]
    module = torch.nn.MultiheadAttention(size, heads, dtype=torch.float64)
    names = ("query", "key", "value")
    weights = {
        "in_proj_weight": np.concatenate([params[name]["kernel"].T for name in names]),
        "in_proj_bias": np.concatenate([params[name]["bias"] for name in names]),
        "out_proj.weight": params["output"]["kernel"].T,
        "out_proj.bias": params["output"]["bias"],
    }
    module.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return module


def torch_gradients(module: Any) -> dict[str, Any]:
    weights, biases = (module.in_proj_weight.grad.numpy(), module.in_proj_bias.grad.numpy())
    parts = zip(("query", "key", "value"), np.split(weights, 3), np.split(biases, 3), strict=True)
    gradients = {name: {"kernel": weight.T, "bias": bias} for name, weight, bias in parts}
    output = module.out_proj
    gradients["output"] = {"kernel": output.weight.grad.numpy().T, "bias": output.bias.grad.numpy()}
    return gradients


@pytest.mark.parametrize("kind", ["plain", "causal", "window", "padded"])
def test_multi_head_attention_equals_torch_in_values_and_gradients(torch: Any, kind: str) -> None:
    window = 3 if kind == "window" else None
    causal = kind in ("causal", "window")
    attention = multi_head_attention(8, 2, causal=causal, window=window, bias=True)
    params, xs, cotangent = init(attention), normal(SOURCE, BATCH, 8), normal(SOURCE, BATCH, 8)
    # Torch gives NaN for a row that is all padding; another test covers that row.
    mask = SOURCE_MASK | (np.arange(BATCH) == 2) if kind == "padded" else None
    if mask is not None:
        cotangent = cotangent * mask[..., None]
    ys, pull_back = jax.vjp(partial(attention.apply, mask=mask), params, xs)

    distance = np.arange(SOURCE)[:, None] - np.arange(SOURCE)
    hidden = (distance < 0) | (distance >= (window or SOURCE)) if causal else distance > SOURCE
    module, inputs = torch_module(torch, params, 2), torch.tensor(xs, requires_grad=True)
    expected, _ = module(
        inputs,
        inputs,
        inputs,
        attn_mask=torch.tensor(hidden),
        key_padding_mask=None if mask is None else torch.tensor(~mask.T),
    )
    expected.backward(torch.tensor(cotangent))
    real = np.ones((SOURCE, BATCH), bool) if mask is None else mask
    assert_close(np.asarray(ys)[real], expected.detach().numpy()[real])
    assert_close(pull_back(cotangent), (torch_gradients(module), inputs.grad.numpy()))


def test_grouped_query_attention_equals_torch_in_values_and_gradients(torch: Any) -> None:
    attention = multi_head_attention(8, 4, key_value_heads=2, causal=True)
    params, xs, cotangent = init(attention), normal(SOURCE, BATCH, 8), normal(SOURCE, BATCH, 8)
    ys, pull_back = jax.vjp(attention.apply, params, xs)

    inputs = torch.tensor(xs, requires_grad=True)
    kernels = {k: torch.tensor(v["kernel"], requires_grad=True) for k, v in params.items()}
    queries, keys, values = (
        (inputs @ kernels[name]).reshape(SOURCE, BATCH, -1, 2).permute(1, 2, 0, 3)
        for name in ("query", "key", "value")
    )
    contexts = torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, enable_gqa=True
    )
    expected = contexts.permute(2, 0, 1, 3).reshape(SOURCE, BATCH, 8) @ kernels["output"]
    expected.backward(torch.tensor(cotangent))
    gradients = {name: {"kernel": kernel.grad.numpy()} for name, kernel in kernels.items()}
    assert_close(ys, expected.detach().numpy())
    assert_close(pull_back(cotangent), (gradients, inputs.grad.numpy()))


# The attention cell.

MASK = np.random.default_rng(1).random((TIME, BATCH)) < 0.7
RESET = np.random.default_rng(2).random((TIME, BATCH)) < 0.25
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask": {"mask": MASK},
    "reset": {"reset": RESET},
    "mask, reset, reverse": {"mask": MASK, "reset": RESET, "reverse": True},
}
# A short window, a longer one, and one longer than the sequence.
WINDOWS = [2, 4, 40]

small_cell = partial(attention_cell, 4, 6, heads=2, key_value_heads=1, head_size=4, bias=True)


def reference_cell(
    params: Any, xs: np.ndarray, window: int, mask: Any, reset: Any, order: Any
) -> np.ndarray:
    """Run one step at a time with a list of the visible steps, emptied by a reset."""
    ys = np.zeros((*xs.shape[:2], 6))
    for b in range(xs.shape[1]):
        seen: list[np.ndarray] = []
        for t in order:
            if mask is None or mask[t, b]:
                seen = [] if reset is not None and reset[t, b] else seen
                seen = [*seen, xs[t, b]][-window:]
                ys[t, b] = reference_heads(params, xs[t, b], seen, 4, 10_000.0)
    return ys


@pytest.mark.long
@pytest.mark.parametrize("method", ["auto", "scan"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("window", WINDOWS)
def test_attention_cell_equals_a_numpy_loop(window: int, options: str, method: Any) -> None:
    cell, chosen = small_cell(window=window), OPTIONS[options]
    params, xs = init(cell), normal(TIME, BATCH, 4)
    _, ys = jax.jit(partial(unroll, cell, method=method, **chosen))(params, xs)
    order = range(TIME)[::-1] if "reverse" in chosen else range(TIME)
    expected = reference_cell(params, xs, window, chosen.get("mask"), chosen.get("reset"), order)
    assert_close(ys, expected)


@pytest.mark.long
@pytest.mark.parametrize("window", [4, 40])
def test_attention_cell_auto_equals_scan_in_values_and_gradients(window: int) -> None:
    cell = small_cell(window=window)
    params, xs = init(cell), normal(TIME, BATCH, 4)
    # A cache of 9, 3 and no earlier steps.
    earlier = np.arange(9)[:, None] < np.array([9, 3, 0])
    state, _ = unroll(cell, params, normal(9, BATCH, 4, seed=3), mask=earlier)

    def run(method):
        def function(params, state, xs):
            return unroll(cell, params, xs, state, mask=MASK, reset=RESET, method=method)

        return jax.jit(partial(values_and_gradients, function))(params, state, xs)

    assert_close(run("auto"), run("scan"))


@pytest.mark.long
@pytest.mark.parametrize("window", [3, 40])
def test_attention_cell_in_pieces_with_a_carried_cache_equals_the_whole_sequence(
    window: int,
) -> None:
    cell = small_cell(window=window)
    params, xs = init(cell), normal(TIME, BATCH, 4)
    run = jax.jit(partial(unroll, cell))
    whole = run(params, xs, mask=MASK, reset=RESET)
    state, pieces = cell.initial_state(params, (BATCH,)), []
    for piece in (slice(0, 5), slice(5, 6), slice(6, TIME)):
        state, ys = run(params, xs[piece], state, mask=MASK[piece], reset=RESET[piece])
        pieces.append(ys)
    assert_close((state, jnp.concatenate(pieces)), whole)


def test_attention_cell_auto_equals_scan_in_float32_far_from_the_start() -> None:
    cell = attention_cell(4, 8, heads=2, window=32)
    params, xs = to_dtype((init(cell), normal(2000, 2, 4)), np.float32)
    run = jax.jit(partial(unroll, cell), static_argnames="method")
    actual, expected = (run(params, xs, method=method)[1] for method in ("scan", "auto"))
    assert_close(actual, expected, 1e-5)


def test_attention_cell_equals_causal_multi_head_attention() -> None:
    cell = attention_cell(8, 8, heads=2, window=TIME)
    attention = multi_head_attention(8, 2, causal=True, rotary_base=10_000.0)
    params, xs = init(cell), normal(TIME, BATCH, 8)
    chex.assert_trees_all_equal_shapes(params, init(attention))
    assert_close(jax.jit(partial(unroll, cell))(params, xs)[1], attention.apply(params, xs))


def test_a_reset_of_the_attention_cell_starts_a_separate_sequence() -> None:
    cell = small_cell(window=4)
    params, xs = init(cell), normal(TIME, BATCH, 4)
    reset = np.zeros((TIME, BATCH), bool)
    reset[5] = True
    run = jax.jit(partial(unroll, cell))
    state, ys = run(params, xs, reset=reset)
    _, first = run(params, xs[:5])
    expected_state, second = run(params, xs[5:])
    assert_close((state, ys), (expected_state, jnp.concatenate([first, second])))


@pytest.mark.long
@pytest.mark.parametrize("window", [3, 40])
def test_padding_affects_no_values_or_gradients_of_the_attention_cell(window: int) -> None:
    cell = small_cell(window=window)

    @jax.jit
    def run(params, xs):
        def function(params, xs):
            return unroll(cell, params, xs, mask=MASK, reset=RESET)

        return values_and_gradients(function, params, xs)

    params, xs = init(cell), normal(TIME, BATCH, 4)
    zeros, other = (run(params, np.where(MASK[..., None], xs, fill)) for fill in (0, np.nan))
    chex.assert_tree_all_finite(zeros)
    chex.assert_trees_all_equal(other, zeros)


@pytest.mark.long
def test_attention_cell_in_bfloat16_is_close_to_float64() -> None:
    cell = small_cell(window=4)
    params, xs = init(cell), normal(TIME, BATCH, 4)
    run = jax.jit(partial(unroll, cell, mask=MASK, reset=RESET), static_argnames="method")
    expected = run(params, xs)[1]
    narrow = to_dtype((params, xs), jnp.bfloat16)
    for method in ("auto", "scan"):
        state, ys = run(*narrow, method=method)
        assert {leaf.dtype for leaf in jax.tree.leaves((state, ys))} == {jnp.dtype(jnp.bfloat16)}
        assert_close(ys.astype(np.float64), expected, 0.05)


@pytest.mark.long
def test_attention_cell_memory_is_linear_in_time_and_its_cache_is_constant() -> None:
    cell = attention_cell(2, 2, heads=1, window=9)
    params = init(cell)
    gradient = jax.jit(jax.grad(lambda params, xs: unroll(cell, params, xs)[1].sum()))

    def memory(time):
        analysis = gradient.lower(params, jnp.zeros((time, 1, 2))).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert memory(4096) < 10 * memory(512)
    state, _ = unroll(cell, params, normal(100, 1, 2))
    assert state.keys.shape == state.values.shape == (1, 8, 1, 2)
