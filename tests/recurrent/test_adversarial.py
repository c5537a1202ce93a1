"""Losses of two players in NumPy, R1 in closed form, spectral norms by the SVD."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import adversarial
from recurrent.adversarial import r1_penalty, spectral_norm, spectrally_normalized

REAL = np.array([-3.0, -0.2, 0.0, 0.9, 1.1, 40.0])
FAKE = np.array([-40.0, -1.2, -0.8, 0.0, 2.5, 3.0])


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("loss", "expected", "slopes"),
    [
        (
            adversarial.discriminator_nonsaturating,
            np.log(1 + np.exp(-REAL)).mean() + np.log(1 + np.exp(FAKE)).mean(),
            (-logistic(-REAL) / 6, logistic(FAKE) / 6),
        ),
        (
            adversarial.discriminator_hinge,
            np.maximum(0, 1 - REAL).mean() + np.maximum(0, 1 + FAKE).mean(),
            (-1.0 * (REAL < 1) / 6, (FAKE > -1) / 6),
        ),
    ],
)
def test_losses_of_a_discriminator_are_those_of_the_papers(
    loss: Callable[..., jax.Array], expected: float, slopes: tuple[np.ndarray, np.ndarray]
) -> None:
    real, fake = jnp.asarray(REAL, jnp.float32), jnp.asarray(FAKE, jnp.float32)
    np.testing.assert_allclose(loss(real, fake), expected, rtol=1e-6)
    for ours, theirs in zip(jax.grad(loss, (0, 1))(real, fake), slopes, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "expected", "slopes"),
    [
        (
            adversarial.generator_nonsaturating,
            np.log(1 + np.exp(-FAKE)).mean(),
            -logistic(-FAKE) / 6,
        ),
        (adversarial.generator_hinge, -FAKE.mean(), np.full(6, -1 / 6)),
    ],
)
def test_losses_of_a_generator_are_those_of_the_papers(
    loss: Callable[..., jax.Array], expected: float, slopes: np.ndarray
) -> None:
    fake = jnp.asarray(FAKE, jnp.float32)
    np.testing.assert_allclose(loss(fake), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(fake), slopes, rtol=1e-5, atol=1e-7)


def test_extreme_logits_leave_losses_and_slopes_finite() -> None:
    far = jnp.array([-1e30, 1e30])
    for loss in (adversarial.discriminator_nonsaturating, adversarial.discriminator_hinge):
        assert all(jnp.isfinite(each).all() for each in jax.grad(loss, (0, 1))(far, far))


@pytest.mark.long
def test_r1_of_a_quadratic_discriminator_is_its_closed_form() -> None:
    """The slope of ``x' A x / 2 + b' x`` is ``A x + b``, of which each example has its own."""
    rng = np.random.default_rng(0)
    half, b, xs = rng.normal(size=(6, 6)), rng.normal(size=6), rng.normal(size=(5, 2, 3))
    a = half + half.T

    def judge(matrix: jax.Array, xs: jax.Array) -> jax.Array:
        flat = xs.reshape(len(xs), -1)
        return jnp.einsum("ni,ij,nj->n", flat, matrix, flat) / 2 + flat @ b

    slopes = xs.reshape(5, 6) @ a + b
    with jax.enable_x64(True):

        def penalty(matrix: jax.Array) -> jax.Array:
            return r1_penalty(lambda xs: judge(matrix, xs), jnp.asarray(xs))

        found, gradient = jax.value_and_grad(penalty)(jnp.asarray(a))
        np.testing.assert_allclose(found, (slopes**2).sum(1).mean() / 2, rtol=1e-12)
        outer = slopes.T @ xs.reshape(5, 6) / 5  # of both triangles, which the quadratic form adds
        np.testing.assert_allclose(gradient, (outer + outer.T) / 2, rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (3, 7), (64, 64), (512, 32)], ids=str)
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_the_spectral_norm_is_the_largest_singular_value(
    shape: tuple[int, int], scale: float
) -> None:
    matrix = np.random.default_rng(1).normal(size=shape)
    u, s, v = np.linalg.svd(matrix)
    given = jnp.asarray(scale * matrix, jnp.float32)
    found, slope = jax.value_and_grad(spectral_norm)(given)
    np.testing.assert_allclose(found, scale * s[0], rtol=2e-3)
    if len(s) == 1 or s[1] < 0.9 * s[0]:  # where the vector is found as well
        np.testing.assert_allclose(found, scale * s[0], rtol=1e-5)
        np.testing.assert_allclose(slope, np.outer(u[:, 0], v[0]), atol=2e-3)


@pytest.mark.long
def test_the_spectral_norm_of_zeros_is_zero_and_of_equal_values_that_one() -> None:
    assert float(spectral_norm(jnp.zeros((3, 2)))) == 0
    assert np.isfinite(jax.grad(spectral_norm)(jnp.zeros((3, 2)))).all()
    np.testing.assert_allclose(spectral_norm(3 * jnp.eye(5)), 3, rtol=1e-6)


@pytest.mark.long
def test_normalized_kernels_have_norm_one_and_biases_stay() -> None:
    rng = np.random.default_rng(2)
    params = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 4, 8)), jnp.float32)},
        "dense": {"kernel": jnp.zeros((8, 1)), "bias": jnp.arange(8.0)},
    }
    found = spectrally_normalized(params)
    norm = np.linalg.norm(np.asarray(found["conv"]["kernel"]).reshape(-1, 8), 2)
    assert norm == pytest.approx(1, abs=2e-3)
    np.testing.assert_array_equal(found["dense"]["kernel"], 0)
    np.testing.assert_array_equal(found["dense"]["bias"], np.arange(8))
