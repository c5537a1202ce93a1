"""What is drawn at random depends neither on the padding of a sequence nor on its batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import explain

KEY, LENGTH, FEATURES = jax.random.key(0), 3, 2


def f(xs: Any, mask: Any) -> Any:
    seen = (jnp.tanh(xs @ jnp.array([1.0, -2.0])) * mask).cumsum(1)
    return (jnp.tanh(seen) * mask).sum(1)


DRAWN = {
    "SmoothGrad": lambda xs, n: explain.smooth_grad(f, xs, KEY, lengths=n, samples=5),
    "gradient SHAP": lambda xs, n: explain.gradient_shap(f, xs, KEY, lengths=n, samples=5).map,
    "kernel SHAP": lambda xs, n: explain.kernel_shap(f, xs, KEY, lengths=n, samples=40).map,
    "permutation SHAP": lambda xs, n: (
        explain.permutation_shap(f, xs, KEY, lengths=n, permutations=2).map
    ),
    "LIME": lambda xs, n: explain.lime_weights(f, xs, KEY, lengths=n, samples=20).map,
}


def series(steps: int) -> Any:
    """Return three sequences filled up to so many steps, the first of which is always the same."""
    xs = np.zeros((3, steps, FEATURES), np.float32)
    xs[0, :LENGTH] = np.random.default_rng(0).normal(size=(LENGTH, FEATURES))
    xs[1:] = np.random.default_rng(1).normal(size=(2, steps, FEATURES))
    return jnp.asarray(xs)


@pytest.mark.long
@pytest.mark.parametrize("name", DRAWN)
def test_a_map_depends_neither_on_padding_nor_on_the_batch(name: str) -> None:
    run = jax.jit(DRAWN[name])
    expected = run(series(5)[:1], jnp.array([LENGTH]))[0, :LENGTH]
    assert abs(np.asarray(expected)).max() > 0.1
    padded = run(series(8)[::-1], jnp.array([8, 7, LENGTH]))[2]
    np.testing.assert_allclose(padded[:LENGTH], expected, atol=1e-5)


@pytest.mark.long
def test_sensitivity_depends_neither_on_padding_nor_on_the_batch() -> None:
    def run(xs: Any, lengths: Any) -> Any:
        slope = lambda xs: explain.gradient(f, xs, lengths=lengths)  # noqa: E731
        return explain.max_sensitivity(slope, xs, KEY, lengths=lengths, samples=3, radius=0.3)

    expected = jax.jit(run)(series(5)[:1], jnp.array([LENGTH]))[0]
    padded = jax.jit(run)(series(8)[::-1], jnp.array([8, 7, LENGTH]))[2]
    assert expected > 0.01
    np.testing.assert_allclose(padded, expected, rtol=1e-4)


@pytest.mark.long
def test_random_orders_depend_neither_on_padding_nor_on_the_batch() -> None:
    def run(xs: Any, lengths: Any) -> Any:
        return explain.faithfulness_curves(
            f, xs, xs, KEY, baselines=[0.0], lengths=lengths, orders=2, steps=4
        ).random_deletion

    expected = run(series(5)[:1], jnp.array([LENGTH]))[..., 0]
    padded = run(series(8)[::-1], jnp.array([8, 7, LENGTH]))[..., 2]
    np.testing.assert_allclose(padded, expected, atol=1e-5)


@pytest.mark.long
def test_examples_of_one_batch_see_the_same_draws() -> None:
    xs = jnp.ones((2, 4, FEATURES)) * jnp.arange(4.0)[:, None]
    cubed = lambda xs: (xs**3).sum((1, 2))  # noqa: E731
    found = explain.smooth_grad(cubed, xs, KEY, samples=3)
    np.testing.assert_array_equal(found[0], found[1])
    assert np.ptp(np.asarray(found[0, 1] - found[0, 1].mean())) > 0  # features, of their own
