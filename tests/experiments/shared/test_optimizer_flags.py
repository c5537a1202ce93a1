"""The optimizer of a Config: what it hands on, averages of several gradients, users' own."""

import dataclasses
import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.harness.config import hparams_of, options, parse, prefixed
from experiments.harness.errors import UserError
from experiments.harness.identity import source_hashes
from experiments.shared import optimizer_flags
from experiments.shared.optimizer_flags import OptimizerConfig, learning_rate_of, optimizer_of
from recurrent.training.optimizers import optimizer
from tests import toys

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


@pytest.mark.long
@pytest.mark.parametrize(
    "accumulate", [2, *(pytest.param(count, marks=pytest.mark.long) for count in (1, 4))]
)
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


@pytest.mark.long
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


def test_examples_print_what_is_documented() -> None:
    result = doctest.testmod(optimizer_flags)
    assert result.attempted
    assert not result.failed


# The learning rate of a batch


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_learning_rate_is_what_a_unit_gradient_moves_a_weight_by(
    schedule: str, accumulate: int
) -> None:
    config = OptimizerConfig(
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.0,
        clip_norm=0.0,
        schedule=schedule,
        accumulate=accumulate,
    )
    given = hparams(config)
    made = optimizer_of(config, EPOCHS, STEPS)(given)

    def step(state: Any, _: None) -> Any:
        updates, state = made.update(jnp.ones(()), state, jnp.ones(()))
        return state, updates

    _, updates = jax.lax.scan(step, made.init(jnp.ones(())), None, EPOCHS * STEPS)
    moved = -np.asarray(updates)[accumulate - 1 :: accumulate]  # of a group its last batch moves
    rate = jax.vmap(learning_rate_of(config, EPOCHS, STEPS), in_axes=(None, 0))
    found = rate(given, jnp.arange(EPOCHS * STEPS))
    assert found.max() > found.min()
    np.testing.assert_allclose(found, np.repeat(moved, accumulate), rtol=1e-5)


def test_a_second_learning_rate_goes_by_its_own_fields() -> None:
    cls: Any = prefixed(OptimizerConfig, "critic_")
    config = cls(critic_learning_rate=0.5, critic_schedule="linear", critic_warmup_epochs=0.0)
    rate = learning_rate_of(config, EPOCHS, STEPS, prefix="critic_")
    np.testing.assert_allclose(rate(hparams(config), jnp.int32(3)), 0.5 * 9 / 12, rtol=1e-6)


# Betas and epsilon


def test_a_sweep_over_betas_and_epsilon_compiles_once() -> None:
    config = dataclasses.replace(CONFIG, optimizer="adam", clip_norm=0.0, schedule="constant")
    config = dataclasses.replace(config, warmup_epochs=0.0)
    traces = []

    @jax.jit
    def swept(hparams: Any) -> Any:
        traces.append(hparams)
        return followed(optimizer_of(config, EPOCHS, STEPS)(hparams), GRADIENTS[:4])

    for beta1, beta2, epsilon in [(0.9, 0.999, 1e-8), (0.0, 0.5, 1e-3), (0.5, 0.0, 1.0)]:
        each = dataclasses.replace(config, beta1=beta1, beta2=beta2, epsilon=epsilon)
        expected = followed(optax.adam(0.1, beta1, beta2, epsilon), GRADIENTS[:4])
        np.testing.assert_allclose(swept(hparams(each)), expected, rtol=1e-4, atol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("beta1", "1"), ("beta1", "-2"), ("beta2", "1.0"), ("epsilon", "0"), ("epsilon", "-2")],
)
def test_betas_lie_below_one_and_epsilon_above_zero(name: str, text: str) -> None:
    with pytest.raises(UserError, match=f"--{name}: expected"):
        parse(name, options(OptimizerConfig)[name], text)


# By name or by file

