"""Compose strings of digits from images of single ones, each with its own gap and height.

Axis letters: B strings, N digits of the longest, W columns of a strip.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments.data.images import ImageSet
from recurrent.images import random_affine
from recurrent.training.task import HParams

LONGEST = 8  # digits of a string
SIDE = 28  # pixels of the image of a digit
BOX = 20  # pixels of its ink, at most, as MNIST has it
HEIGHT = 32  # pixels of a strip
MARGIN = 4  # blank columns on either side of a string
LEAST_GAP, MOST_GAP = -2, 12  # blank columns between the ink of two digits; overlaps below 0
LEAST_ADVANCE = 8  # columns from one digit to the next: two frames, so that CTC can tell 1 from 11
ROOM = 22  # columns a digit; a string that is wider is pushed together
INK = 64  # bytes from which a pixel is ink, where gaps are measured


def strings_of(images: ImageSet, seed: list[int]) -> dict[str, np.ndarray]:
    """Deal the images of a split out to strings of 1 to 8 digits, each image once.

    All lengths are as frequent, up to the last strings. Which images stand in a string, and its
    gaps and drops, are drawn with the seed.

    Returns:
      ``"images"`` uint8 ``[S, 8, 28, 28]``, ``"classes"`` ``[S, 8]``, ``"counts"`` ``[S]``, and
      ``"gaps"`` and ``"drops"`` ``[S, 8]``, as `compose` takes them.
    """
    rng = np.random.default_rng(seed)
    total = len(images.labels)
    rounds, rest = divmod(total, LONGEST * (LONGEST + 1) // 2)
    fills = [LONGEST] * (rest // LONGEST) + [rest % LONGEST] * (rest % LONGEST > 0)
    counts = np.array([*range(1, LONGEST + 1)] * rounds + fills, np.int32)
    shape = len(counts), LONGEST
    places = np.flatnonzero(np.arange(LONGEST) < counts[:, None])
    order = rng.permutation(total)
    found = np.zeros((len(counts) * LONGEST, SIDE, SIDE), np.uint8)
    found[places] = enlarged(images.images)[order]
    classes = np.zeros(len(counts) * LONGEST, np.int32)
    classes[places] = images.labels[order]
    return {
        "images": found.reshape(*shape, SIDE, SIDE),
        "classes": classes.reshape(shape),
        "counts": counts,
        "gaps": rng.integers(LEAST_GAP, MOST_GAP, shape, np.int32, endpoint=True),
        "drops": rng.integers(0, HEIGHT - SIDE, shape, np.int32, endpoint=True),
    }


def enlarged(images: np.ndarray) -> np.ndarray:
    """Return images of 28 x 28 pixels; smaller ones are enlarged to MNIST's box, linearly."""
    if images.shape[1:] == (SIDE, SIDE):
        return images
    larger = jax.image.resize(images.astype(np.float32), (len(images), BOX, BOX), "linear")
    margin = (SIDE - BOX) // 2
    whole = np.rint(np.asarray(larger)).astype(np.uint8)
    return np.pad(whole, ((0, 0), (margin, margin), (margin, margin)))


def redrawn(key: Array, batch: Any) -> Any:
    """Return a batch whose digits are shuffled among its strings, with new gaps and drops."""
    shuffle, gaps, drops = jax.random.split(key, 3)
    shape = batch["classes"].shape
    real = (jnp.arange(shape[1]) < batch["counts"][:, None]).reshape(-1)
    places = jnp.argsort(~real, stable=True)  # first those of digits, in their order
    drawn = jax.random.permutation(shuffle, len(real))
    sources = drawn[jnp.argsort(~real[drawn], stable=True)]  # and in any order
    moved = jnp.zeros(len(real), sources.dtype).at[places].set(sources)

    def mixed(array: Array) -> Array:
        return array.reshape(-1, *array.shape[2:])[moved].reshape(array.shape)

    return batch | {
        "images": mixed(batch["images"]),
        "classes": mixed(batch["classes"]),
        "gaps": jax.random.randint(gaps, shape, LEAST_GAP, MOST_GAP + 1),
        "drops": jax.random.randint(drops, shape, 0, HEIGHT - SIDE + 1),
    }


