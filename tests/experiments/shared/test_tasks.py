"""The tasks that flags build: a learning rate that is told changes nothing else."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.config import hparams_of
from experiments.shared import tasks
from recurrent.training import Task
from tests import toys
from tests.toys import LengthsConfig, lengths

EPOCHS, STEPS = 6, 5  # of 16 in 72 examples


def rate(config: LengthsConfig, step: int) -> float:
    """The learning rate of a batch: linear warm-up, then a cosine to zero (SGDR, equation 5)."""
    total, update = EPOCHS * STEPS // config.accumulate, step // config.accumulate
    warmup = round(config.warmup_epochs * STEPS / config.accumulate)
    if update < warmup:
        return config.learning_rate * (update + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    share = (update - warmup) / (total - warmup)
    return config.learning_rate * (1 + math.cos(math.pi * share)) / 2


def trained(task: Task, config: LengthsConfig, parts: tuple[int, ...]) -> tuple[Any, list[Any]]:
    """The state after calls of so many steps, and the metrics of each."""
    hparams = {name: value[0] for name, value in hparams_of(config).items()}
    data, metrics = lengths(config).data["train"], []
    state = jax.jit(task.init)(hparams)
    call = jax.jit(task.train, static_argnums=3)
    for steps in parts:
        state, found = call(state, hparams, data, steps)
        metrics.append(found)
    return state, metrics


CONFIG = LengthsConfig(warmup_epochs=1.0)


@pytest.mark.long
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(CONFIG, accumulate=3),
        dataclasses.replace(CONFIG, schedule="constant", warmup_epochs=0.0),
    ],
    ids=["cosine", "accumulate", "constant"],
)
def test_the_learning_rate_is_the_mean_of_those_of_the_steps(config: LengthsConfig) -> None:
    parts = (3, 2, 5, 5)
    _, metrics = trained(lengths(config).task, config, parts)
    first = 0
    for steps, found in zip(parts, metrics, strict=True):
        expected = np.mean([rate(config, step) for step in range(first, first + steps)])
        np.testing.assert_allclose(found["learning_rate"].mean, expected, rtol=1e-5)
        assert found["learning_rate"].weight == steps, "so that calls add up"
        first += steps


@pytest.mark.long
@pytest.mark.optimized  # otherwise any metric more moves a last bit
@pytest.mark.parametrize("parts", [(5,), pytest.param((3, 2, 5), marks=pytest.mark.long)])
def test_it_changes_no_bit_of_what_is_trained(
    parts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = lengths.__wrapped__  # past the cache of programs
    with_it, _ = trained(build(CONFIG).task, CONFIG, parts)
    monkeypatch.setattr(tasks, "with_learning_rate", lambda task, rate: task)
    without, metrics = trained(build(CONFIG).task, CONFIG, parts)
    assert "learning_rate" not in metrics[0]
    for one, other in zip(*map(jax.tree.leaves, (with_it, without)), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = map(jax.random.key_data, (one, other))
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.long
def test_each_member_of_a_sweep_has_its_own() -> None:
    configs = [dataclasses.replace(CONFIG, learning_rate=peak) for peak in (0.5, 0.01)]
    hparams, task = hparams_of(*configs), lengths(CONFIG).task
    data = lengths(CONFIG).data["train"]
    states = jax.vmap(task.init)(hparams)
    _, metrics = jax.vmap(lambda s, h: task.train(s, h, data, 2))(states, hparams)
    expected = [np.mean([rate(config, 0), rate(config, 1)]) for config in configs]
    np.testing.assert_allclose(metrics["learning_rate"].mean, expected, rtol=1e-6)


def train_metrics(name: str, **fields: Any) -> set[str]:
    """The names of what a toy's training measures; nothing is computed."""
    toy = toys.ALL[name]
    config = toy.Config(**fields)
    program, hparams = toy.program(config), hparams_of(config, config)
    states = jax.eval_shape(jax.vmap(program.task.init), hparams)

    def train(states: Any) -> Any:
        one = partial(program.task.train, data=program.data["train"], steps=2)
        return jax.vmap(one)(states, hparams)

    return set(jax.eval_shape(train, states)[1])


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("fit", {"w"}),
        ("gan", {"scale", "mean"}),
        ("policy", {"params"}),
        ("lengths", {"cell/input", "cell/recurrent", "head"}),
    ],
)
def test_any_training_logs_the_gradients_of_its_layers_where_that_is_asked_for(
    name: str, layers: set[str]
) -> None:
    assert train_metrics(name, log_gradients=True) - train_metrics(name) == {
        f"gradient_norm/{layer}" for layer in layers
    }
