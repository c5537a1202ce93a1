"""Give black and white images probabilities, row by row and pixel by pixel, and draw new ones."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import recurrent
from experiments.harness.program import Exhibit, Figure, Finished, Table
from experiments.shared.data_tables import data_table
from recurrent.training.task import Metric

ABOVE, BESIDE = 2, 3  # rows above a pixel that it sees, and columns to either side of it
SEEN = ABOVE * (2 * BESIDE + 1)
ACROSS = 10  # images in a row of a figure
LOSS = Metric("loss", higher_is_better=False, format="{:.2f} nats an image")


class Model(NamedTuple):
    """Hold the parts of a network that predicts an image from the top left to the bottom right.

    Attributes:
      rows: a cell that reads rows ``[..., W]``, the first of which is empty.
      context: a layer from its outputs to C features of each pixel of the row below,
        ``[..., W * C]``.
      pixels: a cell that reads, for each pixel of a row from the left to the right, the one left
        of it, those above it and its context: ``1 + SEEN + C`` numbers.
      readout: a layer from its outputs to a logit.
    """

    rows: recurrent.Cell
    context: recurrent.Layer
    pixels: recurrent.Cell
    readout: recurrent.Layer


def init(model: Model, key: Array) -> Any:
    """Draw the params of a network."""
    keys = jax.random.split(key, len(model))
    return {
        name: part.init(own)
        for (name, part), own in zip(model._asdict().items(), keys, strict=True)
    }


def nats(model: Model, params: Any, images: Array, dropout: Any = 0.0, key: Any = None) -> Array:
    """Return minus the log of the probability of each image ``[B]``.

    Equation: the sum over all pixels of their binary cross-entropies, each given the rows above
    and the pixels to its left; it is exact.

    Args:
      model: the network.
      params: of the network.
      images: zeros and ones ``[B, H, W]``.
      dropout: share of the features of the rows that are dropped.
      key: the random key of their mask; None in evaluation.
    """
    rows = images.swapaxes(0, 1)  # [H, B, W]
    before = jnp.pad(rows, ((1, 0), (0, 0), (0, 0)))[:-1]
    _, features = recurrent.unroll(model.rows, params["rows"], before)
    features = recurrent.dropout(features, dropout, key)
    above = jnp.pad(rows, ((ABOVE, 0), (0, 0), (0, 0)))
    above = jnp.stack([above[k : k + len(rows)] for k in range(ABOVE)], axis=-2)  # [H, B, A, W]
    given = seen(model, params, features, above)  # [W, H, B, D]
    pixels = jnp.moveaxis(rows, -1, 0)  # [W, H, B]
    left = jnp.pad(pixels, ((1, 0), (0, 0), (0, 0)))[:-1]
    _, ys = recurrent.unroll(
        model.pixels, params["pixels"], jnp.concatenate([left[..., None], given], axis=-1)
    )
    logits = model.readout.apply(params["readout"], ys)[..., 0]
    return -jax.nn.log_sigmoid(jnp.where(pixels > 0, logits, -logits)).sum((0, 1))


def seen(model: Model, params: Any, features: Array, above: Array) -> Array:
    """Return what each pixel of a row sees but the one to its left, ``[W, ..., SEEN + C]``.

    Args:
      model: the network.
      params: of the network.
      features: ``[..., F]``, of the rows above.
      above: ``[..., ABOVE, W]``, the last rows above.
    """
    width = above.shape[-1]
    context = model.context.apply(params["context"], features)
    context = context.reshape(*context.shape[:-1], width, -1)
    wide = jnp.pad(above, [(0, 0)] * (above.ndim - 1) + [(BESIDE, BESIDE)])
    near = [wide[..., k : k + width] for k in range(2 * BESIDE + 1)]  # each [..., ABOVE, W]
    near = jnp.moveaxis(jnp.concatenate(near, axis=-2), -2, -1)  # [..., W, SEEN]
    return jnp.moveaxis(jnp.concatenate([near, context], axis=-1), -2, 0)


def drawn(model: Model, params: Any, top: Array, height: int, key: Array) -> Array:
    """Draw the rest of images ``[B, height, W]`` whose first rows are given ``[B, H, W]``."""
    batch, given, width = top.shape
    rows = top.swapaxes(0, 1).astype(jnp.float32)
    before = jnp.concatenate([jnp.zeros((1, batch, width)), rows])
    state, features = recurrent.unroll(model.rows, params["rows"], before)
    above = jnp.concatenate([jnp.zeros((ABOVE, batch, width)), rows])[-ABOVE:]

    def row(carry: Any, key: Array) -> Any:
        state, features, above = carry
        new = drawn_row(model, params, seen(model, params, features, above.swapaxes(0, 1)), key)
        state, features = model.rows.step(params["rows"], state, new)
        return (state, features, jnp.concatenate([above[1:], new[None]])), new

    keys = jax.random.split(key, height - given)
    _, rest = lax.scan(row, (state, features[-1], above), keys)
    return jnp.concatenate([rows, rest]).swapaxes(0, 1)


def drawn_row(model: Model, params: Any, given: Array, key: Array) -> Array:
    """Draw a row ``[B, W]``, pixel by pixel, from what `seen` returns."""

    def pixel(carry: Any, inputs: Any) -> Any:
        state, left = carry
        given, key = inputs
        x = jnp.concatenate([left[:, None], given], axis=-1)
        state, y = model.pixels.step(params["pixels"], state, x)
        logit = model.readout.apply(params["readout"], y)[:, 0]
        ink = jax.random.bernoulli(key, jax.nn.sigmoid(logit)).astype(jnp.float32)
        return (state, ink), ink

    batch = given.shape[1]
    state = model.pixels.initial_state(params["pixels"], (batch,))
    keys = jax.random.split(key, len(given))
    return lax.scan(pixel, (state, jnp.zeros(batch)), (given, keys))[1].T


def exhibits(model: Model, data: dict[str, np.ndarray], finished: Finished) -> Iterator[Exhibit]:
    """Draw new images, completions of half images, the test images that cost most, and count all.

    Args:
      model: the network.
      data: of each split, zeros and ones ``[N, H, W]``.
      finished: the training.
    """
    test = data["test"]
    height = test.shape[1]
    draw = jax.jit(lambda top, key: drawn(model, finished.kept, top, height, key))
    yield samples(draw, test.shape[2])
    yield completions(draw, test[:ACROSS])
    some = test[:1000]
    costs = jax.jit(partial(nats, model))(finished.kept, jnp.asarray(some, jnp.float32))
    yield surprises(some, np.asarray(costs))
    yield counted(data)


def counted(data: dict[str, np.ndarray]) -> Table:
    """List how many images each split has, and how many of their pixels are black."""
    height, width = data["test"].shape[1:]
    return data_table(
        f"Images of {height} x {width} pixels, each black with the probability of its gray, drawn "
        "once with --ink_seed. All images of the data are in one of the splits.",
        ("images", "pixels", "black pixels"),
        {name: (len(own), own.size, int(own.sum())) for name, own in data.items()},
    )


def samples(draw: Callable[..., Array], width: int) -> Figure:
    """Draw images from nothing."""
    new = [*np.asarray(draw(jnp.zeros((4 * ACROSS, 0, width)), jax.random.key(0)))]
    return Figure(
        "samples",
        "What it draws",
        "Images that the network has drawn from nothing, pixel by pixel.",
        tiles("Drawn by the network", new, [""] * len(new)),
    )


def completions(draw: Callable[..., Array], test: np.ndarray) -> Figure:
    """Draw the lower half of images three times."""
    half = jnp.asarray(test[:, : test.shape[1] // 2], jnp.float32)
    rest = [image for seed in range(3) for image in np.asarray(draw(half, jax.random.key(seed)))]
    return Figure(
        "completions",
        "What it makes of half an image",
        "First row: images of the test split. Below: their upper half, completed three times.",
        tiles(
            "Upper half given, lower half drawn",
            [*test, *rest],
            ["the image"] * len(test) + ["completed"] * len(rest),
        ),
    )


def surprises(test: np.ndarray, costs: np.ndarray) -> Figure:
    """Draw the images that cost most and least."""
    order = np.argsort(-costs)
    chosen = [*order[: 2 * ACROSS], *order[-2 * ACROSS :]]
    return Figure(
        "surprise",
        "What surprised it",
        f"Of {len(test):,} test images those that cost most, then those that cost least, in nats.",
        tiles(
            f"From {costs.max():.0f} to {costs.min():.0f} nats an image",
            [test[k] for k in chosen],
            [f"{costs[k]:.0f}" for k in chosen],
        ),
    )


def tiles(message: str, images: list[np.ndarray], captions: list[str]) -> Any:
    """Draw captioned images, black on white, in rows."""
    from experiments.figures.style import tiled_images

    return tiled_images(message, images, captions, ACROSS, "Greys", (0, 1))
