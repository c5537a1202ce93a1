"""Frechet distances against SciPy's matrix square root in float64, and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from recurrent.frechet import Gaussian, fit_gaussian, frechet_distance


def reference(xs: np.ndarray, ys: np.ndarray) -> float:
    one, other = np.cov(xs.T), np.cov(ys.T)
    root = np.real(sqrtm(one @ other))
    apart = ((xs.mean(0) - ys.mean(0)) ** 2).sum()
    return float(apart + np.trace(one + other - 2 * root))


def features(seed: int, size: int, count: int = 8, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(size, rank or count)) @ rng.normal(size=(rank or count, count))
    return mixed + rng.normal(size=count)


@pytest.mark.parametrize(("one", "other"), [(200, 300), (12, 300)])
def test_the_distance_of_samples_is_scipys(one: int, other: int) -> None:
    xs, ys = features(0, one), features(1, other)
    found = frechet_distance(fit_gaussian(jnp.asarray(xs)), fit_gaussian(jnp.asarray(ys)))
    np.testing.assert_allclose(found, reference(xs, ys), rtol=1e-5)


def test_close_distributions_are_told_apart_in_float32() -> None:
    """Also where features are doubled, so that covariances have no inverse."""
    xs = np.repeat(features(2, 4000, 60, rank=20), 2, axis=1)  # 120 features of rank 20
    ys = xs * 1.01 + 0.01
    found = frechet_distance(fit_gaussian(jnp.asarray(xs)), fit_gaussian(jnp.asarray(ys)))
    trace = np.var(xs, axis=0, ddof=1).sum()
    expected = ((ys.mean(0) - xs.mean(0)) ** 2).sum() + 0.01**2 * trace
    np.testing.assert_allclose(found, expected, atol=1e-5 * trace)


def test_of_commuting_covariances_it_is_the_distance_of_means_and_deviations() -> None:
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    means, deviations = rng.normal(size=(2, 6)), rng.uniform(0.1, 3, size=(2, 6))
    one, other = (
        Gaussian(jnp.asarray(m), jnp.asarray(np.diag(s) @ axes.T))
        for m, s in zip(means, deviations, strict=True)
    )
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    np.testing.assert_allclose(frechet_distance(one, other), expected, rtol=1e-5)
    np.testing.assert_allclose(frechet_distance(other, one), expected, rtol=1e-5)


def test_a_distribution_has_no_distance_from_itself_however_it_is_turned() -> None:
    xs = features(4, 500)
    fitted = fit_gaussian(jnp.asarray(xs))
    turned = fitted._replace(root=jnp.asarray(np.linalg.qr(features(5, 8))[0]) @ fitted.root)
    assert 0 <= float(frechet_distance(fitted, turned)) < 1e-5 * np.var(xs, axis=0).sum()


def test_a_fitted_gaussian_has_the_sample_s_mean_and_covariance() -> None:
    xs = features(6, 5, 8)  # fewer examples than features
    fitted = fit_gaussian(jnp.asarray(xs))
    np.testing.assert_allclose(fitted.mean, xs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(fitted.root.T @ fitted.root, np.cov(xs.T), atol=1e-4)


def test_populations_are_measured_one_by_one() -> None:
    xs = jnp.asarray(np.stack([features(k, 50) for k in range(3)]))
    real = fit_gaussian(jnp.asarray(features(9, 50)))

    def distance(xs: jax.Array) -> jax.Array:
        return frechet_distance(fit_gaussian(xs), real)

    each = [float(jax.jit(distance)(one)) for one in xs]
    np.testing.assert_allclose(jax.jit(jax.vmap(distance))(xs), each, rtol=1e-6)


def test_features_that_will_not_do_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features: expected \[N, F\] of two examples or more"):
        fit_gaussian(jnp.zeros((1, 4)))
    one = fit_gaussian(jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"other: expected \[4\] features, got \[3\]"):
        frechet_distance(one, fit_gaussian(jnp.zeros((2, 3))))
