"""No field of a Config is idle: another value of it gives other weights after a few steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import char_lm, image_cnn, sequential_digits
from experiments.harness.config import hparams_of

STEPS = 4
OTHER = {"seed": 1, "clip_norm": 1e-3, "clip_value": 1e-3, "rotation": 30.0}  # others: 0.3 more
OF_ADAM = {"beta1": 0.5, "beta2": 0.5, "epsilon": 0.1}
STATIC: list[dict[str, Any]] = [
    {"average": 0.9},
    {"accumulate": 2},
    {"optimizer": "rmsprop"},
    {"schedule": "constant"},
    {"warmup_epochs": 0.5},
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("the cat sat on the mat\n" * 60)
    return str(file)


def base_of(module: Any, text: str) -> Any:
    sizes: dict[str, Any] = {
        sequential_digits: {"cell": "elman", "hidden_size": 4},
        image_cnn: {},
        char_lm: {
            "cell": "elman",
            "hidden_size": 4,
            "text": text,
            "window": 8,
            "embedding_size": 4,
        },
    }[module]
    return module.Config(optimizer="sgd", batch_size=16, epochs=2, warmup_epochs=0.01, **sizes)


def values_of(config: Any) -> dict[str, Any]:
    """Return the traced fields as scalars."""
    return {name: value[0] for name, value in hparams_of(config).items()}


def weights_after(module: Any, config: Any) -> Any:
    """Return ``hparams -> weights`` after a few steps, compiled once."""
    program = module.program(config)

    @jax.jit
    def train(hparams: Any) -> Any:
        state = program.task.init(hparams)
        state, _ = program.task.train(state, hparams, program.data["train"], STEPS)
        return program.task.keep(state)

    return lambda hparams: train({name: jnp.asarray(value) for name, value in hparams.items()})


def differ(a: Any, b: Any) -> bool:
    pairs = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return any(np.any(np.asarray(x) != np.asarray(y)) for x, y in pairs)


@pytest.mark.long
@pytest.mark.parametrize("module", [sequential_digits, image_cnn, char_lm])
def test_another_value_of_any_traced_field_gives_other_weights(module: Any, text: str) -> None:
    config = base_of(module, text)
    train, hparams = weights_after(module, config), values_of(config)
    before = train(hparams)
    assert not differ(before, train(dict(hparams)))
    idle = [
        name
        for name, value in hparams.items()
        if name not in OF_ADAM
        and not differ(before, train(hparams | {name: OTHER.get(name, value + 0.3)}))
    ]
    assert idle == []


@pytest.mark.long
def test_another_beta_or_epsilon_of_adam_gives_other_weights(text: str) -> None:
    config = dataclasses.replace(base_of(sequential_digits, text), optimizer="adam")
    train, hparams = weights_after(sequential_digits, config), values_of(config)
    before = train(hparams)
    for name, value in OF_ADAM.items():
        assert differ(before, train(hparams | {name: value})), name


@pytest.mark.long
@pytest.mark.parametrize("module", [sequential_digits, char_lm])
def test_another_value_of_a_static_field_of_the_training_gives_other_weights(
    module: Any, text: str
) -> None:
    config = base_of(module, text)
    before = weights_after(module, config)(values_of(config))
    for changes in STATIC:
        other = dataclasses.replace(config, **changes)
        assert differ(before, weights_after(module, other)(values_of(other))), changes
