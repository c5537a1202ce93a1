"""Train a generator of images against a discriminator, and keep pictures of how it learns."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from experiments.shared.optimizer_flags import OptimizerConfig
from recurrent import adversarial
from recurrent.losses import Average
from recurrent.training import (
    Task,
    TrainState,
    apply_gradients,
    gradients,
    init_state,
    step_key,
    where_applied,
)
from recurrent.training.minibatch import total
from recurrent.training.task import HParams, Metrics

Optimizer = Callable[[HParams], Any]
LOSSES = {
    "hinge": (adversarial.discriminator_hinge, adversarial.generator_hinge),
    "nonsaturating": (adversarial.discriminator_nonsaturating, adversarial.generator_nonsaturating),
}


@dataclasses.dataclass(frozen=True)
class PlayerConfig(OptimizerConfig):
    """Hold the fields of the optimizer of one player."""

    optimizer: str = "adam"
    learning_rate: float = 2e-3
    schedule: str = "linear"
    beta1: float = 0.0
    beta2: float = 0.99
    clip_norm: float = 0.0


class Network(NamedTuple):
    """Hold a network as two functions.

    Attributes:
      init: ``key -> params``.
      apply: ``(params, inputs) -> outputs``.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any, Array], Array]


class Players(NamedTuple):
    """Hold the two networks, and how they play.

    Attributes:
      generator: from noise ``[B, Z]`` to images ``[B, H, W]`` from 0 to 1.
      discriminator: from such images to logits ``[B, max(1, K)]``.
      noise_size: Z.
      classes: K digits one of which both are told: the generator beside its noise, which is
        ``[B, Z + K]`` then, and the discriminator by which of its logits counts; 0 tells nothing.
      loss: one of `LOSSES`.
      smooth: ``"r1"`` where the discriminator pays for its slope at real images.
      penalty_every: steps from one such payment to the next, which is so much the higher: as good,
        and quicker, since it is a derivative of a derivative (Karras et al. 2020, Analyzing and
        improving the image quality of StyleGAN, arXiv:1912.04958). Departure: Adam's rates stay as
        they are. Players that are vmapped save nothing: both branches are computed.
    """

    generator: Network
    discriminator: Network
    noise_size: int
    classes: int
    loss: str
    smooth: str
    penalty_every: int


class Game(NamedTuple):
    """Hold the state of the training of both.

    Attributes:
      generator: with an average of its weights.
      discriminator: whose key and step decide about real images and noise.
      film: what the generator made of the same noise, at even intervals ``[F, K, H, W]``, uint8.
    """

    generator: TrainState
    discriminator: TrainState
    film: Array


class Kept(NamedTuple):
    """Hold what is kept of a training: the generator's average weights, and the film up to then."""

    generator: Any
    film: Array


def game_task(
    players: Players,
    optimizers: tuple[Optimizer, Optimizer],
    evaluate: Callable[[Kept, HParams, Any], Metrics],
    *,
    batch_size: int,
    frames: int,
    steps_per_frame: float,
) -> Task:
    """Build the task in which a step is one update of the discriminator, then one of the generator.

    The hyperparameters need a ``"seed"``, an ``"average"``, and with R1 a ``"penalty"``. The images
    of a batch are drawn from the data anew for each step, with replacement.

    Args:
      players: the networks.
      optimizers: of the generator, and of the discriminator.
      evaluate: ``(kept, hparams, data) -> metrics``.
      batch_size: B, real images and as many drawn ones.
      frames: F, of the film.
      steps_per_frame: between two of them.
    """

    def init(hparams: HParams) -> Game:
        ours, theirs = (made(hparams) for made in optimizers)
        key = jax.random.key(hparams["seed"])
        generator = init_state(players.generator.init, ours, key, keep_average=True)
        other = init_state(players.discriminator.init, theirs, jax.random.fold_in(key, 1))
        picture = jax.eval_shape(lambda: filmed(players, generator))
        return Game(generator, other, jnp.zeros((frames, *picture.shape), picture.dtype))

    def train(game: Game, hparams: HParams, data: Any, steps: int) -> Any:
        ours, theirs = (made(hparams) for made in optimizers)

        def step(game: Game, _: None) -> tuple[Game, Metrics]:
            game, seen = discriminated(players, theirs, game, hparams, data, batch_size)
            game, made = generated(players, ours, game, hparams, batch_size)
            return game, seen | made

        game, metrics = lax.scan(step, game, None, steps)
        # the last call of each interval leaves its picture
        frame = ((game.generator.step - 1) / steps_per_frame).astype(int)
        film = game.film.at[frame].set(filmed(players, game.generator))
        return game._replace(film=film), total(metrics)

    return Task(
        init,
        train,
        evaluate,
        keep=lambda game: Kept(game.generator.weights, game.film),
        failures=lambda game: jnp.maximum(game.generator.skipped, game.discriminator.skipped),
    )


