"""Show what a generator draws, where it fails, and whether it copies training images."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.images import Splits
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Exhibit, Figure, Finished, Table
from experiments.harness.runs import Command, Run
from experiments.shared.adversaries import Players, as_bytes, evenly, telling
from experiments.shared.classification import CLASSES
from experiments.shared.judging import (
    CLASS_KL,
    RATIO,
    SURE,
    SURE_SHARE,
    features_of,
    in_batches,
    judged,
    readout,
)
from experiments.shared.sheets import png_path, sheet, write_png
from recurrent.training.task import Metrics

COMPARED = 1_000  # images whose nearest training image is looked for
ACROSS = 10  # images in a row of a figure
BARS = {"sure": 0.95, "class_kl": 0.05, "frechet_ratio": 5.0, "as_asked": 0.95}


def draw(players: Players, params: Any, labels: Array, seed: Any) -> Array:
    """Draw images uint8 ``[N, H, W]`` of labels ``[N]``; the same for the same seed."""
    noise = jax.random.normal(jax.random.key(seed), (len(labels), players.noise_size))
    told = telling(players, noise, labels)
    return in_batches(lambda z: as_bytes(players.generator.apply(params, z)), told)


def evaluated(players: Players, params: Any, count: int, data: dict[str, Any]) -> Metrics:
    """Judge as many images, of all digits in turn where the networks are told of them."""
    labels = evenly(players, count)
    asked = labels if players.classes else None
    return judged(draw(players, params, labels, data["seed"]), data, asked)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Hold the flags of ``./launch.sh sample``."""

    count: int = option(100, "images to draw", minimum=1, maximum=10_000)
    output: str = option("digits.png", "the PNG file to write, black on white")
    seed: int = option(0, "decides what is drawn", minimum=0, maximum=2**31 - 1)
    digit: int = option(
        -1,
        "the digit to draw, by a run with --conditional; -1 takes what comes",
        minimum=-1,
        maximum=9,
    )


def sample_command(players_of: Callable[[Any], Players]) -> Command:
    """Return the command, for an experiment whose networks are ``players_of(config)``."""

    def sample(run: Run, flags: Sample) -> Iterator[str]:
        file = png_path(flags.output)
        players = players_of(run.config)
        labels = wanted(players, flags.digit, flags.count)
        images = jax.jit(lambda: draw(players, run.kept.generator, labels, flags.seed))()
        write_png(file, sheet(np.asarray(images)))
        yield f"{flags.output}: {flags.count} digit{'s' * (flags.count > 1)}"

    return Command(Sample, sample, "draw digits into a PNG file")


def wanted(players: Players, digit: int, count: int) -> Array:
    """Return what as many images are to show.

    Raises:
      UserError: where a digit is asked for that the networks were not told of.
    """
    if digit < 0:
        return evenly(players, count)
    if not players.classes:
        raise UserError(
            "--digit: the networks of this run do not know which digit is which; those of "
            "digit_gan --conditional do."
        )
    return jnp.full(count, digit)


class Drawn(NamedTuple):
    """Hold drawn images, what the classifier takes them for, and what they are to show.

    Attributes:
      images: uint8 ``[N, H, W]``.
      digits: ``[N]``, by the classifier.
      probabilities: ``[N]``, how sure it is.
      asked: ``[N]``; None where the networks are told of no digits.
    """

    images: np.ndarray
    digits: np.ndarray
    probabilities: np.ndarray
    asked: np.ndarray | None


def exhibits(
    players: Players, splits: Splits, data: dict[str, Any], count: int, finished: Finished
) -> Iterator[Exhibit]:
    """Draw what was learned: digits by class, over the training, beside training images.

    Args:
      players: the networks.
      splits: the real images.
      data: of the test split, from `judging.references`.
      count: images drawn, as many as in an evaluation.
      finished: the training.
    """
    from experiments.figures.curves import learning_curves

    some = drawn(players, finished.kept.generator, data, count)
    yield Figure(
        "learning_curves",
        "Learning curves",
        "Of images drawn at each evaluation: the share of which the classifier is sure; the "
        "divergence of the digits' shares from equal ones, in nats; how far their features are "
        "from those of validation images, in units of the distance of training images. The last "
        "one chose the weights.",
        learning_curves(finished.rows, [SURE_SHARE, CLASS_KL, RATIO], finished.best_step),
    )
    yield by_class(some)
    yield film(finished)
    compared = some.images[:COMPARED], splits.test.images[:COMPARED]
    beside = [nearest(images, splits.train.images) for images in compared]
    yield neighbors(some, splits.train.images, *beside)
    yield class_counts(some)
    yield doubtful(some)
    yield scores(some, splits, data, *beside)


