"""One update of several batches against that of a single larger one, by hand and by optax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrent.losses import masked_average
from recurrent.training.accumulation import accumulate
from recurrent.training.minibatch import minibatch_task
from recurrent.training.optimizers import optimizer
from recurrent.training.step import apply_gradients, init_state

KEY = jax.random.key(0)


def updates_of(optimizer: Any, gradients: np.ndarray, weights: list[float]) -> list[float]:
    state, found = optimizer.init(jnp.float32(0)), []
    for gradient, weight in zip(gradients, weights, strict=True):
        update, state = optimizer.update(jnp.float32(gradient), state, weight=weight)
        found.append(float(update))
    return found


def test_an_update_is_that_of_the_mean_by_the_weights_of_its_batches() -> None:
    found = updates_of(
        accumulate(optax.sgd(1.0), 3), np.array([1.0, 2, 6, 4, 4, 0]), [8, 8, 4, 1, 0, 3]
    )
    np.testing.assert_allclose(found, [0, 0, -(8 + 16 + 24) / 20, 0, 0, -1.0], rtol=1e-6)


@pytest.mark.long
def test_equal_weights_are_optax_s_own_accumulation() -> None:
    gradients = np.random.default_rng(0).normal(size=12)
    theirs = optax.MultiSteps(optax.adam(0.1), 4)
    found = updates_of(accumulate(optax.adam(0.1), 4), gradients, [1] * 12)
    state, expected = theirs.init(jnp.float32(0)), []
    for gradient in gradients:
        update, state = theirs.update(jnp.float32(gradient), state)
        expected.append(update)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_batches_without_any_weight_make_an_update_of_zero() -> None:
    assert updates_of(accumulate(optax.sgd(1.0), 2), np.array([3.0, 5.0]), [0, 0]) == [0, 0]


def test_the_average_of_the_weights_moves_once_an_update() -> None:
    optimizer = accumulate(optax.sgd(1.0), 2)
    state = init_state(lambda key: jnp.float32(0), optimizer, KEY, keep_average=True)
    average, param = 0.0, 0.0
    for step in range(6):
        state, _ = apply_gradients(optimizer, state, jnp.float32(-1), 0.5)
        if step % 2:
            param, keep = param + 1, min(0.5, (1 + step // 2) / (10 + step // 2))
            average = keep * average + (1 - keep) * param
        np.testing.assert_allclose([state.params, state.average], [param, average], rtol=1e-6)


def test_a_skipped_batch_counts_in_no_update() -> None:
    optimizer = accumulate(optax.sgd(1.0), 2)
    state = init_state(lambda key: jnp.float32(0), optimizer, KEY)
    for gradient in (1.0, np.nan, 3.0):
        state, _ = apply_gradients(optimizer, state, jnp.float32(gradient))
    assert (float(state.params), int(state.opt_state.updates)) == (-2.0, 1)


@pytest.mark.long
@pytest.mark.parametrize("size", [12, 10])
def test_batches_of_a_part_filled_epoch_make_the_step_of_the_whole_data(size: int) -> None:
    """Two batches of 6, or of 6 and 4, are one of all of the data."""
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    data = {"x": jnp.asarray(x), "y": jnp.asarray(3 * x + x**2)}

    def measure(params: Any, batch: Any, hparams: Any) -> Any:
        return {"error": masked_average((params * batch["x"] - batch["y"]) ** 2, batch["mask"])}

    def loss(params: Any, batch: Any, key: Any, hparams: Any) -> Any:
        metrics = measure(params, batch, hparams)
        return metrics["error"].mean, metrics

    task = minibatch_task(
        init=lambda key: jnp.float32(0),
        loss=loss,
        measure=measure,
        optimizer=lambda hparams: accumulate(optax.sgd(0.1), 2),
        batch_size=6,
    )
    state, _ = task.train(task.init({"seed": 0}), {"seed": 0}, data, 2)
    y = np.asarray(data["y"])
    np.testing.assert_allclose(state.params, 0.1 * 2 * (x * y).mean(), rtol=1e-5)


def test_the_mean_of_large_gradients_is_theirs_though_their_weighted_sum_is_none() -> None:
    """64 times 3e38 is beyond the range of float32, as is 3e38 less -3e38."""
    for gradients, mean in (([3e38, 1e38, 2e38], 2e38), ([3e38, -3e38, 0.0], 0.0)):
        found = updates_of(accumulate(optax.sgd(1.0), 3), np.array(gradients), [64] * 3)
        np.testing.assert_allclose(found, [0, 0, -mean], rtol=1e-6, atol=1e32)


def test_large_gradients_are_accumulated_then_clipped_and_not_skipped() -> None:
    made = accumulate(optimizer("sgd", 0.1, momentum=0.0, clip_norm=1.0), 2)
    state = init_state(lambda key: jnp.zeros(2), made, KEY)
    for _ in range(2):
        state, _ = apply_gradients(made, state, jnp.array([3e37, 4e37]), weight=64)
        assert state.skipped == 0
    np.testing.assert_allclose(state.params, [-0.06, -0.08], rtol=1e-6)


def test_skipped_batches_do_not_age_the_average() -> None:
    made = accumulate(optax.sgd(1.0), 2)
    state = init_state(lambda key: jnp.float32(0), made, KEY, keep_average=True)
    for gradient in (np.nan, np.nan, -1.0, np.nan, -1.0):
        state, _ = apply_gradients(made, state, jnp.float32(gradient), 0.999)
    np.testing.assert_allclose([state.params, state.average], [1, 0.9], rtol=1e-6)