def discriminated(
    players: Players, optimizer: Any, game: Game, hparams: HParams, data: Any, batch_size: int
) -> tuple[Game, Metrics]:
    """Update the discriminator by real images and drawn ones."""
    state = game.discriminator
    rows_key, noise_key = jax.random.split(step_key(state))
    rows = jax.random.randint(rows_key, (batch_size,), 0, len(data["images"]))
    noise, labels = draw_noise(players, noise_key, batch_size)
    batch = {
        "real": data["images"][rows].astype(jnp.float32) / 255,
        "real_labels": data["labels"][rows] * bool(players.classes),
        "fake": players.generator.apply(game.generator.params, noise),
        "fake_labels": labels,
    }

    def loss(params: Any, batch: Any, key: Array) -> tuple[Array, Metrics]:
        def judge(images: Array, labels: Array) -> Array:
            return logits_of(players, params, images, labels)

        real = partial(judge, labels=batch["real_labels"])
        cost = LOSSES[players.loss][0](
            real(batch["real"]), judge(batch["fake"], batch["fake_labels"])
        )
        found = {"discriminator_loss": mean(cost)}
        if players.smooth != "r1":
            return cost, found
        pays = state.step % players.penalty_every == 0
        slope = lax.cond(pays, lambda: adversarial.r1_penalty(real, batch["real"]), lambda: 0.0)
        found["discriminator_slope"] = Average(slope, pays.astype(jnp.float32))
        return cost + hparams["penalty"] * players.penalty_every * slope, found

    slopes, found = gradients(loss, state, batch, noise_key)
    state, update = apply_gradients(optimizer, state, slopes)
    named = {f"discriminator_{name}": each for name, each in update.items()}
    return game._replace(discriminator=state), where_applied(state, found) | named


def generated(
    players: Players, optimizer: Any, game: Game, hparams: HParams, batch_size: int
) -> tuple[Game, Metrics]:
    """Update the generator by what the discriminator makes of its images."""
    state = game.generator
    noise = draw_noise(players, step_key(state), batch_size)

    def loss(params: Any, noise: tuple[Array, Array], key: Array) -> tuple[Array, Metrics]:
        numbers, labels = noise
        images = players.generator.apply(params, numbers)
        logits = logits_of(players, game.discriminator.params, images, labels)
        cost = LOSSES[players.loss][1](logits)
        return cost, {"generator_loss": mean(cost)}

    slopes, found = gradients(loss, state, noise, step_key(state))
    state, update = apply_gradients(optimizer, state, slopes, hparams["average"])
    return game._replace(generator=state), where_applied(state, found) | update


def draw_noise(players: Players, key: Array, count: int) -> tuple[Array, Array]:
    """Draw what as many images are made from ``[B, Z + K]``, and what they are to show ``[B]``."""
    noise_key, labels_key = jax.random.split(key)
    labels = jax.random.randint(labels_key, (count,), 0, max(1, players.classes))
    noise = jax.random.normal(noise_key, (count, players.noise_size))
    return telling(players, noise, labels), labels


def telling(players: Players, noise: Array, labels: Array) -> Array:
    """Put what images are to show ``[B]`` beside their noise ``[B, Z]``: ``[B, Z + K]``."""
    return jnp.concatenate([noise, jax.nn.one_hot(labels, players.classes)], axis=-1)


def evenly(players: Players, count: int) -> Array:
    """Return labels ``[count]`` that take turns; 0 where the networks are told of none."""
    return jnp.arange(count) % max(1, players.classes)


def logits_of(players: Players, params: Any, images: Array, labels: Array) -> Array:
    """Return the discriminator's logits ``[B]`` of images that are said to show the labels."""
    logits = players.discriminator.apply(params, images)
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def mean(value: Array) -> Average:
    """Return the value of one step as a metric."""
    return Average(value.astype(jnp.float32), jnp.float32(1))


def filmed(players: Players, state: TrainState) -> Array:
    """Draw the pictures of the film as bytes ``[K, H, W]``."""
    noise = jax.random.normal(jax.random.key(FILM_SEED), (FILMED, players.noise_size))
    told = telling(players, noise, evenly(players, FILMED))
    return as_bytes(players.generator.apply(state.weights, told))


def as_bytes(images: Array) -> Array:
    """Convert images from 0 to 1 to uint8."""
    return jnp.rint(255 * images).astype(jnp.uint8)


FILM_SEED, FILMED = 1, 10  # the noise of the film, and its images side by side
