"""Let a network that draws row by row draw into a file: ``./launch.sh sample RUN [--complete]``."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.runs import Command, Run
from experiments.shared.drawing import Model, drawn
from experiments.shared.sheets import png_path, sheet, write_png

GAP, GRAY = 2, 64  # pixels between an image and its completion, and their shade


@dataclasses.dataclass(frozen=True)
class Sample:
    """Hold the flags of ``./launch.sh sample``."""

    count: int = option(25, "images to draw", minimum=1, maximum=10_000)
    output: str = option("drawn.png", "the PNG file to write, black on white")
    seed: int = option(0, "decides what is drawn", minimum=0, maximum=2**31 - 1)
    complete: bool = option(
        False, "give the upper halves of the first test images, and draw the rest beside the image"
    )


def sample_command(
    model_of: Callable[[Any], Model], test_of: Callable[[Any], np.ndarray]
) -> Command:
    """Return the command.

    Args:
      model_of: ``config -> Model``.
      test_of: ``config -> images`` of the test split, zeros and ones ``[N, H, W]``.
    """

    def sample(run: Run, flags: Sample) -> Iterator[str]:
        file = png_path(flags.output)
        test = test_of(run.config)
        if flags.complete and flags.count > len(test):
            raise UserError(
                f"--count: expected at most {len(test)}, the images of the test split, got "
                f"{flags.count}."
            )
        height, width = test.shape[1:]
        whole = test[: flags.count]
        top = whole[:, : height // 2] if flags.complete else np.zeros((flags.count, 0, width))
        model, key = model_of(run.config), jax.random.key(flags.seed)
        draw = jax.jit(lambda top, key: drawn(model, run.kept, top, height, key))
        found = as_ink(np.asarray(draw(jnp.asarray(top, jnp.float32), key)))
        write_png(file, sheet(beside(as_ink(whole), found) if flags.complete else found))
        what = "images" if not flags.complete else "test images, each beside its completed half"
        yield f"{flags.output}: {flags.count} {what}"

    return Command(Sample, sample, "draw images into a PNG file, or complete halves of images")


def as_ink(images: np.ndarray) -> np.ndarray:
    """Return zeros and ones as uint8, 255 where there is ink."""
    return (255 * images).astype(np.uint8)


def beside(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return images ``[N, H, W]`` with another one to the right of each, gray between them."""
    gap = np.full((*images.shape[:2], GAP), GRAY, np.uint8)
    return np.concatenate([gap, images, gap, others, gap], axis=2)
