"""Shapley values against their formula, their axioms, and coalitions that are counted by hand."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from recurrent import explain

PLAYERS = 5


def network(seed: int = 0) -> Any:
    """Return a function with interactions of all orders, in NumPy and JAX alike."""
    rng = np.random.default_rng(seed)
    w, v = rng.normal(size=(2, PLAYERS, 6)).astype(np.float32)
    return lambda xs: (np if isinstance(xs, np.ndarray) else jnp).tanh(xs @ w) @ v.sum(0)


def by_permutations(f: Any, x: Any, background: Any, groups: Any) -> Any:
    """Average what each group adds over all orders, as the definition says."""
    count = max(groups) + 1
    total = np.zeros(count)
    orders = list(itertools.permutations(range(count)))
    for order in orders:
        shown = np.zeros(len(x), bool)
        last = f(np.where(shown, x, background)).mean()
        for player in order:
            shown = shown | (np.array(groups) == player)
            value = f(np.where(shown, x, background)).mean()
            total[player] += value - last
            last = value
    return total / len(orders)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1]])
def test_exact_and_kernel_values_are_means_over_all_orders(groups: list[int]) -> None:
    f, rng = network(), np.random.default_rng(1)
    xs = rng.normal(size=(2, PLAYERS)).astype(np.float32)
    background = rng.normal(size=(3, PLAYERS)).astype(np.float32)
    expected = np.stack([by_permutations(f, x, background, groups) for x in xs])
    labels = np.array(groups)
    exact, kernel = jax.jit(
        lambda xs: [
            method(f, xs, background=background, labels=labels)
            for method in (explain.exact_shapley, explain.kernel_shap)
        ]
    )(xs)
    np.testing.assert_allclose(exact.values, expected, atol=1e-5)
    np.testing.assert_allclose(exact.map, expected[:, labels], atol=1e-5)
    np.testing.assert_allclose(exact.gap, 0, atol=1e-5)
    np.testing.assert_allclose(kernel.values, expected, atol=2e-5)
    np.testing.assert_allclose(kernel.gap, 0, atol=1e-5)


@pytest.mark.long
def test_each_example_can_have_groups_of_its_own() -> None:
    f, rng = network(), np.random.default_rng(1)
    xs = rng.normal(size=(2, PLAYERS)).astype(np.float32)
    labels = np.array([[0, 1, 1, 2, 2], [2, 2, 0, 0, 1]])
    expected = np.stack(
        [
            by_permutations(f, x, np.zeros((1, PLAYERS), np.float32), list(row))
            for x, row in zip(xs, labels, strict=True)
        ]
    )
    for found in (
        explain.exact_shapley(f, xs, labels=labels),
        explain.kernel_shap(f, xs, labels=labels),
    ):
        np.testing.assert_allclose(found.values, expected, atol=2e-5)
        by_element = np.take_along_axis(expected, labels, 1)
        np.testing.assert_allclose(found.map, by_element, atol=2e-5)


def methods() -> dict[str, Any]:
    key = jax.random.key(0)
    return {
        "exact": explain.exact_shapley,
        "kernel": explain.kernel_shap,
        "sampled": lambda f, xs, **more: explain.kernel_shap(f, xs, key, samples=20, **more),
        "permutation": lambda f, xs, **more: explain.permutation_shap(f, xs, key, **more),
    }


@pytest.mark.parametrize("name", methods())
def test_the_axioms_hold(name: str) -> None:
    method = methods()[name]
    xs = jnp.array([[2.0, 2.0, 3.0, -1.0]])

    def first(xs: Any) -> Any:
        return xs[:, 0] * xs[:, 1] + jnp.sin(xs[:, 2])

    def second(xs: Any) -> Any:
        return xs[:, 2] ** 2 - xs[:, 0]

    def both_of(xs: Any) -> Any:
        return first(xs) + 2 * second(xs)

    *parts, both = jax.jit(lambda xs: [method(f, xs) for f in (first, second, both_of)])(xs)
    found = dict(zip((first, second), (np.asarray(each.values)[0] for each in parts), strict=True))
    np.testing.assert_allclose(both.values[0], found[first] + 2 * found[second], atol=1e-4)
    np.testing.assert_allclose(both.gap, 0, atol=1e-5)
    assert abs(found[first][0] - found[first][1]) < 1e-4  # symmetric
    assert abs(found[first][3]) < 1e-5  # null
    np.testing.assert_allclose(found[second], [-2, 0, 9, 0], atol=1e-4)


@pytest.mark.long
def test_of_all_coalitions_kernel_shap_is_exact() -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        w, xs = rng.normal(size=(6, 4)), rng.normal(size=(2, 6))
        f = lambda xs: jnp.tanh(xs @ w).sum(1)  # noqa: E731
        found, exact = explain.kernel_shap(f, xs), explain.exact_shapley(f, xs)
        np.testing.assert_allclose(found.values, exact.values, atol=1e-13)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_numbers_are_added_up_in_float32_and_come_back(dtype: str) -> None:
    """Of a sum of w x the values are w x, up to the rounding of f."""
    w, xs, key = jnp.array([1.0, -2.0, 4.0], dtype), jnp.ones((2, 3), dtype), jax.random.key(0)
    f = lambda xs: (xs * w).sum(1)  # noqa: E731
    found = [
        explain.lime_weights(f, xs, key, samples=200, ridge=1e-3),
        explain.exact_shapley(f, xs),
        explain.kernel_shap(f, xs),
        explain.permutation_shap(f, xs, key),
    ]
    for each in found:
        assert {leaf.dtype.name for leaf in each} == {dtype}
        np.testing.assert_allclose(np.float32(each.map), [[1, -2, 4]] * 2, atol=0.05)


@pytest.mark.long
@pytest.mark.parametrize(
    "method",
    [
        lambda f, xs, key: explain.kernel_shap(f, xs, key, samples=300, batch_size=1).values,
        lambda f, xs, key: explain.lime_weights(f, xs, key, samples=300, batch_size=1).weights,
    ],
    ids=["kernel SHAP", "LIME"],
)
def test_one_system_of_equations_serves_a_batch(method: Any) -> None:
    f, key = lambda xs: jnp.tanh(xs).sum(1), jax.random.key(0)
    run = jax.jit(lambda xs: method(f, xs, key))
    xs = jax.random.normal(jax.random.key(1), (32, 40))
    used: list[Any] = [run.lower(each).compile().memory_analysis() for each in (xs[:1], xs)]
    one, many = (each.temp_size_in_bytes for each in used)
    assert many < 3 * one + 8 * 300 * 32 * 4
    np.testing.assert_allclose(run(xs)[:1], run(xs[:1]), atol=1e-5)


@pytest.mark.long
def test_sampled_coalitions_approach_the_exact_values() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(10, 8)).astype(np.float32) / 2
    xs = rng.normal(size=(3, 10)).astype(np.float32)
    f = lambda xs: jnp.tanh(xs @ w).sum(1)  # noqa: E731
    key = jax.random.key(1)
    run = jax.jit(
        lambda xs: (
            explain.exact_shapley(f, xs),
            explain.kernel_shap(f, xs, key, samples=500),
            explain.permutation_shap(f, xs, key, permutations=25),
        )
    )
    exact, kernel, orders = run(xs)
    expected = np.asarray(exact.values)
    for found in (kernel, orders):
        np.testing.assert_allclose(found.gap, 0, atol=1e-5)
        assert np.corrcoef(found.values.ravel(), expected.ravel())[0, 1] > 0.99
        assert abs(np.asarray(found.values) - expected).max() < 0.1


@pytest.mark.long
def test_sizes_of_coalitions_are_drawn_as_the_kernel_weighs_them() -> None:
    """The probability of a size is proportional to 1 / (s (G - s)), of all coalitions of it."""
    seen = []
    count = 13

    def spy(xs: Any) -> Any:
        jax.debug.callback(lambda xs: seen.append(np.asarray(xs)), xs)
        return xs.sum(1)

    xs = jnp.ones((1, count))
    explain.kernel_shap(spy, xs, jax.random.key(0), samples=4000, batch_size=1)
    jax.effects_barrier()
    drawn = np.array([row[0] for row in seen if 0 < row.sum() < count])
    assert len(drawn) == 4000
    sizes = np.arange(1, count)
    odds = 1 / (sizes * (count - sizes))
    counts = np.bincount(drawn.sum(1).astype(int), minlength=count)[1:count]
    np.testing.assert_allclose(counts / 4000, odds / odds.sum(), atol=0.001)
    np.testing.assert_allclose(drawn.mean(0), 0.5, atol=1e-6)  # complements
    members = drawn[drawn.sum(1) == 2].sum(0)  # each group in as many pairs as the others
    assert stats.chisquare(members).pvalue > 1e-3


@pytest.mark.long
def test_what_a_padded_sequence_gets_does_not_depend_on_its_batch() -> None:
    f = lambda xs, mask: jnp.tanh((xs[..., 0] * mask).cumsum(1)).sum(1)  # noqa: E731
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 14, 1)), jnp.float32)
    run = jax.jit(
        lambda xs, lengths: explain.kernel_shap(
            f, xs, jax.random.key(0), lengths=lengths, samples=60
        )
    )
    together = run(xs, jnp.array([14, 9, 3]))
    alone = run(xs[::-1], jnp.array([3, 9, 14]))
    np.testing.assert_allclose(together.values, alone.values[::-1], atol=1e-5)
    np.testing.assert_allclose(together.gap, 0, atol=1e-5)