def drawn(players: Players, params: Any, data: dict[str, Any], count: int) -> Drawn:
    """Draw the images of an evaluation once more."""

    @jax.jit
    def found() -> tuple[Array, Array]:
        images, judge = draw(players, params, labels, data["seed"]), data["judge"]
        return images, jax.nn.softmax(readout(features_of(judge, images), judge))

    labels = evenly(players, count)
    images, probabilities = map(np.asarray, found())
    asked = np.asarray(labels) if players.classes else None
    return Drawn(images, probabilities.argmax(axis=1), probabilities.max(axis=1), asked)


def by_class(some: Drawn) -> Figure:
    """Draw the first images of each digit that was asked for, or that the classifier sees."""
    from experiments.figures.mosaic import mosaic

    height, width = some.images.shape[1:]
    shown = some.digits if some.asked is None else some.asked
    grid = np.full((CLASSES, ACROSS, height, width), np.nan)
    for digit in range(CLASSES):
        found = some.images[shown == digit][:ACROSS]
        grid[digit, : len(found)] = found
    by = "the class that the classifier gives them" if some.asked is None else "what was asked for"
    return Figure(
        "samples",
        "What it draws",
        f"Drawn from random noise, not chosen: the first ten of each digit, by {by}.",
        mosaic(
            f"Digits drawn by the generator: {in_short(some)}",
            grid,
            [str(k) for k in range(CLASSES)],
        ),
    )


def in_short(some: Drawn) -> str:
    """Say which digits are drawn, or how many are those that were asked for."""
    if some.asked is not None:
        return f"{(some.asked == some.digits).mean():.1%} are taken for what was asked for"
    missing = [str(k) for k in range(CLASSES) if k not in some.digits]
    return f"no {', '.join(missing)} among them" if missing else "all ten are there"


def film(finished: Finished) -> Figure:
    """Draw what became of the same noise during the training."""
    from experiments.figures.mosaic import mosaic

    film = np.asarray(finished.kept.film)
    steps = finished.rows[-1]["step"] if finished.rows else 0
    seen = [k for k in range(len(film)) if film[k].any()] or [0]
    names = [f"step {min((k + 1) * steps // len(film), finished.best_step):,}" for k in seen]
    return Figure(
        "film",
        "How it learned to draw",
        "Each column is one draw of noise, and one digit where digits are asked for, from the "
        "first steps at the top to the weights that were kept at the bottom; by the running "
        "average of the weights.",
        mosaic("The same noise while the generator learns", film[seen], names),
    )


def nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the image among others that is nearest to each, by the distance of their pixels.

    Args:
      images: uint8 ``[N, H, W]``.
      others: uint8 ``[M, H, W]``.

    Returns:
      Indices into the others ``[N]``, and Euclidean distances ``[N]`` of pixels from 0 to 1.
    """

    @jax.jit
    def found(images: Array, others: Array) -> tuple[Array, Array]:
        xs, ys = (
            each.reshape(len(each), -1).astype(jnp.float32) / 255 for each in (images, others)
        )
        squares = jnp.square(ys).sum(axis=1)

        def of_one(x: Array) -> tuple[Array, Array]:
            best = jnp.argmin(squares - 2 * (ys @ x))
            return best, jnp.linalg.norm(ys[best] - x)

        return jax.lax.map(of_one, xs, batch_size=100)

    index, distance = found(jnp.asarray(images), jnp.asarray(others))
    return np.asarray(index), np.asarray(distance)


def neighbors(some: Drawn, train: np.ndarray, ours: Any, real: Any) -> Figure:
    """Draw images beside the nearest of the training images."""
    from experiments.figures.mosaic import mosaic

    index, distance = ours
    order = np.argsort(distance, kind="stable")
    middle = order[len(order) // 2 :][:ACROSS]
    chosen = [order[:ACROSS], middle]
    grid = np.stack([row for each in chosen for row in (some.images[each], train[index[each]])])
    return Figure(
        "nearest",
        "Does it copy training images?",
        "Drawn images and, below each, the nearest training image: first those that are nearest of "
        f"all, then ten of middling distance. Of {len(order):,} drawn images the median distance "
        f"is {np.median(distance):.2f}, of {len(real[1]):,} real test images "
        f"{np.median(real[1]):.2f} (Euclidean, pixels from 0 to 1): a generator that copies has "
        "one near 0.",
        mosaic(
            f"Nearest training image: {np.median(distance):.2f} away in the middle, of real test "
            f"images {np.median(real[1]):.2f}",
            grid,
            ["drawn, nearest", "its neighbor", "drawn, middling", "its neighbor"],
        ),
    )


def class_counts(some: Drawn) -> Figure:
    """Draw how often each digit was drawn."""
    from experiments.figures.bars import bars

    counts = np.bincount(some.digits, minlength=CLASSES)
    return Figure(
        "classes",
        "How often it draws each digit",
        "By the class that the classifier gives; the line is an even draw.",
        bars(
            f"{counts.min()} to {counts.max()} of {len(some.digits):,} a digit",
            counts / len(some.digits),
            [str(k) for k in range(CLASSES)],
            1 / CLASSES,
        ),
    )


def doubtful(some: Drawn) -> Figure:
    """Draw the images of which the classifier is least sure."""
    from experiments.figures.style import tiled_images

    order = np.argsort(some.probabilities, kind="stable")[: 3 * ACROSS]
    unsure = (some.probabilities < SURE).sum()
    return Figure(
        "doubtful",
        "Where it fails",
        "The drawn images of which the classifier is least sure, with its guess"
        + (", after what was asked for." if some.asked is not None else "."),
        tiled_images(
            f"Of {unsure:,} of {len(some.images):,} images it is less than {SURE:.0%} sure",
            [some.images[k] for k in order],
            [guess(some, k) for k in order],
            ACROSS,
            "Greys",
            (0, 255),
        ),
    )


def guess(some: Drawn, k: int) -> str:
    """Say what an image was taken for, after what was asked for."""
    asked = "" if some.asked is None else f"{some.asked[k]}: "
    return f"{asked}{some.digits[k]}? {some.probabilities[k]:.0%}"


def scores(some: Drawn, splits: Splits, data: dict[str, Any], ours: Any, real: Any) -> Table:
    """List the distances beside those of real images."""
    judge = jax.jit(partial(judged, data=data))
    images = {"drawn": some.images, "real": splits.train.images[: len(some.images)]}
    labels = {"drawn": some.asked, "real": splits.train.labels[: len(some.images)]}
    found = {
        name: {key: float(each.mean) for key, each in judge(part, labels=labels[name]).items()}
        for name, part in images.items()
    }
    names = {
        "sure": f"share of which the classifier is at least {SURE:.0%} sure",
        "class_kl": "divergence of the digits' shares from equal ones, nats",
        "frechet_ratio": "Frechet distance, in units of that of all training images",
    } | ({} if some.asked is None else {"as_asked": "share taken for the digit asked for"})
    rows = [
        [names[key], f"{found['drawn'][key]:.4g}", f"{found['real'][key]:.4g}", f"{BARS[key]:g}"]
        for key in names
    ]
    near = "median distance to the nearest training image"
    return Table(
        "scores",
        "Beside real images",
        f"Of {len(some.images):,} drawn images and {len(images['real']):,} training images, the "
        f"last line of {len(ours[1]):,} drawn ones and of {len(real[1]):,} test images. All "
        "distances are from the test split.",
        ["", "drawn", "real", "aim"],
        [*rows, [near, f"{np.median(ours[1]):.2f}", f"{np.median(real[1]):.2f}", "not below real"]],
    )
