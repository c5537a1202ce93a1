"""No field of a Config is idle: another value of it gives other weights after a few steps."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import char_lm, image_cnn, sequential_digits
from experiments.harness.config import traced

STEPS = 4
OTHER = {"seed": 1, "clip_norm": 1e-3, "rotation": 30.0}  # elsewhere 0.3 more
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


def weights_after(module: Any, config: Any) -> Any:
    """A function of the traced numbers, compiled once."""
    program = module.program(config)

    @jax.jit
    def train(numbers: Any) -> Any:
        state = program.task.init(numbers)
        return program.task.train(state, numbers, program.data["train"], STEPS)[0].weights

    return lambda numbers: train({name: jnp.asarray(value) for name, value in numbers.items()})


def differ(a: Any, b: Any) -> bool:
    pairs = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return any(np.any(np.asarray(x) != np.asarray(y)) for x, y in pairs)


@pytest.mark.parametrize("module", [sequential_digits, image_cnn, char_lm])
def test_every_traced_field_matters(module: Any, text: str) -> None:
    config = base_of(module, text)
    train, numbers = weights_after(module, config), traced(config)
    before = train(numbers)
    assert not differ(before, train(dict(numbers)))
    idle = [
        name
        for name, value in numbers.items()
        if not differ(before, train(numbers | {name: OTHER.get(name, value + 0.3)}))
    ]
    assert idle == []


@pytest.mark.parametrize("module", [sequential_digits, char_lm])
def test_every_static_field_of_the_training_matters(module: Any, text: str) -> None:
    config = base_of(module, text)
    before = weights_after(module, config)(traced(config))
    for changes in STATIC:
        other = dataclasses.replace(config, **changes)
        assert differ(before, weights_after(module, other)(traced(other))), changes