def distorted(key: Array, images: Array, hparams: HParams) -> Array:
    """Rotate and stretch the images ``[B, N, 28, 28]`` of digits."""
    turn = partial(random_affine, rotation=hparams["rotation"], scale=hparams["scale"])
    columns = images.swapaxes(0, 1).astype(jnp.float32)  # [N, B, 28, 28]
    # One loop, since XLA would fuse the distortion into all that reads it, at 30 times the cost.
    turned = lax.map(lambda pair: turn(*pair), (jax.random.split(key, len(columns)), columns))
    return turned.swapaxes(0, 1)


def composed(batch: Any) -> tuple[Array, Array]:
    """Return the strips of a batch, from 0 to 1, and their widths."""
    parts = (batch[name] for name in ("images", "counts", "gaps", "drops"))
    strips, widths = compose(*parts)
    return strips.astype(jnp.float32) / 255, widths


def widest(digits: int) -> int:
    """Return the columns of a strip that holds so many digits; a multiple of four.

    Example:
      >>> widest(1), widest(8)
      (32, 188)
    """
    return -(-(ROOM * digits + 2 * MARGIN + 2) // 4) * 4


def compose(images: Array, counts: Array, gaps: Array, drops: Array) -> tuple[Array, Array]:
    """Return strips ``[B, HEIGHT, W]`` and the columns of each ``[B]``.

    Where digits overlap, the larger value is seen. A string of n digits that would be wider than
    ``widest(n)`` is pushed together evenly.

    Args:
      images: from 0 to 255, ``[B, N, 28, 28]``.
      counts: digits of each string, ``[B]``.
      gaps: blank columns after each digit, ``[B, N]``; the last one's is not read.
      drops: rows above the image of each digit, from 0 to 4, ``[B, N]``.
    """
    total = widest(images.shape[1])
    left, ink = extents(images)
    starts, widths = laid_out(ink, counts, gaps)
    places = jnp.arange(total) - starts[..., None]  # [B, N, W], columns of the ink
    real = (jnp.arange(images.shape[1]) < counts[:, None])[..., None]
    seen = real & (places >= 0) & (places < ink[..., None])
    columns = dropped(images, drops).swapaxes(2, 3)  # [B, N, 28, HEIGHT]
    sources = jnp.clip(places + left[..., None], 0, SIDE - 1)
    shown = jnp.take_along_axis(columns, sources[..., None], axis=2)  # [B, N, W, HEIGHT]
    strips = jnp.where(seen[..., None], shown, 0).max(axis=1)
    return strips.swapaxes(1, 2), widths


def extents(images: Array) -> tuple[Array, Array]:
    """Return the first column of the ink of images ``[..., H, W]``, and how many columns it has."""
    ink = (images >= INK).any(-2)
    first, last = ink.argmax(-1), ink.shape[-1] - 1 - ink[..., ::-1].argmax(-1)
    return first, jnp.where(ink.any(-1), last - first + 1, 1)


def laid_out(ink: Array, counts: Array, gaps: Array) -> tuple[Array, Array]:
    """Return the column where the ink of each digit begins ``[B, N]``, and the widths of strings.

    Args:
      ink: columns of each digit, ``[B, N]``.
      counts: digits of each string, ``[B]``.
      gaps: blank columns after each digit, ``[B, N]``.
    """
    order = jnp.arange(ink.shape[1])
    advance = jnp.maximum(ink + gaps, LEAST_ADVANCE)
    starts = MARGIN + jnp.cumsum(advance, 1) - advance
    excess = right_end(starts, ink, counts) - (ROOM * counts + MARGIN + 2)
    share = order / jnp.maximum(counts - 1, 1)[:, None]
    starts -= jnp.ceil(jnp.maximum(excess, 0)[:, None] * share).astype(starts.dtype)
    return starts, jnp.minimum(right_end(starts, ink, counts) + MARGIN, widest(ink.shape[1]))


def right_end(starts: Array, ink: Array, counts: Array) -> Array:
    """Return the first column ``[B]`` right of all digits of a string; 0 where it has none."""
    real = jnp.arange(ink.shape[1]) < counts[:, None]
    return jnp.where(real, starts + ink, 0).max(1)


def dropped(images: Array, drops: Array) -> Array:
    """Return images ``[B, N, HEIGHT, W]`` with so many rows above each ``[B, N]``."""
    spare = HEIGHT - images.shape[2]
    found = jnp.zeros((*images.shape[:2], HEIGHT, images.shape[3]), images.dtype)
    for rows in range(spare + 1):  # five selections are faster than a gather of every pixel
        placed = jnp.pad(images, ((0, 0), (0, 0), (rows, spare - rows), (0, 0)))
        found = jnp.where((drops == rows)[..., None, None], placed, found)
    return found
