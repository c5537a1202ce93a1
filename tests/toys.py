"""Small programs of every kind that the tests train: a fit, a game of two networks, a policy."""

import dataclasses
import functools
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import recurrent
from experiments.harness.catalogue import Experiment
from experiments.harness.config import RunConfig, option, prefixed
from experiments.harness.program import Program
from experiments.shared.optimizer_flags import OptimizerConfig, optimizer_of
from experiments.shared.tasks import MinibatchConfig, minibatch_task
from recurrent.losses import Average
from recurrent.training import Metric, Task, TrainState, apply_gradients, gradients, init_state
from recurrent.training.minibatch import steps_per_epoch
from recurrent.training.step import step_key, where_applied
from recurrent.training.task import HParams, Metrics

LOSS = Metric("loss", higher_is_better=False)
ONE = jnp.float32(1)


def module(config: type, program: Any, question: str = "Does it fit?") -> Any:
    """What defines an experiment."""
    return types.SimpleNamespace(__doc__=f"{question}\n", Config=config, program=program)


def experiment(module: Any, name: str = "toy") -> Experiment:
    """What the launcher hands on of an experiment."""
    return Experiment(name, name, module)


# A fit: one network, one loss, each step on its own rows.

FIT_STEPS, FIT_EVALUATIONS = 5, 9


@dataclasses.dataclass(frozen=True)
class FitConfig(OptimizerConfig, RunConfig):
    evaluations: int = option(FIT_EVALUATIONS, "of the training", minimum=1)
    degree: int = option(1, "of the polynomial", minimum=1)
    learning_rate: float = 0.03
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    clip_norm: float = 0.0


@functools.cache  # so that trainings of one program may share what is compiled
def fit(config: Any) -> Program:
    """Fits ``y = 2 x - 1`` by a polynomial, with noise that depends on the step."""
    rows = np.random.default_rng(0).normal(size=(3, FIT_STEPS, 8)).astype(np.float32)
    splits = [{"x": jnp.asarray(x), "y": jnp.asarray(2 * x - 1)} for x in rows]
    adam = optimizer_of(config, config.evaluations, FIT_STEPS)

    def loss(params: Any, batch: Any, key: Array) -> Any:
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        errors = (jnp.polyval(params["w"], x) - batch["y"]) ** 2
        return errors.mean(), {"loss": Average(errors.sum(), jnp.float32(errors.size))}

    def init(hparams: HParams) -> TrainState:
        def draw(key: Array) -> Any:
            return {"w": jax.random.normal(key, (config.degree + 1,))}

        return init_state(draw, adam(hparams), jax.random.key(hparams["seed"]))

    def train(state: TrainState, hparams: HParams, data: Any, steps: int) -> Any:
        def step(state: TrainState, _: None) -> Any:
            batch = jax.tree.map(lambda leaf: leaf[state.step % FIT_STEPS], data)
            return recurrent.training.train_step(loss, adam(hparams), state, batch)

        state, metrics = lax.scan(step, state, None, steps)
        return state, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)

    def evaluate(params: Any, hparams: HParams, data: Any) -> Metrics:
        errors = (jnp.polyval(params["w"], data["x"]) - data["y"]) ** 2
        return {"loss": Average(errors.sum(), jnp.float32(errors.size))}

    return Program(
        task=Task(init, train, evaluate),
        data=dict(zip(("train", "valid", "test"), splits, strict=True)),
        evaluations=config.evaluations,
        steps_per_evaluation=FIT_STEPS,
        select=LOSS,
        report=LOSS,
    )


FIT = module(FitConfig, fit)


# A game: a generator of numbers against a critic of several updates a step (two optimizers).

CRITIC: Any = prefixed(OptimizerConfig, "critic_")
N_CRITIC = 2


@dataclasses.dataclass(frozen=True)
class GanConfig(CRITIC, OptimizerConfig, RunConfig):
    evaluations: int = option(6, "of the training", minimum=1)
    optimizer: str = "adam"
    learning_rate: float = 0.02
    critic_optimizer: str = "adam"
    critic_learning_rate: float = 0.02


class Game(NamedTuple):
    generator: TrainState
    critic: TrainState