MINE = """
import jax.numpy as jnp
import optax

def rule(learning_rate, *, momentum, weight_decay):
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum)
    )

def needs_more(learning_rate, temperature):
    return optax.sgd(learning_rate)

def stumbles(learning_rate):
    return optax.sgd(learning_rate * {}["scale"])

def nothing(learning_rate):
    optax.sgd(learning_rate)

def changes(learning_rate):
    def init(params):
        return {"count": jnp.zeros((), jnp.int32)}

    def update(updates, state, params=None):
        return updates, {"count": state["count"] + 0.5}

    return optax.GradientTransformation(init, update)

def shrinks(learning_rate):
    return optax.stateless(lambda updates, params: {"w": updates["w"].sum()})

def branches(learning_rate):
    def flip(updates, params):
        if updates["w"].sum() > 0:
            return updates
        return {"w": -updates["w"]}

    return optax.stateless(flip)

def halves(step, total_steps):
    return 0.5 ** (4 * step / total_steps)

def looks(step, total_steps):
    return 1.0 if step < 3 else 0.1

def goes_below(step, total_steps):
    return 1 - 2 * step / total_steps

def two(step, total_steps):
    return jnp.ones(2) * step

def no_factor(step, total_steps):
    pass
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def test_another_optimizer_of_optax_goes_by_the_fields() -> None:
    config = dataclasses.replace(CONFIG, optimizer="lion", clip_norm=0.0, beta2=0.5)
    config = dataclasses.replace(config, schedule="constant", warmup_epochs=0.0)
    found = followed(optimizer_of(config, EPOCHS, STEPS)(hparams(config)), GRADIENTS)
    expected = followed(optax.lion(0.1, 0.9, 0.5, weight_decay=0.0), GRADIENTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.long
def test_an_optimizer_and_a_schedule_from_a_file_equal_the_same_by_hand(mine: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        optimizer=f"{mine}:rule",
        schedule=f"{mine}:halves",
        weight_decay=0.02,
        clip_norm=0.0,
        warmup_epochs=1.0,
        accumulate=2,
    )
    given = hparams(config)

    @jax.jit
    def trained(given: Any) -> Any:
        return followed(optimizer_of(config, EPOCHS, STEPS)(given), GRADIENTS)

    weights, velocity = np.ones((3, 2)), np.zeros((3, 2))
    factors = [0.5, 1.0, 1.0, 0.5, 0.25, 0.125]  # two updates of warm-up, then a half of them each
    for gradient, factor in zip(GRADIENTS.reshape(6, 2, 3, 2).mean(axis=1), factors, strict=True):
        velocity = 0.5 * velocity + gradient + 0.02 * weights
        weights = weights - 0.1 * factor * velocity
    np.testing.assert_allclose(trained(given), weights, rtol=1e-5)
    rate = learning_rate_of(config, EPOCHS, STEPS)
    found = [rate(given, 2 * k) for k in range(6)]
    np.testing.assert_allclose(found, 0.1 * np.array(factors), rtol=1e-6)
    hashes = {f"--{name}: mine.py" for name in ("optimizer", "schedule")}
    assert set(source_hashes(config)) == hashes, "an edit must be noticed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "lino"}, r"--optimizer: expected one of sgd, .*, or FILE.py:FUNCTION, got"),
        ({"optimizer": "lino"}, r"Did you mean \"lion\"\?"),
        ({"optimizer": "lbfgs"}, r"--optimizer: expected one of .*, got 'lbfgs'"),
        ({"schedule": "cosin"}, r"--schedule: expected one of .*Did you mean \"cosine\"\?"),
        ({"optimizer": "MINE:rul"}, r"--optimizer: .* defines no function 'rul'"),
        ({"schedule": "MINE:halve"}, r"--schedule: .* defines no function 'halve'"),
    ],
)
def test_a_flag_that_names_nothing_says_what_there_is(
    changes: dict[str, str], said: str, mine: Path
) -> None:
    (name, value), *_ = changes.items()
    with pytest.raises(UserError, match=said):
        parse(name, options(OptimizerConfig)[name], value.replace("MINE", str(mine)))


def line_of(text: str) -> int:
    return [*MINE.splitlines()].index(text) + 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("needs_more", "MINE:needs_more raised TypeError: .*'temperature'"),
        ("stumbles", lambda: f"MINE:stumbles raised .* line {line_of(SCALE)}\\)\\."),
        ("nothing", "expected MINE:nothing to return an optax.GradientTransformation, got None"),
        (
            "changes",
            r"update of MINE:changes must return a state like the one that it is given, but "
            r"\['count'\] was int32\[\] and is float32\[\]",
        ),
        (
            "shrinks",
            r"update of MINE:shrinks must return updates like the gradients that it is given, but "
            r"\['w'\] was of shape \[2\] and is of shape \[\]",
        ),
        ("branches", lambda: f"update of MINE:branches raised .* line {line_of(BRANCH)}\\)\\."),
    ],
)
def test_mistakes_in_an_optimizer_of_ones_own_end_in_a_sentence(
    name: str, said: str | Callable[[], str], mine: Path
) -> None:
    config = dataclasses.replace(toys.FitConfig(), optimizer=f"{mine}:{name}")
    said = (said if isinstance(said, str) else said()).replace("MINE", str(mine))

    program, given = toys.fit(config), hparams(config)

    def trained() -> Any:
        return program.task.train(program.task.init(given), given, program.data["train"], 1)

    with pytest.raises(UserError, match=f"^--optimizer: {said}"):
        jax.eval_shape(trained)


SCALE = '    return optax.sgd(learning_rate * {}["scale"])'
BRANCH = '        if updates["w"].sum() > 0:'
STEP = "    return 1.0 if step < 3 else 0.1"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("looks", lambda: f"MINE:looks with total_steps=8 .* line {line_of(STEP)}\\)\\."),
        ("goes_below", "expected MINE:goes_below .* got -0.75 for step=7, total_steps=8"),
        ("two", "expected MINE:two to return a factor of the peak learning rate"),
        ("no_factor", "expected MINE:no_factor .* got None for step=0"),
    ],
)
def test_mistakes_in_a_schedule_of_ones_own_end_in_a_sentence(
    name: str, said: str | Callable[[], str], mine: Path
) -> None:
    cls: Any = prefixed(OptimizerConfig, "critic_")
    config = cls(critic_schedule=f"{mine}:{name}")
    said = (said if isinstance(said, str) else said()).replace("MINE", str(mine))
    for made_of in (optimizer_of, learning_rate_of):
        with pytest.raises(UserError, match=f"^--critic_schedule: {said}"):
            made_of(config, EPOCHS, STEPS, prefix="critic_")
