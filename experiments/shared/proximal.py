"""Train a recurrent policy by proximal policy optimization, on whole sequences."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

import recurrent
from experiments.harness.config import RunConfig, option
from experiments.harness.errors import UserError
from experiments.shared import acting
from experiments.shared.acting import Actors, Agent, Kept, Step
from experiments.shared.moments import Moments, deviation, extended, no_moments
from experiments.shared.optimizer_flags import OptimizerConfig, learning_rate_of, optimizer_of
from recurrent.losses import Average, masked_average
from recurrent.policy_gradient import (
    categorical_entropy,
    categorical_log_prob,
    clipped_surrogate,
    clipped_value_loss,
    generalized_advantages,
)
from recurrent.training import TrainState, apply_gradients, gradients, init_state
from recurrent.training.step import step_key, where_applied
from recurrent.training.task import HParams, Metrics, Task

ONE = jnp.float32(1)


@dataclasses.dataclass(frozen=True)
class ProximalConfig(OptimizerConfig, RunConfig):
    """Hold the fields of proximal policy optimization; a step of the training is a rollout."""

    steps: int = option(100_000, "steps in all environments together", minimum=1, maximum=10**10)
    environments: int = option(8, "environments side by side", minimum=1, maximum=10**6)
    horizon: int = option(128, "T, steps of each one between updates", minimum=1, maximum=10**6)
    epochs: int = option(10, "passes over the steps of a rollout", minimum=1, maximum=1000)
    minibatches: int = option(
        4, "minibatches of an epoch, each of the whole sequences of some environments", minimum=1
    )
    evaluate_every: int = option(4, "rollouts between two evaluations", minimum=1, maximum=10**6)
    discount: float = option(
        0.99, "gamma, of the rewards of a step later", traced=True, minimum=0, maximum=1
    )
    decay: float = option(
        0.95, "lambda, of what later steps add to an advantage", traced=True, minimum=0, maximum=1
    )
    clip: float = option(
        0.2, "epsilon: how far a probability may move, as a factor", traced=True, above=0
    )
    value_clip: float = option(
        0.0, "how far a value may move freely; 0 for any distance", traced=True, minimum=0
    )
    value_cost: float = option(0.5, "weight of the values' error", traced=True, minimum=0)
    entropy_cost: float = option(0.0, "weight of the policy's entropy", traced=True, minimum=0)
    optimizer: str = "adam"
    schedule: str = "linear"
    warmup_epochs: float = 0.0
    clip_norm: float = 0.5


class Length(NamedTuple):
    """Hold how many evaluations, rollouts between two of them, and updates a rollout there are."""

    evaluations: int
    rollouts: int
    updates: int


def length_of(config: ProximalConfig) -> Length:
    """Return how long a training is, of at most the environment steps of the Config.

    Raises:
      UserError: where they are less than one rollout, or sequences cannot be shared out equally.
    """
    if config.environments % config.minibatches:
        raise UserError(
            "--minibatches: expected a divisor of the environments, whose sequences stay whole, "
            f"got {config.minibatches} with --environments={config.environments}."
        )
    one = config.environments * config.horizon
    rollouts = config.steps // one
    if not rollouts:
        raise UserError(
            f"--steps: {config.steps} are less than one rollout of {config.environments} "
            f"environments x {config.horizon} steps; give at least {one}, or a shorter --horizon."
        )
    between = min(config.evaluate_every, rollouts)
    return Length(rollouts // between, between, config.epochs * config.minibatches)


class Learner(NamedTuple):
    """Hold all that a step of the training changes.

    Attributes:
      training: the network's.
      actors: where the environments are.
      moments: of the observations.
      sums: the discounted rewards of each environment up to now ``[N]``.
      spread: the moments of those sums, by which rewards are scaled.
    """

    training: TrainState
    actors: Actors
    moments: Moments
    sums: Array
    spread: Moments


class Batch(NamedTuple):
    """Hold sequences ``[T, N, ...]`` to learn from, and the carries ``[N, ...]`` before them."""

    inputs: Array
    start: Array
    action: Array
    log_prob: Array
    value: Array
    advantage: Array
    carry: Any


def proximal_task(config: ProximalConfig, agent: Agent, *, greedy: bool) -> Task:
    """Build the task that trains an agent; its metric is ``"return"``.

    Args:
      config: of the training.
      agent: the environment and the network.
      greedy: whether evaluations take the likeliest actions.
    """
    length = length_of(config)
    steps = length.rollouts * length.updates
    optimizer = optimizer_of(config, length.evaluations, steps)
    rate = learning_rate_of(config, length.evaluations, steps)

    def update(training: TrainState, rows: Array, batch: Batch, hparams: HParams) -> Any:
        part = chosen(batch, rows)
        loss = partial(proximal_loss, agent)
        slopes, metrics = gradients(loss, training, part, step_key(training), hparams)
        now = Average(rate(hparams, training.step), ONE)
        training, made = apply_gradients(optimizer(hparams), training, slopes)
        return training, where_applied(training, metrics) | made | {"learning_rate": now}

    def step(learner: Learner, hparams: HParams) -> tuple[Learner, Metrics]:
        act_key, order_key = jax.random.split(step_key(learner.training))
        learner, batch, metrics = experience(config, agent, learner, act_key, hparams)
        rows = orders(order_key, config)
        training, updates = lax.scan(
            lambda training, rows: update(training, rows, batch, hparams), learner.training, rows
        )
        metrics["ratio_error"] = jax.tree.map(lambda leaf: leaf[0], updates.pop("ratio_error"))
        metrics |= jax.tree.map(lambda leaf: leaf.sum(0), updates)
        return learner._replace(training=training), metrics

    def train(learner: Learner, hparams: HParams, data: Any, steps: int) -> Any:
        learner, metrics = lax.scan(lambda each, _: step(each, hparams), learner, None, steps)
        return learner, jax.tree.map(lambda leaf: leaf.sum(0), metrics)

    return Task(
        lambda hparams: begun(config, agent, optimizer(hparams), hparams["seed"]),
        train,
        lambda kept, hparams, data: evaluated(agent, kept, data["seeds"], greedy=greedy),
        keep=lambda learner: Kept(learner.training.params, learner.moments),
        failures=lambda learner: learner.training.skipped,
    )


def begun(config: ProximalConfig, agent: Agent, optimizer: Any, seed: Any) -> Learner:
    """Return the state before the first step."""
    key = jax.random.key(seed)
    training = init_state(partial(acting.init, agent), optimizer, key)
    keys = jax.random.split(jax.random.fold_in(key, 2), config.environments)
    return Learner(
        training=training,
        actors=acting.begun(agent, training.params, keys),
        moments=no_moments((agent.environment.observation_size,)),
        sums=jnp.zeros(config.environments),
        spread=no_moments(),
    )


def evaluated(agent: Agent, kept: Kept, seeds: Array, *, greedy: bool) -> Metrics:
    """Return the mean return and length of episodes, one for each seed."""
    keys = jax.vmap(jax.random.key)(seeds)
    episodes = acting.played(agent, kept, keys, greedy=greedy)
    return {
        "return": masked_average(episodes.returns),
        "length": masked_average(episodes.lengths.astype(jnp.float32)),
    }


def experience(
    config: ProximalConfig, agent: Agent, learner: Learner, key: Array, hparams: HParams
) -> tuple[Learner, Batch, Metrics]:
    """Act for a while; return what can be learned from it, and the mean return of what ended.

    The observations are scaled by their moments before this rollout, as the policy saw them.
    """
    kept = Kept(learner.training.params, learner.moments)
    before = learner.actors
    actors, steps = acting.rollout(agent, kept, before, key, config.horizon)
    transition = steps.transition
    sums, all_sums = discounted_sums(learner.sums, transition, hparams["discount"])
    spread = extended(learner.spread, all_sums.reshape(-1))
    advantage = generalized_advantages(
        transition.reward / deviation(spread),
        steps.value,
        acting.next_values(agent, kept, steps),
        transition.terminated,
        transition.truncated,
        discount=hparams["discount"],
        decay=hparams["decay"],
    )
    acted_on = steps.observation.reshape(-1, steps.observation.shape[-1])
    moments = extended(learner.moments, acted_on)
    batch = batch_of(before, steps, advantage)
    learner = learner._replace(actors=actors, moments=moments, sums=sums, spread=spread)
    return learner, batch, {"return": masked_average(steps.score, transition.ended)}


def batch_of(before: Actors, steps: Step, advantage: Array) -> Batch:
    """Return what the loss reads of a rollout, from the actors before it and its steps."""
    return Batch(
        inputs=steps.inputs,
        start=steps.start,
        action=steps.action,
        log_prob=steps.log_prob,
        value=steps.value,
        advantage=advantage,
        carry=before.carry,
    )


def discounted_sums(sums: Array, transition: Any, discount: Any) -> tuple[Array, Array]:
    """Return the discounted sums of the rewards up to each step of an episode, ``[T, N]``.

    Args:
      sums: before the first step ``[N]``.
      transition: of all steps.
      discount: gamma.

    Returns:
      The sums to go on from, 0 where an episode has ended, and all of them.
    """

    def step(sums: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, ended = now
        sums = discount * sums + reward
        return jnp.where(ended, 0, sums), sums

    return lax.scan(step, sums, (transition.reward, transition.ended))


def orders(key: Array, config: ProximalConfig) -> Array:
    """Draw which environments each minibatch of all epochs has, ``[updates, rows]``."""
    keys = jax.random.split(key, config.epochs)
    drawn = jax.vmap(lambda key: jax.random.permutation(key, config.environments))(keys)
    return drawn.reshape(config.epochs * config.minibatches, -1)


def chosen(batch: Batch, rows: Array) -> Batch:
    """Return the sequences of some environments, whole."""
    sequences = batch._replace(carry=())
    picked = jax.tree.map(lambda leaf: leaf[:, rows], sequences)
    return picked._replace(carry=jax.tree.map(lambda leaf: leaf[rows], batch.carry))


def proximal_loss(
    agent: Agent, params: Any, batch: Batch, key: Array, hparams: HParams
) -> tuple[Array, Metrics]:
    """Return the loss of a minibatch: surrogate, values' error and entropy, each by its weight."""
    _, ys = recurrent.unroll(
        agent.core, params["core"], batch.inputs, batch.carry, reset=batch.start
    )
    logits, values = acting.judged(agent, params, ys)
    log_probs = categorical_log_prob(logits, batch.action)
    advantage = batch.advantage - batch.advantage.mean()
    advantage /= batch.advantage.std() + 1e-8
    surrogate = clipped_surrogate(log_probs, batch.log_prob, advantage, hparams["clip"]).mean()
    clip = jnp.where(hparams["value_clip"] > 0, hparams["value_clip"], jnp.inf)
    targets = batch.value + batch.advantage
    error = clipped_value_loss(values, batch.value, targets, clip).mean()
    entropy = categorical_entropy(logits).mean()
    total = surrogate + hparams["value_cost"] * error - hparams["entropy_cost"] * entropy
    ratio = jnp.exp(log_probs - batch.log_prob)
    moved = jnp.abs(ratio - 1)
    metrics = {
        "surrogate": surrogate,
        "value_error": error,
        "entropy": entropy,
        "kl": (ratio - 1 - jnp.log(ratio)).mean(),
        "clipped": (moved > hparams["clip"]).mean(),
        "ratio_error": moved.max(),
    }
    return total, {name: Average(value, ONE) for name, value in metrics.items()}
