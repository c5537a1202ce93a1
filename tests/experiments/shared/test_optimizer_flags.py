"""The optimiser of a Config: what it hands on, and averages of several gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.harness.config import TrainingConfig, traced
from experiments.harness.errors import UserError
from experiments.shared.optimizer_flags import optimizer_of
from recurrent.training.optimizers import optimizer

CONFIG = TrainingConfig(optimizer="sgd", learning_rate=0.1, momentum=0.5, warmup_epochs=0.5)
EPOCHS, STEPS = 3, 4
GRADIENTS = np.random.default_rng(0).normal(size=(EPOCHS * STEPS, 3, 2)).astype(np.float32)


def followed(made: optax.GradientTransformation, gradients: np.ndarray) -> np.ndarray:
    params = {"kernel": jnp.ones((3, 2))}
    state = made.init(params)
    for gradient in gradients:
        updates, state = made.update({"kernel": jnp.asarray(gradient)}, state, params)
        params: Any = optax.apply_updates(params, updates)
    return params["kernel"]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_it_steps_by_the_mean_of_so_many_gradients(accumulate: int) -> None:
    config = dataclasses.replace(CONFIG, accumulate=accumulate, l1=0.01, weight_decay=0.02)
    found = followed(optimizer_of(config, EPOCHS, STEPS)(traced(config)), GRADIENTS)
    means = GRADIENTS.reshape(-1, accumulate, 3, 2).mean(axis=1)
    expected = optimizer(
        "sgd",
        0.1,
        momentum=0.5,
        weight_decay=0.02,
        l1=0.01,
        clip_norm=1.0,
        schedule="cosine",
        warmup_steps=2 // accumulate,
        total_steps=EPOCHS * STEPS // accumulate,
    )
    np.testing.assert_allclose(found, followed(expected, means), rtol=1e-5)


def test_its_numbers_may_be_traced() -> None:
    def stepped(numbers: Any) -> Any:
        return followed(optimizer_of(CONFIG, EPOCHS, STEPS)(numbers), GRADIENTS[:2])

    numbers = traced(CONFIG)
    np.testing.assert_allclose(jax.jit(stepped)(numbers), stepped(numbers), rtol=1e-6)


def test_an_update_of_more_batches_than_there_are_is_refused() -> None:
    config = dataclasses.replace(CONFIG, accumulate=EPOCHS * STEPS + 1)
    with pytest.raises(UserError, match="the whole training has 12 batches, fewer than the 13"):
        optimizer_of(config, EPOCHS, STEPS)
    optimizer_of(dataclasses.replace(CONFIG, accumulate=EPOCHS * STEPS), EPOCHS, STEPS)