@functools.cache
def gan(config: Any) -> Program:
    """A generator ``a z + b`` learns to draw from a normal distribution of mean 3."""
    ours = optimizer_of(config, config.evaluations, 8)
    theirs = optimizer_of(config, config.evaluations, 8 * N_CRITIC, prefix="critic_")

    def generated(params: Any, key: Array) -> Array:
        return params["scale"] * jax.random.normal(key, (64,)) + params["mean"]

    def judged(params: Any, x: Array) -> Array:
        features = jnp.stack([x, x**2], axis=-1)
        return jnp.tanh(features @ params["in"] + params["bias"]) @ params["out"]

    def init(hparams: HParams) -> Game:
        key = jax.random.key(hparams["seed"])
        draw = jax.random.normal
        mine = {"scale": jnp.float32(1), "mean": jnp.float32(0)}

        def critic(key: Array) -> Any:
            ins, outs = jax.random.split(key)
            return {
                "in": 0.3 * draw(ins, (2, 8)),
                "bias": jnp.zeros(8),
                "out": 0.3 * draw(outs, (8,)),
            }

        return Game(
            init_state(lambda key: mine, ours(hparams), key, keep_average=True),
            init_state(critic, theirs(hparams), jax.random.fold_in(key, 1)),
        )

    def critic_loss(params: Any, game: Game, key: Array) -> Any:
        real_key, fake_key = jax.random.split(key)
        real = 3 + 0.5 * jax.random.normal(real_key, (64,))
        fake = generated(game.generator.params, fake_key)
        loss = jax.nn.relu(1 - judged(params, real)) + jax.nn.relu(1 + judged(params, fake))
        return loss.mean(), loss.mean()

    def generator_loss(params: Any, game: Game, key: Array) -> Any:
        loss = -judged(game.critic.params, generated(params, key)).mean()
        return loss, loss

    def train(game: Game, hparams: HParams, data: Any, steps: int) -> Any:
        def of_critic(game: Game, _: None) -> Any:
            state = game.critic
            slopes, loss = gradients(critic_loss, state, game, step_key(state))
            state, _update = apply_gradients(theirs(hparams), state, slopes)
            return game._replace(critic=state), loss

        def step(game: Game, _: None) -> Any:
            game, losses = lax.scan(of_critic, game, None, N_CRITIC)
            state = game.generator
            slopes, _ = gradients(generator_loss, state, game, step_key(state))
            state, update = apply_gradients(ours(hparams), state, slopes, average_decay=0.9)
            metrics = {"critic": Average(losses.sum(), jnp.float32(N_CRITIC))}
            return game._replace(generator=state), metrics | update

        game, metrics = lax.scan(step, game, None, steps)
        return game, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)

    def evaluate(weights: Any, hparams: HParams, data: Any) -> Metrics:
        return {"distance": Average(jnp.abs(weights["mean"] - data["mean"]), ONE)}

    return Program(
        task=Task(
            init,
            train,
            evaluate,
            keep=lambda game: game.generator.weights,
            failures=lambda game: jnp.maximum(game.generator.skipped, game.critic.skipped),
        ),
        data={"train": (), "valid": {"mean": jnp.float32(3)}, "test": {"mean": jnp.float32(3)}},
        evaluations=config.evaluations,
        steps_per_evaluation=8,
        select=Metric("distance", higher_is_better=False),
        report=Metric("distance", higher_is_better=False),
    )


GAN = module(GanConfig, gan, "Does the generator find the mean?")


# A policy: no data, many updates a step, a return that is better when higher.

UPDATES = 16
ARMS = jnp.array([-5.0, -2.0, -1.0])


@dataclasses.dataclass(frozen=True)
class PolicyConfig(OptimizerConfig, RunConfig):
    evaluations: int = option(8, "of the training", minimum=1)
    optimizer: str = "sgd"
    momentum: float = 0.0
    learning_rate: float = 0.05
    schedule: str = "constant"
    warmup_epochs: float = 0.0


class PolicyState(NamedTuple):
    policy: TrainState
    baseline: Array  # of the returns seen so far, part of what is kept


