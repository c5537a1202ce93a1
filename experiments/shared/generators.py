"""Build the networks of `digit_gan`: two kinds of generators of images, and a discriminator."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import recurrent
from experiments.data.images import SHAPES
from experiments.shared.adversaries import Network, Players
from experiments.shared.cell_flag import make_cell
from experiments.shared.classification import CLASSES
from recurrent.adversarial import spectrally_normalized
from recurrent.layers import init_all

KINDS = ("conv", "rows")
# fields of a Config that one of them alone reads
FIELDS = {
    "channels": "conv",
    "features": "conv",
    "cell": "rows",
    "hidden_size": "rows",
    "feedback": "rows",
}


def idle(kind: str, smooth: str) -> dict[str, str]:
    """Return the fields that nothing reads in a game, and what each would go with.

    Example:
      >>> idle("conv", "spectral")["penalty"]
      '--smooth=r1'
      >>> sorted(idle("rows", "spectral"))
      ['channels', 'features', 'penalty', 'penalty_every']
    """
    others = {name: f"--generator={one}" for name, one in FIELDS.items() if one != kind}
    idle = ["penalty", "penalty_every"] if smooth == "spectral" else []
    return others | dict.fromkeys(idle, "--smooth=r1")


def players_of(config: Any) -> Players:
    """Return the two networks that the fields of `digit_gan` describe."""
    shape, classes = SHAPES[config.data], CLASSES * config.conditional
    size = shape, config.noise_size + classes
    rows = partial(row_by_row, *size, config.cell, config.hidden_size, feedback=config.feedback)
    conv = partial(convolutional, *size, config.channels, config.features)
    return Players(
        generator={"conv": conv, "rows": rows}[config.generator](),
        discriminator=discriminator(
            shape,
            config.discriminator_channels,
            config.discriminator_features,
            max(1, classes),
            config.smooth,
        ),
        noise_size=config.noise_size,
        classes=classes,
        loss=config.loss,
        smooth=config.smooth,
        penalty_every=config.penalty_every,
    )


def of_flax(module: Any, example: Array) -> Network:
    """Return a Flax module as a Network; ``example`` is an input of the right shape."""
    return Network(
        init=lambda key: module.init(key, example)["params"],
        apply=lambda params, inputs: module.apply({"params": params}, inputs),
    )


def convolutional(shape: tuple[int, int], noise_size: int, channels: int, features: int) -> Network:
    """Return the generator by convolutions."""
    from recurrent.image_gan import Generator

    return of_flax(Generator(*shape, channels, features), jnp.zeros((1, noise_size)))


def discriminator(
    shape: tuple[int, int], channels: int, features: int, classes: int, smooth: str
) -> Network:
    """Return the discriminator, by convolutions, whose kernels are normalized if so asked.

    Args:
      shape: height and width of the images.
      channels: of its first layer.
      features: of its dense layer.
      classes: K, of its logits ``[B, K]``.
      smooth: ``"spectral"`` normalizes.
    """
    from recurrent.image_gan import Discriminator

    plain = of_flax(Discriminator(channels, classes, features), jnp.zeros((1, *shape)))
    if smooth != "spectral":
        return plain
    return plain._replace(
        apply=lambda params, images: plain.apply(spectrally_normalized(params), images)
    )


def row_by_row(
    shape: tuple[int, int], noise_size: int, name: str, hidden_size: int, *, feedback: bool
) -> Network:
    """Return the generator whose recurrent cell writes one row of the image a step.

    Each step reads the noise of the image, the same at all steps, and with ``feedback`` the row
    that was written before.

    Args:
      shape: height and width of the images.
      noise_size: Z.
      name: of the cell, from ``--cell``.
      hidden_size: H.
      feedback: whether the row before is read.

    Raises:
      UserError: with feedback, for a cell that looks ahead.
    """
    height, width = shape
    size = noise_size + width * feedback
    cell = make_cell(name, size, hidden_size, causal=height if feedback else 0)
    readout = recurrent.dense(recurrent.output_shape(cell)[-1], width)

    def written(params: Any, features: Array) -> Array:
        return jax.nn.sigmoid(readout.apply(params["readout"], features))

    def one_by_one(params: Any, noise: Array) -> Array:
        def write(carry: Any, _: None) -> Any:
            state, before = carry
            seen = jnp.concatenate([noise, before], axis=-1)
            state, features = cell.step(params["cell"], state, seen)
            row = written(params, features)
            return (state, row), row

        batch = noise.shape[:1]
        first = cell.initial_state(params["cell"], batch), jnp.zeros((*batch, width))
        return lax.scan(write, first, None, height)[1]

    def at_once(params: Any, noise: Array) -> Array:
        seen = jnp.broadcast_to(noise, (height, *noise.shape))
        return written(params, recurrent.unroll(cell, params["cell"], seen)[1])

    draw = one_by_one if feedback else at_once
    init = partial(init_all, {"cell": cell, "readout": readout})
    return Network(init, lambda params, noise: draw(params, noise).swapaxes(0, 1))
