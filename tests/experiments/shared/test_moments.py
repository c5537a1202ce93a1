"""Moments that come batch by batch are those of all numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared.moments import FARTHEST, extended, no_moments, standardized


def test_batches_of_any_size_have_the_moments_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, [1, 40], (size, 2)).astype(np.float32) for size in (1, 7, 300, 2)]
    moments = no_moments((2,))
    for batch in batches:
        moments = extended(moments, jnp.asarray(batch))
    whole = np.concatenate(batches).astype(float)
    np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, whole.var(0), rtol=1e-5)
    assert float(moments.counted) == len(whole)
    scaled = np.asarray(standardized(moments, jnp.asarray(whole, jnp.float32)))
    assert scaled.mean(0) == pytest.approx(0, abs=1e-5)
    assert scaled.std(0) == pytest.approx(1, abs=1e-4)


def test_a_number_that_never_changes_is_not_blown_up_and_nothing_is_too_far_off() -> None:
    moments = extended(no_moments((1,)), jnp.full((50, 1), 7.0))
    assert standardized(moments, jnp.array([7.0, 8.0])).tolist() == [0, 1]
    narrow = extended(no_moments(), jnp.array([1.0, 1.002]))
    assert float(standardized(narrow, jnp.float32(2))) == FARTHEST
    assert float(standardized(no_moments(), jnp.float32(-0.5))) == pytest.approx(-0.5)
