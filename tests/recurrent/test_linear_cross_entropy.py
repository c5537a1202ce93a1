"""Compare chunked cross-entropy and its gradients with Optax on whole logits."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.test_util import check_grads

from recurrent import embedding, gru, linear_cross_entropy, stack, unroll
from recurrent.losses import cross_entropy

TIME, BATCH, SIZE, VOCABULARY = 5, 3, 4, 23
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(SIZE, VOCABULARY))
BIAS = RNG.normal(size=VOCABULARY)
HIDDEN = 2 * RNG.normal(size=(TIME, BATCH, SIZE))
LABELS = RNG.integers(0, VOCABULARY, (TIME, BATCH))
MASK = RNG.random((TIME, BATCH)) < 0.6
PARAMS = {"kernel": KERNEL, "bias": BIAS}


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def plain(params: Any, hidden: Any, labels: Any, mask: Any, smoothing: Any) -> Any:
    """Return the mean over the mask, computed by Optax on all logits."""
    logits = jnp.asarray(hidden) @ params["kernel"] + params.get("bias", 0)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    right = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    each = right if smoothing == 0 else optax.softmax_cross_entropy(logits, targets)
    return jnp.where(mask, each, 0).sum() / mask.sum()


def chunked(chunk: int, params: Any, hidden: Any, labels: Any, mask: Any, smoothing: Any) -> Any:
    average = linear_cross_entropy(
        params, hidden, labels, mask, label_smoothing=smoothing, chunk=chunk
    )
    return average.mean


def differentiate(loss: Callable[..., Any], params: Any, hidden: Any, *rest: Any) -> Any:
    return jax.jit(lambda *args: jax.value_and_grad(loss, argnums=(0, 1))(*args, *rest))(
        params, hidden
    )


@pytest.mark.long
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [1, 6, 11, 22, VOCABULARY, 1024])
def test_chunked_cross_entropy_equals_optax_on_whole_logits_in_value_and_gradients(
    chunk: int, smoothing: float
) -> None:
    given = PARAMS, HIDDEN, LABELS, MASK, smoothing
    chex.assert_trees_all_close(
        differentiate(partial(chunked, chunk), *given),
        differentiate(plain, *given),
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_mask_and_bias_are_optional_in_linear_cross_entropy() -> None:
    given = {"kernel": KERNEL}, HIDDEN, LABELS
    actual = linear_cross_entropy(*given, chunk=6)
    expected = plain(*given, np.ones_like(MASK), 0.0)
    np.testing.assert_allclose(actual.mean, expected, rtol=1e-13)
    assert actual.weight == LABELS.size


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2**-7)], ids=["f32", "bf16"]
)
def test_low_precision_operands_lose_at_most_one_rounding_each(
    dtype: Any, tolerance: float
) -> None:
    """Allow one rounding of dz and one of the result (8 bits in bfloat16); sums are in float32."""
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (PARAMS, HIDDEN))
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), narrow)
    rest = LABELS, MASK, 0.1
    value, gradients = differentiate(partial(chunked, 6), *narrow, *rest)
    expected, expected_gradients = differentiate(plain, *wide, *rest)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for actual, exact in zip(*map(jax.tree.leaves, (gradients, expected_gradients)), strict=True):
        assert actual.dtype == dtype
        largest = float(jnp.abs(exact).max())
        chex.assert_trees_all_close(
            actual.astype(jnp.float32), exact, rtol=tolerance, atol=tolerance * largest
        )


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_vmapped_readouts_equal_each_readout_alone() -> None:
    many = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf, -leaf]), PARAMS)
    one = jax.value_and_grad(partial(chunked, 6), argnums=(0, 1))
    rest = HIDDEN, LABELS, MASK, 0.1
    actual = jax.vmap(one, in_axes=(0, *[None] * 4))(many, *rest)
    for index, factor in enumerate((1, 2, -1)):
        params = jax.tree.map(lambda leaf, factor=factor: factor * leaf, PARAMS)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, index=index: leaf[index], actual),
            differentiate(plain, params, *rest),
            rtol=1e-12,
            atol=1e-14,
        )


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_cross_entropy_summed_in_a_scan_over_time_equals_the_whole_sequence() -> None:
    """Compute one loss for each step, each with its own mask."""

    def stepwise(params: Any, hidden: Any) -> Any:
        def body(total: Any, step: Any) -> Any:
            part = linear_cross_entropy(params, *step, chunk=6)
            return jax.tree.map(jnp.add, total, part), None

        start = jax.tree.map(jnp.zeros_like, linear_cross_entropy(params, HIDDEN, LABELS))
        return lax.scan(body, start, (hidden, LABELS, MASK))[0].mean

    chex.assert_trees_all_close(
        differentiate(stepwise, PARAMS, HIDDEN),
        differentiate(plain, PARAMS, HIDDEN, LABELS, MASK, 0.0),
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_second_derivatives_of_linear_cross_entropy_equal_finite_differences() -> None:
    def loss(kernel: Any, hidden: Any) -> Any:
        return chunked(6, {"kernel": kernel}, hidden, LABELS, MASK, 0.1)

    check_grads(loss, (KERNEL, HIDDEN), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("float64")
def test_label_smoothing_of_linear_cross_entropy_may_be_traced_and_has_a_gradient() -> None:
    given = PARAMS, HIDDEN, LABELS, MASK
    slope = jax.jit(jax.grad(lambda smoothing: chunked(6, *given, smoothing)))(0.3)
    difference = (plain(*given, 0.5) - plain(*given, 0.1)) / 0.4  # the loss is linear in it
    np.testing.assert_allclose(slope, difference, rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("size", [1e4, 1e300])
def test_cross_entropy_of_extreme_logits_and_impossible_classes_stays_finite(size: float) -> None:
    """Make all classes of the first chunk impossible, so its maximum is far below the other."""
    params = {"kernel": np.zeros((SIZE, 4)), "bias": np.array([-size, -size, 0.0, -size])}
    labels = np.array([2, 1])
    value, gradients = differentiate(
        partial(chunked, 2), params, np.ones((2, SIZE)), labels, np.ones(2, bool), 0.0
    )
    np.testing.assert_allclose(value, size / 2, rtol=1e-14)  # 0 for the first, size for the second
    np.testing.assert_allclose(gradients[0]["bias"], [0, -0.5, 0.5, 0], atol=1e-15)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_constant_added_to_all_logits_changes_nothing(shift: float) -> None:
    rest = HIDDEN, LABELS, MASK, 0.1
    shifted = PARAMS | {"bias": BIAS + shift}
    chex.assert_trees_all_close(
        differentiate(partial(chunked, 6), shifted, *rest),
        differentiate(plain, PARAMS, *rest),
        rtol=1e-9,
        atol=1e-11,
    )


@pytest.mark.long
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_masked_steps_affect_no_values_or_gradients_of_linear_cross_entropy(fill: float) -> None:
    hidden = np.where(MASK[..., None], HIDDEN, fill)
    labels = np.where(MASK, LABELS, VOCABULARY + 5)
    _, (d_params, d_hidden) = actual = differentiate(
        partial(chunked, 6), PARAMS, hidden, labels, MASK, 0.1
    )
    expected = differentiate(partial(chunked, 6), PARAMS, HIDDEN, LABELS, MASK, 0.1)
    chex.assert_trees_all_equal(actual, expected)
    assert not np.any(d_hidden[~MASK])
    assert np.any(d_params["kernel"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("label", [-1, VOCABULARY, VOCABULARY + 100])
def test_a_label_outside_the_vocabulary_gives_nan_values_and_gradients(label: int) -> None:
    labels = LABELS.copy()
    labels[1, 2] = label

    def whole(params: Any, hidden: Any, labels: Any, mask: Any) -> Any:
        return cross_entropy(hidden @ params["kernel"] + params["bias"], labels, mask).mean

    for loss in (whole, partial(chunked, 6, smoothing=0.0)):
        value, (d_params, d_hidden) = differentiate(
            loss, PARAMS, HIDDEN, labels, np.ones_like(MASK)
        )
        assert np.isnan(value)
        assert np.isnan(d_params["kernel"]).all()
        np.testing.assert_array_equal(np.isnan(d_hidden).all(axis=-1), labels != LABELS)


@pytest.mark.long
def test_tied_weights_get_the_gradients_of_embedding_and_readout() -> None:
    cell = stack(embedding(VOCABULARY, SIZE), gru(SIZE, SIZE), input_shape=())
    params = cell.init(jax.random.key(0))
    tokens, targets = LABELS, np.roll(LABELS, 1)

    def tied(loss: Callable[..., Any], params: Any, _: Any) -> Any:
        _, ys = unroll(cell, params, tokens)
        return loss({"kernel": params["layer_0"]["kernel"].T}, ys, targets, MASK, 0.0)

    chex.assert_trees_all_close(
        differentiate(partial(tied, partial(chunked, 6)), params, 0.0)[1][0],
        differentiate(partial(tied, plain), params, 0.0)[1][0],
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.long
@pytest.mark.optimized
def test_linear_cross_entropy_gradients_need_a_fiftieth_of_the_memory_of_whole_logits() -> None:
    """Use XLA's planned memory for 4096 rows and a vocabulary of 50,257."""
    rows, size, vocabulary = 4096, 64, 50_257
    shape = jax.ShapeDtypeStruct
    params = {"kernel": shape((size, vocabulary), "f4"), "bias": shape((vocabulary,), "f4")}
    labels = jnp.zeros(rows, int)

    def whole(params: Any, hidden: Any) -> Any:
        return cross_entropy(hidden @ params["kernel"] + params["bias"], labels).mean

    def planned(loss: Callable[..., Any]) -> int:
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        plan: Any = gradient.lower(params, shape((rows, size), "f4")).compile().memory_analysis()
        return plan.temp_size_in_bytes

    in_chunks = planned(lambda params, hidden: linear_cross_entropy(params, hidden, labels).mean)
    assert planned(whole) > 4 * rows * vocabulary  # one array of logits at least
    assert in_chunks < planned(whole) / 50
    assert in_chunks < 4 * rows * 4096


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": np.zeros((TIME, BATCH, 5), "f4")}, r"got \[5, 3, 5\] for \[4, 23\]; a table"),
        ({"params": {"kernel": np.zeros((4, 23)), "bias": np.zeros(4)}}, r"bias: .*\[23\].*\[4\]"),
        ({"labels": np.zeros((TIME, BATCH))}, "labels: expected integers, got float32"),
        ({"labels": LABELS[0]}, r"labels: expected the shape \[5, 3\].* got \[3\]"),
        ({"mask": MASK[0]}, r"mask: expected the shape \[5, 3\].* got \[3\]"),
        ({"chunk": 0}, "chunk: expected at least 1, got 0"),
    ],
)
def test_invalid_linear_cross_entropy_arguments_are_an_error(
    changes: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"params": PARAMS, "hidden": HIDDEN.astype("f4"), "labels": LABELS}
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**(given | changes))
