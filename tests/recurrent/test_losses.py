"""Compare losses with closed forms, SciPy and torch, and check that masked entries do not count."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import log_softmax

from recurrent import losses
from recurrent.errors import ArgumentError
from recurrent.losses import Average, masked_average

cross_entropy = jax.jit(losses.cross_entropy)
accuracy = jax.jit(losses.accuracy)

TIME, BATCH, CLASSES = 5, 3, 7
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(TIME, BATCH, CLASSES))
LABELS = RNG.integers(0, CLASSES, (TIME, BATCH))
MASK = RNG.random((TIME, BATCH)) < 0.6


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def smoothed(labels: np.ndarray, smoothing: float) -> np.ndarray:
    return (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES


def test_cross_entropy_of_equal_logits_is_the_log_of_the_number_of_classes() -> None:
    average = cross_entropy(jnp.full((BATCH, CLASSES), 2.5), jnp.arange(BATCH))
    np.testing.assert_allclose(average.mean, np.log(CLASSES), rtol=1e-14)
    assert average.weight == BATCH


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_equals_scipy(smoothing: float) -> None:
    each = -(smoothed(LABELS, smoothing) * log_softmax(LOGITS, axis=-1)).sum(-1)
    average = cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
    np.testing.assert_allclose(average, (each.sum(), TIME * BATCH), rtol=1e-13)
    average = cross_entropy(LOGITS, LABELS, MASK, label_smoothing=smoothing)
    np.testing.assert_allclose(average, (each[MASK].sum(), MASK.sum()), rtol=1e-13)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_torch_in_value_and_gradient(smoothing: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: it is in the bench extra")
    logits = torch.tensor(LOGITS, requires_grad=True)
    labels = torch.tensor(np.where(MASK, LABELS, -100))
    expected = torch.nn.functional.cross_entropy(
        logits.reshape(-1, CLASSES), labels.reshape(-1), label_smoothing=smoothing
    )
    expected.backward()

    def loss(logits):
        return cross_entropy(logits, LABELS, MASK, label_smoothing=smoothing).mean

    value, gradient = jax.value_and_grad(loss)(LOGITS)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), rtol=1e-11, atol=1e-15)


def test_cross_entropy_of_extreme_logits_is_finite() -> None:
    def loss(logits):
        return cross_entropy(logits, jnp.array([0, 1]), label_smoothing=0.1).mean

    logits = jnp.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]])
    value, gradient = jax.value_and_grad(loss)(logits)
    # With smoothing over three classes, each label costs 0.1 * (0 + 2e4 + 1e4) / 3, and the two
    # labels 0.9 * 0 and 0.9 * 2e4 in addition.
    np.testing.assert_allclose(value, 0.1 * 1e4 + 0.9 * 2e4 / 2, rtol=1e-12)
    assert np.isfinite(gradient).all()


def test_cross_entropy_gradient_equals_finite_differences() -> None:
    def loss(logits):
        return cross_entropy(logits, LABELS, MASK, label_smoothing=0.1).mean

    check_grads(loss, (LOGITS,), order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.fault("N6")
def test_masked_logits_affect_no_values_or_gradients(fill: float) -> None:
    def parts(logits, labels):
        total, weight = cross_entropy(logits, labels, MASK, label_smoothing=0.1)
        return total / weight, accuracy(logits, labels, MASK)

    def differentiate(fill_logits, fill_label):
        logits = np.where(MASK[..., None], LOGITS, fill_logits)
        labels = np.where(MASK, LABELS, fill_label)
        return jax.value_and_grad(parts, has_aux=True)(logits, labels)

    (value, right), gradient = differentiate(fill, CLASSES + 5)
    (expected, expected_right), expected_gradient = differentiate(0.0, 0)
    assert np.isfinite(expected)
    assert value == expected
    assert right == expected_right
    np.testing.assert_array_equal(gradient, expected_gradient)
    np.testing.assert_array_equal(gradient[~MASK], 0)
    assert np.any(gradient[MASK] != 0)


@pytest.mark.parametrize("label", [CLASSES, CLASSES + 100, -1])
@pytest.mark.fault("N8")
def test_cross_entropy_of_a_label_out_of_range_is_nan(label: int) -> None:
    labels = LABELS.copy()
    labels[1, 2] = label
    assert np.isnan(cross_entropy(LOGITS, labels).mean)


def test_accuracy_counts_correct_predictions_among_unmasked_labels() -> None:
    logits = jnp.array([[0.1, 0.9, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 5.0], [1.0, 2.0, 3.0]])
    labels = jnp.array([1, 1, 2, 0])
    assert accuracy(logits, labels).mean == 0.5
    average = accuracy(logits, labels, jnp.array([True, False, True, True]))
    assert average == (2, 3)
    np.testing.assert_allclose(average.mean, 2 / 3)


def test_averages_of_ragged_batches_add_up_to_the_whole() -> None:
    whole = cross_entropy(LOGITS, LABELS, MASK)
    pieces = [slice(0, 1), slice(1, 4), slice(4, 5)]
    parts = [cross_entropy(LOGITS[p], LABELS[p], MASK[p]) for p in pieces]
    assert len({float(part.weight) for part in parts}) > 1
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert isinstance(added, Average)
    np.testing.assert_allclose(added, whole, rtol=1e-13)
    np.testing.assert_allclose(added.mean, whole.mean, rtol=1e-13)


@pytest.mark.fault("N5")
def test_cross_entropy_under_an_empty_mask_is_zero_with_a_zero_gradient() -> None:
    def loss(logits):
        return cross_entropy(logits, LABELS, np.zeros_like(MASK)).mean

    value, gradient = jax.value_and_grad(loss)(LOGITS)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    assert accuracy(LOGITS, LABELS, np.zeros_like(MASK)) == (0, 0)


def test_a_mask_over_the_leading_axes_applies_to_all_trailing_axes() -> None:
    average = masked_average(jnp.asarray(LOGITS), jnp.asarray(MASK))
    expected = LOGITS[MASK]
    np.testing.assert_allclose(average, (expected.sum(), expected.size), rtol=1e-13)
    np.testing.assert_allclose(average.mean, expected.mean(), rtol=1e-13)
    whole = masked_average(jnp.asarray(LOGITS))
    np.testing.assert_allclose(whole.mean, LOGITS.mean(), rtol=1e-13)


def test_a_mask_may_hold_numbers_instead_of_booleans() -> None:
    values = jnp.array([1.0, 10.0, 100.0])
    assert masked_average(values, jnp.array([1.0, 0.0, 1.0])) == (101, 2)
    assert masked_average(values, jnp.array([1, 0, 1])) == (101, 2)


def test_label_smoothing_of_cross_entropy_may_be_traced() -> None:
    traces = []

    @jax.jit
    def loss(smoothing: Any) -> Any:
        traces.append(smoothing)
        return cross_entropy(LOGITS, LABELS, label_smoothing=smoothing).mean

    for smoothing in (0.0, 0.3):
        expected = cross_entropy(LOGITS, LABELS, label_smoothing=smoothing).mean
        np.testing.assert_allclose(loss(smoothing), expected, rtol=1e-13)
    assert len(traces) == 1


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int16, jnp.uint16, jnp.int32])
@pytest.mark.parametrize("classes", [128, 256, 32768])
def test_labels_of_any_width_count_as_the_same_classes(dtype: Any, classes: int) -> None:
    labels = np.array([0, 5, 127])
    logits = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    params = {"kernel": logits}
    expected = -log_softmax(logits.astype(float), axis=-1)[np.arange(3), labels].mean()
    narrow = jnp.asarray(labels, dtype)
    plain = losses.cross_entropy(jnp.asarray(logits), narrow).mean
    linear = losses.linear_cross_entropy(params, np.eye(3, dtype=np.float32), narrow).mean
    np.testing.assert_allclose([plain, linear], expected, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("smoothing", [0.0, jnp.float32(0)])
def test_a_class_that_is_impossible_costs_nothing_without_smoothing(smoothing: Any) -> None:
    z = np.array([0.0, 1.0, -np.inf], np.float32)

    def plain(z: Any) -> Any:
        return losses.cross_entropy(z[None], jnp.array([1]), label_smoothing=smoothing).mean

    def linear(z: Any) -> Any:
        params = {"kernel": jnp.zeros((2, 3)), "bias": z}
        labels, ones = jnp.array([1]), jnp.ones((1, 2))
        return losses.linear_cross_entropy(params, ones, labels, label_smoothing=smoothing).mean

    for loss in (plain, linear):
        value, slope = jax.value_and_grad(loss)(z)
        np.testing.assert_allclose(value, np.log(1 + np.exp(-1)), rtol=1e-6)
        sigmoid = 1 / (1 + np.exp(-1))
        np.testing.assert_allclose(slope, [1 - sigmoid, sigmoid - 1, 0], rtol=1e-5, atol=1e-7)


def test_smoothing_towards_an_impossible_class_costs_infinitely_much() -> None:
    logits = jnp.array([[0.0, 1.0, -jnp.inf]])
    loss = losses.cross_entropy(logits, jnp.array([1]), label_smoothing=0.1)
    assert loss.mean == np.inf


@pytest.mark.parametrize(("dtype", "count"), [(jnp.float16, 70_000), (jnp.bfloat16, 1500)])
def test_sums_of_narrow_numbers_are_exact(dtype: Any, count: int) -> None:
    average = masked_average(jnp.ones(count, dtype))
    assert (average.total, average.weight, average.mean) == (count, count, 1)
    both = jax.tree.map(jnp.add, average, masked_average(jnp.ones(1, dtype)))
    assert (both.total, both.weight) == (count + 1, count + 1)


def test_counts_are_exact_beyond_the_whole_numbers_of_float32() -> None:
    many = Average(jnp.float32(1), jnp.int32(2**24))
    both = jax.tree.map(jnp.add, many, masked_average(jnp.ones(1)))
    assert both.weight == 2**24 + 1


@pytest.mark.parametrize(("weight", "mean"), [(0.5, 4.0), (0.0, 0.0), (3, 2 / 3)])
def test_a_mean_is_the_total_divided_by_any_weight(weight: float, mean: float) -> None:
    np.testing.assert_allclose(Average(jnp.float32(2), jnp.asarray(weight)).mean, mean, rtol=1e-6)


def test_a_row_that_holds_nan_is_never_right() -> None:
    logits = jnp.array([[np.nan] * 3, [0.0, np.nan, 1.0], [0.0, 1.0, np.nan], [2.0, 1.0, 0.0]])
    for label in range(3):
        assert accuracy(logits, jnp.full(4, label)) == (int(label == 0), 4)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("classes", [257, 50257, 70000])
def test_narrow_logits_of_many_classes_cost_the_logarithm_of_their_number(
    dtype: Any, classes: int
) -> None:
    logits, labels = jnp.zeros((2, classes), dtype), jnp.array([0, classes - 1])
    for smoothing in (0.0, 0.1):
        average = losses.cross_entropy(logits, labels, label_smoothing=smoothing)
        np.testing.assert_allclose(average.mean, np.log(classes), rtol=1e-6)
    gradient = jax.grad(lambda logits: losses.cross_entropy(logits, labels).mean)(logits)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient[0, 0].astype(float), -0.5, rtol=0.01)


BOTH = [losses.cross_entropy, losses.accuracy]
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"labels": np.arange(4)[:, None]}, r"labels: expected the shape \[4\].* got \[4, 1\]"),
    ({"labels": 1}, r"labels: expected the shape \[4\].* got \[\]"),
    ({"labels": np.arange(4.0)}, "labels: expected integers, got float64"),
    ({"labels": np.ones(4, bool)}, "labels: expected integers, got bool"),
    ({"logits": np.eye(4, dtype=int)}, "logits: expected floats .* got int64"),
    ({"logits": np.float32(1)}, r"logits: .* got float32 of the shape \[\]"),
    ({"logits": np.zeros((4, 0), "f4")}, r"with a C of at least 1.* \[4, 0\]"),
    ({"mask": np.ones((4, 1), bool)}, r"mask: expected the shape \[4\].* got \[4, 1\]"),
    ({"mask": True}, r"mask: expected the shape \[4\].* got \[\]"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
@pytest.mark.parametrize("measure", BOTH)
def test_mistakes_are_explained_and_never_broadcast(
    measure: Any, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        measure(**{"logits": np.eye(4), "labels": np.arange(4)} | wrong)


@pytest.mark.parametrize("mask", [np.ones((3, 2), bool), np.ones((1, 2), bool), np.ones(2, bool)])
def test_a_mask_of_another_shape_is_no_average(mask: Any) -> None:
    with pytest.raises(ArgumentError, match=r"mask: expected the shape \[3\] of the values"):
        masked_average(jnp.ones(3), mask)


@pytest.mark.long
def test_lists_are_masks_and_labels_too() -> None:
    assert accuracy(jnp.eye(3), [0, 1, 1], [True, True, False]) == (2, 2)
    assert losses.cross_entropy(jnp.eye(3), [0, 1, 1], [True, False, True]).weight == 2
    assert masked_average([1.0, 2.0], [True, False]) == (1, 1)