@functools.cache
def policy(config: Any) -> Program:
    """A softmax policy over three arms of negative returns, by policy gradients."""
    sgd = optimizer_of(config, config.evaluations, 4 * UPDATES)

    def init(hparams: HParams) -> PolicyState:
        key = jax.random.key(hparams["seed"])
        state = init_state(lambda key: jnp.zeros(3), sgd(hparams), key)
        return PolicyState(state, jnp.float32(0))

    def loss(logits: Array, batch: Any, key: Array) -> Any:
        log_probs = jax.nn.log_softmax(logits)[batch["arms"]]
        return -(log_probs * batch["advantages"]).mean(), ()

    def train(state: PolicyState, hparams: HParams, data: Any, steps: int) -> Any:
        def update(policy: TrainState, batch: Any) -> Any:
            slopes, _ = gradients(loss, policy, batch, step_key(policy))
            policy, metrics = apply_gradients(sgd(hparams), policy, slopes)
            return policy, metrics

        def step(state: PolicyState, _: None) -> Any:
            key = step_key(state.policy)
            arms = jax.random.categorical(key, state.policy.params, shape=(UPDATES, 8))
            returns = ARMS[arms]
            batches = {"arms": arms, "advantages": returns - state.baseline}
            policy, metrics = lax.scan(update, state.policy, batches)
            metrics = jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)
            metrics["return"] = Average(returns.sum(), jnp.float32(returns.size))
            baseline = 0.9 * state.baseline + 0.1 * returns.mean()
            return PolicyState(policy, where_applied(policy, baseline, state.baseline)), metrics

        state, metrics = lax.scan(step, state, None, steps)
        return state, jax.tree.map(lambda leaf: leaf.sum(axis=0), metrics)

    def evaluate(kept: Any, hparams: HParams, data: Any) -> Metrics:
        logits, _ = kept
        return {"return": Average((jax.nn.softmax(logits) * ARMS).sum(), ONE)}

    return Program(
        task=Task(
            init,
            train,
            evaluate,
            keep=lambda state: (state.policy.params, state.baseline),
            failures=lambda state: state.policy.skipped,
        ),
        data={"train": (), "valid": (), "test": ()},
        evaluations=config.evaluations,
        steps_per_evaluation=4,
        select=Metric("return", higher_is_better=True),
        report=Metric("return", higher_is_better=True, format="{:.2f} a step"),
    )


POLICY = module(PolicyConfig, policy, "Does it find the best arm?")


# Sequences of different lengths: padding is a mask.


@dataclasses.dataclass(frozen=True)
class LengthsConfig(MinibatchConfig):
    epochs: int = 6
    batch_size: int = 16
    learning_rate: float = 0.02
    hidden_size: int = option(6, "H", minimum=1)


@functools.cache
def lengths(config: Any) -> Program:
    """A GRU reads sequences of 1 to 7 steps, padded with NaN, and tells the mean of each."""
    cell = recurrent.gru(1, config.hidden_size)
    head = recurrent.dense(config.hidden_size, 1)
    source = np.random.default_rng(1)

    def split(size: int) -> Any:
        counts = source.integers(1, 8, size)
        xs = source.normal(size=(size, 7)).astype(np.float32)
        xs[np.arange(7) >= counts[:, None]] = np.nan
        means = np.nanmean(xs, axis=1)
        return {"xs": jnp.asarray(xs), "lengths": jnp.asarray(counts), "y": jnp.asarray(means)}

    def init(key: Array) -> Any:
        keys = jax.random.split(key)
        return {"cell": cell.init(keys[0]), "head": head.init(keys[1])}

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        xs = batch["xs"].T[:, :, None]  # [T, B, 1]
        state, _ = recurrent.unroll(cell, params["cell"], xs, lengths=batch["lengths"])
        error = (head.apply(params["head"], state.hidden)[:, 0] - batch["y"]) ** 2
        error = jnp.where(batch["mask"], error, 0)
        return {"loss": Average(error.sum(), batch["mask"].sum().astype(jnp.float32))}

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> Any:
        metrics = measure(params, batch, hparams)
        return metrics["loss"].mean, metrics

    examples = 72  # so that the last batch is short
    return Program(
        task=minibatch_task(config, init, loss, measure, examples=examples, epochs=config.epochs),
        data={"train": split(examples), "valid": split(40), "test": split(40)},
        evaluations=config.epochs,
        steps_per_evaluation=steps_per_epoch(examples, config.batch_size),
        select=LOSS,
        report=LOSS,
    )


LENGTHS = module(LengthsConfig, lengths, "Does it read to the end, and no further?")

ALL = {"fit": FIT, "gan": GAN, "policy": POLICY, "lengths": LENGTHS}
