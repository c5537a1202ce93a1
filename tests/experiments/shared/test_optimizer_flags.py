"""The optimizer of a Config: what it hands on, and averages of several gradients."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.harness.config import hparams_of, prefixed
from experiments.harness.errors import UserError
from experiments.shared.optimizer_flags import OptimizerConfig, optimizer_of
from recurrent.training.optimizers import optimizer

CONFIG = OptimizerConfig(optimizer="sgd", learning_rate=0.1, momentum=0.5, warmup_epochs=0.5)
EPOCHS, STEPS = 3, 4
GRADIENTS = np.random.default_rng(0).normal(size=(EPOCHS * STEPS, 3, 2)).astype(np.float32)


def hparams(config: Any) -> dict[str, Any]:
    return {name: value[0] for name, value in hparams_of(config).items()}


def followed(made: optax.GradientTransformation, gradients: np.ndarray) -> np.ndarray:
    params = {"kernel": jnp.ones((3, 2))}
    state = made.init(params)
    for gradient in gradients:
        updates, state = made.update({"kernel": jnp.asarray(gradient)}, state, params)
        params: Any = optax.apply_updates(params, updates)
    return params["kernel"]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_an_accumulating_optimizer_steps_by_the_mean_of_its_gradients(accumulate: int) -> None:
    config = dataclasses.replace(CONFIG, accumulate=accumulate, l1=0.01, weight_decay=0.02)
    found = followed(optimizer_of(config, EPOCHS, STEPS)(hparams(config)), GRADIENTS)
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


def test_the_hyperparameters_of_an_optimizer_may_be_traced() -> None:
    def stepped(hparams: Any) -> Any:
        return followed(optimizer_of(CONFIG, EPOCHS, STEPS)(hparams), GRADIENTS[:2])

    given = hparams(CONFIG)
    np.testing.assert_allclose(jax.jit(stepped)(given), stepped(given), rtol=1e-6)


def test_warm_up_is_at_most_half_of_the_training() -> None:
    config = dataclasses.replace(CONFIG, warmup_epochs=100.0, clip_norm=0.0)
    found = followed(optimizer_of(config, EPOCHS, STEPS)(hparams(config)), GRADIENTS)
    half = dataclasses.replace(config, warmup_epochs=EPOCHS / 2)
    expected = optimizer_of(half, EPOCHS, STEPS)(hparams(half))
    np.testing.assert_array_equal(found, followed(expected, GRADIENTS))
    less = dataclasses.replace(config, warmup_epochs=1.0)
    other = followed(optimizer_of(less, EPOCHS, STEPS)(hparams(less)), GRADIENTS)
    assert not np.allclose(found, other), "otherwise the test shows nothing"


def test_a_second_optimizer_goes_by_its_own_fields() -> None:
    both: Any = dataclasses.make_dataclass(
        "Both", [], bases=(prefixed(OptimizerConfig, "critic_"), OptimizerConfig), frozen=True
    )
    config = both(optimizer="adam", critic_optimizer="sgd", critic_learning_rate=0.1)
    config = dataclasses.replace(config, critic_momentum=0.5, critic_warmup_epochs=0.5)
    found = optimizer_of(config, EPOCHS, STEPS, prefix="critic_")(hparams(config))
    expected = optimizer_of(CONFIG, EPOCHS, STEPS)(hparams(CONFIG))
    np.testing.assert_array_equal(followed(found, GRADIENTS), followed(expected, GRADIENTS))
    many = dataclasses.replace(config, critic_accumulate=99)
    with pytest.raises(UserError, match="--critic_accumulate: the whole training has 12 batches"):
        optimizer_of(many, EPOCHS, STEPS, prefix="critic_")


def test_an_update_of_more_batches_than_there_are_is_refused() -> None:
    config = dataclasses.replace(CONFIG, accumulate=EPOCHS * STEPS + 1)
    with pytest.raises(UserError, match="the whole training has 12 batches, fewer than the 13"):
        optimizer_of(config, EPOCHS, STEPS)
    optimizer_of(dataclasses.replace(CONFIG, accumulate=EPOCHS * STEPS), EPOCHS, STEPS)
